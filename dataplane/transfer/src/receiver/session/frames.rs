//! What the sender says on the control stream.

use std::sync::{PoisonError, atomic::Ordering::Relaxed};

use proto_wire::{
    frames::{FileAborted, FileEnd, HeldDictionaries, ManifestEnd, ReceiverFrame, SenderFrame},
    manifest::{Page, PageReader},
};

use super::{super::incoming::Incoming, After, Part, Receiving};
use crate::{exclude::is_temporary, link::ControlIn, reason::end, stop::Stop, tally::add};

impl Part<'_> {
    pub(super) async fn read_frames(&self, control: &mut dyn ControlIn) -> Result<(), Stop> {
        let mut reader = PageReader::default();
        loop {
            let frame = control.recv().await?;
            let gone = || Stop { known_there: true, ..Stop::temporary(end::PEER_UNREACHABLE, "the sender went away") };
            let frame = SenderFrame::decode(&frame.ok_or_else(gone)?)?;
            match frame {
                SenderFrame::Open(_) => return Err(Stop::violation("a second opening came")),
                SenderFrame::Page(page) => reader = self.page(reader, page).await?,
                SenderFrame::ManifestEnd(end) => self.manifest_end(&reader, end)?,
                SenderFrame::FileEnd(end) => self.file_end(end).await?,
                SenderFrame::FileAborted(aborted) => self.file_aborted(aborted).await?,
                SenderFrame::Finish { tree_digest } => self.finish(tree_digest)?,
                SenderFrame::Abort(abort) => return Err(abort.into()),
                // Who does not wait for consent may offer what is not wanted.
                SenderFrame::Dictionaries(_) if self.receiving.is_offered && !self.receiving.leans => {}
                SenderFrame::Dictionaries(offers) => {
                    self.dictionaries(move |receiving| receiving.offered(offers)).await?
                }
                SenderFrame::Dictionary(contents) => {
                    self.dictionaries(move |receiving| receiving.shipped(&contents)).await?;
                }
                SenderFrame::Bench(_) => return Err(Stop::violation("a transfer is no bench")),
            }
            self.board.ring();
        }
    }

    async fn dictionaries(
        &self,
        answer: impl FnOnce(&Receiving) -> Result<HeldDictionaries, Stop> + Send + 'static,
    ) -> Result<(), Stop> {
        if !self.receiving.leans {
            return Err(Stop::violation("dictionaries were not agreed upon"));
        }
        let answer = self.blocking("transfer dictionaries", move |receiving| answer(receiving)).await?;
        let frames = vec![ReceiverFrame::Dictionaries(answer)];
        self.receiving.follow_up(After { whole: Vec::new(), frames }).await
    }

    async fn page(&self, mut reader: PageReader, page: proto_rpc::peer::ManifestPage) -> Result<PageReader, Stop> {
        if self.manifest().is_some() {
            return Err(Stop::violation("a page came after the last one"));
        }
        let (reader, bytes) = self
            .blocking("transfer page", move |receiving| {
                let before = reader.bytes();
                // Checked first, so that only what was checked is written down.
                let checked = reader.next_page(page.clone())?;
                check_page(receiving, &checked, reader.encoded_bytes())?;
                receiving.pages.append(&page).map_err(|error| receiving.own(&error))?;
                let more = reader.bytes() - before;
                Ok((reader, more))
            })
            .await?;
        let tally = &self.receiving.tally;
        tally.files_total.store(reader.entries(), Relaxed);
        add(&tally.bytes_total, bytes);
        self.board.pages.send_modify(|pages| *pages += 1);
        Ok(reader)
    }

    fn manifest_end(&self, reader: &PageReader, end: ManifestEnd) -> Result<(), Stop> {
        if self.manifest().is_some() {
            return Err(Stop::violation("the manifest ended twice"));
        }
        if (end.entries, end.bytes, end.digest) != (reader.entries(), reader.bytes(), reader.digest()) {
            return Err(Stop::violation("the manifest ends with other sums than its pages have"));
        }
        self.receiving.tally.totals_final.store(true, Relaxed);
        *self.board.manifest.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        Ok(())
    }

    pub(super) fn manifest(&self) -> Option<ManifestEnd> {
        self.board.manifest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn file_end(&self, end: FileEnd) -> Result<(), Stop> {
        let after = self.blocking("transfer file end", move |receiving| Incoming::end(receiving, &end)).await?;
        self.receiving.follow_up(after).await
    }

    async fn file_aborted(&self, aborted: FileAborted) -> Result<(), Stop> {
        self.blocking("transfer file aborted", move |receiving| Incoming::abort(receiving, &aborted)).await
    }

    fn finish(&self, tree_digest: [u8; 32]) -> Result<(), Stop> {
        if self.manifest().is_none() {
            return Err(Stop::violation("the sender finished before its manifest ended"));
        }
        *self.board.finish.lock().unwrap_or_else(PoisonError::into_inner) = Some(tree_digest);
        Ok(())
    }
}

/// What a page may not have, though each of its entries is well formed.
fn check_page(receiving: &Receiving, page: &Page, manifest_bytes: u64) -> Result<(), Stop> {
    if let Some(entry) = page.entries.iter().find(|entry| is_temporary(entry.path.name())) {
        let path = proto_model::escape(entry.path.as_bytes());
        return Err(Stop::violation(format!("{path} has a name of files that are under way")));
    }
    let most = receiving.shared.settings.load().manifest_bytes;
    if manifest_bytes > most.bytes() {
        metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.manifest_size").increment(1);
        let message =
            format!("the list of entries is longer than {most} (limits.manifest_size); send the tree in parts");
        return Err(Stop::final_(end::MANIFEST_TOO_LARGE, message));
    }
    Ok(())
}
