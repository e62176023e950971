//! One number as a symbol and raw bits.

/// A number, or a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// What is coded.
    pub(super) symbol: u8,
    /// What is not: its low `bits` bits.
    pub(super) rest: u64,
    /// How many; at most 61.
    pub(super) bits: u32,
}

/// Differences below this are symbols by themselves.
const SMALL: u8 = 8;
/// The first bits of a larger difference that are in its symbol: the leading one and two more.
const LEADING_BITS: u32 = 3;

#[inline]
fn load<const W: usize>(bytes: [u8; W]) -> u64 {
    let mut word = [0; 8];
    word[..W].copy_from_slice(&bytes);
    u64::from_le_bytes(word)
}

#[inline]
fn store<const W: usize>(value: u64) -> [u8; W] {
    let mut bytes = [0; W];
    bytes.copy_from_slice(&value.to_le_bytes()[..W]);
    bytes
}

/// Bits beyond the number.
const fn spare<const W: usize>() -> u32 {
    match W {
        2 => 48,
        4 => 32,
        _ => 0,
    }
}

/// The difference between two numbers.
#[inline]
pub(super) fn split<const W: usize>(new: [u8; W], old: [u8; W]) -> Split {
    let difference = (load(new).wrapping_sub(load(old)) << spare::<W>()).cast_signed() >> spare::<W>();
    let value = (difference << 1 ^ difference >> 63).cast_unsigned();
    if value < u64::from(SMALL) {
        return Split { symbol: value.to_le_bytes()[0], rest: 0, bits: 0 };
    }
    // At least 1, as the value has at least 4 bits.
    let bits = value.ilog2() + 1 - LEADING_BITS;
    let symbol = (bits - 1) * 4 + u32::from(SMALL) + (value >> bits & 3).to_le_bytes()[0] as u32;
    Split { symbol: symbol.to_le_bytes()[0], rest: value & ((1 << bits) - 1), bits }
}

/// How many raw bits go with a symbol of a difference.
#[inline]
pub(super) const fn bits_of(symbol: u8) -> u32 {
    if symbol < SMALL { 0 } else { ((symbol - SMALL) / 4 + 1) as u32 }
}

/// The new number; a symbol of a wider number makes some number.
#[inline]
pub(super) fn join<const W: usize>(symbol: u8, rest: u64, old: [u8; W]) -> [u8; W] {
    let value = if symbol < SMALL {
        u64::from(symbol)
    } else {
        (4 | u64::from((symbol - SMALL) % 4)) << bits_of(symbol) | rest
    };
    let difference = (value >> 1) ^ (value & 1).wrapping_neg();
    store(load(old).wrapping_add(difference))
}

/// A number by itself: its exponent, or what stands there, is the symbol; sign and mantissa are raw.
#[inline]
pub(super) fn split_alone<const W: usize>(number: [u8; W]) -> Split {
    let number = load(number) << spare::<W>();
    let turned = number.rotate_left(1) & !1 | number >> 63 << spare::<W>();
    let bits = alone_bits::<W>();
    let [.., symbol] = turned.to_le_bytes();
    Split { symbol, rest: turned >> spare::<W>() & ((1 << bits) - 1), bits }
}

/// How many raw bits go with each number by itself.
pub(super) const fn alone_bits<const W: usize>() -> u32 {
    56 - spare::<W>()
}

/// The number of [`split_alone`].
#[inline]
pub(super) fn join_alone<const W: usize>(symbol: u8, rest: u64) -> [u8; W] {
    let turned = u64::from(symbol) << alone_bits::<W>() | rest;
    store(turned >> 1 | (turned & 1) << (63 - spare::<W>()))
}

/// Which tables a difference belongs to: the exponent of the old number as bf16 and f32 have it; of an f64 its low eight bits.
#[inline]
pub(super) fn context<const W: usize>(old: [u8; W]) -> usize {
    let old = load(old);
    let exponent = match W {
        2 => old >> 7,
        4 => old >> 23,
        _ => old >> 52,
    };
    usize::from(exponent.to_le_bytes()[0])
}
