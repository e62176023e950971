//! Compares bytes, many at once.

/// How many bytes are the same at the front.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    // Long matches are compared by the kilobyte.
    let long = a.as_chunks::<1024>().0.iter().zip(b.as_chunks::<1024>().0).take_while(|(a, b)| a == b).count();
    let mut at = long * 1024;
    for (a, b) in a[at..].as_chunks::<64>().0.iter().zip(b[at..].as_chunks::<64>().0) {
        if a != b {
            break;
        }
        at += 64;
    }
    for (a, b) in a[at..].as_chunks::<8>().0.iter().zip(b[at..].as_chunks::<8>().0) {
        let different = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if different != 0 {
            return at + usize::try_from(different.trailing_zeros() / 8).unwrap_or(0);
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes are the same at the end.
pub(crate) fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let length = a.len().min(b.len());
    let (a, b) = (&a[a.len() - length..], &b[b.len() - length..]);
    let mut at = 0;
    for (a, b) in a.as_rchunks::<8>().1.iter().rev().zip(b.as_rchunks::<8>().1.iter().rev()) {
        let different = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if different != 0 {
            return at + usize::try_from(different.leading_zeros() / 8).unwrap_or(0);
        }
        at += 8;
    }
    let (a, b) = (&a[..length - at], &b[..length - at]);
    at + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// How eight bytes are to eight others: (equal and not zero, different).
pub(crate) fn likeness(a: u64, b: u64) -> (i32, i32) {
    let different = set_bytes(a ^ b);
    let something = set_bytes(a);
    (count(something & !different), count(different))
}

const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The highest bit of each byte that is not zero.
const fn set_bytes(word: u64) -> u64 {
    (((word & !HIGHS) + !HIGHS) | word) & HIGHS
}

/// How many of the highest bits are set.
fn count(highs: u64) -> i32 {
    let sum = (highs >> 7).wrapping_mul(0x0101_0101_0101_0101) >> 56;
    i32::try_from(sum).unwrap_or(0)
}
