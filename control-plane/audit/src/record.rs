//! One event, and the bytes of it that are hashed.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, SubsecRound as _, Utc};
use foundation_merkle::{Hash, leaf_hash};
use serde_json::{Map, Value, json};

use crate::canonical_json;

/// Whether what was asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It was.
    Ok,
    /// It was refused.
    Refused,
}

/// This text is no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an outcome: {0:?}; `ok` or `refused` is expected")]
pub struct OutcomeError(pub String);

/// One event of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The leaf's index, from 0 without gaps.
    pub sequence: u64,
    /// When; hashed, and to be stored, in whole milliseconds.
    pub time: DateTime<Utc>,
    /// Who: `operator:NAME`, `node:NAME`, `system`, `socket:UID`.
    pub actor: String,
    /// What, for example `config.update`.
    pub action: String,
    /// Of what, for example `configs/fleet`.
    pub resource: String,
    /// Whether it was done.
    pub outcome: Outcome,
    /// What else is known of it; no secrets, and what must be exact beyond 2^53 as text.
    pub detail: Map<String, Value>,
    /// The trace in hexadecimal, empty where there is none.
    pub trace_id: String,
}

/// These bytes are no record's leaf.
#[derive(Debug, thiserror::Error)]
#[error("not a leaf of the audit log: {0}")]
pub struct LeafError(&'static str);

impl Record {
    /// The record with its time cut to whole milliseconds: what is stored and what is hashed are then the same.
    #[must_use]
    pub fn at_stored_precision(mut self) -> Self {
        self.time = self.time.trunc_subsecs(3);
        self
    }

    /// The leaf: RFC 8785 canonical JSON of all fields.
    #[must_use]
    pub fn leaf_bytes(&self) -> Vec<u8> {
        canonical_json(&json!({
            "sequence": self.sequence,
            "time": time_text(&self.time),
            "actor": self.actor,
            "action": self.action,
            "resource": self.resource,
            "outcome": self.outcome.as_str(),
            "detail": self.detail,
            "trace_id": self.trace_id,
        }))
        .into_bytes()
    }

    /// The leaf's hash.
    #[must_use]
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(&self.leaf_bytes())
    }

    /// Reads a leaf, for whoever has only its bytes (an exported log).
    ///
    /// # Errors
    /// It is no canonical leaf.
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, LeafError> {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(leaf) else {
            return Err(LeafError("no JSON object"));
        };
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(LeafError("a field is missing or is no text")),
        };
        let time =
            DateTime::parse_from_rfc3339(&text("time")?).map_err(|_form| LeafError("the time is no RFC 3339 time"))?;
        let (actor, action, resource) = (text("actor")?, text("action")?, text("resource")?);
        let outcome = text("outcome")?.parse().map_err(|_unknown| LeafError("the outcome is unknown"))?;
        let trace_id = text("trace_id")?;
        let sequence =
            fields.remove("sequence").and_then(|value| value.as_u64()).ok_or(LeafError("there is no sequence"))?;
        let Some(Value::Object(detail)) = fields.remove("detail") else { return Err(LeafError("there is no detail")) };
        let record = Self { sequence, time: time.to_utc(), actor, action, resource, outcome, detail, trace_id };
        if record.leaf_bytes() == leaf { Ok(record) } else { Err(LeafError("not in canonical form")) }
    }
}

/// RFC 3339 in UTC with three digits of a second.
fn time_text(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl Outcome {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = OutcomeError;

    fn from_str(text: &str) -> Result<Self, OutcomeError> {
        match text {
            "ok" => Ok(Self::Ok),
            "refused" => Ok(Self::Refused),
            _ => Err(OutcomeError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    fn record() -> Record {
        let Value::Object(detail) = json!({"revision": 3, "message": "faster"}) else { unreachable!() };
        Record {
            sequence: 7,
            time: Utc.with_ymd_and_hms(2026, 11, 21, 9, 30, 0).unwrap() + chrono::Duration::microseconds(1_234_567),
            actor: "operator:ann".to_owned(),
            action: "config.update".to_owned(),
            resource: "configs/fleet".to_owned(),
            outcome: Outcome::Ok,
            detail,
            trace_id: String::new(),
        }
    }

    #[test]
    fn the_leaf_has_this_form_for_ever() {
        assert_eq!(
            String::from_utf8(record().leaf_bytes()).unwrap(),
            r#"{"action":"config.update","actor":"operator:ann","detail":{"message":"faster","revision":3},"outcome":"ok","resource":"configs/fleet","sequence":7,"time":"2026-11-21T09:30:01.234Z","trace_id":""}"#
        );
    }

    #[test]
    fn a_leaf_reads_back_as_its_record() {
        let stored = record().at_stored_precision();
        assert_eq!(Record::from_leaf(&stored.leaf_bytes()).unwrap(), stored);
        assert_eq!(stored.leaf_hash(), record().leaf_hash());
        assert!(Record::from_leaf(b"{}").is_err());
        let mut spaced = stored.leaf_bytes();
        spaced.push(b' ');
        assert!(Record::from_leaf(&spaced).is_err());
    }
}
