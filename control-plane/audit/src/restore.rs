//! What a restore left in a log: the first record of an epoch, which names the head that was restored.

use chrono::{DateTime, Utc};
use foundation_merkle::{Checkpoint, Hash};

use crate::Record;

/// The action of such a record.
const ACTION: &str = "fleet.restore";

/// A restore, as the log tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The record's number: as many events were restored.
    pub sequence: u64,
    /// When.
    pub time: DateTime<Utc>,
    /// The epoch that it opened.
    pub epoch: u64,
    /// The root of what was restored, by the head that the record names.
    pub root: Option<Hash>,
    /// When the backup was made, as the record says it; empty where it was none.
    pub backup_time: String,
    /// How many events are known to be lost: a head that was kept elsewhere had so many more.
    pub lost: u64,
}

impl Restore {
    /// The restore that a record tells of, if it does.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        if record.action != ACTION {
            return None;
        }
        let text = |name: &str| record.detail.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        let number = |name: &str| {
            let value = record.detail.get(name)?;
            // The API's numbers are floating point; an epoch is far below 2^53.
            value
                .as_u64()
                .or_else(|| value.as_f64().map(|value| format!("{value:.0}")).and_then(|text| text.parse().ok()))
        };
        let head = Checkpoint::parse_unverified(text("restored_head")).ok();
        Some(Self {
            sequence: record.sequence,
            time: record.time,
            epoch: number("epoch").unwrap_or_default(),
            // Of just these events, else it is no head of theirs.
            root: head.filter(|head| head.size == record.sequence).map(|head| head.root),
            backup_time: text("backup_time").to_owned(),
            lost: 0,
        })
    }
}

impl std::fmt::Display for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "restored at {} as epoch {}: {} events",
            self.time.format("%Y-%m-%d %H:%M:%S UTC"),
            self.epoch,
            self.sequence
        )?;
        if !self.backup_time.is_empty() {
            write!(f, " of a backup of {}", self.backup_time)?;
        }
        match self.lost {
            0 => Ok(()),
            lost => write!(f, "; {lost} events that were seen before are lost"),
        }
    }
}
