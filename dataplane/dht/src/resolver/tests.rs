use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use foundation_runtime::ManualClock;

use super::*;
use crate::{
    keep::MemoryRecords,
    memory::MemoryDirectory,
    record::{
        Record,
        tests::{example, fleet},
    },
};

const NOW_MS: i64 = 1_800_000_000_000;

#[derive(Debug, Default)]
struct ControlPlane {
    answer: Mutex<Option<FallbackAnswer>>,
    away: bool,
    asked: AtomicUsize,
}

impl Fallback for ControlPlane {
    fn look_up(&self, _key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.away { Err(FallbackError("away".into())) } else { Ok(self.answer.lock().unwrap().clone()) }
        })
    }
}

struct Bench {
    resolver: Resolver,
    directory: MemoryDirectory,
    control_plane: Arc<ControlPlane>,
    store: Arc<MemoryRecords>,
    hand: ManualClock,
    tasks: TaskGroup,
}

fn bench_with(control_plane: ControlPlane) -> Bench {
    let (clock, hand) = Clock::manual(DateTime::<Utc>::from_timestamp_millis(NOW_MS).unwrap());
    let tasks = TaskGroup::new("test");
    let directory = MemoryDirectory::default();
    let store = Arc::<MemoryRecords>::default();
    let control_plane = Arc::new(control_plane);
    let resolver = Resolver::start(
        ResolverOptions {
            capacity: 3,
            cleanup_interval: Duration::from_millis(5),
            ask_again_after: Duration::from_millis(5),
            ask_again_every: Duration::from_millis(5),
            ..ResolverOptions::new(fleet())
        },
        Arc::new(directory.clone()),
        control_plane.clone(),
        store.clone(),
        clock,
        &tasks,
    );
    Bench { resolver, directory, control_plane, store, hand, tasks }
}

fn bench() -> Bench {
    bench_with(ControlPlane::default())
}

fn key(number: u8) -> PublicKey {
    crate::signed::RecordSigner::public_key(&SigningKey::from_bytes(&[number; 32]))
}

fn record(number: u8, seq: i64) -> SignedRecord {
    SignedRecord::sign(&SigningKey::from_bytes(&[number; 32]), seq, &example()).unwrap()
}

#[tokio::test]
async fn finds_a_record_and_then_needs_no_network() {
    let bench = bench();
    bench.directory.plant(record(1, NOW_MS));
    let found = bench.resolver.resolve(key(1)).await.unwrap();
    assert_eq!((found.source, found.stale), (Source::Dht, false));
    assert_eq!(found.addresses(), example().addresses);
    bench.directory.set_away(true);
    assert_eq!(bench.resolver.resolve(key(1)).await.unwrap(), found);
    assert_eq!(bench.directory.lookups(), 1);
    // Who is met for the first time is asked for there too.
    assert_eq!(bench.control_plane.asked.load(Ordering::Relaxed), 1);
    bench.hand.advance(Duration::from_secs(301));
    bench.directory.set_away(false);
    bench.resolver.resolve(key(1)).await.unwrap();
    assert_eq!(bench.directory.lookups(), 2);
}

#[tokio::test]
async fn asks_the_control_plane_when_the_dht_is_slow_or_away() {
    let bench = bench();
    let observed = vec!["198.51.100.9:30906".parse().unwrap()];
    let answer = FallbackAnswer { record: Some(record(1, NOW_MS)), observed: observed.clone() };
    *bench.control_plane.answer.lock().unwrap() = Some(answer);
    bench.directory.set_silent(true);
    let found = bench.resolver.resolve(key(1)).await.unwrap();
    assert_eq!(found.source, Source::ControlPlane);
    assert_eq!(found.addresses().last(), observed.last());

    bench.directory.set_silent(false);
    bench.directory.set_away(true);
    let answer = FallbackAnswer { record: Some(record(2, NOW_MS)), observed: Vec::new() };
    *bench.control_plane.answer.lock().unwrap() = Some(answer);
    assert_eq!(bench.resolver.resolve(key(2)).await.unwrap().source, Source::ControlPlane);
}

#[tokio::test]
async fn many_who_ask_for_one_share_one_search() {
    let bench = bench();
    bench.directory.plant(record(1, NOW_MS));
    let asked = (0..50).map(|_| bench.resolver.refresh(key(1)));
    for found in futures::future::join_all(asked).await {
        assert_eq!(found.unwrap().source, Source::Dht);
    }
    assert_eq!(bench.directory.lookups(), 1);
}

#[tokio::test]
async fn an_old_record_played_again_is_refused_also_after_a_restart() {
    let bench = bench();
    bench.store.keep(record(1, NOW_MS).verify_signature().unwrap()).await.unwrap();
    bench.directory.plant(record(1, NOW_MS - 1));
    let found = bench.resolver.resolve(key(1)).await.unwrap();
    assert_eq!((found.source, found.record.as_ref().unwrap().seq()), (Source::Kept, NOW_MS));
    assert_eq!(bench.store.last(key(1)).await.unwrap().unwrap().seq, NOW_MS);
}

#[tokio::test]
async fn what_a_stranger_stored_is_not_believed() {
    let bench = bench();
    let mut forged = record(1, NOW_MS);
    forged.value = Record { addresses: vec!["203.0.113.66:1".parse().unwrap()], ..example() }.encode().unwrap();
    bench.directory.plant(forged);
    assert_eq!(bench.resolver.resolve(key(1)).await, Err(ResolveError::NotFound));
}

#[tokio::test]
async fn remembers_for_a_while_that_nobody_has_it() {
    let bench = bench();
    for _ in 0..3 {
        assert_eq!(bench.resolver.resolve(key(1)).await, Err(ResolveError::NotFound));
    }
    assert_eq!(bench.directory.lookups(), 1);
    bench.hand.advance(Duration::from_secs(31));
    bench.directory.plant(record(1, NOW_MS));
    assert!(bench.resolver.resolve(key(1)).await.is_ok());
}

#[tokio::test]
async fn with_both_sources_away_what_was_known_serves_for_a_day() {
    let bench = bench_with(ControlPlane { away: true, ..ControlPlane::default() });
    bench.store.keep(record(1, NOW_MS).verify_signature().unwrap()).await.unwrap();
    bench.directory.set_away(true);
    let found = bench.resolver.resolve(key(1)).await.unwrap();
    assert_eq!((found.source, found.stale), (Source::Kept, false));
    bench.hand.advance(Duration::from_secs(3 * 3600));
    assert!(bench.resolver.resolve(key(1)).await.unwrap().stale);
    bench.hand.advance(Duration::from_secs(24 * 3600));
    assert_eq!(bench.resolver.resolve(key(1)).await, Err(ResolveError::Unreachable));
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let bench = bench();
    for number in 1..=5 {
        bench.directory.plant(record(number, NOW_MS));
        bench.resolver.resolve(key(number)).await.unwrap();
    }
    assert_eq!(bench.resolver.cached(), 3);
    bench.resolver.resolve(key(5)).await.unwrap();
    assert_eq!(bench.directory.lookups(), 5);
    bench.hand.advance(Duration::from_secs(301));
    let cleaned = async {
        while bench.resolver.cached() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), cleaned).await.unwrap();
}

#[tokio::test]
async fn ends_with_its_task_group() {
    let bench = bench();
    bench.directory.set_silent(true);
    let search = bench.resolver.resolve(key(1));
    let (found, ended) = tokio::join!(search, bench.tasks.shutdown(Duration::from_secs(1)));
    assert!(found.is_err());
    ended.unwrap();
}

/// Waits for what a search does after its answer, or between two.
async fn until(what: &str, happened: impl Fn() -> bool) {
    let wait = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn moved(number: u8, seq: i64, port: u16) -> SignedRecord {
    let record = Record { addresses: vec![SocketAddr::from(([192, 0, 2, 99], port))], ..example() };
    SignedRecord::sign(&SigningKey::from_bytes(&[number; 32]), seq, &record).unwrap()
}

fn knows(bench: &Bench, record: SignedRecord) {
    *bench.control_plane.answer.lock().unwrap() = Some(FallbackAnswer { record: Some(record), observed: Vec::new() });
}

#[tokio::test]
async fn an_older_record_in_the_dht_is_not_taken_where_the_control_plane_has_a_newer_one() {
    let bench = bench();
    let (old, newest) = (moved(1, NOW_MS, 1), moved(1, NOW_MS + 1, 2));
    bench.directory.plant(old.clone());
    knows(&bench, newest.clone());
    // Met for the first time.
    let found = bench.resolver.resolve(key(1)).await.unwrap();
    assert_eq!((found.source, found.addresses()[0].port()), (Source::ControlPlane, 2));

    // The old one is what is known, and nobody is there any more.
    let bench = self::bench();
    bench.directory.plant(old.clone());
    bench.store.keep(old.clone().verify_signature().unwrap()).await.unwrap();
    knows(&bench, newest.clone());
    assert_eq!(bench.resolver.refresh(key(1)).await.unwrap().addresses()[0].port(), 2);
    // Without a control plane it is all there is.
    let bench = bench_with(ControlPlane { away: true, ..ControlPlane::default() });
    bench.directory.plant(old.clone());
    assert_eq!(bench.resolver.refresh(key(1)).await.unwrap().addresses()[0].port(), 1);

    // It still holds, but its owner has renewed it since: known and not doubted, the control plane is heard all the same.
    let bench = self::bench();
    bench.directory.plant(old.clone());
    bench.store.keep(old.verify_signature().unwrap()).await.unwrap();
    knows(&bench, newest);
    bench.hand.advance(Duration::from_secs(9000 / 2 + 301));
    assert_eq!(bench.resolver.resolve(key(1)).await.unwrap().addresses()[0].port(), 2);
}

#[tokio::test]
async fn a_dht_that_disagrees_is_told_and_where_it_goes_on_it_is_said() {
    let bench = bench();
    let (old, newest) = (moved(1, NOW_MS, 1), moved(1, NOW_MS + 1, 2));
    bench.directory.plant(old.clone());
    knows(&bench, newest.clone());
    bench.hand.advance(Duration::from_secs(61));
    bench.resolver.refresh(key(1)).await.unwrap();
    // An honest ring takes what it is told, and that is all.
    until("the DHT to be told", || bench.directory.stored(&key(1)) == Some(newest.clone())).await;
    until("agreement", || !bench.resolver.0.disagreements.contains(&key(1))).await;
    assert!(bench.resolver.disagreements().is_empty());

    // One that lies takes nothing.
    bench.directory.pin(old);
    bench.resolver.refresh(key(1)).await.unwrap();
    until("the alarm", || !bench.resolver.disagreements().is_empty()).await;
    let said = bench.resolver.disagreements();
    assert_eq!((said[0].key, said[0].dht, said[0].known), (key(1), Some(NOW_MS), NOW_MS + 1));
    bench.directory.unpin();
    until("the end of the alarm", || bench.resolver.disagreements().is_empty()).await;

    // Silence is the same.
    bench.directory.restart();
    bench.directory.pin_silence();
    bench.resolver.refresh(key(1)).await.unwrap();
    until("the alarm", || bench.resolver.disagreements().first().is_some_and(|said| said.dht.is_none())).await;
    // Nobody's answer is not another answer.
    bench.directory.unpin();
    until("the end of the alarm", || bench.resolver.disagreements().is_empty()).await;
}

#[tokio::test]
async fn what_a_part_of_the_ring_says_is_kept_for_a_minute() {
    let bench = bench();
    bench.directory.set_torn(true);
    bench.directory.plant(moved(1, NOW_MS, 1));
    assert_eq!(bench.resolver.resolve(key(1)).await.unwrap().addresses()[0].port(), 1);
    bench.directory.set_torn(false);
    bench.directory.plant(moved(1, NOW_MS + 1, 2));
    bench.hand.advance(Duration::from_secs(61));
    assert_eq!(bench.resolver.resolve(key(1)).await.unwrap().addresses()[0].port(), 2);
}
