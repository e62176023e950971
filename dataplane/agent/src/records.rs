//! Peers' records and our own sequence number, kept in the local store for the DHT's resolver and publisher.

use dataplane_dht::{RecordStore, RecordStoreError, SignedRecord, VerifiedRecord};
use dataplane_local_store::{KeptRecord, KnownPeer, LocalStore, PeerMetadata, StoreError};
use futures::future::BoxFuture;
use proto_model::PublicKey;

/// The local store as the DHT's memory.
#[derive(Clone, Debug)]
pub(crate) struct LocalRecords {
    store: LocalStore,
    /// Where peers are met: the fleet's id.
    topic: String,
}

impl LocalRecords {
    /// Over this store, for peers of `topic`.
    #[must_use]
    pub(crate) fn new(store: LocalStore, topic: String) -> Self {
        Self { store, topic }
    }

    async fn keep_all(&self, verified: VerifiedRecord) -> Result<(), StoreError> {
        let (signed, record) = (verified.signed().clone(), verified.record().clone());
        let issued_at = i64::try_from(record.issued_s).unwrap_or(i64::MAX);
        let expires_at = issued_at.saturating_add(i64::from(record.ttl_s));
        let peer = KnownPeer { public_key: signed.key, topic: self.topic.clone(), last_seen: issued_at };
        let metadata = PeerMetadata {
            node_id: signed.key.node_id(),
            node_type: record.node_type.name().to_owned(),
            connected_relay: record.relays.first().copied(),
            name: None,
            addresses: record.addresses.iter().map(ToString::to_string).collect(),
            seq: signed.seq,
            issued_at,
            expires_at,
        };
        let SignedRecord { key: public_key, seq, value, signature } = signed;
        self.store.keep_record(KeptRecord { public_key, seq, value, signature, expires_at }).await?;
        self.store.put_peer_metadata(metadata).await?;
        self.store.saw_peer(peer).await
    }
}

impl RecordStore for LocalRecords {
    fn last(&self, key: PublicKey) -> BoxFuture<'_, Result<Option<SignedRecord>, RecordStoreError>> {
        Box::pin(async move {
            let kept = self.store.record(key).await.map_err(said)?;
            Ok(kept.map(|kept| {
                let KeptRecord { public_key, seq, value, signature, expires_at: _ } = kept;
                SignedRecord { key: public_key, seq, value, signature }
            }))
        })
    }

    fn keep(&self, record: VerifiedRecord) -> BoxFuture<'_, Result<(), RecordStoreError>> {
        Box::pin(async move { self.keep_all(record).await.map_err(said) })
    }

    fn own_seq(&self) -> BoxFuture<'_, Result<Option<i64>, RecordStoreError>> {
        Box::pin(async move { self.store.own_seq().await.map_err(said) })
    }

    fn keep_own_seq(&self, seq: i64) -> BoxFuture<'_, Result<(), RecordStoreError>> {
        Box::pin(async move { self.store.keep_own_seq(seq).await.map_err(said) })
    }
}

/// With its cause, since the trait carries a sentence.
fn said(error: StoreError) -> RecordStoreError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    RecordStoreError(format!("{error}{cause}"))
}
