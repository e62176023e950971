//! How much a message says, found out before anything is made of it: an empty value of a repeated field has two bytes on the
//! wire and a hundred in memory.

/// Which repeated field, by the numbers of the fields that lead to it.
type Path = &'static [u32];

/// The repeated messages and texts of what a sender says.
pub(super) const OF_SENDER: &[Path] = &[&[1, 3, 8], &[1, 3, 11], &[1, 5], &[2, 2], &[3, 4], &[9, 1]];
/// The repeated messages and texts of what a receiver says.
pub(super) const OF_RECEIVER: &[Path] = &[&[1, 1], &[2, 1], &[2, 1, 2], &[5, 2], &[5, 5]];

/// How many values the fields at this path have together; none where the bytes are no message.
pub(super) fn count(mut message: &[u8], path: &[u32]) -> Option<usize> {
    let (first, deeper) = path.split_first()?;
    let mut found = 0;
    while !message.is_empty() {
        let (field, value) = next_field(&mut message)?;
        match value {
            Some(_) if field == *first && deeper.is_empty() => found += 1,
            Some(value) if field == *first => found += count(value, deeper)?,
            Some(_) | None => {}
        }
    }
    Some(found)
}

/// The next field's number, and its bytes where it has a length.
fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let key = varint(message)?;
    let field = u32::try_from(key >> 3).ok()?;
    let value = match key & 7 {
        0 => {
            varint(message)?;
            None
        }
        1 => {
            take(message, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            Some(take(message, length)?)
        }
        5 => {
            take(message, 4)?;
            None
        }
        // Groups: nobody has sent one for many years.
        _ => return None,
    };
    Some((field, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_repeated_at_any_depth_and_takes_any_bytes() {
        // Field 2 (length 6): field 2 empty, field 1 a number, field 2 of one byte; then field 2 again.
        let message = [0x12, 7, 0x12, 0, 0x08, 5, 0x12, 1, 9, 0x12, 2, 0x12, 0];
        assert_eq!(count(&message, &[2]), Some(2));
        assert_eq!(count(&message, &[2, 2]), Some(3));
        assert_eq!(count(&message, &[3]), Some(0));
        for bad in [[0x12, 9].as_slice(), &[0x13], &[0xff; 12], &[0x09, 1]] {
            assert_eq!(count(bad, &[2]), None, "{bad:?}");
        }
    }
}
