//! Which objects are alike, and whether their dictionary pays.

use std::collections::BTreeMap;

use super::{Dictionary, MAX_SMALL_BYTES, Trained};

/// The longest extension that makes a class.
const MAX_EXTENSION_BYTES: usize = 12;
/// The most classes that are looked at; others are left alone.
const MAX_CLASSES: usize = 32;
/// A dictionary is trained of so many bytes of samples …
const SAMPLE_BYTES: usize = 2 << 20;
/// … which all classes together hold at most so many times.
const MAX_SAMPLED_AT_ONCE: usize = 8;
/// So many objects at least.
const MIN_SAMPLES: usize = 64;
/// One of so many objects is compressed both ways.
const MEASURED: u32 = 16;
/// After so many measured objects …
const JUDGED: u32 = 32;
/// … it must save at least one of so many bytes.
const MIN_SAVED: u64 = 33;

/// Objects that are alike: those with the same extension and about the same size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    extension: String,
    /// Up to 4 KiB, up to 64 KiB.
    long: bool,
}

impl Class {
    /// The class of an object by the last component of its path; None for what is not small, empty, or of no kind that has a name.
    #[must_use]
    pub fn of(name: &str, size: u64) -> Option<Self> {
        let size = usize::try_from(size).ok().filter(|size| (1..=MAX_SMALL_BYTES).contains(size))?;
        let (stem, extension) = name.rsplit_once('.')?;
        let named = !stem.is_empty() && (1..=MAX_EXTENSION_BYTES).contains(&extension.len());
        named.then(|| Self { extension: extension.to_ascii_lowercase(), long: size > 4 << 10 })
    }
}

/// What is known of a class.
#[derive(Debug)]
pub(super) enum State {
    Sampled {
        samples: Vec<Vec<u8>>,
        bytes: usize,
    },
    Trained {
        trained: Trained,
        met: u32,
        measured: u32,
        with: u64,
        without: u64,
    },
    /// It has been tried, or there is too much already.
    GivenUp,
}

/// The dictionaries of a sender, by class: at most 16 MiB of samples.
#[derive(Debug, Default)]
pub struct Classes {
    pub(super) classes: BTreeMap<Class, State>,
    dropped: u64,
}

impl Classes {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an object as a sample. Where its class has enough of them now, its dictionary is trained: that takes about a second.
    pub fn sample(&mut self, class: &Class, object: &[u8]) {
        if object.is_empty() || object.len() > MAX_SMALL_BYTES {
            return;
        }
        if !self.classes.contains_key(class) {
            let sampled = self.classes.values().filter(|state| matches!(state, State::Sampled { .. })).count();
            if self.classes.len() >= MAX_CLASSES || sampled >= MAX_SAMPLED_AT_ONCE {
                return;
            }
        }
        let empty = || State::Sampled { samples: Vec::new(), bytes: 0 };
        let state = self.classes.entry(class.clone()).or_insert_with(empty);
        if let State::Sampled { samples, bytes } = state {
            samples.push(object.to_vec());
            *bytes += object.len();
            if *bytes >= SAMPLE_BYTES {
                *state = Self::trained(samples);
            }
        }
    }

    /// No more samples will come: trains what has enough.
    pub fn close(&mut self) {
        for state in self.classes.values_mut() {
            if let State::Sampled { samples, .. } = state {
                *state = Self::trained(samples);
            }
        }
    }

    fn trained(samples: &[Vec<u8>]) -> State {
        let trained = if samples.len() < MIN_SAMPLES { None } else { Dictionary::train(samples) };
        trained.map_or(State::GivenUp, |trained| State::Trained { trained, met: 0, measured: 0, with: 0, without: 0 })
    }

    /// The dictionary of a class, where it pays for objects that would take `bytes` without it, compressed.
    #[must_use]
    pub fn dictionary(&self, class: &Class, bytes: u64) -> Option<&Dictionary> {
        match self.classes.get(class)? {
            State::Trained { trained, .. } => trained.pays(bytes).then_some(&trained.dictionary),
            State::Sampled { .. } | State::GivenUp => None,
        }
    }

    /// Counts an object that is compressed with the dictionary of its class: whether it should be compressed without it as well, and both
    /// lengths be told to [`Self::measured`].
    pub fn is_measured(&mut self, class: &Class) -> bool {
        match self.classes.get_mut(class) {
            Some(State::Trained { met, .. }) => {
                *met = met.wrapping_add(1);
                *met % MEASURED == 1
            }
            Some(State::Sampled { .. } | State::GivenUp) | None => false,
        }
    }

    /// An object took `with` bytes with the dictionary and `without` without it. A dictionary that saves too little is dropped.
    pub fn measured(&mut self, class: &Class, with: u64, without: u64) {
        let Some(state) = self.classes.get_mut(class) else { return };
        let State::Trained { measured, with: all_with, without: all_without, .. } = state else { return };
        (*measured, *all_with, *all_without) = (*measured + 1, *all_with + with, *all_without + without);
        if *measured < JUDGED {
            return;
        }
        if all_with.saturating_add(*all_without / MIN_SAVED) > *all_without {
            *state = State::GivenUp;
            self.dropped += 1;
        } else {
            // What comes next is judged by itself.
            (*measured, *all_with, *all_without) = (0, 0, 0);
        }
    }

    /// Bytes of all dictionaries: `dwcp_hde_dictionary_size_bytes`.
    #[must_use]
    pub fn dictionary_bytes(&self) -> u64 {
        let bytes = |state: &State| match state {
            State::Trained { trained, .. } => u64::try_from(trained.dictionary.bytes().len()).unwrap_or(u64::MAX),
            State::Sampled { .. } | State::GivenUp => 0,
        };
        self.classes.values().map(bytes).sum()
    }

    /// How many dictionaries were dropped.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}
