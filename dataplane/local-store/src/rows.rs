//! How numbers and paths are written into rows.

/// SQLite has no unsigned numbers; nothing here comes near the bound.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Paths in hexadecimal, as one value: for `json_each`.
pub(crate) fn paths_as_json(paths: &[&[u8]]) -> String {
    as_json(paths.iter().map(|path| {
        use std::fmt::Write as _;
        path.iter().fold(String::with_capacity(path.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing into a string cannot fail");
            text
        })
    }))
}

/// Texts without anything that JSON escapes, as one value.
pub(crate) fn as_json(texts: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = texts.map(|text| format!("\"{text}\"")).collect();
    format!("[{}]", quoted.join(","))
}
