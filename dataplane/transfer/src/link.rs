//! What carries a transfer between its two ends: ordered control frames and unordered pieces, both opaque.
//!
//! In a running agent this is a channel of AMST. Tests put an in-memory pair in its place, which cuts, reorders and spoils.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use dataplane_amst::PathUse;
use futures::future::BoxFuture;
use proto_model::{PublicKey, TransferPathInfo};

/// The optional feature that entries say how many of their bytes are holes.
pub(crate) const HOLES: &str = "holes";
/// The optional feature that both ends may say what they know of versions of files.
pub(crate) const DELTAS: &str = "deltas";
/// The optional feature that small files may lean on dictionaries.
pub(crate) const DICTIONARIES: &str = "dictionaries";
/// The optional feature that segments may refer to earlier ones of the same file.
pub(crate) const HISTORY: &str = "history";
/// The optional feature that large files are divided into longer segments.
pub(crate) const LONG_SEGMENTS: &str = "long_segments";

/// Why a link does not carry any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LinkError {
    /// In a sentence.
    pub message: String,
    /// Whether the same over a new link may succeed.
    pub temporary: bool,
}

/// Sends control frames in order.
pub trait ControlOut: Send + Sync {
    /// Sends a frame; waits while the other end does not read.
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, Result<(), LinkError>>;
}

/// Receives control frames in order.
pub trait ControlIn: Send + Sync {
    /// The next frame; none when the other end finished. Cancel safe.
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>>;
}

/// Sends pieces.
pub trait PiecesOut: Send + Sync {
    /// Sends a piece; resolves when it has been acknowledged. Many may be under way at once.
    fn send(&self, number: u64, payload: Bytes) -> BoxFuture<'_, Result<(), LinkError>>;

    /// What those pieces wait for that are under way.
    fn path_use(&self) -> PathUse {
        PathUse::default()
    }

    /// Has changes of what carries them said as events of the span.
    fn tell(&self, _span: &tracing::Span) {}
}

/// Receives pieces.
pub trait PiecesIn: Send + Sync {
    /// The next piece, in any order; none when the link is over. Cancel safe. The payload's memory counts as used until it is
    /// dropped.
    fn recv(&mut self) -> BoxFuture<'_, Option<Bytes>>;
}

/// Asks what carries a link now.
pub type PathOf = Arc<dyn Fn() -> Option<TransferPathInfo> + Send + Sync>;

/// One conversation with a peer.
pub struct Link {
    /// Who is at the other end, by the handshake.
    pub peer: PublicKey,
    /// To the other end.
    pub control_out: Box<dyn ControlOut>,
    /// From the other end.
    pub control_in: Box<dyn ControlIn>,
    /// To the other end.
    pub pieces_out: Arc<dyn PiecesOut>,
    /// From the other end.
    pub pieces_in: Box<dyn PiecesIn>,
    /// What carries it, asked again with each report.
    pub path: PathOf,
    /// Whether the other end takes what follows the opening before it has consented, and has all optional features.
    pub is_early: bool,
}

impl Link {
    /// Takes no more pieces: the other end learns so at once, whatever else this end still has to do.
    pub(crate) fn take_no_more(&mut self) {
        self.pieces_in = Box::new(NoPieces);
    }
}

/// Where nothing comes.
struct NoPieces;

impl PiecesIn for NoPieces {
    fn recv(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(std::future::ready(None))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Finds a peer and opens a link to it: written by whoever knows addresses and sessions.
pub trait Connector: Send + Sync {
    /// A new link to the peer.
    fn connect(&self, peer: PublicKey) -> BoxFuture<'_, Result<Link, LinkError>>;
}
