//! Paths, patterns, names, numbers and tokens.

use std::str::FromStr;

use control_plane_api::paging::Page;
use control_plane_pki::{JoinSecret, OperatorSecret};
use proto_model::{
    ByteCount, ConfigName, Digest, Etag, Filter, NodeId, NodeName, NodeRef, PublicKey, RelPath, RootPath, Selector,
    Traceparent,
    config::{AcceptRule, Advertised, HostPort, LayerName, format_duration, parse_duration},
    escape, unescape,
};
use proto_wire::TreePath;

pub(crate) fn path(bytes: &[u8]) {
    if let Ok(path) = TreePath::parse(bytes) {
        assert!(stays_below(path.as_bytes()), "{path:?}");
        assert!(path.parent().is_none_or(|parent| stays_below(parent.as_bytes())));
    }
    if let Ok(path) = RelPath::from_bytes(bytes) {
        assert!(path.is_empty() || stays_below(path.as_bytes()), "{path:?}");
        assert!(path.is_within(&path));
    }
    if let Ok(path) = RootPath::from_bytes(bytes) {
        assert_eq!(path.to_bytes(), bytes);
        assert_eq!(RootPath::from_str(&path.to_string()).as_ref(), Ok(&path));
    }
    let shown = escape(bytes);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert_eq!(unescape(&shown), bytes);
}

fn stays_below(path: &[u8]) -> bool {
    !path.contains(&0) && !path.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b".."))
}

/// Patterns, one a line; the last line is a path.
pub(crate) fn glob(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines: Vec<&str> = text.lines().take(16).collect();
    let Some(path) = lines.pop() else { return };
    let globs: Vec<_> = lines.into_iter().filter_map(|line| line.parse().ok()).collect();
    dataplane_transfer::parsers::excludes(&globs, path.as_bytes());
}

/// Whatever people type that is one value.
pub(crate) fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(duration) = parse_duration(text) {
        let again = parse_duration(&format_duration(duration));
        assert!(again.is_ok_and(|again| again <= duration), "{text}");
    }
    if let Ok(count) = text.parse::<ByteCount>() {
        assert_eq!(count.to_string().parse(), Ok(count), "{text}");
    }
    same::<NodeName>(text);
    same::<NodeRef>(text);
    same::<NodeId>(text);
    same::<ConfigName>(text);
    same::<LayerName>(text);
    same::<AcceptRule>(text);
    same::<HostPort>(text);
    crate::tried(text.parse::<Advertised>());
    same::<Digest>(text);
    crate::tried((
        text.parse::<Selector>(),
        text.parse::<PublicKey>(),
        text.parse::<Etag>(),
        text.parse::<Traceparent>(),
    ));
    if let Ok(filter) = text.parse::<Filter>() {
        assert!(filter.terms().len() <= Filter::MAX_TERMS);
        filter.terms().iter().for_each(|term| crate::tried(term.matches(text)));
    }
}

/// What is written as text is the same when it is read.
fn same<T: FromStr + ToString + PartialEq>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text:?} is not what it was");
}

pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = JoinSecret::parse(text) {
        assert_eq!(token.expose().as_str(), text.trim());
    }
    if let Ok(token) = OperatorSecret::parse(text) {
        assert_eq!(token.expose().as_str(), text.trim());
    }
    crate::tried(Page::parse("nodes", "filter", 5, text));
}
