//! Documents: configuration, and leaves of the audit log.

use control_plane_audit::Record;
use serde_json::Value;

use proto_model::config::{DEFAULTS, Layer, environment, parse, resolve};

/// Two layers, parted by a zero byte; the second is a variable of the environment too.
pub(crate) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, second) = text.split_once('\0').unwrap_or((&text, ""));
    let layers = [("a.yaml", first), ("b.yaml", second)].map(|(file, text)| parse(Layer::host(file, text)));
    let trees: Vec<_> = layers.into_iter().flatten().collect();
    let effective = resolve(&trees);
    if let (Ok(once), Ok(again)) = (&effective, resolve(&trees)) {
        assert_eq!(once.digest, again.digest, "the same layers come to something else");
    }
    let (name, value) = second.split_once('=').unwrap_or((second, ""));
    crate::tried(environment([(format!("DWCP_{name}"), value)]));
    let _defaults = DEFAULTS;
}

pub(crate) fn audit_leaf(bytes: &[u8]) {
    if let Ok(record) = Record::from_leaf(bytes) {
        assert_eq!(record.leaf_bytes(), bytes, "a leaf has two forms");
    }
    if let Some(value) = serde_json::from_slice(bytes).ok().filter(is_exact) {
        let canonical = control_plane_audit::canonical_json(&value);
        let again = serde_json::from_str(&canonical).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(control_plane_audit::canonical_json(&again), canonical);
    }
}

/// Whether all numbers are whole and exact. serde_json reads some others as a neighbour of the nearest double; no record has any.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64().is_some_and(|number| number.unsigned_abs() < 1 << 53),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
