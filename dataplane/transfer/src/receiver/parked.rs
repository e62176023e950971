//! Segments that came before earlier ones of the same file, which they refer to. They wait here: no thread and no decoder is held, and
//! where there is no memory for them they are asked for again, and come without such references.

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry};

use bytes::Bytes;
use proto_wire::piece::Header;

use super::decoders::Room;
use crate::{service::Shared, stop::Stop};

/// Memory of one transfer's segments that wait: as much as a sender may have under way.
const MAX_PARKED_BYTES: usize = 64 << 20;
/// What a segment costs that waits, besides its bytes.
const OVERHEAD: usize = 512;

/// A segment, all parts of it, that is not decoded yet.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) header: Header,
    pub(super) encoded: Bytes,
}

impl Parked {
    fn cost(&self) -> usize {
        self.encoded.len() + OVERHEAD
    }
}

/// Those of one transfer.
#[derive(Debug, Default)]
pub(super) struct ParkedSegments {
    /// By file; those of an earlier reading first, then by number.
    files: HashMap<u64, BTreeMap<(u8, u64), Parked>>,
    /// Those that wait no more.
    ready: VecDeque<Parked>,
    room: Room,
}

impl ParkedSegments {
    /// Parks a segment; false where there is no memory for it. One that waits already may come once more in a second reading, where it was
    /// asked for again in the first.
    pub(super) fn park(&mut self, parked: Parked, shared: &Shared) -> Result<bool, Stop> {
        let (file, segment, cost) = (parked.header.file, parked.header.segment, parked.cost());
        let key = (parked.header.attempt, segment);
        if self.files.get(&file).is_some_and(|segments| segments.contains_key(&key)) {
            if parked.header.attempt > 0 {
                return Ok(true);
            }
            return Err(Stop::violation(format!("segment {segment} of file {file} came twice")));
        }
        if self.room.bytes() + cost > MAX_PARKED_BYTES || !self.room.grow(&shared.assembling, cost, shared) {
            return Ok(false);
        }
        // Copied, so that what waits does not hold the transport's memory.
        let parked = Parked { encoded: Bytes::copy_from_slice(&parked.encoded), ..parked };
        self.files.entry(file).or_default().insert(key, parked);
        Ok(true)
    }

    /// Something was written of a file: lets those go that wait no more.
    pub(super) fn look(&mut self, file: u64, waits: impl Fn(&Header) -> bool) {
        let Entry::Occupied(mut segments) = self.files.entry(file) else { return };
        while let Some(first) = segments.get_mut().first_entry().filter(|first| !waits(&first.get().header)) {
            self.ready.push_back(first.remove());
        }
        if segments.get().is_empty() {
            segments.remove();
        }
    }

    /// Lets those of all files go that wait no more.
    pub(super) fn look_at_all(&mut self, waits: impl Fn(&Header) -> bool) {
        let files: Vec<_> = self.files.keys().copied().collect();
        files.into_iter().for_each(|file| self.look(file, &waits));
    }

    /// The next that waits no more.
    pub(super) fn next_ready(&mut self) -> Option<Parked> {
        let parked = self.ready.pop_front()?;
        self.room.shrink(parked.cost());
        Some(parked)
    }
}
