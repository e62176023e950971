//! What a segment is made of, before it is written.

use proto_wire::hde::{Op, Source};

/// Between changes, so many equal bytes are a copy; fewer are changes as well, for a copy would cost more.
const MIN_COPY: usize = 8;

/// The operations of a segment, and what changed stretches replace.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) ops: Vec<Op>,
    /// The bytes of the sources under changed stretches.
    pub(crate) replaced: Vec<u8>,
    pub(crate) literal_bytes: usize,
}

impl Plan {
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.replaced.clear();
        self.literal_bytes = 0;
    }

    pub(crate) fn literal(&mut self, more: usize) {
        self.literal_bytes += more;
        let more = narrow(more);
        match self.ops.last_mut() {
            _ if more == 0 => {}
            Some(Op::Literal { length }) => *length += more,
            Some(_) | None => self.ops.push(Op::Literal { length: more }),
        }
    }

    pub(crate) fn copy(&mut self, more: usize, from: Source, at: u64) {
        let more = narrow(more);
        match self.ops.last_mut() {
            _ if more == 0 => {}
            Some(Op::Copy { length, source, offset })
                if *source == from && (from == Source::Zeros || *offset + u64::from(*length) == at) =>
            {
                *length += more;
            }
            Some(_) | None => self.ops.push(Op::Copy { length: more, source: from, offset: at }),
        }
    }

    pub(crate) fn changed(&mut self, replaced: &[u8], from: Source, at: u64) {
        self.replaced.extend_from_slice(replaced);
        let more = narrow(replaced.len());
        match self.ops.last_mut() {
            _ if more == 0 => {}
            Some(Op::Changed { length, source, offset }) if *source == from && *offset + u64::from(*length) == at => {
                *length += more;
            }
            Some(_) | None => self.ops.push(Op::Changed { length: more, source: from, offset: at }),
        }
    }

    /// Copies where `new` and `held` are equal for long enough, changes elsewhere; both are of the same length.
    pub(crate) fn mixed(&mut self, new: &[u8], held: &[u8], from: Source, at: u64) {
        let place = |position: usize| at + u64::try_from(position).unwrap_or(0);
        // Changes not yet recorded begin here.
        let mut open = 0;
        let mut position = 0;
        while position < new.len() {
            let equal = new[position..].iter().zip(&held[position..]).take_while(|(a, b)| a == b).count();
            let copied = equal >= MIN_COPY || position + equal == new.len() && equal > 0 && open == position;
            if copied {
                self.changed(&held[open..position], from, place(open));
                self.copy(equal, from, place(position));
                open = position + equal;
            }
            position += equal;
            position += new[position..].iter().zip(&held[position..]).take_while(|(a, b)| a != b).count();
        }
        self.changed(&held[open..], from, place(open));
    }

    /// Whether nothing is referred to.
    pub(crate) fn is_literal(&self) -> bool {
        matches!(self.ops[..], [] | [Op::Literal { .. }])
    }
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("a part of a segment, whose length is a u32")
}
