//! [`TransferProgress`].

use std::time::Duration;

use proto_rpc::v1 as rpc;

use crate::{ByteCount, InvalidField, invalid_field::at};

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TransferProgress {
    /// Entries found so far.
    pub files_total: u64,
    /// Entries that are in place.
    pub files_done: u64,
    /// Bytes of all files found so far.
    pub bytes_total: ByteCount,
    /// Bytes of files that are verified at the receiver, those it already held included.
    pub bytes_done: ByteCount,
    /// Bytes that the receiver already held.
    pub bytes_reused: ByteCount,
    /// Bytes that were encoded, before encoding.
    pub bytes_encoded_in: ByteCount,
    /// Bytes that were handed to the transport, after encoding.
    pub bytes_sent: ByteCount,
    /// Bytes a second, of `bytes_done`, over the last seconds.
    pub rate_bytes_per_second: f64,
    /// How long it should still take, where that can be known.
    pub eta: Option<Duration>,
    /// Whether the totals are final.
    pub totals_final: bool,
    /// Entries deleted at the destination.
    pub files_deleted: u64,
}

impl TryFrom<rpc::TransferProgress> for TransferProgress {
    type Error = InvalidField;

    fn try_from(progress: rpc::TransferProgress) -> Result<Self, Self::Error> {
        let rate = progress.rate_bytes_per_second;
        if !rate.is_finite() || rate < 0.0 {
            return Err(InvalidField::new("rate_bytes_per_second", "is no rate"));
        }
        Ok(Self {
            files_total: progress.files_total,
            files_done: progress.files_done,
            bytes_total: progress.bytes_total.into(),
            bytes_done: progress.bytes_done.into(),
            bytes_reused: progress.bytes_reused.into(),
            bytes_encoded_in: progress.bytes_encoded_in.into(),
            bytes_sent: progress.bytes_sent.into(),
            rate_bytes_per_second: rate,
            eta: progress.eta.map(Duration::try_from).transpose().map_err(at("eta"))?,
            totals_final: progress.totals_final,
            files_deleted: progress.files_deleted,
        })
    }
}

impl From<TransferProgress> for rpc::TransferProgress {
    fn from(progress: TransferProgress) -> Self {
        Self {
            files_total: progress.files_total,
            files_done: progress.files_done,
            bytes_total: progress.bytes_total.into(),
            bytes_done: progress.bytes_done.into(),
            bytes_reused: progress.bytes_reused.into(),
            bytes_encoded_in: progress.bytes_encoded_in.into(),
            bytes_sent: progress.bytes_sent.into(),
            rate_bytes_per_second: progress.rate_bytes_per_second,
            // Beyond the wire's range nobody waits for the end.
            eta: progress.eta.and_then(|eta| eta.try_into().ok()),
            totals_final: progress.totals_final,
            files_deleted: progress.files_deleted,
        }
    }
}
