//! Segments that the receiver makes of what it holds: gathered, and told in runs.

use proto_wire::piece::{HEADER_BYTES, Header, KNOWN_BYTES, Known, MAX_RUN, PieceKind, Source, write_known};

use super::{segment::Task, state::Sending};
use crate::{file_hash::Segments, stop::Stop};

/// Segments that are told together: a GiB in segments of 1 MiB, so that progress is seen.
pub(super) const KNOWN_AT_ONCE: usize = 1024;

/// One segment that need not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownSegment {
    pub(super) segment: u64,
    pub(super) source: Source,
    pub(super) value: [u8; 32],
}

/// A run that grows.
struct Run {
    known: Known,
    /// Where the next segment of it would stand.
    next: Source,
    values: blake3::Hasher,
}

impl Run {
    fn new(one: KnownSegment, len: u64) -> Self {
        let known = Known { segment: one.segment, count: 1, source: one.source, value: one.value };
        let mut values = blake3::Hasher::new();
        values.update(&one.value);
        Self { known, next: after(one.source, len), values }
    }

    /// Adds a segment, where it goes on with the run.
    fn add(&mut self, one: KnownSegment, len: u64) -> bool {
        let known = &mut self.known;
        let goes_on = known.segment + u64::from(known.count) == one.segment && self.next == one.source;
        if !goes_on || known.count == MAX_RUN {
            return false;
        }
        known.count += 1;
        self.next = after(one.source, len);
        self.values.update(&one.value);
        known.value = *self.values.finalize().as_bytes();
        true
    }
}

fn after(source: Source, len: u64) -> Source {
    match source {
        Source::Zeros => Source::Zeros,
        Source::Basis { offset } => Source::Basis { offset: offset.saturating_add(len) },
    }
}

/// The runs of these segments, which may be in any order.
fn runs(mut list: Vec<KnownSegment>, segments: Segments) -> Vec<Known> {
    list.sort_unstable_by_key(|one| one.segment);
    let mut runs: Vec<Run> = Vec::new();
    for one in list {
        let len = segments.len(one.segment).and_then(|len| u64::try_from(len).ok()).unwrap_or_default();
        if !runs.last_mut().is_some_and(|run| run.add(one, len)) {
            runs.push(Run::new(one, len));
        }
    }
    runs.into_iter().map(|run| run.known).collect()
}

/// Tells known segments of one file.
pub(super) async fn send_known(sending: &Sending, task: &Task, list: Vec<KnownSegment>) -> Result<(), Stop> {
    let _window = sending.room(list.len() * KNOWN_BYTES).await?;
    send_known_at_once(sending, task, list).await
}

/// The same for whoever has room of the window already, and must not wait for more.
pub(super) async fn send_known_at_once(sending: &Sending, task: &Task, list: Vec<KnownSegment>) -> Result<(), Stop> {
    if list.is_empty() {
        return Ok(());
    }
    let mut room = vec![0; HEADER_BYTES];
    write_known(&runs(list, task.segments), &mut room);
    let bytes = &room[HEADER_BYTES..];
    let header = Header {
        kind: PieceKind::Known,
        part: 0,
        parts: 1,
        attempt: task.attempt,
        encoded_bytes: 0,
        decoded_bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        file: task.file,
        segment: 0,
        file_bytes: task.segments.file_bytes,
        value: *blake3::hash(bytes).as_bytes(),
    };
    sending.send_pieces(header, room.into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_lie_one_after_another_at_the_receiver_are_one_run() {
        let segments = Segments { file_bytes: 1000 * 1024 - 5, segment_bytes: 1024 };
        let basis = |segment: u64, shift: u64| KnownSegment {
            segment,
            source: Source::Basis { offset: segment * 1024 + shift },
            value: [u8::try_from(segment % 251).unwrap(); 32],
        };
        let zeros = |segment| KnownSegment { source: Source::Zeros, ..basis(segment, 0) };
        let mut list: Vec<_> = (0..600).map(|n| basis(n, 7)).collect();
        list.extend([basis(601, 7), basis(602, 9), zeros(603), zeros(604), zeros(999)]);
        list.reverse();
        let told = runs(list, segments);
        let shape: Vec<_> = told.iter().map(|known| (known.segment, known.count)).collect();
        assert_eq!(shape, [(0, 256), (256, 256), (512, 88), (601, 1), (602, 1), (603, 2), (999, 1)]);
        assert_eq!(told[3].value, basis(601, 0).value);
        let both = [zeros(603).value, zeros(604).value].concat();
        assert_eq!(&told[5].value, blake3::hash(&both).as_bytes());
    }
}
