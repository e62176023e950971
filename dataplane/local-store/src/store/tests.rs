use std::{fs, process::Command};

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use foundation_runtime::ManualClock;
use proto_model::{PublicKey, TransferId};
use tempfile::TempDir;

use super::*;
use crate::{KeptRecord, KnownPeer, PEER_DAYS, PeerMetadata, StoredTransfer, UserProfile};

struct Bench {
    dir: TempDir,
    store: LocalStore,
    hand: ManualClock,
    tasks: TaskGroup,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(DateTime::<Utc>::from_timestamp(1_800_000_000, 0).unwrap());
    let tasks = TaskGroup::new("test");
    let store = LocalStore::open(dir.path(), clock, &tasks).await.unwrap();
    Bench { dir, store, hand, tasks }
}

fn key(number: u8) -> PublicKey {
    PublicKey::try_from(SigningKey::from_bytes(&[number; 32]).verifying_key()).unwrap()
}

fn record(number: u8, seq: i64) -> KeptRecord {
    KeptRecord { public_key: key(number), seq, value: vec![1, 2, 3], signature: [7; 64], expires_at: 1_800_000_300 }
}

fn private(number: u8) -> PeerMetadata {
    PeerMetadata {
        node_id: key(number).node_id(),
        node_type: "private".into(),
        connected_relay: Some(key(99).node_id()),
        name: Some("site-b".into()),
        addresses: vec!["10.0.0.7:30906".into()],
        seq: 5,
        issued_at: 1_800_000_000,
        expires_at: 1_800_000_300,
    }
}

/// The operator's own `sqlite3`, or where there is none, a connection of another process's kind. Both wait for a moment
/// when the agent is not writing, which `sqlite3` does not by itself.
async fn operator(bench: &Bench, sql: &'static str) -> String {
    let path = bench.store.path();
    // The store's own tasks go on meanwhile: one of them may be in a transaction.
    let done = tokio::task::block_in_place(|| {
        Command::new("sqlite3").args(["-cmd", ".timeout 60000"]).arg(path).arg(sql).output()
    });
    if let Ok(done) = done {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        return String::from_utf8(done.stdout).unwrap().trim().to_owned();
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(60));
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let rows = sqlx::query(sql).fetch_all(&mut db).await.unwrap();
    let cell = |row: &sqlx::sqlite::SqliteRow, at: usize| {
        use sqlx::Row;
        row.try_get::<String, _>(at).or_else(|_| row.try_get::<i64, _>(at).map(|n| n.to_string())).unwrap_or_default()
    };
    use sqlx::Row;
    let lines = rows.iter().map(|row| (0..row.len()).map(|at| cell(row, at)).collect::<Vec<_>>().join("|"));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manuals_queries_work_while_the_agent_runs() {
    let bench = bench().await;
    bench.store.saw_peer(KnownPeer { public_key: key(1), topic: "f".into(), last_seen: 1_800_000_000 }).await.unwrap();
    bench.store.keep_record(record(1, 5)).await.unwrap();
    bench.store.put_peer_metadata(private(1)).await.unwrap();
    let profile =
        UserProfile { user_id: "u".into(), username: "ann".into(), display_name: "Ann".into(), public_key: key(1) };
    bench.store.put_user_profile(profile.clone()).await.unwrap();

    assert_eq!(operator(&bench, "SELECT COUNT(*) FROM known_peers").await, "1");
    assert_eq!(operator(&bench, "SELECT COUNT(*) FROM metadata_cache").await, "1");
    assert_eq!(operator(&bench, "SELECT COUNT(*) as user_profiles FROM user_profiles;").await, "1");
    let row =
        operator(&bench, "SELECT node_id, using_relay, connected_relay FROM peer_metadata WHERE node_type='private'");
    assert_eq!(row.await, format!("{}|1|{}", key(1).node_id(), key(99).node_id()));
    assert_eq!(operator(&bench, "PRAGMA integrity_check;").await, "ok");
    operator(&bench, "VACUUM;").await;
    operator(&bench, "ANALYZE;").await;
    assert_eq!(bench.store.user_profiles(10).await.unwrap(), [profile]);
    assert_eq!(bench.store.peer_metadata(10).await.unwrap(), [private(1)]);
}

#[tokio::test]
async fn a_record_never_goes_back_to_a_lower_seq() {
    let bench = bench().await;
    bench.store.keep_record(record(1, 7)).await.unwrap();
    bench.store.keep_record(record(1, 6)).await.unwrap();
    assert_eq!(bench.store.record(key(1)).await.unwrap().map(|kept| kept.seq), Some(7));
    bench.store.keep_own_seq(20).await.unwrap();
    bench.store.keep_own_seq(10).await.unwrap();
    assert_eq!(bench.store.own_seq().await.unwrap(), Some(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_is_made_anew() {
    let bench = bench().await;
    bench.store.keep_own_seq(1).await.unwrap();
    fs::remove_file(bench.store.path()).unwrap();
    assert_eq!(bench.store.own_seq().await.unwrap(), None);
    bench.store.keep_own_seq(2).await.unwrap();
    assert_eq!(operator(&bench, "SELECT seq FROM own_records").await, "2");
}

#[tokio::test]
async fn a_broken_file_is_set_aside_and_made_anew() {
    let bench = bench().await;
    bench.store.keep_own_seq(1).await.unwrap();
    bench.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    bench.store.close().await;
    fs::write(bench.store.path(), [b'x'; 8192]).unwrap();
    let tasks = TaskGroup::new("again");
    let store = LocalStore::open(bench.dir.path(), Clock::system(), &tasks).await.unwrap();
    assert_eq!(store.own_seq().await.unwrap(), None);
    assert!(bench.dir.path().join("agent.db.broken").exists());
}

#[tokio::test]
async fn damage_inside_is_found_at_start() {
    let bench = bench().await;
    for number in 1..200 {
        bench.store.keep_record(KeptRecord { value: vec![number; 900], ..record(number, 1) }).await.unwrap();
    }
    bench.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    bench.store.close().await;
    let mut bytes = fs::read(bench.store.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    fs::write(bench.store.path(), bytes).unwrap();
    let tasks = TaskGroup::new("again");
    let store = LocalStore::open(bench.dir.path(), Clock::system(), &tasks).await.unwrap();
    store.keep_own_seq(3).await.unwrap();
    assert_eq!(store.own_seq().await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_restart_finds_what_was_kept() {
    let bench = bench().await;
    bench.store.keep_record(record(1, 7)).await.unwrap();
    bench.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    bench.store.close().await;
    let tasks = TaskGroup::new("again");
    let store = LocalStore::open(bench.dir.path(), Clock::system(), &tasks).await.unwrap();
    assert_eq!(store.record(key(1)).await.unwrap(), Some(record(1, 7)));
}

#[tokio::test]
async fn old_rows_are_removed_and_running_transfers_are_not() {
    let bench = bench().await;
    let now = bench.store.now_s();
    bench.store.saw_peer(KnownPeer { public_key: key(1), topic: "f".into(), last_seen: now }).await.unwrap();
    bench.store.keep_record(record(1, 7)).await.unwrap();
    let transfer = |number: u8, finished_at| StoredTransfer {
        transfer_id: TransferId::from_parts(1, &[number; 10]),
        role: "sender".into(),
        state: "RUNNING".into(),
        peer_id: "b".into(),
        path: "data:/".into(),
        bytes_total: 2,
        bytes_done: 1,
        message: String::new(),
        started_at: now,
        finished_at,
    };
    bench.store.put_transfer(transfer(1, None)).await.unwrap();
    bench.store.put_transfer(transfer(2, Some(now))).await.unwrap();
    bench.hand.advance(Duration::from_secs(3600));
    assert_eq!(bench.store.clean().await.unwrap(), crate::Cleaned::default());
    bench.hand.advance(Duration::from_secs(u64::try_from(PEER_DAYS).unwrap() * 24 * 3600));
    let cleaned = bench.store.clean().await.unwrap();
    assert_eq!((cleaned.peers, cleaned.transfers), (2, 1));
    assert_eq!(bench.store.transfers(10).await.unwrap(), [transfer(1, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_write_at_once() {
    let bench = bench().await;
    let writes = (0..50_u8).map(|number| bench.store.keep_record(record(number, 1)));
    for done in futures::future::join_all(writes).await {
        done.unwrap();
    }
    assert_eq!(operator(&bench, "SELECT COUNT(*) FROM metadata_cache").await, "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_newer_program_is_left_as_it_is_where_that_says_so() {
    let bench = bench().await;
    // With all that would open it again.
    bench.tasks.shutdown(Duration::from_secs(30)).await.unwrap();
    operator(&bench, "PRAGMA user_version = 999000000").await;
    let before = fs::read(bench.store.path()).unwrap();
    let tasks = TaskGroup::new("older");
    let refused = LocalStore::open(bench.dir.path(), Clock::system(), &tasks).await.unwrap_err();
    assert!(matches!(&refused, StoreError::TooOld { least, .. } if least == "999.0.0"), "{refused}");
    assert_eq!(fs::read(bench.store.path()).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_sqlite_ended_by_itself_keeps_no_later_one_from_beginning() {
    let bench = bench().await;
    // As on a disk that fails: the transaction is over, and the driver does not know.
    for _ in 0..8 {
        let ended = bench.store.write("test", |connection| {
            Box::pin(async move {
                sqlx::query("ROLLBACK").execute(&mut *connection).await?;
                Err::<(), _>(sqlx::Error::RowNotFound)
            })
        });
        assert!(matches!(ended.await, Err(error) if !error.is_damage()));
    }
    bench.store.keep_record(record(1, 1)).await.unwrap();
    assert_eq!(bench.store.record(key(1)).await.unwrap(), Some(record(1, 1)));
}
