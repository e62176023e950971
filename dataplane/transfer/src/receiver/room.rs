//! Room on the destination's file system: promised before the first byte of a file, taken before each write (D22).
//!
//! What a file needs is what its sender says is no hole in it. Where that was too little, or the file has grown, what is written
//! beyond it is taken like a new promise, so that `storage.reserve` and what other transfers were promised stay free whatever a
//! peer says.

use std::sync::atomic::Ordering::Relaxed;

use proto_wire::manifest::Entry;

use super::state::Receiving;
use crate::{
    confine::{Folder, Space},
    reason::end,
    service::Shared,
    stop::Stop,
};

/// Room is counted in blocks of most file systems.
const BLOCK_BYTES: u64 = 4096;

/// Room that is being written to; it counts as promised until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Taken<'a> {
    shared: &'a Shared,
    device: u64,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.shared.release(self.device, self.bytes);
    }
}

impl Receiving {
    /// Keeps room for a file of which so many bytes are here already, or breaks off before its first byte.
    pub(super) fn promise(&self, entry: &Entry, held: u64) -> Result<(), Stop> {
        let bytes = entry.size();
        self.count(bytes)?;
        let missing = blocks(bytes.saturating_sub(entry.holes).saturating_sub(held));
        let needed = self.missing_bytes.fetch_add(missing, Relaxed).saturating_add(missing);
        let space = self.space()?;
        if !self.shared.promise(self.device, space.free, missing) {
            return Err(self.no_space(space, needed));
        }
        self.promised.fetch_add(missing, Relaxed);
        Ok(())
    }

    /// Counts bytes that arrive against the grant's bound: those of the manifest, and what a second reading has more.
    pub(super) fn count(&self, bytes: u64) -> Result<(), Stop> {
        let wanted = self.wanted_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        match self.options.max_bytes.filter(|max| wanted > max.bytes()) {
            Some(max) => {
                let message = format!("the grant allows {} bytes to arrive, and the sender has more", max.bytes());
                Err(Stop::final_(end::TOO_MANY_BYTES, message))
            }
            None => Ok(()),
        }
    }

    /// Takes room for bytes that are written next.
    pub(super) fn take_room(&self, bytes: u64) -> Result<Taken<'_>, Stop> {
        let bytes = blocks(bytes);
        let taken = self.promised.fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(bytes)));
        let had = taken.unwrap_or_else(|held| held).min(bytes);
        let more = bytes - had;
        let mut taken = Taken { shared: &self.shared, device: self.device, bytes: had };
        if more > 0 {
            let space = self.space()?;
            if !self.shared.promise(self.device, space.free, more) {
                return Err(self.no_space(space, more));
            }
            taken.bytes += more;
        }
        Ok(taken)
    }

    /// So much of what was promised is taken for good by now: a file has its room.
    pub(super) fn is_laid_out(&self, bytes: u64) {
        let bytes = blocks(bytes);
        let promised = self.promised.fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(bytes)));
        self.shared.release(self.device, promised.unwrap_or_else(|held| held).min(bytes));
    }

    fn space(&self) -> Result<Space, Stop> {
        let space = self.target().and_then(Folder::space);
        space.map_err(|error| self.destination_fails(&error))
    }

    /// What does not fit now may fit later; what is more than the whole file system never will.
    fn no_space(&self, space: Space, needed: u64) -> Stop {
        let reserve = self.shared.settings.load().reserve.bytes();
        let free = space.free;
        metrics::counter!("dwcp_transfer_no_space_total", "where" => "destination").increment(1);
        let message = format!(
            "{} has {free} bytes free at the receiver, {reserve} are to be left free (storage.reserve), and {needed} or more are needed",
            self.destination
        );
        if needed.saturating_add(reserve) > space.all {
            let message = format!("{message}; its file system has {} in all: give it a larger one", space.all);
            return Stop::final_(end::NO_SPACE, message);
        }
        Stop::temporary(end::NO_SPACE, format!("{message}; free some there, and the transfer goes on by itself"))
    }

    /// The file system of the destination fails, or is full.
    pub(super) fn destination_fails(&self, error: &std::io::Error) -> Stop {
        let space = self.target().and_then(Folder::space).ok();
        Stop::of_file_system(&format!("{} at the receiver", self.destination), "destination", space, error)
    }
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}
