//! Names that come from outside, made safe for JSON, logs, tables and terminals (D20), and back.
//!
//! Bytes that are not UTF-8, control characters, and the characters that turn the direction of text become `\xNN` for each
//! byte. A backslash stays as it is, unless an `x` follows it: then it becomes `\x5c`, so that [`unescape`] gives back the very
//! bytes.

use std::{fmt::Write as _, str};

/// The bytes as text that can be shown.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        escape_into(&mut out, chunk.valid(), chunk.invalid());
    }
    out
}

/// The text without anything that could fake a line or steer a terminal.
#[must_use]
pub fn escape_str(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape_into(&mut out, text, &[]);
    out
}

/// A whole message, parts of which may be escaped already: that and line breaks stay, and nothing can steer a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_unsafe(c) {
            push_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.push(c);
        }
    }
    out
}

/// The bytes that [`escape`] made this text of. Text that holds no `\xNN` stands for itself.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some((byte, after)) = escaped_byte(rest) {
            out.push(byte);
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

/// So much of what somebody sent is shown in an error.
const SHOWN_CHARACTERS: usize = 64;

/// At most 64 characters of what somebody sent, safe to be shown in an error, in quotes that the error puts around it.
pub(crate) fn shortened(text: &str) -> String {
    let mut out = escape_str(&text.chars().take(SHOWN_CHARACTERS).collect::<String>());
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        out.push('…');
    }
    out
}

/// The same of bytes: at most 64 characters of their escaped form.
pub(crate) fn shortened_bytes(bytes: &[u8]) -> String {
    let escaped = escape(bytes);
    match escaped.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", escaped.get(..end).unwrap_or_default()),
        None => escaped,
    }
}

fn escape_into(out: &mut String, valid: &str, invalid: &[u8]) {
    let mut chars = valid.chars().peekable();
    while let Some(c) = chars.next() {
        let ambiguous = c == '\\' && chars.peek() == Some(&'x');
        if ambiguous || is_unsafe(c) {
            let mut buffer = [0; 4];
            push_bytes(out, c.encode_utf8(&mut buffer).as_bytes());
        } else {
            out.push(c);
        }
    }
    push_bytes(out, invalid);
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("a String takes whatever is written");
    }
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what turns the direction of text.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped_byte(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (hex, rest) = bytes.strip_prefix(b"\\x")?.split_at_checked(2)?;
    if !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()?;
    Some((byte, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_and_bad_utf8_are_visible() {
        assert_eq!(escape(b"a\nb\xff\x1b[31m"), "a\\x0ab\\xff\\x1b[31m");
        assert_eq!(escape("käse\u{202e}".as_bytes()), "käse\\xe2\\x80\\xae");
        assert_eq!(escape(b"C:\\dir"), "C:\\dir");
        assert_eq!(printable("no `a\\x0ab`\n\x1b[31m"), "no `a\\x0ab`\n\\x1b[31m");
    }

    proptest! {
        #[test]
        fn unescape_gives_back_the_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unescape(&escape(&bytes)), bytes);
        }

        #[test]
        fn backslashes_survive(text in "[\\\\x0-9a-f\n]{0,24}") {
            prop_assert_eq!(unescape(&escape_str(&text)), text.into_bytes());
        }
    }
}
