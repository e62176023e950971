//! Whether bytes are all zero.

/// Whether all are zero; looks at the first ones before it looks at all.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    const PROBE: usize = 64;
    let zero = |bytes: &[u8]| bytes.iter().fold(0_u8, |any, byte| any | byte) == 0;
    zero(&bytes[..bytes.len().min(PROBE)]) && bytes.chunks(4096).all(zero)
}
