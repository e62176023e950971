//! How often symbols are, by context.
//!
//! ```text
//! tables  u8, 1 to 64; the last one is for all contexts that have none of their own
//!   context   u16 LE, in rising order; the last table has none
//!   symbols   u8: how many less one, then for each in rising order: symbol u8, frequency LEB128 of at most two bytes
//! ```
//! Frequencies of a table add up to 4,096. A context is the number's, times two, plus one where the fourth number before it changed
//! (if the head says so): the one before it by the same state, so that states need not wait for one another.

use super::DamagedNumbers;

/// Binary logarithm of what the frequencies of a table add up to.
pub(super) const SCALE_BITS: u32 = 12;
const SCALE: u16 = 1 << SCALE_BITS;
/// Contexts: an exponent, and whether the fourth number before changed.
const CONTEXTS: usize = 512;
/// The most tables: 320 KiB for the decoder.
const MAX_TABLES: usize = 64;
/// A table of its own is for contexts with at least so many numbers: it costs about 50 bytes.
const MIN_NUMBERS: u32 = 256;
/// What a symbol of a table costs, in bits.
const SYMBOL_BITS: f64 = 20.0;

/// How often each symbol was met.
pub(super) struct Counts {
    by_context: Vec<[u32; 256]>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { by_context: vec![[0; 256]; CONTEXTS] }
    }
}

impl Counts {
    pub(super) fn clear(&mut self) {
        self.by_context.fill([0; 256]);
    }

    #[inline]
    pub(super) fn add(&mut self, context: usize, after_change: bool, symbol: u8) {
        self.by_context[context << 1 | usize::from(after_change)][usize::from(symbol)] += 1;
    }

    /// Bits that the symbols take.
    pub(super) fn entropy(counts: &[u32; 256]) -> f64 {
        let total = f64::from(counts.iter().sum::<u32>());
        let bits = |count: &u32| f64::from(*count) * (total / f64::from(*count)).log2();
        counts.iter().filter(|count| **count > 0).map(bits).sum()
    }

    /// The tables for what was met.
    pub(super) fn tables(&mut self) -> Tables {
        let merged: Vec<(usize, [u32; 256])> = self
            .by_context
            .chunks_exact(2)
            .enumerate()
            .map(|(context, pair)| (context << 1, std::array::from_fn(|symbol| pair[0][symbol] + pair[1][symbol])))
            .filter(|(_, counts)| counts.iter().any(|count| *count > 0))
            .collect();
        let apart = self.by_context.iter().copied().enumerate();
        let apart: Vec<_> = apart.filter(|(_, counts)| counts.iter().any(|count| *count > 0)).collect();
        let bits = |tables: &[(usize, [u32; 256])]| -> f64 {
            let table = |(_, counts): &(usize, [u32; 256])| {
                let symbols = counts.iter().filter(|count| **count > 0).count();
                Self::entropy(counts) + SYMBOL_BITS * f64::from(u32::try_from(symbols).unwrap_or(256))
            };
            tables.iter().map(table).sum()
        };
        let by_change = bits(&apart) < bits(&merged);
        Tables::new(if by_change { apart } else { merged }, by_change)
    }
}

/// The frequency of a symbol and of all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) frequency: u16,
    pub(super) before: u16,
}

/// Tables of an encoder.
pub(super) struct Tables {
    by_change: bool,
    /// The context of each table but the last.
    contexts: Vec<usize>,
    shares: Vec<[Share; 256]>,
    /// The table of each context.
    numbers: [u8; CONTEXTS],
}

impl Tables {
    fn new(mut counted: Vec<(usize, [u32; 256])>, by_change: bool) -> Self {
        let total = |counts: &[u32; 256]| counts.iter().sum::<u32>();
        counted.sort_by_key(|(context, counts)| (std::cmp::Reverse(total(counts)), *context));
        let own = counted.iter().take(MAX_TABLES - 1).take_while(|(_, counts)| total(counts) >= MIN_NUMBERS).count();
        let mut others = [0; 256];
        for (_, counts) in counted.drain(own..) {
            others.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        counted.sort_by_key(|(context, _)| *context);
        let last = u8::try_from(counted.len()).expect("at most 63");
        let (mut numbers, mut contexts) = ([last; CONTEXTS], Vec::new());
        for (number, (context, _)) in (0..).zip(&counted) {
            contexts.push(*context);
            numbers[*context] = number;
        }
        let mut shares: Vec<_> = counted.iter().map(|(_, counts)| normalised(counts)).collect();
        shares.push(normalised(&others));
        Self { by_change, contexts, shares, numbers }
    }

    pub(super) const fn by_change(&self) -> bool {
        self.by_change
    }

    #[inline]
    pub(super) fn share(&self, context: usize, after_change: bool, symbol: u8) -> Share {
        let context = context << 1 | usize::from(after_change && self.by_change);
        self.shares[usize::from(self.numbers[context % CONTEXTS])][usize::from(symbol)]
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.shares.len()).expect("at most 64"));
        for (number, shares) in self.shares.iter().enumerate() {
            if let Some(context) = self.contexts.get(number) {
                out.extend_from_slice(&u16::try_from(*context).expect("below 512").to_le_bytes());
            }
            let used: Vec<_> = (0..=255_u8).zip(shares).filter(|(_, share)| share.frequency > 0).collect();
            out.push(u8::try_from(used.len().saturating_sub(1)).expect("at most 256 symbols"));
            for (symbol, share) in used {
                let [low, high] = (share.frequency << 1).to_le_bytes();
                out.push(symbol);
                // Seven bits and seven more.
                if share.frequency < 128 {
                    out.push(low >> 1);
                } else {
                    out.extend_from_slice(&[low >> 1 | 0x80, high]);
                }
            }
        }
    }
}

/// Frequencies that add up to [`SCALE`], none 0 where a symbol was met. Symbol 0 alone, where none was.
fn normalised(counts: &[u32; 256]) -> [Share; 256] {
    let total = u64::from(counts.iter().sum::<u32>());
    let mut shares = [Share::default(); 256];
    if total == 0 {
        shares[0].frequency = SCALE;
        return shares;
    }
    let scaled = |count: u32| u16::try_from(u64::from(count) * u64::from(SCALE) / total).unwrap_or(SCALE);
    for (share, count) in shares.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
        share.frequency = scaled(*count).max(1);
    }
    // What rounding left over goes to the most frequent, what it took too much is taken from the most frequent, one after another.
    let sum = |shares: &[Share; 256]| shares.iter().map(|share| share.frequency).sum::<u16>();
    while sum(&shares) != SCALE {
        let now = sum(&shares);
        let most = shares.iter_mut().max_by_key(|share| share.frequency).expect("256 shares");
        if now < SCALE {
            most.frequency += SCALE - now;
        } else {
            // At most 255 too much, and at most 256 symbols: the most frequent has more than 16.
            most.frequency -= (now - SCALE).min(most.frequency / 2);
        }
    }
    let mut before = 0;
    for share in &mut shares {
        share.before = before;
        before += share.frequency;
    }
    shares
}

/// Slots of a table.
const SLOTS: usize = 1 << SCALE_BITS;

/// A table of a decoder: 5 KiB, so that all of them stay in a processor's second cache.
#[derive(Clone)]
struct Table {
    /// Of each slot.
    symbols: [u8; SLOTS],
    /// Of each symbol.
    shares: [Share; 256],
}

/// Tables of a decoder.
pub(super) struct Slots {
    by_change: bool,
    tables: Vec<Table>,
    numbers: [u8; CONTEXTS],
}

impl Default for Slots {
    fn default() -> Self {
        Self { by_change: false, tables: Vec::new(), numbers: [0; CONTEXTS] }
    }
}

impl Slots {
    /// Whether a context is also a matter of the fourth number before.
    pub(super) const fn by_change(&self) -> bool {
        self.by_change
    }

    /// Takes tables from the beginning of `bytes`, and gives what follows.
    pub(super) fn read<'a>(&mut self, bytes: &'a [u8], by_change: bool) -> Result<&'a [u8], DamagedNumbers> {
        let (&count, mut rest) = bytes.split_first().ok_or(DamagedNumbers)?;
        let last = count.checked_sub(1).filter(|last| usize::from(*last) < MAX_TABLES).ok_or(DamagedNumbers)?;
        self.by_change = by_change;
        self.numbers = [last; CONTEXTS];
        self.tables.clear();
        let mut least = 0;
        for number in 0..count {
            if number < last {
                let (context, after) = rest.split_first_chunk::<2>().ok_or(DamagedNumbers)?;
                let context = usize::from(u16::from_le_bytes(*context));
                if context < least || context >= CONTEXTS {
                    return Err(DamagedNumbers);
                }
                (least, rest) = (context + 1, after);
                self.numbers[context] = number;
            }
            rest = self.read_table(rest)?;
        }
        Ok(rest)
    }

    fn read_table<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], DamagedNumbers> {
        let (&symbols, mut rest) = bytes.split_first().ok_or(DamagedNumbers)?;
        let (mut left, mut least) = (SCALE, 0);
        let mut table = Table { symbols: [0; SLOTS], shares: [Share::default(); 256] };
        for _ in 0..=symbols {
            let (&[symbol, low], after) = rest.split_first_chunk::<2>().ok_or(DamagedNumbers)?;
            let mut frequency = u16::from(low & 0x7f);
            rest = after;
            if low > 0x7f {
                let (&high, after) = rest.split_first().ok_or(DamagedNumbers)?;
                frequency |= u16::from(high) << 7;
                rest = after;
            }
            if frequency == 0 || frequency > left || u16::from(symbol) < least {
                return Err(DamagedNumbers);
            }
            let before = SCALE - left;
            (left, least) = (left - frequency, u16::from(symbol) + 1);
            table.shares[usize::from(symbol)] = Share { frequency, before };
            table.symbols[usize::from(before)..usize::from(SCALE - left)].fill(symbol);
        }
        self.tables.push(table);
        if left == 0 { Ok(rest) } else { Err(DamagedNumbers) }
    }

    /// Symbol, frequency and place of a state.
    #[inline]
    pub(super) fn slot<const BY_CHANGE: bool>(&self, context: usize, after_change: bool, state: u32) -> (u8, u32, u32) {
        let context = context << 1 | usize::from(BY_CHANGE && after_change);
        let table = &self.tables[usize::from(self.numbers[context % CONTEXTS])];
        let slot = usize::try_from(state).unwrap_or(0) & (SLOTS - 1);
        let symbol = table.symbols[slot];
        let Share { frequency, before } = table.shares[usize::from(symbol)];
        // The slot is one of the symbol's.
        (symbol, frequency.into(), (state & u32::from(SCALE - 1)).wrapping_sub(before.into()))
    }
}
