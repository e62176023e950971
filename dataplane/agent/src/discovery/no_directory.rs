//! The directory of a node without DHT: the control plane is then the only source.

use dataplane_dht::{Directory, Lookup, LookupEvent, PublishError, SignedRecord, Stored, lookup_channel};
use futures::future::BoxFuture;
use proto_model::PublicKey;

/// Knows nothing and stores nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoDirectory;

impl Directory for NoDirectory {
    fn publish(&self, _record: SignedRecord) -> BoxFuture<'_, Result<Stored, PublishError>> {
        Box::pin(async { Err(PublishError::NoRing) })
    }

    fn resolve(&self, _key: PublicKey) -> Lookup {
        let (sender, lookup) = lookup_channel();
        sender.send(LookupEvent::Done { responses: 0, whole: false });
        lookup
    }
}
