//! A database that refuses, falls silent, loses connections and answers: every call ends in time, says why, and nothing is lost, done
//! twice or left behind. R3, R4, R5, R6.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use foundation_runtime::{Clock, TaskGroup};
use proto_model::{NodeUid, RequestId, Revision};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tests_postgres::{Proxy, Way};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::world::World;
use crate::{Actor, Cause, Context, Db, Error, Options, RequestKey, join_tokens, nodes, observation, tx::Unaudited};

const LIMIT: Duration = Duration::from_secs(30);

async fn connect(url: &str, connections: u32) -> (Db, TaskGroup) {
    let tasks = TaskGroup::new("test");
    let options = Options { max_connections: connections, ..Options::new(url) };
    (Db::connect(options, Clock::system(), &tasks).await.unwrap(), tasks)
}

async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !look().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, looking).await.unwrap_or_else(|_elapsed| panic!("waited in vain for {what}"));
}

async fn count_nodes(db: &Db) -> Result<usize, Error> {
    nodes::list(db, nodes::NodeFilter::default(), None, 10).await.map(|nodes| nodes.len())
}

/// How long it took, and what came of it.
#[allow(clippy::disallowed_methods, reason = "the promised bound is one of real time")]
async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let done = work.await;
    (begun.elapsed(), done)
}

#[tokio::test]
async fn a_database_that_refuses_says_why_and_is_used_again_by_itself() {
    let world = World::new().await;
    let role = format!("few_{}", Uuid::new_v4().simple());
    world.sql(&format!("CREATE ROLE {role} LOGIN SUPERUSER"));
    let url = world.url.replace("dwcp@", &format!("{role}@"));
    let (db, _tasks) = connect(&url, 2).await;
    let kill = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'");
    for (refuse, allow, cause) in [
        (format!("ALTER ROLE {role} NOLOGIN"), format!("ALTER ROLE {role} LOGIN"), Cause::LoginRefused),
        (
            format!("ALTER ROLE {role} NOSUPERUSER CONNECTION LIMIT 0"),
            format!("ALTER ROLE {role} SUPERUSER"),
            Cause::TooManyConnections,
        ),
    ] {
        world.sql(&format!("{refuse}; {kill}"));
        eventually("the trouble to be known", async || db.trouble() == Some(cause)).await;
        let (took, refused) = timed(count_nodes(&db)).await;
        assert!(matches!(&refused, Err(Error::Unavailable { cause: said, .. }) if *said == cause), "{refused:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        world.sql(&allow);
        eventually("it to be used again", async || db.trouble().is_none() && count_nodes(&db).await.is_ok()).await;
    }
}

/// R5: half-open, so that no error ever comes.
#[tokio::test]
async fn a_silent_database_holds_nobody_and_is_used_again_when_it_speaks() {
    let world = World::new().await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let proxy = Proxy::start(tests_postgres::cluster().socket(), folder.path());
    let (db, _tasks) = connect(&proxy.url(&world.url), 4).await;
    count_nodes(&db).await.unwrap();
    proxy.set(Way::Silent);
    let calls = (0..40).map(|_| timed(count_nodes(&db)));
    for (took, refused) in futures::future::join_all(calls).await {
        assert!(refused.unwrap_err().is_temporary());
        assert!(took < Duration::from_secs(7), "{took:?}");
    }
    eventually("the trouble to be known", async || db.trouble() == Some(Cause::NoAnswer)).await;
    let write = db.observe("test", |tx: &mut Unaudited| Box::pin(async move { tx.next_revision().await }));
    let (took, refused) = timed(write).await;
    assert!(refused.unwrap_err().is_temporary());
    assert!(took < Duration::from_secs(15), "{took:?}");
    proxy.set(Way::Open);
    let (took, ()) = timed(eventually("it to be used again", async || count_nodes(&db).await.is_ok())).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    eventually("nobody to be in trouble", async || db.trouble().is_none()).await;
}

/// R3: the commit reached PostgreSQL, its answer did not reach us.
#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_unknown_and_its_repeat_makes_nothing_twice() {
    let world = World::new().await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let proxy = Proxy::start(tests_postgres::cluster().socket(), folder.path());
    let (db, _tasks) = connect(&proxy.url(&world.url), 4).await;
    let _keys = crate::Keys::load_or_create(&db, &world.seal).await.unwrap();
    let id = RequestId::new(Uuid::new_v4());
    let create = || {
        let request = RequestKey { method: "test/Create", id, fingerprint: [7; 32] };
        let context = Context { actor: Actor::Socket(0), trace_id: String::new(), request: Some(request) };
        let new = join_tokens::NewJoinToken {
            ttl: chrono::TimeDelta::hours(1),
            max_uses: 1,
            node_labels: proto_model::Labels::new(),
            relay: false,
            node_name: None,
        };
        db.write("create", context, move |tx| Box::pin(join_tokens::create(tx, new)))
    };
    // Other transactions commit too: the one that loses its answer may be theirs, and then ours is known.
    proxy.set(Way::LosesACommit);
    let first = create().await;
    assert!(proxy.is(Way::Open));
    assert!(matches!(first, Err(join_tokens::CreateError::Database(Error::OutcomeUnknown { .. }))), "{first:?}");
    assert_eq!(world.sql("SELECT count(*) FROM join_tokens"), "1");
    let (token, secret) = create().await.unwrap();
    assert!(secret.is_none(), "its secret was lost with the answer");
    assert_eq!(world.sql("SELECT string_agg(id::text, ',') FROM join_tokens"), token.id.to_string());
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE action = 'join_token.create'"), "1");
}

/// R6: sqlx #4393 is one cancelled call, and 25P02 ever after.
#[tokio::test]
async fn two_hundred_callers_that_hang_up_leave_nothing_behind_in_a_small_pool() {
    let seed = std::env::var("DWCP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("DWCP_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    let (db, _tasks) = connect(&world.url, 5).await;
    let callers = (0..200_u32).map(|number| {
        let (db, patience) = (db.clone(), Duration::from_millis(random.random_range(1..50)));
        async move {
            let slow = "SELECT pg_sleep(0.01) FROM revision_counter";
            let call = async {
                if number.is_multiple_of(2) {
                    let select = sqlx::raw_sql(slow);
                    let read = db.read(move |connection| {
                        Box::pin(async move { Ok(select.execute(connection).await.map(drop)?) })
                    });
                    return read.await;
                }
                let change = db.observe("test", move |tx: &mut Unaudited| {
                    Box::pin(async move {
                        tx.next_revision().await?;
                        sqlx::raw_sql(slow).execute(tx.connection()).await?;
                        Ok(())
                    })
                });
                change.await
            };
            // Who hangs up is not there for an answer.
            timeout(patience, call).await.ok()
        }
    });
    let answers = futures::future::join_all(callers).await;
    for error in answers.into_iter().flatten().filter_map(Result::err) {
        assert!(error.is_temporary(), "{}", error.chain());
    }
    // Those that are refused are refused at once, or after their turn did not come.
    let crowd = (0..400).map(|_| {
        timed(db.read(|connection| {
            Box::pin(async move { Ok(sqlx::raw_sql("SELECT pg_sleep(0.05)").execute(connection).await.map(drop)?) })
        }))
    });
    let crowd = futures::future::join_all(crowd).await;
    let refused: Vec<_> = crowd.iter().filter(|(_, answer)| answer.is_err()).collect();
    assert!(refused.iter().all(|(_, answer)| matches!(answer, Err(Error::Busy { connections: 5 }))), "{refused:?}");
    assert!(refused.len() >= 200, "{} of 400 waited, more than the queue has places", 400 - refused.len());
    let slowest = refused.iter().map(|(took, _)| *took).max().unwrap_or_default();
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND state LIKE 'idle in transaction%' AND state_change < now() - interval '1 second'";
    eventually("no transaction to be left open", async || world.sql(left) == "0").await;
    for _ in 0..100 {
        let revision = db.observe("test", |tx: &mut Unaudited| Box::pin(async move { tx.next_revision().await }));
        revision.await.unwrap();
    }
}

/// R4: LISTEN sessions are killed all the time, a transaction that took its number early commits late, and a follower misses nothing.
#[tokio::test]
async fn a_follower_misses_no_revision_though_bells_are_lost_and_a_commit_is_late() {
    let world = World::new().await;
    let mut uids = Vec::new();
    for name in ["late", "a", "b", "c"] {
        uids.push(world.node(name).await.node.uid);
    }
    let (follower, tasks) = connect(&world.url, 4).await;
    let seen = Arc::new(std::sync::Mutex::new(BTreeMap::<NodeUid, i64>::new()));
    let (noted, db) = (Arc::clone(&seen), follower.clone());
    tasks.spawn("follow", foundation_runtime::OnEnd::Expected, async move {
        let (mut bell, mut cursor) = (db.bell(), Revision::default());
        loop {
            bell.mark_unchanged();
            for node in nodes::changed_after(&db, cursor, 100).await.unwrap_or_default() {
                cursor = node.revision;
                noted.lock().unwrap().insert(node.uid, node.clock_skew_ms);
            }
            if bell.changed().await.is_err() {
                return;
            }
        }
    });
    // What is shown of a node changes with each write, so that each is a revision.
    let write = |uid: NodeUid, number: i64, hold: Duration| {
        let observed = observation::Observed {
            clock_skew_ms: Some(number),
            connected: Some(number % 2 == 0),
            ..observation::Observed::default()
        };
        world.db.observe("test", move |tx: &mut Unaudited| {
            Box::pin(async move {
                observation::observe(tx, uid, observed).await?;
                sleep(hold).await;
                Ok::<_, Error>(())
            })
        })
    };
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let late = write(uids[0], 1_000, Duration::from_secs(2));
    let others = async {
        for number in 1..=10 {
            for uid in &uids[1..] {
                // Waits for the late one, since that holds the counter; no follower sees a later number before it.
                write(*uid, number, Duration::ZERO).await.unwrap();
            }
            world.sql(kill);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let (late, ()) = tokio::join!(late, others);
    late.unwrap();
    let wanted: BTreeMap<_, _> = uids.iter().copied().zip([1_000, 10, 10, 10]).collect();
    eventually("the follower to have seen the last of each", async || *seen.lock().unwrap() == wanted).await;
    tasks.cancel();
}
