//! Collection: removes what nobody needs.

use proto_model::Digest;

use crate::{
    folders::{Opened, place},
    shards::{Listed, for_each},
    store::{ContentError, ContentStore},
};

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects.
    pub objects: u64,
    /// Bytes of the disk that are free now.
    pub bytes: u64,
}

impl Collected {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, bytes: self.bytes + other.bytes }
    }
}

/// A collection that looks for who needs what: an object that is added meanwhile stays, until this is dropped.
#[derive(Debug)]
pub(crate) struct Collection(ContentStore);

impl Drop for Collection {
    fn drop(&mut self) {
        self.0.0.pins.unwatch();
    }
}

impl ContentStore {
    /// Begins a collection. One at a time: see [`crate::References`].
    pub(crate) fn begin_collection(&self) -> Collection {
        self.0.pins.watch();
        Collection(self.clone())
    }

    /// What lies in a folder, which is counted again: objects, and indexes, the first also where only the second is there.
    pub(crate) fn names(&self, number: u8) -> Result<Vec<Digest>, ContentError> {
        let opened = self.opened()?;
        opened.shards.count_again(&opened, number)?;
        let mut found = Vec::new();
        if let Some(folder) = opened.present_shard(number)? {
            for_each(&folder, number, |listed, _name| {
                match listed {
                    Listed::Object(digest) | Listed::Index(digest) => found.push(digest),
                    // What others put there is theirs.
                    Listed::Foreign => {}
                }
                Ok(())
            })?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

impl Collection {
    /// Where it collects.
    pub(crate) fn content(&self) -> &ContentStore {
        &self.0
    }

    /// Removes these objects, but for those that were added since the collection began.
    pub(crate) fn remove(&self, digests: &[Digest]) -> Result<Collected, ContentError> {
        let opened = self.0.opened()?;
        let mut collected = Collected::default();
        for digest in digests {
            collected = collected.and(self.remove_one(&opened, *digest)?);
        }
        Ok(collected)
    }

    fn remove_one(&self, opened: &Opened, digest: Digest) -> Result<Collected, ContentError> {
        let (number, _name) = place(digest);
        let Some(folder) = opened.present_shard(number)? else { return Ok(Collected::default()) };
        let mut locked = opened.shards.counted(opened, number)?;
        if self.0.0.pins.holds(digest) {
            return Ok(Collected::default());
        }
        let objects = u64::from(opened.stat(digest)?.is_some());
        let bytes = opened.remove(digest, &folder, &mut locked)?;
        drop(locked);
        self.0.verified().remove(&digest);
        Ok(Collected { objects, bytes })
    }
}
