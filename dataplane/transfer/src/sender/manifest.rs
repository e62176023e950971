//! Walks the sources: pages go to this end's disk and to the receiver.

use std::{ops::ControlFlow, sync::atomic::Ordering::Relaxed};

use proto_rpc::peer::ManifestPage;
use proto_wire::{
    frames::{ManifestEnd, SenderFrame},
    manifest::{Entry, PageBuilder, PageReader},
};

use super::{board::Board, state::Sending};
use crate::{
    exclude::Excludes,
    receiver::stopping,
    stop::Stop,
    tally::add,
    versions::FileStat,
    walk::{Found, walk},
};

/// Entries of which it is looked up together what is known of their versions.
const AT_ONCE: usize = 1024;

/// Walks all there is to send; on a blocking thread.
pub(super) fn walk_sources(sending: &Sending, board: &Board, excludes: &Excludes) -> Result<(), Stop> {
    let mut pages =
        Pages { sending, board, builder: PageBuilder::default(), reader: PageReader::default(), entries: Vec::new() };
    let mut stopped = Ok(());
    let mut incomplete = false;
    walk(&sending.sources, excludes, sending.folder.clone(), &mut |found| {
        let result = match found {
            Found::Entry(mut entry, stat) => {
                if !sending.tells_holes {
                    entry.holes = 0;
                }
                add(&sending.tally.files_total, 1);
                add(&sending.tally.bytes_total, entry.size());
                pages.entry(entry, stat)
            }
            Found::Issue(issue) => {
                incomplete |= issue.hides_entries;
                sending.tally.found_issue(&issue);
                Ok(())
            }
            Found::Failed(error) => Err(sending.own(&error)),
        };
        match result {
            Ok(()) if !sending.group.is_cancelled() => ControlFlow::Continue(()),
            Ok(()) => {
                stopped = Err(stopping());
                ControlFlow::Break(())
            }
            Err(stop) => {
                stopped = Err(stop);
                ControlFlow::Break(())
            }
        }
    });
    stopped?;
    pages.announced()?;
    if let Some(page) = pages.builder.finish() {
        pages.page(page)?;
    }
    let end = ManifestEnd {
        entries: pages.reader.entries(),
        bytes: pages.reader.bytes(),
        digest: pages.reader.digest(),
        issues: sending.tally.issues(),
        issue_count: sending.tally.issue_count(),
        contents: sending.sources.has_contents(),
        incomplete,
    };
    sending.tally.totals_final.store(true, Relaxed);
    sending.frames.blocking_send(SenderFrame::ManifestEnd(end)).map_err(|_closed| stopping())
}

struct Pages<'a> {
    sending: &'a Sending,
    board: &'a Board,
    builder: PageBuilder,
    reader: PageReader,
    /// Those of which it is not said yet what is known of their versions.
    entries: Vec<(Entry, Option<FileStat>)>,
}

impl Pages<'_> {
    fn entry(&mut self, entry: Entry, stat: Option<FileStat>) -> Result<(), Stop> {
        self.entries.push((entry, stat));
        if self.entries.len() < AT_ONCE { Ok(()) } else { self.announced() }
    }

    /// Puts entries into pages, once it is said what is known of their versions.
    fn announced(&mut self) -> Result<(), Stop> {
        let mut entries = std::mem::take(&mut self.entries);
        self.sending.announce(&mut entries);
        if let Some(leaning) = &self.sending.leaning {
            let offered = leaning.offer(entries.iter().map(|(entry, _)| entry));
            if !offered.is_empty() {
                let frame = SenderFrame::Dictionaries(offered);
                self.sending.frames.blocking_send(frame).map_err(|_closed| stopping())?;
            }
        }
        for (entry, _) in entries {
            if let Some(page) = self.builder.push(&entry) {
                self.page(page)?;
            }
        }
        Ok(())
    }

    fn page(&mut self, page: ManifestPage) -> Result<(), Stop> {
        // Through the other end's own check: what would be refused there is found here.
        self.reader.next_page(page.clone())?;
        self.sending.pages.append(&page).map_err(|error| self.sending.own(&error))?;
        self.board.pages.fetch_add(1, Relaxed);
        self.sending.frames.blocking_send(SenderFrame::Page(page)).map_err(|_closed| stopping())
    }
}
