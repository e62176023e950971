//! YAML out of values.

use std::fmt::Write as _;

use super::node::{Content, Node};

/// What a secret is shown as.
pub(super) const REDACTED: &str = "\"[redacted]\"";

/// A text as a YAML scalar on one line: plain where every reader takes it for a text, else quoted.
pub(super) fn text(text: &str) -> String {
    if is_plain_text(text) { text.to_owned() } else { quoted(text) }
}

/// A scalar as it was written, which may be a number: quoted only where it would not be read again as it is.
fn scalar(text: &str) -> String {
    let number = text.parse::<f64>().is_ok_and(f64::is_finite) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if number || matches!(text, "true" | "false") { text.to_owned() } else { self::text(text) }
}

/// A value on one line.
pub(super) fn inline(node: &Node) -> String {
    match &node.content {
        Content::Null => "null".to_owned(),
        Content::Scalar(value) => scalar(value),
        Content::List(items) => list(items.iter().map(inline)),
        Content::Map(entries) => {
            let pairs: Vec<String> =
                entries.iter().map(|entry| format!("{}: {}", text(&entry.key), inline(&entry.value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// Rendered values as a list on one line.
pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A document of its own; empty where there is nothing to say.
pub(super) fn document(root: &Node) -> String {
    let mut out = String::new();
    block(&mut out, root, 0);
    out
}

fn block(out: &mut String, node: &Node, depth: usize) {
    for entry in node.entries() {
        let indent = "  ".repeat(depth);
        let key = text(&entry.key);
        let inner = entry.value.entries();
        if inner.is_empty() {
            line(out, &format!("{indent}{key}: {}", inline(&entry.value)));
        } else {
            line(out, &format!("{indent}{key}:"));
            block(out, &entry.value, depth + 1);
        }
    }
}

/// Rendered values by path, in order, as a document.
pub(super) fn document_of(values: impl IntoIterator<Item = (String, String)>) -> String {
    let mut out = String::new();
    let mut open: Vec<String> = Vec::new();
    for (path, yaml) in values {
        let mut parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        let Some(key) = parts.pop() else { continue };
        let shared = open.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        for (depth, part) in parts.iter().enumerate().skip(shared) {
            line(&mut out, &format!("{}{}:", "  ".repeat(depth), text(part)));
        }
        line(&mut out, &format!("{}{}: {yaml}", "  ".repeat(parts.len()), text(&key)));
        open = parts;
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Whether all of YAML's versions read the text as that text, also between brackets.
fn is_plain_text(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'+' | b'@' | b'=' | b':'));
    let colon = text.ends_with(':') || text.contains(":/") && text.starts_with('/');
    let word = text.to_ascii_lowercase();
    let special = matches!(word.as_str(), "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n");
    first && rest && !colon && !special
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if crate::escape::is_unsafe(c) => {
                write!(out, "\\U{:08x}", u32::from(c)).expect("a String takes whatever is written");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
