//! Dictionaries that a sender may use in one transfer: those of the same sender that are held here, and those that it ships. What is used is in
//! memory until the transfer ends, so that it cannot be lost in the midst of it.

use std::collections::HashMap;

use blake3::Hash;
use dataplane_hde::{Decoder, Dictionary, NoSources};
use proto_wire::frames::{DictionaryContents, HeldDictionaries};

use super::{decoders::Room, state::Receiving};
use crate::{dictionaries::happened, stop::Stop};

/// By their numbers.
#[derive(Debug, Default)]
pub(super) struct Offered {
    by_number: HashMap<u32, State>,
    memory: Room,
}

#[derive(Clone, Debug)]
enum State {
    Held(Dictionary),
    Missing(Hash),
}

impl Receiving {
    /// Says which of these are held here. Numbers are from 1 to 32 and each is offered once, so that they are no more.
    pub(super) fn offered(&self, offers: Vec<(u32, [u8; 32])>) -> Result<HeldDictionaries, Stop> {
        let mut answer = HeldDictionaries::default();
        for (number, digest) in offers {
            let id = Hash::from_bytes(digest);
            let held = self.shared.dictionaries.of_peer(&self.sender, id);
            let mut offered = self.dictionaries();
            if offered.by_number.contains_key(&number) {
                return Err(Stop::violation(format!("dictionary {number} was offered twice")));
            }
            match held.filter(|dictionary| self.has_memory(&mut offered, dictionary)) {
                Some(dictionary) => {
                    offered.by_number.insert(number, State::Held(dictionary));
                    answer.held.push(number);
                }
                None => {
                    offered.by_number.insert(number, State::Missing(id));
                    answer.missing.push(number);
                }
            }
        }
        Ok(answer)
    }

    /// Takes a dictionary that was said to be missing, once.
    pub(super) fn shipped(&self, contents: &DictionaryContents) -> Result<HeldDictionaries, Stop> {
        let number = contents.number;
        let bad = |why: &str| Stop::violation(format!("dictionary {number} {why}"));
        let id = match self.dictionaries().by_number.get(&number) {
            Some(State::Missing(id)) => *id,
            Some(State::Held(_)) => return Err(bad("came, though it is held")),
            None => return Err(bad("came, though it was not offered")),
        };
        let size = usize::try_from(contents.size).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        let decoded = Decoder::new().decode(&contents.container, size, &mut NoSources, &mut bytes);
        decoded.map_err(|_damaged| bad("is damaged"))?;
        let dictionary = Dictionary::from_bytes(&bytes, id).map_err(|_other| bad("is not what it was said to be"))?;
        happened("received");
        tracing::info!(transfer = %self.id, number, bytes = size, "received a dictionary of small files");
        let settings = self.shared.settings.load();
        if self.shared.folder.space().is_ok_and(|space| space.free > settings.reserve.bytes()) {
            self.shared.dictionaries.keep(&self.sender, &dictionary, settings.dictionary_bytes);
        }
        let mut offered = self.dictionaries();
        let (held, missing) = if self.has_memory(&mut offered, &dictionary) {
            offered.by_number.insert(number, State::Held(dictionary));
            (vec![number], Vec::new())
        } else {
            (Vec::new(), vec![number])
        };
        Ok(HeldDictionaries { held, missing })
    }

    fn has_memory(&self, offered: &mut Offered, dictionary: &Dictionary) -> bool {
        offered.memory.grow(&self.shared.assembling, dictionary.bytes().len(), &self.shared)
    }

    /// What a bundle leans on.
    pub(super) fn dictionary(&self, number: u64) -> Result<Dictionary, Stop> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        match self.dictionaries().by_number.get(&number) {
            Some(State::Held(dictionary)) => Ok(dictionary.clone()),
            Some(State::Missing(_)) | None => {
                Err(Stop::violation(format!("a bundle leans on dictionary {number}, which is not held")))
            }
        }
    }
}
