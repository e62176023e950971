//! [`TransferOptions`].

use chrono::{DateTime, Utc};

use crate::{
    ByteCount, Glob, InvalidField, from_unix_ms,
    invalid_field::{at, each},
};

/// How a transfer is done; the same in what an operator asks for, in a grant, and in a direct send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferOptions {
    /// Deletes below the destination what the source does not have; last, and never what is excluded.
    pub delete: bool,
    /// Left alone at both ends; at most [`Glob::MAX_IN_A_TRANSFER`].
    pub exclude: Vec<Glob>,
    /// Compares contents where size and time agree.
    pub checksum: bool,
    /// Moves nothing; the result says what would be moved.
    pub dry_run: bool,
    /// At most so many bytes may arrive.
    pub max_bytes: Option<ByteCount>,
    /// When it ends without success if it has not ended by then; whole milliseconds.
    pub deadline: Option<DateTime<Utc>>,
}

impl TransferOptions {
    pub(crate) fn parse_exclude(exclude: &[String]) -> Result<Vec<Glob>, InvalidField> {
        if exclude.len() > Glob::MAX_IN_A_TRANSFER {
            return Err(InvalidField::new("exclude", format!("has more than {} patterns", Glob::MAX_IN_A_TRANSFER)));
        }
        each("exclude", exclude, |glob| glob.parse::<Glob>())
    }

    pub(crate) fn exclude_texts(exclude: Vec<Glob>) -> Vec<String> {
        exclude.into_iter().map(String::from).collect()
    }

    /// The wire's form of a bound: 0 where there is none.
    pub(crate) fn parse_max_bytes(bytes: u64) -> Option<ByteCount> {
        Some(bytes).filter(|&bytes| bytes > 0).map(ByteCount::new)
    }

    /// The wire's form of a deadline: 0 where there is none.
    pub(crate) fn parse_deadline(unix_ms: i64) -> Result<Option<DateTime<Utc>>, InvalidField> {
        Some(unix_ms).filter(|&ms| ms != 0).map(from_unix_ms).transpose().map_err(at("deadline_ms"))
    }

    pub(crate) fn deadline_number(&self) -> i64 {
        self.deadline.map_or(0, |deadline| deadline.timestamp_millis())
    }

    pub(crate) fn max_bytes_number(&self) -> u64 {
        self.max_bytes.map_or(0, ByteCount::bytes)
    }
}
