//! Sketches: a few words of a large file by which another end finds out whether it holds one that is like it, also where bytes were put in or
//! taken out. Made of some windows of the file, read nowhere else.
//!
//! Of each window the place is taken where a rolling hash over 64 bytes is least; the hash is the word. Whoever looks for it goes through the bytes
//! around the same place. Stretches of one byte make no word.

use crate::signature::gear;

pub use proto_wire::manifest::SKETCH_WORDS;

/// Bytes of a window.
pub const SKETCH_WINDOW_BYTES: usize = 32 << 10;
/// What a word is made of.
const WORD_BYTES: usize = 64;

/// A sketch: a word for each window, 0 for one without.
pub type Sketch = [u32; SKETCH_WORDS];

/// Where the windows of a file begin.
#[must_use]
pub fn sketch_windows(size: u64) -> [u64; SKETCH_WORDS] {
    let parts = u64::try_from(SKETCH_WORDS).unwrap_or(1);
    let mut part = 0;
    [(); SKETCH_WORDS].map(|()| {
        part += 1;
        // In the middle of its part: the first bytes of a file say least of it.
        size / parts * (part - 1) + size / parts / 2
    })
}

/// The word of a window.
#[must_use]
pub fn sketch_word(window: &[u8]) -> u32 {
    let mut least = u64::MAX;
    rolling(window, |hash| {
        least = least.min(hash);
        false
    });
    if least == u64::MAX { 0 } else { word(least) }
}

/// Whether a word stands anywhere in these bytes.
#[must_use]
pub fn sketch_has(bytes: &[u8], sought: u32) -> bool {
    let mut found = false;
    if sought != 0 {
        rolling(bytes, |hash| {
            found = word(hash) == sought;
            found
        });
    }
    found
}

/// Gives the hash behind each byte until it is told to stop.
fn rolling(bytes: &[u8], mut stop: impl FnMut(u64) -> bool) {
    let table = gear();
    let (mut hash, mut before) = (0_u64, None);
    for (at, byte) in bytes.iter().enumerate() {
        hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
        // In a stretch of one byte it stays the same.
        if at >= WORD_BYTES && before != Some(hash) && stop(hash) {
            return;
        }
        before = Some(hash);
    }
}

fn word(hash: u64) -> u32 {
    let mixed = (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u32::try_from(mixed).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn words_are_found_where_they_moved_to_and_not_elsewhere() {
        let bytes = noise(1, 200_000);
        let sought = sketch_word(&bytes[100_000..100_000 + SKETCH_WINDOW_BYTES]);
        assert!(sketch_has(&bytes, sought) && sketch_has(&bytes[90_000..], sought));
        assert!(!sketch_has(&bytes[..90_000], sought) && !sketch_has(&noise(2, 200_000), sought));
        assert_eq!([sketch_word(&[0; 40_000]), sketch_word(&[7; 40_000]), sketch_word(&[1; 10])], [0; 3]);
        assert!(!sketch_has(&[0; 40_000], 0));
        let windows = sketch_windows(16 << 20);
        assert!(windows.is_sorted() && windows[7] + 32_768 < 16 << 20 && windows[0] > 0);
    }
}
