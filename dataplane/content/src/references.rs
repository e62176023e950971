//! [`References`]: who needs which object, and what happens to those that nobody needs.

use std::sync::Arc;

use dataplane_local_store::{LocalStore, StoreError};
use foundation_runtime::{Cancelled, TaskGroup};
use proto_model::Digest;

use crate::{
    batch::Added,
    collect::Collected,
    store::{ContentError, ContentStore},
};

/// So many objects are asked about at once.
const ASKED_AT_ONCE: usize = 1000;

/// Why references could not be kept, or followed.
#[derive(Debug, thiserror::Error)]
pub enum ReferencesError {
    /// The objects.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The rows.
    #[error(transparent)]
    Rows(#[from] StoreError),
    /// The program is going down.
    #[error("the program is shutting down")]
    ShuttingDown(#[from] Cancelled),
}

/// Who needs an object: names, and versions that peers acknowledged. They are rows of the local store; where that is lost,
/// nobody needs anything any more. Clones are the same.
#[derive(Clone, Debug)]
pub struct References {
    pub(crate) content: ContentStore,
    pub(crate) rows: LocalStore,
    pub(crate) tasks: TaskGroup,
    /// One collection at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl References {
    /// Those to objects of this store, in these rows.
    #[must_use]
    pub fn new(content: ContentStore, rows: LocalStore, tasks: TaskGroup) -> Self {
        Self { content, rows, tasks, turn: Arc::default() }
    }

    /// The objects.
    #[must_use]
    pub fn content(&self) -> &ContentStore {
        &self.content
    }

    /// A name needs what was added, from now on. It may need other things besides.
    ///
    /// # Errors
    /// The rows cannot be written: then the objects are collected.
    pub async fn refer(&self, name: &str, added: Vec<Added>) -> Result<(), ReferencesError> {
        let digests = added.iter().map(|added| added.digest).collect();
        self.rows.put_references(name.to_owned(), digests).await?;
        drop(added);
        Ok(())
    }

    /// A name needs nothing any more; what nobody else needs is removed.
    ///
    /// # Errors
    /// The rows or the objects cannot be used.
    pub async fn release(&self, name: &str) -> Result<Collected, ReferencesError> {
        let dropped = self.rows.drop_references(name.to_owned()).await?;
        self.remove_unneeded(dropped).await
    }

    /// What a name needs.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn of(&self, name: &str) -> Result<Vec<Digest>, ReferencesError> {
        Ok(self.rows.references(name).await?)
    }

    /// How many names and versions need an object.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn count(&self, digest: Digest) -> Result<u64, ReferencesError> {
        Ok(self.rows.count_references(digest).await?)
    }

    /// Removes all objects that nobody needs, a folder at a time, and references to those that are gone.
    ///
    /// # Errors
    /// The rows or the objects cannot be used.
    pub async fn collect(&self) -> Result<Collected, ReferencesError> {
        let mut collected = Collected::default();
        for number in 0..=u8::MAX {
            if self.tasks.is_cancelled() {
                break;
            }
            let content = self.content.clone();
            let names = self.tasks.blocking("list content", move || content.names(number)).await??;
            // What is added after the names were read is not among them, or pinned.
            collected = collected.and(self.remove_unneeded(names).await?);
        }
        self.forget_missing().await?;
        Ok(collected)
    }

    /// Removes those of these objects that nobody needs.
    ///
    /// # Errors
    /// The rows or the objects cannot be used.
    pub async fn remove_unneeded(&self, mut digests: Vec<Digest>) -> Result<Collected, ReferencesError> {
        digests.sort_unstable();
        digests.dedup();
        let mut collected = Collected::default();
        if digests.is_empty() {
            return Ok(collected);
        }
        let _turn = self.turn.lock().await;
        for digests in digests.chunks(ASKED_AT_ONCE) {
            let collection = self.content.begin_collection();
            let needed = self.rows.needed_of(digests).await?;
            let unneeded: Vec<_> = digests.iter().copied().filter(|digest| !needed.contains(digest)).collect();
            if unneeded.is_empty() {
                continue;
            }
            let removed = self.tasks.blocking("collect content", move || collection.remove(&unneeded)).await??;
            collected = collected.and(removed);
        }
        metrics::counter!("dwcp_content_collected_total").increment(collected.objects);
        Ok(collected)
    }

    /// Removes objects, and then what referred to them: on a full disk nothing can be written before.
    pub(crate) async fn remove(&self, digests: Vec<Digest>) -> Result<Collected, ReferencesError> {
        let _turn = self.turn.lock().await;
        let collection = self.content.begin_collection();
        let removed = self.tasks.blocking("remove content", move || {
            let collected = collection.remove(&digests)?;
            let gone: Vec<Digest> = digests
                .into_iter()
                .filter(|digest| collection.content().contains(*digest).is_ok_and(|there| !there))
                .collect();
            Ok::<_, ContentError>((collected, gone))
        });
        let (collected, gone) = removed.await??;
        if let Err(error) = self.rows.drop_references_to(gone).await {
            // What is not there is not offered, and forgotten when all is cleaned.
            tracing::debug!(component = "content", %error, "references to removed content stay for now");
        }
        metrics::counter!("dwcp_content_collected_total").increment(collected.objects);
        Ok(collected)
    }

    /// Forgets references to objects that are gone: removed by others, or set aside.
    async fn forget_missing(&self) -> Result<(), ReferencesError> {
        let mut after = None;
        loop {
            let limit = u32::try_from(ASKED_AT_ONCE).unwrap_or(u32::MAX);
            let needed = self.rows.needed_after(after, limit).await?;
            let Some(last) = needed.last().copied() else { return Ok(()) };
            after = Some(last);
            let content = self.content.clone();
            let missing = self.tasks.blocking("look for content", move || {
                let mut missing = Vec::new();
                for digest in needed {
                    if !content.contains(digest)? {
                        missing.push(digest);
                    }
                }
                Ok::<_, ContentError>(missing)
            });
            let missing = missing.await??;
            if !missing.is_empty() {
                self.rows.drop_references_to(missing).await?;
            }
        }
    }
}
