//! [`TransferId`].

use uuid::Uuid;

use crate::newtype::uuid_id;

/// A transfer. A version 7 UUID, so that ids sort by the time they were made at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(Uuid);

uuid_id!(TransferId, ParseTransferIdError, "a transfer's id");

impl TransferId {
    /// An id for this time, in Unix milliseconds, and these random bytes.
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
    }

    /// `transfers/{transfer}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        format!("transfers/{self}")
    }

    /// Parses `transfers/{transfer}`.
    ///
    /// # Errors
    /// Where the name is not of that form.
    pub fn from_resource_name(name: &str) -> Result<Self, ParseTransferIdError> {
        name.strip_prefix("transfers/")
            .unwrap_or_default()
            .parse()
            .map_err(|_refused: ParseTransferIdError| ParseTransferIdError(crate::escape::shortened(name)))
    }
}
