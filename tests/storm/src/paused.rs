//! A server stands still while another goes on, again and again (R10).

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dataplane_control_client::{Endpoint, Enrolment, Rotation};
use foundation_runtime::{OnEnd, TaskGroup};
use proto_rpc::v1::{CreateConfigRequest, GetConfigRequest, ListConfigRevisionsRequest, UpdateConfigRequest};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tests_harness::{Api, Stopped, eventually, metric};
use tokio::time::timeout;
use tonic::Code;

use crate::{bed::Bed, member::Member};

const LIMIT: Duration = Duration::from_secs(120);
/// Agents.
const AGENTS: u16 = 12;
/// Operators at each server.
const WRITERS: u32 = 2;
/// An operator waits so long for an answer.
const CALL: Duration = Duration::from_secs(10);
/// Every so many rounds it stands still until the other has found it gone.
const LONG_EVERY: u32 = 10;
/// Writes of operators at the other server that are waited for while one stands still.
const WRITES_MEANWHILE: u32 = 2;

/// How long a server that goes on is given to try what it held.
const TRIES: Duration = Duration::from_secs(3);

/// In the order in which they were stored: which life of an agent has its node's place, and each change of what an agent says of itself.
const WITNESS: &str = "\
    CREATE TABLE storm_seen (number bigserial PRIMARY KEY, node uuid, holder text, life text); \
    CREATE FUNCTION storm_word() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO storm_seen (node, life) VALUES (NEW.uid, substring(encode(NEW.components, 'escape') FROM 'life [0-9]+')); \
        RETURN NULL; END $$; \
    CREATE TRIGGER storm_word AFTER UPDATE ON nodes FOR EACH ROW \
        WHEN (OLD.components IS DISTINCT FROM NEW.components) EXECUTE FUNCTION storm_word(); \
    CREATE FUNCTION storm_place() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO storm_seen (node, holder) VALUES (NEW.node, 'entered again'); RETURN NULL; END $$; \
    CREATE TRIGGER storm_place AFTER INSERT OR UPDATE ON node_sessions FOR EACH ROW EXECUTE FUNCTION storm_place(); \
    CREATE FUNCTION storm_hello() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO storm_seen (node, holder) VALUES (NEW.node, NEW.host_layer_origin); RETURN NULL; END $$; \
    CREATE TRIGGER storm_hello AFTER INSERT OR UPDATE OF host_layer_origin ON node_layers FOR EACH ROW EXECUTE FUNCTION storm_hello()";

/// What was stored of agents' words, and how many of them were of a life that did not have the node's place. A place that a heartbeat entered
/// again is anybody's.
const WORDS: &str = "\
    SELECT count(*), count(*) FILTER (WHERE held.holder NOT IN (said.life, 'entered again')) FROM storm_seen said, \
    LATERAL (SELECT holder FROM storm_seen before WHERE before.node = said.node AND before.number < said.number \
        AND holder IS NOT NULL ORDER BY number DESC LIMIT 1) held WHERE said.life IS NOT NULL";

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Paused {
    /// Times that a server stood still.
    pub rounds: u32,
    /// Of all that is random.
    pub seed: u64,
    /// Writes of operators that were acknowledged.
    pub acknowledged: usize,
    /// That were refused because another came first.
    pub refused: u32,
    /// Whose end is not known.
    pub unknown: u32,
    /// What a server wanted to write for agents that had gone over to the other, and could not.
    pub fenced: f64,
    /// What was stored of agents' words.
    pub words: u64,
    /// Of these, words of one who did not have the node's place.
    pub stale: u64,
    /// Revisions that were written over one that their writer had not seen, and acknowledged ones that are not there.
    pub lost: usize,
    /// Rollouts that ended more than once.
    pub twice: u64,
}

/// An agent that talks without pause, in one of its lives.
struct Talker {
    member: Arc<Member>,
    folder: PathBuf,
    life: u32,
    tasks: TaskGroup,
}

impl Talker {
    fn start(folder: &Path, life: u32, first: &Endpoint) -> Result<Self> {
        let mut enrolment = Enrolment::load(folder)?.context("it has joined")?;
        enrolment.endpoints =
            Rotation::new(std::iter::once(first.clone()).chain(enrolment.endpoints)).all().cloned().collect();
        enrolment.store(folder)?;
        let member = Arc::new(Member::start_as(folder, &format!("life {life}"))?);
        let (tasks, talking) = (TaskGroup::new("talker"), Arc::clone(&member));
        tasks.spawn("talk", OnEnd::Expected, async move {
            for number in 0_u64.. {
                talking.observe(&format!("life {life} word {number}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Self { member, folder: folder.to_path_buf(), life, tasks })
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.tasks.cancel();
        self.member.cut();
    }
}

/// What operators did.
#[derive(Debug, Default)]
struct Tally {
    /// By server.
    acknowledged: [AtomicU32; 2],
    refused: AtomicU32,
    unknown: AtomicU32,
    over: AtomicBool,
    /// Revisions, and who wrote them.
    written: std::sync::Mutex<Vec<(u64, String)>>,
}

/// An operator: looks, and writes on top of what it has seen.
async fn operate(api: Api, server: usize, name: String, tally: Arc<Tally>) {
    for number in 0_u64.. {
        if tally.over.load(SeqCst) {
            return;
        }
        let get = GetConfigRequest { name: "configs/fleet".to_owned() };
        let Ok(Ok(config)) = timeout(CALL, api.configs().get_config(get)).await else { continue };
        let config = config.into_inner();
        let who = format!("{name}-{number}");
        let document = format!("# after {} by {who}\ncompression:\n  level: {}\n", config.revision, number % 14 + 1);
        let update =
            UpdateConfigRequest { name: config.name, etag: config.etag, document, ..UpdateConfigRequest::default() };
        match timeout(CALL, api.configs().update_config(update)).await {
            Ok(Ok(written)) => {
                let written = (written.into_inner().revision, who);
                tally.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(written);
                tally.acknowledged[server].fetch_add(1, SeqCst);
            }
            Ok(Err(status)) if matches!(status.code(), Code::Aborted | Code::FailedPrecondition) => {
                tally.refused.fetch_add(1, SeqCst);
            }
            Ok(Err(_)) | Err(_) => {
                tally.unknown.fetch_add(1, SeqCst);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tries it so many times.
///
/// # Errors
/// Something does not begin, or does not come together again.
pub fn paused(rounds: u32, seed: u64) -> Result<Paused> {
    let bed = Bed::start(&[])?;
    let endpoints: Vec<Endpoint> = bed.servers.iter().map(|server| server.grpc().parse()).collect::<Result<_, _>>()?;
    let folders = bed.join(AGENTS, "agent")?;
    let first = CreateConfigRequest {
        config_id: "fleet".to_owned(),
        document: "# after 0 by nobody\n".to_owned(),
        ..CreateConfigRequest::default()
    };
    let api = bed.api(0)?;
    bed.runtime.block_on(async { api.configs().create_config(first).await })?;
    drop(bed.sql(WITNESS));
    let entered = bed.runtime.enter();
    let start = |(number, folder): (usize, &PathBuf)| Talker::start(folder, 1, &endpoints[number % 2]);
    let mut talkers = folders.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
    let (operators, tally) = (TaskGroup::new("operators"), Arc::new(Tally::default()));
    for server in 0..endpoints.len() {
        for number in 0..WRITERS {
            let (api, tally) = (bed.api(server)?, Arc::clone(&tally));
            operators.spawn("operator", OnEnd::Expected, operate(api, server, format!("{server}.{number}"), tally));
        }
    }
    let mut random = StdRng::seed_from_u64(seed);
    for round in 1..=rounds {
        one_round(&bed, &endpoints, &mut talkers, &tally, &mut random, round)
            .with_context(|| format!("round {round}, seed {seed}"))?;
    }
    tally.over.store(true, SeqCst);
    bed.runtime.block_on(operators.shutdown(CALL + CALL))?;
    drop(talkers);
    drop(entered);
    count(&bed, &tally, Paused { rounds, seed, ..Paused::default() })
}

#[allow(clippy::disallowed_methods, reason = "moments of a seed are in real time")]
fn one_round(
    bed: &Bed,
    endpoints: &[Endpoint],
    talkers: &mut [Talker],
    tally: &Tally,
    random: &mut StdRng,
    round: u32,
) -> Result<()> {
    eventually("every agent to have a session", LIMIT, || {
        Ok(talkers.iter().all(|talker| talker.member.stands()).then_some(()))
    })?;
    std::thread::sleep(Duration::from_millis(random.random_range(0..500)));
    let victim = random.random_range(0..endpoints.len());
    let (other, at) = (1 - victim, endpoints[victim].clone());
    let of_victim: Vec<_> =
        (0..talkers.len()).filter(|talker| talkers[*talker].member.stands_with().as_ref() == Some(&at)).collect();
    let raced = fenced(bed)?;
    let stopped = Stopped::process(bed.servers[victim].process())?;
    let before = tally.acknowledged[other].load(SeqCst);
    // Its agents come to the other server in a new life; the old one has said what the victim has not read yet, and says more.
    let mut old = Vec::new();
    for index in of_victim {
        let talker = &mut talkers[index];
        let new = Talker::start(&talker.folder, talker.life + 1, &endpoints[other])?;
        old.push(std::mem::replace(talker, new));
    }
    eventually("its agents to be with the other", LIMIT, || {
        Ok(talkers.iter().all(|talker| talker.member.stands()).then_some(()))
    })?;
    eventually("operators to write meanwhile", LIMIT, || {
        Ok((tally.acknowledged[other].load(SeqCst) >= before + WRITES_MEANWHILE).then_some(()))
    })?;
    if round.is_multiple_of(LONG_EVERY) {
        let address = endpoints[victim].to_string();
        let rows = "SELECT count(*) FROM servers WHERE heartbeat_time > now() - interval '20 s'";
        eventually(&format!("{address} to be gone"), LIMIT, || Ok((bed.sql(rows) == "1").then_some(())))?;
    }
    drop(stopped);
    // Those who never knew that it stood still go on to talk to it.
    let tried = eventually("it to try what it held", TRIES, || Ok((fenced(bed)? > raced).then_some(())));
    drop(old);
    // Not every moment makes a race; there must be some in all.
    tried.unwrap_or_default();
    let begun = tally.acknowledged[victim].load(SeqCst);
    eventually("operators to write at the one that goes on", LIMIT, || {
        Ok((tally.acknowledged[victim].load(SeqCst) > begun).then_some(()))
    })
}

fn fenced(bed: &Bed) -> Result<f64> {
    bed.servers.iter().map(|server| metric(&server.metrics(), "dwcp_fenced_writes_total")).sum()
}

fn count(bed: &Bed, tally: &Tally, mut found: Paused) -> Result<Paused> {
    (found.refused, found.unknown) = (tally.refused.load(SeqCst), tally.unknown.load(SeqCst));
    found.fenced = fenced(bed)?;
    let words = bed.sql(WORDS);
    let (stored, stale) = words.split_once('|').context("two numbers")?;
    (found.words, found.stale) = (stored.parse()?, stale.parse()?);
    let twice = "SELECT count(*) - count(DISTINCT resource) FROM audit_events WHERE action = 'rollout.end'";
    found.twice = bed.sql(twice).parse()?;
    let (api, mut page_token, mut there) = (bed.api(0)?, String::new(), BTreeSet::new());
    loop {
        let request = ListConfigRevisionsRequest { parent: "configs/fleet".to_owned(), page_size: 1000, page_token };
        let page = bed.runtime.block_on(async { api.configs().list_config_revisions(request).await })?.into_inner();
        for revision in page.revisions {
            let line = revision.document.lines().next().unwrap_or_default();
            let (after, who) =
                line.strip_prefix("# after ").and_then(|rest| rest.split_once(" by ")).context("a line")?;
            found.lost += usize::from(after.parse() != Ok(revision.revision - 1));
            there.insert((revision.revision, who.to_owned()));
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let written = tally.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.acknowledged = written.len();
    found.lost += written.iter().filter(|write| !there.contains(write)).count();
    Ok(found)
}

impl Paused {
    /// What must hold.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.stale == 0 && self.lost == 0 && self.twice == 0, "{self}");
        ensure!(self.fenced > 0.0, "no race took place: {self}");
        Ok(())
    }
}

impl fmt::Display for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds, seed {}: writes of operators {} acknowledged, {} refused because another came first, {} unknown, {} lost | words of \
             agents {} stored, {} fenced, {} stale ones accepted | rollouts that ended twice: {}",
            self.rounds,
            self.seed,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.lost,
            self.words,
            self.fenced,
            self.stale,
            self.twice
        )
    }
}
