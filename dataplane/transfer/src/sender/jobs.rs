//! Files and bundles on their way: many at once, in the order in which they were asked for.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError},
};

use foundation_runtime::Cancelled;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use proto_wire::{
    frames::{Wanted, WantedFile},
    manifest::{Entry, Kind},
    piece::SMALL_FILE_BYTES,
};

use super::{
    board::{Board, Unsaid},
    bundle,
    bundle::Bundle,
    file::{self, Wish},
    gathering::{Gathering, Offer},
    state::Sending,
};
use crate::{bit_set::BitSet, receiver::stopping, stop::Stop};

/// Files that are read at once. Each waits for its segments to be acknowledged: at 128 KiB and 150 ms of round trip these are
/// 110 MB a second.
const FILES: usize = 128;
/// Bundles that are under way at once are bounded by the window; files and bundles together by this.
const JOBS: usize = 2 * FILES;

/// Files and bundles that are being sent.
pub(super) struct Jobs {
    sending: Arc<Sending>,
    board: Arc<Board>,
    pub(super) busy: FuturesUnordered<BoxFuture<'static, Result<(), Stop>>>,
    /// By the dictionary that they lean on; 0 for none.
    bundles: BTreeMap<u32, Bundle>,
    asked: BitSet,
    /// Small files that were sent whole, since they could not be made of what the receiver held.
    again: BitSet,
    gathering: Option<Gathering>,
}

impl Jobs {
    pub(super) fn new(sending: Arc<Sending>, board: Arc<Board>) -> Self {
        let (busy, bundles) = (FuturesUnordered::new(), BTreeMap::new());
        Self { sending, board, busy, bundles, asked: BitSet::default(), again: BitSet::default(), gathering: None }
    }

    /// Whether nothing is left of what was asked for.
    pub(super) fn sent_all(&self) -> bool {
        let resends = &self.board.resends;
        let whole = &self.board.whole;
        self.board.all_is_said()
            && self.gathering.is_none()
            && resends.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            && whole.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Begins to send what an answer asks for.
    pub(super) async fn wanted(&mut self, wanted: Wanted) -> Result<(), Stop> {
        let sending = Arc::clone(&self.sending);
        if sending.options.dry_run {
            return Err(Stop::violation("a dry run moves nothing"));
        }
        for (part, entry) in self.with_entries(wanted).await? {
            let (index, more) = (part.file, part.more);
            let entry = entry.filter(|entry| matches!(entry.kind, Kind::File { .. }));
            let entry = entry.ok_or_else(|| Stop::violation("the receiver asks for what is no file"))?;
            if self.gathering.is_none() && !self.asked.insert(index) {
                return Err(Stop::violation("the receiver asks for a file twice"));
            }
            let gathering = Gathering::add(self.gathering.take(), part, &entry, &sending)?;
            if more {
                self.gathering = Some(gathering);
                continue;
            }
            if gathering.is_made() {
                let wish = gathering.finish(entry)?;
                let sending = Arc::clone(&sending);
                self.start("transfer confirm", |unsaid| file::confirm(sending, wish, unsaid), FILES).await?;
            } else if entry.size() <= SMALL_FILE_BYTES {
                if gathering.replaces() {
                    sending.replaces(index);
                }
                let there = gathering.baseline();
                let leaning = self.sending.leaning().filter(|_| there.is_none());
                let number = leaning.and_then(|leaning| leaning.number(&entry)).unwrap_or_default();
                self.gather(number, bundle::Wanted { file: index, entry, there }).await?;
            } else {
                let wish = gathering.finish(entry)?;
                let sending = Arc::clone(&sending);
                self.start("transfer file", |unsaid| file::send(sending, wish, unsaid), FILES).await?;
            }
        }
        Ok(())
    }

    /// What is wanted, with what the manifest says of it.
    async fn with_entries(&mut self, wanted: Wanted) -> Result<Vec<(WantedFile, Option<Entry>)>, Stop> {
        let find = move |sending: &Arc<Sending>| {
            let entry = |file: WantedFile| sending.pages.entry(file.file).map(|entry| (file, entry));
            wanted.files.into_iter().map(entry).collect::<io::Result<_>>().map_err(|error| sending.own(&error))
        };
        self.sending.blocking("transfer entries", find).await
    }

    async fn gather(&mut self, dictionary: u32, wanted: bundle::Wanted) -> Result<(), Stop> {
        let bundle = self.bundles.entry(dictionary).or_insert_with(|| Bundle::leaning(dictionary));
        match bundle.push(wanted) {
            Some(full) => self.send_bundle(full).await,
            None => Ok(()),
        }
    }

    /// Sends what was gathered for a bundle, full or not.
    pub(super) async fn flush(&mut self) -> Result<(), Stop> {
        let mut general = Bundle::default();
        for bundle in std::mem::take(&mut self.bundles).into_values() {
            // A piece of its own would cost more than the dictionary saves.
            let (wanted, bundle) = bundle.dissolved();
            for wanted in wanted {
                if let Some(full) = general.push(wanted) {
                    self.send_bundle(full).await?;
                }
            }
            if let Some(bundle) = bundle {
                self.send_bundle(bundle).await?;
            }
        }
        match general.take() {
            Some(bundle) => self.send_bundle(bundle).await,
            None => Ok(()),
        }
    }

    async fn send_bundle(&mut self, bundle: Bundle) -> Result<(), Stop> {
        let sending = Arc::clone(&self.sending);
        let room = sending.room(bundle.bytes()).await?;
        let send = |unsaid| async move {
            let bundle::Said { grown, piece } = bundle::say(&sending, bundle).await?;
            let mut unsaid = Some(unsaid).filter(|_| !grown.is_empty());
            if let Some((header, encoded)) = piece {
                sending.send_pieces(header, encoded).await?;
            }
            drop(room);
            let mut grown = grown.into_iter().peekable();
            while let Some((file, entry)) = grown.next() {
                // It is no small file any more: its second reading is one of segments.
                let wish = Wish { file, entry, held: Vec::new(), offer: Offer::Nothing, elsewhere: false };
                let last = if grown.peek().is_none() { unsaid.take() } else { None };
                Box::pin(file::send_from(Arc::clone(&sending), wish, 1, last)).await?;
            }
            Ok(())
        };
        self.start("transfer bundle", send, JOBS).await
    }

    /// Sends again what did not verify.
    pub(super) async fn resend(&mut self) -> Result<(), Stop> {
        let resends = std::mem::take(&mut *self.board.resends.lock().unwrap_or_else(PoisonError::into_inner));
        for (file, segment) in resends {
            if !self.asked.contains(file) {
                return Err(Stop::violation(format!("the receiver asks again for file {file}, which it did not want")));
            }
            let sending = Arc::clone(&self.sending);
            let again = |unsaid: Unsaid| async move {
                let _unsaid = unsaid;
                file::send_again(sending, file, segment).await
            };
            self.start("transfer segment again", again, JOBS).await?;
        }
        let whole = std::mem::take(&mut *self.board.whole.lock().unwrap_or_else(PoisonError::into_inner));
        for file in whole {
            let entry = self.sending.blocking("transfer entries", move |sending| {
                sending.pages.entry(file).map_err(|error| sending.own(&error))
            });
            let small = |entry: &Entry| matches!(entry.kind, Kind::File { size } if size <= SMALL_FILE_BYTES);
            let entry = entry.await?.filter(small).filter(|_| self.asked.contains(file) && self.again.insert(file));
            let entry = entry.ok_or_else(|| {
                Stop::violation(format!("the receiver asks for all of file {file} again, which it may not"))
            })?;
            self.sending.fell_back("not_verified");
            self.sending.take_back(file, 0);
            self.gather(0, bundle::Wanted { file, entry, there: None }).await?;
        }
        self.flush().await
    }

    /// Starts a job, once there are fewer than so many.
    async fn start<Job: Future<Output = Result<(), Stop>> + Send + 'static>(
        &mut self,
        name: &'static str,
        job: impl FnOnce(Unsaid) -> Job,
        at_most: usize,
    ) -> Result<(), Stop> {
        while self.busy.len() >= at_most {
            if let Some(done) = self.busy.next().await {
                done?;
            }
        }
        let run = self.sending.group.run(name, job(Unsaid::new(&self.board)));
        self.busy.push(run.map(|done| done.unwrap_or_else(|Cancelled| Err(stopping()))).boxed());
        Ok(())
    }
}
