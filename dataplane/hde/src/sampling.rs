//! Places that are chosen by the contents around them: the same in both versions, wherever they stand.
//!
//! A cheap hash of eight bytes chooses them, all in lanes of bytes, which the compiler makes vectors of; only at the chosen
//! places a strong hash of [`WINDOW`] bytes is taken.

/// Bytes that an anchor stands for: shorter matches are found only beside longer ones.
pub(crate) const WINDOW: usize = 32;
/// Places that are looked at together.
pub(crate) const LANES: usize = 1024;
/// The choosing hash reads so many bytes behind its place.
const BEHIND: usize = 7;

/// One of how many places is chosen, as a power of two, at most 8: sparser ones are thinned out by their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(pub(crate) u32);

impl Rate {
    fn mask(self) -> u8 {
        u8::try_from((1_u32 << self.0.min(8)) - 1).unwrap_or(u8::MAX)
    }

    /// Whether an anchor of this hash is kept.
    pub(crate) const fn keeps(self, hash: u64) -> bool {
        self.0 <= 8 || (hash >> 24) & ((1 << (self.0 - 8)) - 1) == 0
    }
}

/// Appends the chosen places of `bytes`, of those before `end`, with the hash of the window there; windows that are not wholly
/// in `bytes` are left out, as are repetitions of the same window one after another.
pub(crate) fn sample(bytes: &[u8], end: usize, rate: Rate, out: &mut Vec<(u32, u64)>) {
    let places = (bytes.len() + 1).saturating_sub(WINDOW).min(end);
    let mask = rate.mask();
    let mut last = out.last().map_or(0, |(_, hash)| *hash);
    let mut padded = [0; LANES + BEHIND];
    for first in (0..places).step_by(LANES) {
        let lanes = bytes[first..].first_chunk::<{ LANES + BEHIND }>().unwrap_or_else(|| {
            let rest = &bytes[first..];
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        });
        let chosen = choose(lanes, mask);
        for (group, flags) in chosen.as_chunks::<64>().0.iter().enumerate() {
            let mut flags = bits(flags);
            while flags != 0 {
                let lane = usize::try_from(flags.trailing_zeros()).unwrap_or(0);
                flags &= flags - 1;
                let place = first + group * 64 + lane;
                if place >= places {
                    return;
                }
                let Some(window) = bytes[place..].first_chunk::<WINDOW>() else { return };
                let hash = window_hash(window);
                if hash != last && rate.keeps(hash) {
                    last = hash;
                    out.push((u32::try_from(place).unwrap_or(u32::MAX), hash));
                }
            }
        }
    }
}

/// One bit of each byte that is 0 or 1.
fn bits(flags: &[u8; 64]) -> u64 {
    // Moves the bit of byte n of a word to bit 56 + n.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let words = flags.as_chunks::<8>().0.iter().rev();
    words.fold(0, |bits, word| bits << 8 | u64::from_le_bytes(*word).wrapping_mul(GATHER) >> 56)
}

/// 1 for each chosen place, 0 for the others.
#[inline(never)]
fn choose(bytes: &[u8; LANES + BEHIND], mask: u8) -> [u8; LANES] {
    let mut pairs = [0_u8; LANES + 6];
    for lane in 0..LANES + 6 {
        pairs[lane] = triple(bytes[lane]) ^ bytes[lane + 1];
    }
    let mut fours = [0_u8; LANES + 4];
    for lane in 0..LANES + 4 {
        let pair = pairs[lane];
        fours[lane] = triple(pair).wrapping_add(pair).wrapping_add(pair) ^ pairs[lane + 2];
    }
    let mut chosen = [0_u8; LANES];
    let wanted = 0x5b & mask;
    for lane in 0..LANES {
        let eight = triple(fours[lane]).wrapping_add(fours[lane + 4]);
        let eight = eight ^ (eight >> 4);
        chosen[lane] = u8::from(eight & mask == wanted);
    }
    chosen
}

const fn triple(byte: u8) -> u8 {
    byte.wrapping_add(byte).wrapping_add(byte)
}

/// A hash of 64 good bits.
fn window_hash(window: &[u8; WINDOW]) -> u64 {
    let (words, _) = window.as_chunks::<8>();
    let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
    let first = fold(word(0) ^ 0x9e37_79b9_7f4a_7c15, word(1) ^ 0xd6e8_feb8_6659_fd93);
    let second = fold(word(2) ^ 0xa076_1d64_78bd_642f, word(3) ^ 0xe703_7ed1_a0b4_28db);
    fold(first ^ 0x8ebc_6af0_9c88_c6e3, second ^ 0x5899_65cc_7537_4cc3)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let (low, high) = (product & u128::from(u64::MAX), product >> 64);
    u64::try_from(low ^ high).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_depend_on_where_the_contents_stand() {
        let mut state = 7_u64;
        let noise = (0..100_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let noise: Vec<u8> = noise.collect();
        let mut all = Vec::new();
        sample(&noise, usize::MAX, Rate(6), &mut all);
        assert!((1000..2200).contains(&all.len()), "{}", all.len());
        let mut rest = Vec::new();
        sample(&noise[777..], usize::MAX, Rate(6), &mut rest);
        let moved: Vec<_> = rest.iter().map(|(place, hash)| (place + 777, *hash)).collect();
        assert_eq!(moved, all.iter().copied().filter(|(place, _)| *place >= 777).collect::<Vec<_>>());
        let mut zeros = Vec::new();
        sample(&[0; 10_000], usize::MAX, Rate(6), &mut zeros);
        assert!(zeros.is_empty());
    }
}
