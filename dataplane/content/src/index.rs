//! Indexes of objects, kept beside them: what is costly to make again and can be lost. Each begins with the BLAKE3 of the rest,
//! so that a damaged one is as good as none.

use std::io::{self, Read as _, Write as _};

use proto_model::Digest;

use crate::{
    folders::{INDEX_END, occupied, place, stat_in},
    store::{ContentError, ContentStore},
};

/// The largest index that is kept: eight bytes for each of eight million anchors, and a head.
pub const MAX_INDEX_BYTES: u64 = (64 << 20) + 4096;
const DIGEST_BYTES: usize = 32;

impl ContentStore {
    /// The index that is kept of an object; none where there is none, or it is damaged.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn index(&self, digest: Digest) -> Result<Option<Vec<u8>>, ContentError> {
        let file = match self.opened()?.read(digest, INDEX_END) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_INDEX_BYTES + 32).read_to_end(&mut bytes)?;
        let Some((sum, index)) = bytes.split_at_checked(DIGEST_BYTES) else { return Ok(None) };
        if Digest::blake3(index).as_bytes() != sum {
            return Ok(None);
        }
        bytes.drain(..DIGEST_BYTES);
        Ok(Some(bytes))
    }

    /// Keeps an index of an object, in place of one that is there. Does nothing for an object that is not there, nor for an
    /// index beyond [`MAX_INDEX_BYTES`]. It is not made durable: a torn one is found by its sum.
    ///
    /// # Errors
    /// There is no room, or the store cannot be used.
    pub fn keep_index(&self, digest: Digest, index: &[u8]) -> Result<(), ContentError> {
        let size = u64::try_from(index.len()).unwrap_or(u64::MAX);
        let opened = self.opened()?;
        if size > MAX_INDEX_BYTES || opened.stat(digest)?.is_none() {
            return Ok(());
        }
        let mut room = self.0.room.promised();
        room.write(&opened, &self.limits(), size)?;
        let (begun, mut file) = opened.begin()?;
        let written = file.write_all(Digest::blake3(index).as_bytes()).and_then(|()| file.write_all(index));
        // The room that it takes is known once it is laid out.
        let written = written.and_then(|()| file.sync_data());
        let (number, name) = place(digest);
        let name = format!("{name}{INDEX_END}");
        let put = written.and_then(|()| {
            let folder = opened.shard(number)?;
            let mut shard = opened.shards.counted(&opened, number)?;
            if opened.stat(digest)?.is_none() {
                return opened.abandon(&begun);
            }
            let before = stat_in(&folder, &name)?.map_or(0, |stat| occupied(&stat));
            let bytes = occupied(&opened.begun(&begun)?);
            opened.put(&begun, &folder, &name)?;
            opened.shards.removed(&mut shard, 0, before);
            opened.shards.put(&mut shard, 0, bytes);
            Ok(())
        });
        if put.is_err() {
            drop(opened.abandon(&begun));
        }
        Ok(put?)
    }
}
