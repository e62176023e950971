//! rANS with four states in turn, 16 bits at a time (Duda, <https://arxiv.org/abs/1311.2540>; Giesen, "Interleaved entropy coders").

use super::{
    DamagedNumbers,
    bits::BitReader,
    number,
    tables::{Counts, SCALE_BITS, Slots, Tables},
};

/// States that take turns, so that a processor works on them at once.
pub(super) const STATES: usize = 4;
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
        let after_change = at >= STATES && symbols[at - STATES] != 0;
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
    let reader = Reader {
        states: std::array::from_fn(|at| u32::from_le_bytes(states.as_chunks::<4>().0[at])),
        words: words.as_chunks::<2>().0,
        next: 0,
        raw: BitReader::new(raw),
        slots,
        after_change: [false; STATES],
    };
    // A word for 16 numbers and less: nearly all stand unchanged, and branches are foreseen.
    let sparse = count < numbers.len() / 16;
    match (slots.by_change(), old.is_empty()) {
        (true, true) => reader.alone::<W, true>(numbers),
        (false, true) => reader.alone::<W, false>(numbers),
        (true, false) if sparse => reader.against::<W, true, true>(old, numbers),
        (false, false) if sparse => reader.against::<W, false, true>(old, numbers),
        (true, false) => reader.against::<W, true, false>(old, numbers),
        (false, false) => reader.against::<W, false, false>(old, numbers),
    }
}

struct Reader<'a> {
    states: [u32; STATES],
    words: &'a [[u8; 2]],
    /// How many words were taken, also such as there are not.
    next: usize,
    raw: BitReader<'a>,
    slots: &'a Slots,
    /// Whether the last number of each state changed.
    after_change: [bool; STATES],
}

impl Reader<'_> {
    fn alone<const W: usize, const BY_CHANGE: bool>(mut self, numbers: &mut [[u8; W]]) -> Result<(), DamagedNumbers> {
        let bits = number::alone_bits::<W>();
        for four in numbers.chunks_mut(STATES) {
            for (state, number) in four.iter_mut().enumerate() {
                let symbol = self.symbol::<BY_CHANGE, false>(state, 0);
                *number = number::join_alone(symbol, self.raw.take(bits));
            }
        }
        self.ended()
    }

    fn against<const W: usize, const BY_CHANGE: bool, const SPARSE: bool>(
        mut self,
        old: &[[u8; W]],
        numbers: &mut [[u8; W]],
    ) -> Result<(), DamagedNumbers> {
        let (fours, rest) = numbers.as_chunks_mut::<STATES>();
        let (old_fours, old_rest) = old.as_chunks::<STATES>();
        for (four, old) in fours.iter_mut().zip(old_fours) {
            for state in 0..STATES {
                four[state] = self.number::<W, BY_CHANGE, SPARSE>(state, old[state]);
            }
        }
        for (state, (number, old)) in rest.iter_mut().zip(old_rest).enumerate() {
            *number = self.number::<W, BY_CHANGE, SPARSE>(state, *old);
        }
        self.ended()
    }

    #[allow(clippy::inline_always, reason = "a call for each number would keep the states in memory: a third slower")]
    #[inline(always)]
    fn number<const W: usize, const BY_CHANGE: bool, const SPARSE: bool>(
        &mut self,
        state: usize,
        old: [u8; W],
    ) -> [u8; W] {
        let symbol = self.symbol::<BY_CHANGE, SPARSE>(state, number::context(old));
        if SPARSE && symbol == 0 {
            return old;
        }
        number::join(symbol, self.raw.take(number::bits_of(symbol)), old)
    }

    /// Makes some symbol also where words are missing: [`Self::ended`] finds it.
    #[allow(clippy::inline_always, reason = "a call for each number would keep the states in memory: a third slower")]
    #[inline(always)]
    fn symbol<const BY_CHANGE: bool, const SPARSE: bool>(&mut self, state: usize, context: usize) -> u8 {
        let (state, after_change) = (&mut self.states[state], &mut self.after_change[state]);
        let (symbol, frequency, place) = self.slots.slot::<BY_CHANGE>(context, *after_change, *state);
        // Below 2^32: a frequency is at most 2^12, what it is taken times at most 2^20 - 1, a place below the frequency.
        let short = frequency.wrapping_mul(*state >> SCALE_BITS).wrapping_add(place);
        let word = || self.words.get(self.next).copied().unwrap_or_default();
        if SPARSE && short >= LEAST {
            *state = short;
        } else {
            // Whether a word is due is a matter of chance, so without a branch.
            let (long, due) = (short << 16 | u32::from(u16::from_le_bytes(word())), short < LEAST);
            *state = if due { long } else { short };
            self.next += usize::from(due);
        }
        *after_change = symbol != 0;
        symbol
    }

    /// Where an encoder began, a decoder ends.
    fn ended(&self) -> Result<(), DamagedNumbers> {
        let ended = self.states == [LEAST; STATES] && self.next == self.words.len() && self.raw.is_at_end();
        if ended { Ok(()) } else { Err(DamagedNumbers) }
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
