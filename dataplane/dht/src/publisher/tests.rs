use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;

use super::*;
use crate::{keep::MemoryRecords, memory::MemoryDirectory, record::tests::fleet, signed::Acceptance};

struct Bench {
    directory: MemoryDirectory,
    store: Arc<MemoryRecords>,
    clock: Clock,
    tasks: TaskGroup,
}

const TICK: Duration = Duration::from_millis(1);
const NOW_MS: i64 = 1_800_000_000_000;

fn bench() -> Bench {
    let (clock, _hand) = Clock::manual(DateTime::<Utc>::from_timestamp_millis(NOW_MS).unwrap());
    let tasks = TaskGroup::new("test");
    Bench { directory: MemoryDirectory::default(), store: Arc::default(), clock, tasks }
}

impl Bench {
    fn publisher(&self) -> Publisher {
        Publisher::start(
            PublisherOptions {
                debounce: TICK,
                retries: [TICK; 3],
                repeat_interval: TICK,
                ..PublisherOptions::new(fleet())
            },
            Arc::new(signer()),
            Arc::new(self.directory.clone()),
            self.store.clone(),
            self.clock.clone(),
            &self.tasks,
        )
    }
}

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn at(port: u16) -> Announcement {
    Announcement { addresses: vec![SocketAddr::from(([192, 0, 2, 1], port))], ..Announcement::default() }
}

async fn next(signed: &mut watch::Receiver<Option<SignedRecord>>) -> SignedRecord {
    let changed = tokio::time::timeout(Duration::from_secs(10), signed.changed()).await;
    changed.unwrap().unwrap();
    signed.borrow_and_update().clone().unwrap()
}

async fn stored_with(directory: &MemoryDirectory, seq: i64) {
    let key = RecordSigner::public_key(&signer());
    let wait = async {
        while directory.stored(&key).is_none_or(|record| record.seq < seq) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
}

#[tokio::test]
async fn publishes_at_once_on_change_with_a_growing_seq() {
    let bench = bench();
    let publisher = bench.publisher();
    let mut signed = publisher.signed();
    publisher.announce(at(1));
    let first = next(&mut signed).await;
    publisher.announce(at(1));
    publisher.announce(at(2));
    let second = next(&mut signed).await;
    assert_eq!((first.seq, second.seq), (NOW_MS, NOW_MS + 1));
    stored_with(&bench.directory, second.seq).await;
    let taken = Acceptance { fleet: fleet(), now_ms: NOW_MS, known_seq: Some(first.seq) };
    let record = second.verify(&taken).unwrap();
    assert_eq!(record.record().addresses, at(2).addresses);
    assert_eq!(record.record().ttl_s, 9000);
    publisher.republish();
    assert_eq!(next(&mut signed).await.seq, NOW_MS + 2);
}

#[tokio::test]
async fn seq_grows_over_a_restart_with_the_clock_set_back() {
    let bench = bench();
    bench.store.keep_own_seq(NOW_MS + 5_000).await.unwrap();
    let publisher = bench.publisher();
    publisher.announce(at(1));
    assert_eq!(next(&mut publisher.signed()).await.seq, NOW_MS + 5_001);
    assert_eq!(bench.store.own_seq().await, Ok(Some(NOW_MS + 5_001)));
}

#[tokio::test]
async fn seq_is_read_back_from_the_ring_when_the_store_is_lost() {
    let bench = bench();
    let record = crate::record::tests::example();
    bench.directory.plant(SignedRecord::sign(&signer(), NOW_MS + 7_000, &record).unwrap());
    let publisher = bench.publisher();
    publisher.announce(at(1));
    assert_eq!(next(&mut publisher.signed()).await.seq, NOW_MS + 7_001);
}

#[tokio::test]
async fn tries_again_until_the_ring_is_back() {
    let bench = bench();
    bench.directory.set_away(true);
    let publisher = bench.publisher();
    let mut signed = publisher.signed();
    publisher.announce(at(1));
    let first = next(&mut signed).await;
    // Signed and given out although the ring is away.
    assert_eq!(first.seq, NOW_MS);
    bench.directory.set_away(false);
    stored_with(&bench.directory, first.seq + 1).await;
    // And again before it runs out.
    publisher.set_republish_interval(TICK);
    let stored = next(&mut signed).await.seq;
    stored_with(&bench.directory, stored + 5).await;
}

#[tokio::test]
async fn part_of_the_ring_gets_the_same_record_until_all_have_it() {
    let bench = bench();
    bench.directory.set_torn(true);
    let publisher = bench.publisher();
    let mut signed = publisher.signed();
    publisher.announce(at(1));
    let first = next(&mut signed).await;
    stored_with(&bench.directory, first.seq).await;
    // The other part comes back, without it.
    for _ in 0..2 {
        bench.directory.restart();
        stored_with(&bench.directory, first.seq).await;
    }
    bench.directory.set_torn(false);
    stored_with(&bench.directory, first.seq).await;
    // Said to be lost, it is put again; it was signed once.
    bench.directory.restart();
    publisher.put_again();
    stored_with(&bench.directory, first.seq).await;
    assert_eq!(signed.borrow_and_update().clone().unwrap().seq, first.seq);
}
