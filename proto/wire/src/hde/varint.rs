//! Numbers of one to ten bytes: seven bits a byte, the least first, the highest bit set in all but the last (LEB128).

/// Appends a number.
pub fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        out.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    out.push(low);
}

/// Takes a number from the front; none where there is none, or it is longer than ten bytes or 64 bits.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(first.into());
    }
    let mut number = u64::from(first & 0x7f);
    for (at, &byte) in rest.iter().enumerate().take(9) {
        let shift = 7 * (u32::try_from(at).unwrap_or(0) + 1);
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            *bytes = rest.get(at + 1..)?;
            return Some(number);
        }
    }
    None
}
