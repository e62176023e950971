//! A kept version becomes the next one of the same file: what differs is written into its copy, and nothing else.
//!
//! The version before goes. That is right where nobody needs it any more: its receiver has the new one in its place.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use proto_model::Digest;
use rustix::fs::Stat;

use crate::{
    batch::Batch,
    copy::{BUFFER_BYTES, FromStart, bytes, fill},
    folders::{occupied, place, stat_in},
    store::ContentError,
};

/// What is compared and written at once.
const BLOCK_BYTES: usize = 4096;
/// A file of so many bytes is written anew, whatever changed in it.
const SMALL_BYTES: u64 = 256 << 10;

/// What may be written into a copy of so many bytes: more is a copy of its own, and those are made at their own pace.
fn most_written(size: u64) -> u64 {
    (size / 4).max(SMALL_BYTES)
}

impl Batch {
    /// Makes the object of an older version that of an open file, where nobody reads the older one and a quarter of it or less differs. Gives nothing
    /// where that cannot be; then the older version may be gone.
    ///
    /// # Errors
    /// The store cannot be used, there is no room, or the file is not what was expected.
    pub(crate) fn follow(
        &mut self,
        older: Digest,
        file: &File,
        expected: Digest,
    ) -> Result<Option<Digest>, ContentError> {
        let Some((name, to)) = self.take_out(older)? else { return Ok(None) };
        let written = self.write_differences(file, &to);
        let written = match written {
            Ok(Some(written)) => Ok(written),
            Ok(None) => {
                self.opened().abandon(&name)?;
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        self.stage(name, to, written, Some(expected), false).map(Some)
    }

    /// Takes an object out of its place, where nobody has it open.
    fn take_out(&self, digest: Digest) -> Result<Option<(String, File)>, ContentError> {
        let opened = self.opened();
        let (number, object) = place(digest);
        let Some(folder) = opened.present_shard(number)? else { return Ok(None) };
        let mut shard = opened.shards.counted(opened, number)?;
        // Who pins it is about to need it; what has another name besides, as in a copy by hard links, is somebody else's, too.
        let is_ours = |stat: &Stat| stat.st_nlink == 1 && !self.store().0.pins.holds(digest);
        let Some(stat) = stat_in(&folder, &object)?.filter(is_ours) else { return Ok(None) };
        let Some((name, file)) = opened.take_out(&folder, &object)? else { return Ok(None) };
        // Whoever opened it before has it; nobody can open it any more.
        if self.store().0.open.has(digest) {
            opened.put(&name, &folder, &object)?;
            return Ok(None);
        }
        opened.shards.removed(&mut shard, 1, occupied(&stat));
        // Its index is nobody's.
        opened.remove(digest, &folder, &mut shard)?;
        drop(shard);
        self.store().verified().remove(&digest);
        Ok(Some((name, file)))
    }

    /// Writes what differs; gives the digest and the size of what is there then, or nothing where it would be too much.
    fn write_differences(&mut self, file: &File, to: &File) -> Result<Option<(Digest, u64)>, ContentError> {
        let before = to.metadata()?.len();
        // What it has of the disk was given back when it was taken out of its place.
        self.promise(before)?;
        let mut left = most_written(before);
        let mut hasher = blake3::Hasher::new();
        let (mut from, mut new, mut old) = (FromStart::new(file), vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        let mut at = 0;
        loop {
            let filled = fill(&mut from, &mut new)?;
            let Some(read) = new.get(..filled).filter(|read| !read.is_empty()) else { break };
            hasher.update(read);
            let held = read_held(to, at, &mut old[..filled])?;
            for (block, was) in read.chunks(BLOCK_BYTES).zip(old[..filled].chunks(BLOCK_BYTES)) {
                let is_held = at + bytes(block.len()) <= held;
                if !is_held || block != was {
                    let size = bytes(block.len());
                    let Some(rest) = left.checked_sub(size) else { return Ok(None) };
                    left = rest;
                    if !is_held {
                        self.promise(size)?;
                    }
                    to.write_all_at(block, at)?;
                }
                at += bytes(block.len());
            }
        }
        if at < before {
            to.set_len(at)?;
        }
        Ok(Some((Digest::from_bytes(*hasher.finalize().as_bytes()), at)))
    }
}

/// Reads what is there; gives where it ends.
fn read_held(file: &File, at: u64, room: &mut [u8]) -> io::Result<u64> {
    let mut filled = 0;
    while filled < room.len() {
        match file.read_at(&mut room[filled..], at + bytes(filled)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at + bytes(filled))
}
