//! rANS with four states in turn, 16 bits at a time (Duda, <https://arxiv.org/abs/1311.2540>; Giesen, "Interleaved entropy coders").

use super::{
    DamagedNumbers,
    bits::BitReader,
    number,
    tables::{Counts, SCALE_BITS, Slots, Tables},
};

/// States that take turns, so that a processor works on them at once.
const STATES: usize = 4;
/// A state is never below this between two symbols.
const LEAST: u32 = 1 << 16;

/// Buffers that are kept.
#[derive(Default)]
pub(super) struct Scratch {
    /// Made when first needed: 512 KiB.
    pub(super) counts: Option<Box<Counts>>,
    pub(super) symbols: Vec<u8>,
    pub(super) words: Vec<u16>,
    pub(super) raw: Vec<u8>,
    pub(super) slots: Slots,
}

/// Appends the symbols, whose contexts are those of the `old` numbers (none: one context).
pub(super) fn encode<const W: usize>(
    symbols: &[u8],
    old: &[[u8; W]],
    tables: &Tables,
    words: &mut Vec<u16>,
    out: &mut Vec<u8>,
) {
    words.clear();
    let mut states = [LEAST; STATES];
    // A decoder goes forwards, so an encoder goes backwards.
    for at in (0..symbols.len()).rev() {
        let context = old.get(at).map_or(0, |old| number::context(*old));
        let after_change = at > 0 && symbols[at - 1] != 0;
        let share = tables.share(context, after_change, symbols[at]);
        let (frequency, before) = (u32::from(share.frequency), u32::from(share.before));
        let state = &mut states[at % STATES];
        if u64::from(*state) >= u64::from(frequency) << (32 - SCALE_BITS) {
            let [low, high, ..] = state.to_le_bytes();
            words.push(u16::from_le_bytes([low, high]));
            *state >>= 16;
        }
        *state = ((*state / frequency) << SCALE_BITS) + *state % frequency + before;
    }
    write_count(words.len(), out);
    states.iter().for_each(|state| out.extend_from_slice(&state.to_le_bytes()));
    out.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
}

/// Fills `numbers` from words and raw bits.
pub(super) fn decode<const W: usize>(
    bytes: &[u8],
    slots: &Slots,
    old: &[[u8; W]],
    numbers: &mut [[u8; W]],
) -> Result<(), DamagedNumbers> {
    let (count, rest) = read_count(bytes)?;
    let (states, rest) = rest.split_at_checked(4 * STATES).ok_or(DamagedNumbers)?;
    let (words, raw) = rest.split_at_checked(count.checked_mul(2).ok_or(DamagedNumbers)?).ok_or(DamagedNumbers)?;
    let mut reader = Reader {
        states: std::array::from_fn(|at| u32::from_le_bytes(states.as_chunks::<4>().0[at])),
        words: words.as_chunks::<2>().0.iter(),
        raw: BitReader::new(raw),
        slots,
        after_change: false,
    };
    if old.is_empty() {
        let bits = number::alone_bits::<W>();
        for (at, number) in numbers.iter_mut().enumerate() {
            let symbol = reader.symbol(at, 0)?;
            *number = number::join_alone(symbol, reader.raw.take(bits).ok_or(DamagedNumbers)?);
        }
    } else {
        for (at, (number, old)) in numbers.iter_mut().zip(old).enumerate() {
            let symbol = reader.symbol(at, number::context(*old))?;
            let rest = reader.raw.take(number::bits_of(symbol)).ok_or(DamagedNumbers)?;
            *number = number::join(symbol, rest, *old);
        }
    }
    // Where an encoder began, a decoder ends.
    let ended = reader.states == [LEAST; STATES] && reader.words.len() == 0 && reader.raw.is_at_end();
    if ended { Ok(()) } else { Err(DamagedNumbers) }
}

struct Reader<'a> {
    states: [u32; STATES],
    words: std::slice::Iter<'a, [u8; 2]>,
    raw: BitReader<'a>,
    slots: &'a Slots,
    after_change: bool,
}

impl Reader<'_> {
    #[inline]
    fn symbol(&mut self, at: usize, context: usize) -> Result<u8, DamagedNumbers> {
        let state = &mut self.states[at % STATES];
        let (symbol, frequency, place) = self.slots.slot(context, self.after_change, *state);
        // Below 2^32: a frequency is at most 2^12, what it is taken times at most 2^20 - 1, a place below the frequency.
        *state = frequency.wrapping_mul(*state >> SCALE_BITS).wrapping_add(place);
        if *state < LEAST {
            let word = self.words.next().ok_or(DamagedNumbers)?;
            *state = *state << 16 | u32::from(u16::from_le_bytes(*word));
        }
        self.after_change = symbol != 0;
        Ok(symbol)
    }
}

fn write_count(mut count: usize, out: &mut Vec<u8>) {
    while count > 0x7f {
        out.push(count.to_le_bytes()[0] | 0x80);
        count >>= 7;
    }
    out.push(count.to_le_bytes()[0]);
}

/// A count of at most three bytes: more words than a segment has bytes are none of ours.
fn read_count(bytes: &[u8]) -> Result<(usize, &[u8]), DamagedNumbers> {
    let mut count = 0;
    for (at, byte) in bytes.iter().enumerate().take(3) {
        count |= usize::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Ok((count, &bytes[at + 1..]));
        }
    }
    Err(DamagedNumbers)
}
