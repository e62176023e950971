//! Where records are put and looked for.

use std::fmt;

use futures::future::BoxFuture;
use proto_model::PublicKey;
use tokio::sync::mpsc;

use crate::signed::SignedRecord;

/// What one look-up may hold back; a ring has at most a few nodes, and a value beyond this is dropped: it would only repeat.
const LOOKUP_QUEUE: usize = 64;
/// In a larger ring than this a record lies at those only that are nearest to it (Kademlia's k).
pub(crate) const MOST_ASKED: usize = 20;

/// Stores and finds signed records. Finds are not verified: that is the reader's work.
pub trait Directory: Send + Sync + fmt::Debug {
    /// Stores a record at all nodes that are responsible.
    fn publish(&self, record: SignedRecord) -> BoxFuture<'_, Result<Stored, PublishError>>;

    /// Begins a look-up. Dropping it gives up the answers, not always the work.
    fn resolve(&self, key: PublicKey) -> Lookup;
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How many nodes said so.
    pub stored_at: usize,
    /// How many there should be.
    pub ring: usize,
}

impl Stored {
    /// Whether the loss of a node does not lose the record: three copies, or all there can be.
    #[must_use]
    pub fn is_enough(self) -> bool {
        self.stored_at >= self.ring.clamp(1, 3)
    }

    /// Whether all have it that should: nobody who asks another part of the ring finds an older one.
    #[must_use]
    pub fn is_everywhere(self) -> bool {
        self.stored_at >= self.ring.clamp(1, MOST_ASKED)
    }
}

/// Why a record was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No ring is known.
    #[error("no ring of DHT nodes is configured")]
    NoRing,
    /// No node of the ring answered.
    #[error("no node of the DHT ring answers")]
    Unreachable,
    /// The ring has a record with a higher `seq`.
    #[error("the DHT holds a newer record")]
    NotMostRecent,
    /// Beyond the bounds of BEP 44 or ours.
    #[error("a record of {0} bytes is too long")]
    TooLong(usize),
    /// The DHT node of this process is being started again.
    #[error("the DHT node of this process is being restarted")]
    Restarting,
    /// The process is going down.
    #[error("the program is shutting down")]
    ShuttingDown,
}

/// Something that a look-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupEvent {
    /// A node has this.
    Found(Box<SignedRecord>),
    /// All have answered or timed out.
    Done {
        /// How many answered, with a record or without.
        responses: usize,
        /// Whether these were all that should have: a part of the ring may be behind.
        whole: bool,
    },
}

/// A look-up under way.
#[derive(Debug)]
pub struct Lookup(mpsc::Receiver<LookupEvent>);

impl Lookup {
    /// What comes next; `Done` is last, and comes also when the look-up breaks off. Cancel safe.
    pub async fn next(&mut self) -> LookupEvent {
        self.0.recv().await.unwrap_or(LookupEvent::Done { responses: 0, whole: false })
    }
}

/// The other end of a [`Lookup`].
#[derive(Clone, Debug)]
pub struct LookupSender(mpsc::Sender<LookupEvent>);

impl LookupSender {
    /// Passes an event on, unless nobody listens any more.
    pub fn send(&self, event: LookupEvent) {
        // A full queue holds more copies than a ring has nodes; one more would say nothing new.
        drop(self.0.try_send(event));
    }
}

/// The two ends of a look-up, for those who implement [`Directory`].
#[must_use]
pub fn lookup_channel() -> (LookupSender, Lookup) {
    let (sender, receiver) = mpsc::channel(LOOKUP_QUEUE);
    (LookupSender(sender), Lookup(receiver))
}
