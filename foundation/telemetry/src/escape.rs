//! Texts of others in a log line: they must not fake a line, nor steer a terminal.

use std::{borrow::Cow, fmt::Write as _};

/// A longer message or field says nothing more to a reader; it is cut, and ends in `…`.
pub(crate) const MAX_FIELD_BYTES: usize = 8 * 1024;

/// The text with control characters, and those that turn the direction of text, as `\xNN` for each byte; cut to its bound.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_FIELD_BYTES && !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(MAX_FIELD_BYTES) + 16);
    for c in text.chars() {
        if out.len() >= MAX_FIELD_BYTES {
            out.push('…');
            break;
        }
        if is_unsafe(c) {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                write!(out, "\\x{byte:02x}").expect("a String takes whatever is written");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fake_a_line() {
        assert_eq!(escaped("a\n{\"level\":\"info\"}\u{1b}[2J"), "a\\x0a{\"level\":\"info\"}\\x1b[2J");
        assert_eq!(escaped("käse"), "käse");
        assert!(escaped(&"x".repeat(10_000)).len() < 9_000);
    }
}
