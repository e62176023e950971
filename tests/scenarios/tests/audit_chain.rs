//! However many write at once, on however many servers, and whatever is killed meanwhile: the audit log is one chain, without a fork and
//! without a hole, and what was acknowledged stands in it once (R13).
//!
//! `DWCP_SEED` chooses the moments, `DWCP_AUDIT_SECONDS` how long it goes on.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use control_plane_pki::SealKey;
use proto_rpc::v1::CreateJoinTokenRequest;
use tests_harness::{Api, ControlPlane, ControlPlaneOptions, Scratch};
use tests_postgres::{cluster, sql};
use tokio::task::JoinSet;

/// Clients of each server.
const CLIENTS: usize = 16;
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Moments that can be had again.
struct Dice(u64);

impl Dice {
    fn thrown() -> Self {
        let seed = std::env::var("DWCP_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            u64::from_le_bytes(uuid::Uuid::new_v4().into_bytes()[..8].try_into().expect("16 bytes"))
        });
        eprintln!("DWCP_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Makes tokens until it is told to stop; the ids of the requests that were acknowledged. What was not is asked for again under its id.
async fn client(api: Api, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let id = uuid::Uuid::new_v4().to_string();
        let label = format!("r{}", id.replace('-', ""));
        let request = CreateJoinTokenRequest {
            request_id: id,
            node_labels: [("request".to_owned(), label.clone())].into(),
            ..CreateJoinTokenRequest::default()
        };
        loop {
            let asked = tokio::time::timeout(CALL_LIMIT, api.join_tokens().create_join_token(request.clone())).await;
            if matches!(asked, Ok(Ok(_))) {
                acknowledged.insert(label);
                break;
            }
            if stop.load(Ordering::Relaxed) {
                // Whether it was done is not known: it may stand in the log once, or not at all.
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_two_servers_that_are_killed_make_one_chain() -> Result<()> {
    let mut dice = Dice::thrown();
    let seconds = std::env::var("DWCP_AUDIT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8_u64);
    let scratch = Scratch::new()?;
    let url = cluster().database();
    let options = ControlPlaneOptions { database_url: Some(url.clone()), ..ControlPlaneOptions::default() };
    let dirs = [scratch.folder("one")?, scratch.folder("two")?];
    SealKey::load_or_create(&dirs[0].join("seal.key"))?;
    fs::copy(dirs[0].join("seal.key"), dirs[1].join("seal.key"))?;
    let mut servers = vec![ControlPlane::start(&dirs[0], options.clone())?, ControlPlane::start(&dirs[1], options)?];
    let token = fs::read_to_string(servers[0].admin_token_file())?;
    let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    let before: u64 = sql(&url, "SELECT size FROM audit_head").parse()?;
    for server in &servers {
        for _ in 0..CLIENTS {
            // A connection each.
            clients.spawn(client(Api::with_token(&server.grpc(), &server.ca(), token.trim())?, Arc::clone(&stop)));
        }
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "how long the load lasts is what is asked for, and its rate is printed"
    )]
    let begun = std::time::Instant::now();
    let (mut kills, mut aborts) = (0, 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(Duration::from_millis(200 + dice.below(800)));
        if dice.below(3) == 0 {
            let server = &mut servers[usize::try_from(dice.below(2))?];
            server.kill()?;
            server.restart()?;
            kills += 1;
        } else {
            // Transactions in the middle of what they do.
            let one = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' LIMIT 4) AS busy";
            aborts += sql(&url, one).parse::<u64>()?;
        }
    }
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for mut done in clients.join_all().await {
        acknowledged.append(&mut done);
    }

    let number = |query: &str| -> Result<u64> { sql(&url, query).parse().with_context(|| query.to_owned()) };
    let size = number("SELECT size FROM audit_head")?;
    let rows = number("SELECT count(*) FROM audit_events")?;
    let holes = number(
        "SELECT count(*) FROM generate_series(0, (SELECT size - 1 FROM audit_head)) AS s(n) LEFT JOIN audit_events ON sequence = n WHERE sequence IS NULL",
    )?;
    let leaves = number("SELECT count(DISTINCT leaf_hash) FROM audit_events")?;
    let twice = number(
        "SELECT count(*) FROM (SELECT detail->>'labels' FROM audit_events WHERE action = 'join_token.create' GROUP BY 1 HAVING count(*) > 1) AS t",
    )?;
    let logged: BTreeSet<String> = sql(
        &url,
        "SELECT substring(detail->>'labels' FROM 'request=(.*)') FROM audit_events WHERE action = 'join_token.create'",
    )
    .lines()
    .map(str::to_owned)
    .collect();
    let lost = acknowledged.difference(&logged).count();
    eprintln!(
        "{rows} rows of {CLIENTS} clients x 2 servers in {took:.1?}, {kills} kills, {aborts} aborted transactions: \
         {:.0} appends/s, {} acknowledged, {lost} lost, {twice} twice, {holes} holes, {leaves} distinct leaves",
        f64::from(u32::try_from(size - before)?) / took.as_secs_f64(),
        acknowledged.len(),
    );
    ensure!(rows == size && holes == 0 && leaves == size && twice == 0 && lost == 0);
    ensure!(kills + aborts > 0, "nothing was killed");
    #[allow(clippy::disallowed_methods, reason = "the rate is printed")]
    let begun = std::time::Instant::now();
    let verified =
        servers[0].cli()?.with("DWCP_TOKEN_FILE", servers[0].admin_token_file()).json(&["audit", "verify"])?;
    eprintln!("verified {} in {:.2?}", verified["events"], begun.elapsed());
    ensure!(verified["ok"] == true, "{verified:#}");
    Ok(())
}
