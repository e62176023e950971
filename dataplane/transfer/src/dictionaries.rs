//! Dictionaries of small files: those that this host trained for its peers, and those that peers shipped to it. They lie below
//! `DIR/transfers/dictionaries` and are lost without harm.
//!
//! What is trained of files that one peer was sent is for that peer alone, and what a peer shipped is used for what that same peer sends: nobody
//! learns of others' files by a dictionary.

mod shelf;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use blake3::Hash;
use dataplane_hde::{Class, Classes, Dictionary, Trained};
use proto_model::{ByteCount, PublicKey};

pub use self::shelf::DictionaryTotals;
use self::shelf::Shelf;

/// Peers whose classes are in memory: with all samples that is 64 MiB at most.
const MAX_PEERS: usize = 8;

/// What one peer is sent.
pub(crate) type ForPeer = Arc<Mutex<Classes>>;

/// All dictionaries of a host.
#[derive(Debug)]
pub(crate) struct Dictionaries {
    shelf: Shelf,
    peers: Mutex<HashMap<PublicKey, ForPeer>>,
    /// One is trained at a time.
    training: Mutex<()>,
}

/// Counts what happens to dictionaries.
pub(crate) fn happened(event: &'static str) {
    metrics::counter!("dwcp_hde_dictionary_events_total", "event" => event).increment(1);
}

pub(crate) fn locked(classes: &Mutex<Classes>) -> MutexGuard<'_, Classes> {
    classes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dictionaries {
    /// Those in this folder, which is made when it is needed.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { shelf: Shelf::new(folder), peers: Mutex::default(), training: Mutex::default() }
    }

    /// How many there are, and how large they are.
    pub(crate) fn totals(&self) -> DictionaryTotals {
        self.shelf.totals()
    }

    /// What is known for a peer; none where too many peers are sent to at once. May block.
    pub(crate) fn for_peer(&self, peer: PublicKey) -> Option<ForPeer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get(&peer) {
            return Some(Arc::clone(known));
        }
        if peers.len() >= MAX_PEERS {
            // Their samples are lost: they are gathered again.
            peers.retain(|_, classes| Arc::strong_count(classes) > 1);
        }
        if peers.len() >= MAX_PEERS {
            return None;
        }
        let classes = Arc::new(Mutex::new(self.shelf.classes(&peer)));
        peers.insert(peer, Arc::clone(&classes));
        Some(classes)
    }

    /// Trains what has samples enough, and keeps what is known of a peer. May block, for about a second a class.
    pub(crate) fn learn(&self, peer: &PublicKey, classes: &ForPeer, most: ByteCount, goes_on: &dyn Fn() -> bool) {
        let _turn = self.training.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = locked(classes).ready();
        for class in ready.into_iter().filter(|_| goes_on()) {
            let samples = locked(classes).take_samples(&class);
            let span = tracing::info_span!(
                "hde train",
                dwcp.hde.class = %class,
                dwcp.hde.samples = samples.len(),
                dwcp.hde.dictionary_bytes = tracing::field::Empty,
            );
            let _entered = span.enter();
            let trained = Dictionary::train(&samples);
            let saved_permille = trained.as_ref().map_or(0, |trained| trained.saved_permille);
            let dictionary = trained.and_then(Trained::useful);
            happened(if dictionary.is_some() { "trained" } else { "useless" });
            let bytes = dictionary.as_ref().map_or(0, |dictionary| dictionary.bytes().len());
            span.record("dwcp.hde.dictionary_bytes", bytes);
            tracing::info!(%class, samples = samples.len(), bytes, saved_permille, "a dictionary of small files was trained");
            locked(classes).trained(&class, dictionary);
        }
        let kept = {
            let classes = locked(classes);
            let dictionaries: Vec<_> = classes.dictionaries().cloned().collect();
            (classes.records(), dictionaries)
        };
        self.said(self.shelf.keep_classes(peer, &kept.0, &kept.1).and_then(|()| self.shelf.prune(most)));
    }

    /// A dictionary that a peer shipped before. May block.
    pub(crate) fn of_peer(&self, peer: &PublicKey, id: Hash) -> Option<Dictionary> {
        self.shelf.received(peer, id)
    }

    /// Keeps a dictionary that a peer shipped. May block.
    pub(crate) fn keep(&self, peer: &PublicKey, dictionary: &Dictionary, most: ByteCount) {
        self.said(self.shelf.keep_received(peer, dictionary).and_then(|()| self.shelf.prune(most)));
    }

    fn said(&self, kept: std::io::Result<()>) {
        if let Err(error) = kept {
            tracing::warn!(%error, "dictionaries of small files are not kept; they are trained or shipped again");
        }
        self.shelf.count();
    }
}

/// The class of a file by its name and size.
pub(crate) fn class_of(name: &[u8], size: u64) -> Option<Class> {
    Class::of(name, size)
}
