//! Dictionaries from and to their generated forms.

use proto_rpc::peer as rpc;

use super::{BadFrame, DictionaryContents, HeldDictionaries, MAX_DICTIONARIES, MAX_DICTIONARY_BYTES, bad, digest};

pub(super) fn offered(offered: Vec<(u32, [u8; 32])>) -> rpc::OfferedDictionaries {
    let one = |(number, digest): (u32, [u8; 32])| rpc::OfferedDictionary { number, digest: digest.to_vec() };
    rpc::OfferedDictionaries { dictionaries: offered.into_iter().map(one).collect() }
}

pub(super) fn parse_offered(offered: &rpc::OfferedDictionaries) -> Result<Vec<(u32, [u8; 32])>, BadFrame> {
    let offered = &offered.dictionaries;
    check(offered.iter().map(|one| &one.number))?;
    offered.iter().map(|one| Ok((one.number, digest("digest", &one.digest)?))).collect()
}

/// Numbers in their range, and not more than there are.
fn check<'a>(numbers: impl ExactSizeIterator<Item = &'a u32>) -> Result<(), BadFrame> {
    if usize::try_from(MAX_DICTIONARIES).is_ok_and(|most| numbers.len() > most) {
        return Err(bad("dictionaries", "are too many"));
    }
    for number in numbers {
        if !(1..=MAX_DICTIONARIES).contains(number) {
            return Err(bad("number", "of a dictionary is not from 1 to 32"));
        }
    }
    Ok(())
}

impl From<DictionaryContents> for rpc::DictionaryContents {
    fn from(contents: DictionaryContents) -> Self {
        Self { number: contents.number, size: contents.size, container: contents.container }
    }
}

impl TryFrom<rpc::DictionaryContents> for DictionaryContents {
    type Error = BadFrame;

    fn try_from(contents: rpc::DictionaryContents) -> Result<Self, BadFrame> {
        check([contents.number].iter())?;
        if !(1..=MAX_DICTIONARY_BYTES).contains(&contents.size) {
            return Err(bad("size", "of a dictionary is not from 1 byte to 112 KiB"));
        }
        Ok(Self { number: contents.number, size: contents.size, container: contents.container })
    }
}

impl From<HeldDictionaries> for rpc::HeldDictionaries {
    fn from(held: HeldDictionaries) -> Self {
        Self { held: held.held, missing: held.missing }
    }
}

impl TryFrom<rpc::HeldDictionaries> for HeldDictionaries {
    type Error = BadFrame;

    fn try_from(held: rpc::HeldDictionaries) -> Result<Self, BadFrame> {
        check(held.held.iter())?;
        check(held.missing.iter())?;
        Ok(Self { held: held.held, missing: held.missing })
    }
}
