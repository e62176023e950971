//! Dictionaries of small files in one attempt: offered when files of their classes come up, used when the receiver says that it holds them,
//! shipped when they have missed what they cost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use dataplane_hde::{Class, Dictionary, Encoder, Lean, SmallEncoder, Verdict, Version, small_level};
use proto_wire::{
    frames::{DictionaryContents, HeldDictionaries, MAX_DICTIONARIES},
    manifest::Entry,
};

use super::state::Sending;
use crate::{
    dictionaries::{ForPeer, class_of, happened, locked},
    stop::Stop,
};

/// So many bytes of a bundle show what a dictionary saves: it saves most at the beginning.
const MEASURED_BYTES: usize = 64 << 10;
/// Of bundles that lean on a dictionary one of so many is measured.
const MEASURED: u64 = 4;

/// The dictionaries of an attempt.
#[derive(Debug)]
pub(super) struct Leaning {
    classes: ForPeer,
    offered: Mutex<Vec<Offer>>,
    bundles: AtomicU64,
}

#[derive(Debug)]
struct Offer {
    class: Class,
    dictionary: Dictionary,
    at: At,
}

/// What is known of an offered dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Asked,
    Held,
    Missing,
    Shipped,
}

impl Leaning {
    pub(super) fn new(classes: ForPeer) -> Self {
        Self { classes, offered: Mutex::default(), bundles: AtomicU64::new(0) }
    }

    pub(super) fn classes(&self) -> &ForPeer {
        &self.classes
    }

    fn offered(&self) -> MutexGuard<'_, Vec<Offer>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dictionaries of classes that come up among these entries for the first time.
    pub(super) fn offer<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Vec<(u32, [u8; 32])> {
        let (mut offered, classes, mut new) = (self.offered(), locked(&self.classes), Vec::new());
        for entry in entries.filter(|entry| entry.versions.baseline == 0) {
            let Some(class) = class_of(entry.path.name(), entry.size()) else { continue };
            if offered.iter().any(|offer| offer.class == class) {
                continue;
            }
            let number = u32::try_from(offered.len() + 1).unwrap_or(u32::MAX);
            let Some(dictionary) = classes.dictionary(&class).filter(|_| number <= MAX_DICTIONARIES) else { continue };
            new.push((number, *dictionary.id().as_bytes()));
            offered.push(Offer { class, dictionary: dictionary.clone(), at: At::Asked });
        }
        new
    }

    /// What the receiver says it holds.
    pub(super) fn answered(&self, sending: &Sending, answer: &HeldDictionaries) -> Result<(), Stop> {
        let mut offered = self.offered();
        let held = answer.held.iter().map(|number| (*number, true));
        for (number, held) in held.chain(answer.missing.iter().map(|number| (*number, false))) {
            let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let offer = place.and_then(|place| offered.get_mut(place));
            let offer = offer.filter(|offer| matches!(offer.at, At::Asked | At::Shipped));
            let offer = offer.ok_or_else(|| {
                Stop::violation(format!("the receiver answers for dictionary {number}, which was not offered"))
            })?;
            offer.at = if held { At::Held } else { At::Missing };
            let mut classes = locked(&self.classes);
            // Another transfer may have dropped it meanwhile.
            let is_current = classes.dictionary(&offer.class) == Some(&offer.dictionary);
            if is_current && classes.is_held(&offer.class, held) {
                tracing::info!(class = %offer.class, "the receiver does not hold a dictionary any more; it goes without");
                happened("gone");
                sending.fell_back("dictionary");
            }
        }
        Ok(())
    }

    /// The number of the dictionary that a file may lean on.
    pub(super) fn number(&self, entry: &Entry) -> Option<u32> {
        let class = class_of(entry.path.name(), entry.size())?;
        let place = self.offered().iter().position(|offer| offer.class == class && offer.at == At::Held)?;
        u32::try_from(place + 1).ok()
    }

    /// The contents of small files, by a dictionary that the receiver holds; none where that is not shorter.
    pub(super) fn compress<'p>(
        &self,
        small: &'p mut SmallEncoder,
        number: u32,
        contents: &[u8],
        level: i8,
    ) -> Option<&'p [u8]> {
        let (class, dictionary) = {
            let offered = self.offered();
            let offer = offered.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
            (offer.class.clone(), offer.dictionary.clone())
        };
        if self.bundles.fetch_add(1, Relaxed).is_multiple_of(MEASURED) {
            let (with, without) = measure(small, &dictionary, contents, level);
            let mut classes = locked(&self.classes);
            let is_current = classes.dictionary(&class) == Some(&dictionary);
            if is_current && classes.measured(&class, with, without) == Verdict::Dropped {
                tracing::info!(%class, "a dictionary of small files does not pay any more and was dropped");
                happened("dropped");
            }
        }
        let lean = Lean::Dictionary(&dictionary);
        small.compress(contents, lean, small_level(contents.len(), level, &lean))
    }

    /// Looks at small files that go without: as samples, and for what a dictionary would have saved. Gives those that are to be shipped now.
    pub(super) fn look<'c>(
        &self,
        small: &mut SmallEncoder,
        files: impl Iterator<Item = (Class, &'c [u8], [u8; 32])>,
        level: i8,
    ) -> Vec<(u32, Dictionary)> {
        let mut together: HashMap<Class, Vec<u8>> = HashMap::new();
        let mut to_ship = Vec::new();
        for (class, contents, digest) in files {
            let mut classes = locked(&self.classes);
            if classes.dictionary(&class).is_none() {
                classes.sample(&class, contents, digest);
                continue;
            }
            drop(classes);
            let gathered = together.entry(class).or_default();
            if gathered.len() < MEASURED_BYTES {
                gathered.extend_from_slice(contents);
            }
        }
        for (class, contents) in together {
            let missing = {
                let offered = self.offered();
                let place = offered.iter().position(|offer| offer.class == class && offer.at == At::Missing);
                place.and_then(|place| Some((u32::try_from(place + 1).ok()?, offered.get(place)?.dictionary.clone())))
            };
            let Some((number, dictionary)) = missing else { continue };
            let (with, without) = measure(small, &dictionary, &contents, level);
            let verdict = {
                let mut classes = locked(&self.classes);
                let is_current = classes.dictionary(&class) == Some(&dictionary);
                if is_current { classes.measured(&class, with, without) } else { Verdict::Open }
            };
            match verdict {
                Verdict::Open => {}
                Verdict::Dropped => {
                    tracing::info!(%class, "a dictionary of small files would not pay and was dropped");
                    happened("dropped");
                }
                Verdict::Ship => {
                    if let Some(offer) = self.offered().iter_mut().find(|offer| offer.class == class) {
                        offer.at = At::Shipped;
                    }
                    to_ship.push((number, dictionary));
                }
            }
        }
        to_ship
    }
}

/// What the beginning of `contents` takes with a dictionary, and without.
fn measure(small: &mut SmallEncoder, dictionary: &Dictionary, contents: &[u8], level: i8) -> (u64, u64) {
    let sample = &contents[..contents.len().min(MEASURED_BYTES)];
    let mut length = |lean: Lean<'_>| {
        let packed = small.compress(sample, lean, small_level(sample.len(), level, &lean));
        u64::try_from(packed.map_or(sample.len(), <[u8]>::len)).unwrap_or(u64::MAX)
    };
    (length(Lean::Dictionary(dictionary)), length(Lean::Nothing))
}

/// A dictionary as it travels.
pub(super) fn contents(
    encoder: &mut Encoder,
    options: dataplane_hde::Options,
    (number, dictionary): (u32, Dictionary),
) -> Result<DictionaryContents, Stop> {
    let mut container = Vec::new();
    let encoded = encoder.encode(&Version::plain(options), 0, dictionary.bytes(), &mut container);
    encoded.map_err(|error| Stop::violation(error.to_string()))?;
    let size = u32::try_from(dictionary.bytes().len()).unwrap_or(u32::MAX);
    tracing::info!(number, bytes = container.len(), "a dictionary of small files is shipped");
    happened("shipped");
    Ok(DictionaryContents { number, size, container })
}

/// Trains dictionaries of what was sent, behind the transfer's end.
pub(super) fn learn(sending: &Arc<Sending>) {
    let Some(leaning) = &sending.leaning else { return };
    let (classes, shared, peer) = (Arc::clone(leaning.classes()), Arc::clone(&sending.shared), sending.peer);
    let tasks = shared.tasks.clone();
    let run = async move {
        let tasks = shared.tasks.clone();
        let learn = move || {
            let most = shared.settings.load().dictionary_bytes;
            shared.dictionaries.learn(&peer, &classes, most, &|| !shared.tasks.is_cancelled());
        };
        // Whoever stops this program meanwhile loses what was not trained yet.
        let _learnt = tasks.blocking("train dictionaries", learn).await;
    };
    tasks.spawn("train dictionaries", foundation_runtime::OnEnd::Expected, run);
}
