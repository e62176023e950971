//! The lines that the operations manual greps for (RN-9), said where their event is. Alone in its process: whether a line is
//! logged is remembered by all threads, also those of tests that log nowhere.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use dataplane_dht::{
    Announcement, Fallback, FallbackAnswer, FallbackError, FleetTag, MemoryDirectory, MemoryRecords, Nat, NodeType,
    Publisher, PublisherOptions, Record, RecordSigner, Resolver, ResolverOptions, SignedRecord, connectable,
};
use ed25519_dalek::SigningKey;
use foundation_runtime::{Clock, TaskGroup};
use futures::future::BoxFuture;
use proto_model::{FleetId, PublicKey};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no test panics with it").clone()).expect("lines are text")
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Away;

impl Fallback for Away {
    fn look_up(&self, _key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>> {
        Box::pin(async { Err(FallbackError("away".into())) })
    }
}

#[tokio::test]
async fn the_manuals_lines_are_logged() {
    let fleet = FleetTag::of(&FleetId::new(uuid::Uuid::nil()));
    let addresses = vec!["192.0.2.7:30906".parse().unwrap()];
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (clock, hand) = Clock::manual(DateTime::<Utc>::from_timestamp(1_800_000_000, 0).unwrap());
    let tasks = TaskGroup::new("test");
    let directory = MemoryDirectory::default();
    let store = Arc::<MemoryRecords>::default();
    let signer = SigningKey::from_bytes(&[1; 32]);
    let key = signer.public_key();
    let publisher = Publisher::start(
        PublisherOptions::new(fleet),
        Arc::new(signer),
        Arc::new(directory.clone()),
        store.clone(),
        clock.clone(),
        &tasks,
    );
    publisher.announce(Announcement { addresses: addresses.clone(), ..Announcement::default() });
    let published = async {
        while !lines.text().contains("Successfully published") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), published).await.unwrap();

    let options = ResolverOptions { cleanup_interval: Duration::from_millis(1), ..ResolverOptions::new(fleet) };
    let resolver = Resolver::start(options, Arc::new(directory.clone()), Arc::new(Away), store, clock, &tasks);
    let public = resolver.resolve(key).await.unwrap();
    resolver.resolve(key).await.unwrap();
    let hidden = SigningKey::from_bytes(&[2; 32]);
    let record = Record {
        issued_s: 1_800_000_000,
        ttl_s: 600,
        fleet,
        addresses,
        node_type: NodeType::Private,
        nat: Nat::Unknown,
        relays: Vec::new(),
    };
    directory.plant(SignedRecord::sign(&hidden, 1_800_000_000_000, &record).unwrap());
    let private = resolver.resolve(hidden.public_key()).await.unwrap();
    assert_eq!(connectable(vec![Arc::clone(&public), private], |_| true), [public]);
    assert!(!lines.text().to_lowercase().contains("error"), "{}", lines.text());

    directory.set_away(true);
    hand.advance(Duration::from_secs(3 * 3600));
    assert!(resolver.resolve(key).await.unwrap().stale);
    let cleaned = async {
        while !lines.text().contains("Cleanup expired entries") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), cleaned).await.unwrap();

    let (text, peer, hidden) = (lines.text(), key.node_id(), hidden.public_key().node_id());
    for line in [
        format!("Updating metadata in DHT for {peer}, seq: 1800000000000"),
        "Successfully published metadata to DHT".into(),
        format!("Cache miss for peer {peer}"),
        "Querying DHT for mutable data".into(),
        format!("Discovered peer {peer}"),
        format!("Cache hit for peer {peer}"),
        format!("NAT peer without relay: {hidden}"),
        format!("Filtered out non-connectable peer {hidden}"),
        "Filtered 1 peers as connectable".into(),
        "No nodes in DHT routing table".into(),
        "Failed to query metadata".into(),
        "Peer metadata is stale".into(),
    ] {
        assert!(text.lines().any(|said| said.contains("INFO") && said.contains(&line)), "{line:?} in\n{text}");
    }
}
