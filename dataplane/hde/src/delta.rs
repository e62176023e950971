//! Writes a plan as the body of a delta.

use std::io;

use proto_wire::hde::{Flags, LiteralCodec, MAX_OPS, Op, OpWriter, Source, put_ops, put_stream, put_varint};

use crate::{
    cost::{Choice, Costs, Effort},
    literals::Literals,
    plan::Plan,
    prefix::{Gathered, Gatherer, Limits, Read},
};

/// Shorter streams are not compressed: a frame costs about as much as it saves.
const MIN_STREAM_BYTES: usize = 24;
/// Literals may take a part of the CPU that the segment would take: the search has had its part, and is meant to be cheaper.
const LITTLE_PART: usize = 6;
/// Pieces of this many changed bytes show whether differences or the new bytes cost less.
const SAMPLE_BYTES: usize = 16 << 10;

/// Writes deltas; keeps its memory.
#[derive(Default)]
pub(crate) struct DeltaWriter {
    ops: OpWriter,
    literals: Vec<u8>,
    changes: Vec<u8>,
    differences: Vec<u8>,
    prefix: Vec<u8>,
    /// How the literals were compressed, and how much was gone through for it.
    pub(crate) chosen: Option<(Choice, usize)>,
}

/// How to write a delta.
pub(crate) struct DeltaUse<'a> {
    pub(crate) literals: &'a mut Literals,
    pub(crate) costs: Costs,
    /// The sources' ends, where the literals may lean on them.
    pub(crate) limits: Option<Limits>,
}

impl DeltaWriter {
    /// Appends the body of a delta; none where there are too many operations to be worth it.
    pub(crate) fn write(
        &mut self,
        plan: &Plan,
        new: &[u8],
        how: DeltaUse<'_>,
        read: &mut Read<'_>,
        out: &mut Vec<u8>,
    ) -> io::Result<Option<Flags>> {
        if plan.ops.len() > MAX_OPS {
            return Ok(None);
        }
        let mut flags = self.divide(plan, new);
        self.prefix.clear();
        if let Some(limits) = how.limits.filter(|_| matches!(how.costs.configured(), Effort::Zstd(_))) {
            let mut gatherer = Gatherer::new(limits, &mut self.prefix);
            plan.ops.iter().try_for_each(|op| gatherer.push(*op, read))?;
            let gathered = gatherer.finish(read)?;
            if gathered != Gathered::default() {
                flags.prefix = true;
                flags.basis |= gathered.basis;
                flags.history |= gathered.history;
                put_varint(limits.basis, out);
                put_varint(limits.history, out);
            }
        }
        put_ops(self.ops.finish(), out);
        flags.differences = self.differences_pay(how.literals);
        let changes = if flags.differences { &self.differences } else { &self.changes };
        let changes_effort = how.costs.little(changes.len(), new.len() / LITTLE_PART).effort;
        put(how.literals, changes, &[], changes_effort, out);
        // A prefix is gone through as well before the first literal. The literals stand right behind it: zstd is quicker where both are one stretch of memory.
        let prefix = self.prefix.len();
        self.prefix.extend_from_slice(&self.literals);
        let (prefix, all) = self.prefix.split_at(prefix);
        let choice = how.costs.little(prefix.len() + all.len(), new.len() / LITTLE_PART);
        let choice = how.costs.hard(choice, how.literals.probe(all));
        self.chosen = Some((choice, self.prefix.len()));
        put(how.literals, all, prefix, choice.effort, out);
        Ok(Some(flags))
    }

    /// Fills columns and streams.
    fn divide(&mut self, plan: &Plan, new: &[u8]) -> Flags {
        self.ops.clear();
        self.literals.clear();
        self.changes.clear();
        let mut flags = Flags::default();
        let mut rest = new;
        for op in &plan.ops {
            self.ops.push(*op);
            let (stretch, after) = rest.split_at(usize::try_from(op.length()).unwrap_or(rest.len()));
            rest = after;
            match op {
                Op::Literal { .. } => self.literals.extend_from_slice(stretch),
                Op::Changed { source, .. } => {
                    self.changes.extend_from_slice(stretch);
                    flag(&mut flags, *source);
                }
                Op::Copy { source, .. } => flag(&mut flags, *source),
            }
        }
        self.differences.clear();
        let differences = self.changes.iter().zip(&plan.replaced).map(|(new, old)| new.wrapping_sub(*old));
        self.differences.extend(differences);
        flags
    }

    fn differences_pay(&self, literals: &mut Literals) -> bool {
        let mut cost = |bytes: &[u8]| {
            let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
            literals.compress(sample, &[], Effort::Zstd(1)).map_or(sample.len(), |(_, packed)| packed.len())
        };
        self.changes.len() >= 64 && cost(&self.differences) < cost(&self.changes)
    }
}

fn flag(flags: &mut Flags, source: Source) {
    flags.basis |= source == Source::Basis;
    flags.history |= source == Source::History;
}

/// Appends a stream, compressed where that is shorter.
fn put(literals: &mut Literals, bytes: &[u8], prefix: &[u8], effort: Effort, out: &mut Vec<u8>) {
    let packed = if bytes.len() < MIN_STREAM_BYTES { None } else { literals.compress(bytes, prefix, effort) };
    match packed {
        Some((codec, packed)) => put_stream(codec, bytes.len(), packed, out),
        None => put_stream(LiteralCodec::Raw, bytes.len(), bytes, out),
    }
}
