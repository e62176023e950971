//! When a dictionary is trained, shipped and dropped.
//!
//! A dictionary costs its own bytes once, and nobody knows what will be sent after it. So it is measured what it would have saved: when that
//! has come to its price, it is shipped. Whatever comes then, no more than twice the least is spent.

use std::collections::BTreeMap;

use blake3::Hash;

use super::{Class, Dictionary, Lean, MAX_SMALL_BYTES, SmallEncoder, samples::Samples};

/// The most classes that are looked at; others are left alone.
pub const MAX_CLASSES: usize = proto_wire::frames::MAX_DICTIONARIES as usize;
/// So many of them are sampled at once: 4 MiB.
const MAX_SAMPLED_AT_ONCE: usize = 4;
/// After so many compressed bytes it is judged what a dictionary saves …
const JUDGED_BYTES: u64 = 64 << 10;
/// … at least one of so many.
const MIN_SAVED: u64 = 33;
/// After it was dropped so many bytes of its class go by before another one is trained; each time twice as many.
const PASS_BYTES: u64 = 1 << 20;
/// What a dictionary costs besides its own bytes.
const FRAME_BYTES: usize = 64;
/// The level by which a dictionary is shipped.
const SHIPPED_LEVEL: i8 = 19;

/// What is to be kept of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub class: Class,
    /// How many dictionaries it has had.
    pub version: u32,
    /// The present one.
    pub dictionary: Option<Hash>,
    /// What it costs to ship that.
    pub price: u64,
    /// Whether the peer holds it, as far as is known.
    pub held: bool,
    /// Measured with it …
    pub with: u64,
    /// … and without.
    pub without: u64,
    /// What it saved at best, of 1000.
    pub best_permille: u64,
    /// How often one was dropped for saving too little.
    pub dropped: u32,
    /// Bytes of the class that go by before another one is trained.
    pub pass: u64,
}

/// What measuring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Open,
    /// It has missed as much as it costs: it is to be shipped.
    Ship,
    /// It does not pay any more: it is gone.
    Dropped,
}

#[derive(Debug)]
struct Known {
    record: Record,
    dictionary: Option<Dictionary>,
    samples: Samples,
}

/// The dictionaries that this host has trained for one peer, of what that peer was sent: nobody else sees a byte of it. At most 4 MiB of samples
/// and 3.5 MiB of dictionaries.
#[derive(Debug, Default)]
pub struct Classes {
    classes: BTreeMap<Class, Known>,
}

impl Classes {
    /// What was kept; `find` gives dictionaries by their digests.
    pub fn kept(records: Vec<Record>, mut find: impl FnMut(Hash) -> Option<Dictionary>) -> Self {
        let known = |record: Record| {
            let dictionary = record.dictionary.and_then(&mut find);
            let dictionary_id = dictionary.as_ref().map(Dictionary::id);
            let record = Record { dictionary: dictionary_id, held: record.held && dictionary.is_some(), ..record };
            (record.class.clone(), Known { record, dictionary, samples: Samples::default() })
        };
        Self { classes: records.into_iter().take(MAX_CLASSES).map(known).collect() }
    }

    /// What is to be kept.
    pub fn records(&self) -> Vec<Record> {
        self.classes.values().map(|known| known.record.clone()).collect()
    }

    /// All dictionaries.
    pub fn dictionaries(&self) -> impl Iterator<Item = &Dictionary> {
        self.classes.values().filter_map(|known| known.dictionary.as_ref())
    }

    /// The dictionary of a class.
    #[must_use]
    pub fn dictionary(&self, class: &Class) -> Option<&Dictionary> {
        self.classes.get(class)?.dictionary.as_ref()
    }

    /// An object of a class without a dictionary is sent; `digest` is its BLAKE3.
    pub fn sample(&mut self, class: &Class, object: &[u8], digest: [u8; 32]) {
        if object.is_empty() || object.len() > MAX_SMALL_BYTES {
            return;
        }
        let sampled = self.classes.values().filter(|known| !known.samples.are_empty()).count();
        if !self.classes.contains_key(class) {
            if self.classes.len() >= MAX_CLASSES {
                return;
            }
            self.classes.insert(class.clone(), Known::new(class));
        }
        let Some(known) = self.classes.get_mut(class).filter(|known| known.dictionary.is_none()) else { return };
        known.record.pass = known.record.pass.saturating_sub(wide(object.len()));
        if known.record.pass == 0 && (!known.samples.are_empty() || sampled < MAX_SAMPLED_AT_ONCE) {
            known.samples.add(object, digest);
        }
    }

    /// Classes that have samples enough.
    #[must_use]
    pub fn ready(&self) -> Vec<Class> {
        let ready = self.classes.iter().filter(|(_, known)| known.samples.suffice());
        ready.map(|(class, _)| class.clone()).collect()
    }

    /// Takes the samples of a class for [`Dictionary::train`], which takes about a second.
    pub fn take_samples(&mut self, class: &Class) -> Vec<Vec<u8>> {
        self.classes.get_mut(class).map(|known| known.samples.take()).unwrap_or_default()
    }

    /// What training a class came to.
    pub fn trained(&mut self, class: &Class, dictionary: Option<Dictionary>) {
        let Some(known) = self.classes.get_mut(class) else { return };
        match dictionary {
            Some(dictionary) => {
                let record = &mut known.record;
                record.version = record.version.saturating_add(1);
                record.dictionary = Some(dictionary.id());
                record.price = price(&dictionary);
                (record.held, record.with, record.without, record.best_permille) = (false, 0, 0, 0);
                known.dictionary = Some(dictionary);
            }
            None => known.drop_it(true),
        }
    }

    /// The peer has said whether it holds the dictionary of a class; true where it did so before and does not any more.
    pub fn is_held(&mut self, class: &Class, held: bool) -> bool {
        let Some(known) = self.classes.get_mut(class) else { return false };
        let before = std::mem::replace(&mut known.record.held, held);
        if before != held {
            (known.record.with, known.record.without) = (0, 0);
        }
        before && !held
    }

    /// Objects of a class took `with` bytes with its dictionary, or would have, and `without` bytes without it.
    pub fn measured(&mut self, class: &Class, with: u64, without: u64) -> Verdict {
        let Some(known) = self.classes.get_mut(class).filter(|known| known.dictionary.is_some()) else {
            return Verdict::Open;
        };
        let record = &mut known.record;
        record.with = record.with.saturating_add(with);
        record.without = record.without.saturating_add(without);
        let saved = record.without.saturating_sub(record.with);
        if record.without >= JUDGED_BYTES && saved < record.without / MIN_SAVED {
            known.drop_it(true);
            return Verdict::Dropped;
        }
        if !record.held {
            return if saved >= record.price { Verdict::Ship } else { Verdict::Open };
        }
        if record.without >= JUDGED_BYTES {
            // What comes next is judged by itself: where it saves half of what it did, the class is another one by now.
            let permille = saved.saturating_mul(1000) / record.without.max(1);
            (record.with, record.without) = (0, 0);
            if permille < record.best_permille / 2 {
                known.drop_it(false);
                return Verdict::Dropped;
            }
            record.best_permille = record.best_permille.max(permille);
        }
        Verdict::Open
    }
}

impl Known {
    fn new(class: &Class) -> Self {
        let record = Record {
            class: class.clone(),
            version: 0,
            dictionary: None,
            price: 0,
            held: false,
            with: 0,
            without: 0,
            best_permille: 0,
            dropped: 0,
            pass: 0,
        };
        Self { record, dictionary: None, samples: Samples::default() }
    }

    fn drop_it(&mut self, saves_too_little: bool) {
        let record = &mut self.record;
        if saves_too_little {
            record.dropped = record.dropped.saturating_add(1);
            record.pass = PASS_BYTES << record.dropped.min(20);
        }
        (record.dictionary, record.held, record.with, record.without) = (None, false, 0, 0);
        self.dictionary = None;
    }
}

fn price(dictionary: &Dictionary) -> u64 {
    let packed = SmallEncoder::new().compress(dictionary.bytes(), Lean::Nothing, SHIPPED_LEVEL).map(<[u8]>::len);
    wide(packed.unwrap_or(dictionary.bytes().len()) + FRAME_BYTES)
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
