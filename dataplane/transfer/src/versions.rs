//! Versions of files that both ends of a transfer may hold: asked of the content store from blocking threads. Whatever cannot be
//! known is not known, and costs bytes.

use std::{ops::RangeInclusive, sync::Arc};

use dataplane_content::{Acknowledged, Baselines};
pub(crate) use dataplane_content::{FileStat, Held, Kept, Published};
use dataplane_hde::{AnchorIndex, Density, ReadAt};
use dataplane_identity::TrustStore;
use proto_model::{Digest, PublicKey, RootName, RootPath};
use proto_wire::TreePath;
use tokio::runtime::Handle;

/// What is smaller is indexed when it is needed.
const INDEX_FROM_BYTES: u64 = 4 << 20;

/// What was opened, where it can be used.
fn usable<E: std::fmt::Display>(digest: Digest, opened: Result<Arc<dyn ReadAt>, E>) -> Option<Arc<dyn ReadAt>> {
    opened
        .inspect_err(|error| {
            tracing::warn!(%digest, %error, "a version that was kept cannot be used; it is not referred to");
        })
        .ok()
}

/// What is remembered of versions.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    baselines: Option<Baselines>,
    trust: TrustStore,
}

/// Where an entry lies below the root that receives it.
pub(crate) fn place(destination: &RootPath, path: &TreePath) -> Vec<u8> {
    match destination.path.as_bytes() {
        [] => path.as_bytes().to_vec(),
        folder => [folder, b"/", path.as_bytes()].concat(),
    }
}

impl Versions {
    pub(crate) fn new(baselines: Option<Baselines>, trust: TrustStore) -> Self {
        Self { baselines, trust }
    }

    /// Asks, where there is somebody to ask; a store that fails knows nothing.
    fn ask<T, E: std::error::Error + 'static>(&self, ask: impl AsyncFnOnce(&Baselines) -> Result<T, E>) -> Option<T> {
        let baselines = self.baselines.as_ref()?;
        match Handle::current().block_on(ask(baselines)) {
            Ok(known) => Some(known),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    "what is known of versions cannot be read or written; whole files travel instead"
                );
                None
            }
        }
    }

    /// The newest version of each place that this peer acknowledged, where the next one may refer to it.
    pub(crate) fn newest(&self, peer: &PublicKey, root: &RootName, paths: Vec<Vec<u8>>) -> Vec<Option<Kept>> {
        let member = self.trust.membership().by_key(peer);
        let known = member
            .filter(|_| !paths.is_empty())
            .and_then(|member| self.ask(async |known| known.newest_of(member.uid, root.as_str(), &paths).await));
        let newest = |versions: Vec<Kept>| versions.into_iter().next().filter(|kept| kept.may_refer);
        let known = known.map(|known| known.into_iter().map(newest).collect());
        known.unwrap_or_else(|| vec![None; paths.len()])
    }

    /// A version as it lies on the disk, and its index where one is kept. One that is damaged costs bytes: what is made of it does not
    /// verify at the receiver.
    pub(crate) fn open(&self, digest: Digest) -> Option<(Arc<dyn ReadAt>, Option<AnchorIndex>)> {
        Some((self.open_bytes(digest)?, self.index(digest)))
    }

    /// The same without its index.
    pub(crate) fn open_bytes(&self, digest: Digest) -> Option<Arc<dyn ReadAt>> {
        usable(digest, self.baselines.as_ref()?.open_unverified(digest))
    }

    /// Reads a version that may be damaged: then it is set aside.
    pub(crate) fn verify(&self, digest: Digest) {
        let Some(baselines) = &self.baselines else { return };
        usable(digest, baselines.open(digest));
    }

    /// The index that is kept of a version.
    fn index(&self, digest: Digest) -> Option<AnchorIndex> {
        let bytes = self.baselines.as_ref()?.index(digest).ok().flatten()?;
        AnchorIndex::from_bytes(&bytes)
    }

    /// The newest large versions of these places of which an index pays.
    pub(crate) fn to_index(&self, peer: &PublicKey, root: &RootName, paths: Vec<Vec<u8>>) -> Vec<Kept> {
        if self.baselines.is_none() {
            return Vec::new();
        }
        let newest = self.newest(peer, root, paths).into_iter().flatten();
        newest.filter(|kept| kept.indexes && kept.size >= INDEX_FROM_BYTES).collect()
    }

    /// Makes indexes of versions that were kept just now, so that the next transfer need not, until there is no time any more.
    pub(crate) fn keep_indexes(&self, versions: &[Kept], stops: impl Fn() -> bool) {
        let Some(baselines) = &self.baselines else { return };
        for kept in versions.iter().filter(|kept| self.index(kept.digest).is_none()) {
            if stops() {
                return;
            }
            let Some((bytes, _)) = self.open(kept.digest) else { continue };
            let made = AnchorIndex::build(&bytes, Density::Usual, 1).map(|index| index.to_bytes());
            // One that is not kept is made when it is needed.
            if let Ok(index) = made
                && let Err(error) = baselines.keep_index(kept.digest, &index)
            {
                tracing::debug!(digest = %kept.digest, %error, "an index is not kept");
            }
        }
    }

    /// Keeps versions that a peer has in place.
    pub(crate) fn keep(&self, peer: &PublicKey, versions: Vec<Acknowledged>) {
        let Some(member) = self.trust.membership().by_key(peer) else { return };
        let kept = self.ask(async |known| known.keep(member.uid, versions).await);
        if let Some(kept) = kept {
            tracing::debug!(?kept, "versions were kept");
        }
    }

    /// Notes what was put in its place.
    pub(crate) fn published(&self, root: &RootName, files: Vec<Published>) {
        // That it is not noted was said.
        let _noted = self.ask(async |known| known.published(root.as_str(), files).await);
    }

    /// Whether anything is remembered.
    pub(crate) fn remembers(&self) -> bool {
        self.baselines.is_some()
    }

    /// What a file is, if it is the one that was noted.
    pub(crate) fn held(&self, root: &RootName, path: &[u8], stat: FileStat) -> Option<Held> {
        self.ask(async |known| known.held(root.as_str(), path, stat).await).flatten()
    }

    /// What files are that look as they did when they were noted.
    pub(crate) fn held_all(&self, root: &RootName, files: &[(Vec<u8>, FileStat)]) -> Vec<Option<Held>> {
        let known =
            if files.is_empty() { None } else { self.ask(async |known| known.held_of(root.as_str(), files).await) };
        known.unwrap_or_else(|| vec![None; files.len()])
    }

    /// What files are that were noted under other paths.
    pub(crate) fn renamed(&self, root: &RootName, files: &[(Vec<u8>, FileStat)]) -> Vec<Option<Digest>> {
        let known =
            if files.is_empty() { None } else { self.ask(async |known| known.renamed_of(root.as_str(), files).await) };
        known.unwrap_or_else(|| vec![None; files.len()])
    }

    /// Files below a root that were about so long when they were noted: paths and sizes.
    pub(crate) fn of_sizes(&self, root: &RootName, sizes: RangeInclusive<u64>) -> Vec<(Vec<u8>, u64)> {
        self.ask(async |known| known.of_sizes(root.as_str(), sizes).await).unwrap_or_default()
    }

    /// Files below a root that had this digest when they were noted.
    pub(crate) fn by_digest(&self, root: &RootName, digest: Digest) -> Vec<(Vec<u8>, FileStat)> {
        self.ask(async |known| known.by_digest(root.as_str(), digest).await).unwrap_or_default()
    }
}
