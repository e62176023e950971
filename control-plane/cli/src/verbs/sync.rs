//! `dwcp sync`: standing syncs.

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use proto_rpc::v1::{
    CreateSyncRequest, DeleteSyncRequest, GetSyncRequest, ListSyncsRequest, ListSyncsResponse, PauseSyncRequest,
    ResumeSyncRequest, RunSyncRequest, Sync, SyncRun, SyncSpec, WatchSyncsRequest, WatchType, sync::State,
    sync_run::Result as RunResult,
};

use super::{once, request_id, resource, send, short};
use crate::{
    args::{Global, Sync as Verb, SyncCreate},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, fields, table},
    progress, units,
};

/// Issues that a person reads; the JSON has more.
const SHOWN_ISSUES: usize = 20;
/// Runs that a person reads.
const SHOWN_RUNS: usize = 5;

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Create(asked) => create(global, output, *asked).await?,
        Verb::List { filter } => {
            let all = all(&Connection::open(global)?, &filter).await?;
            let now = Clock::system().utc();
            output.list(&all, &all.syncs, |syncs| rows(syncs, now))?;
        }
        Verb::Get { sync } => {
            let sync = get(&Connection::open(global)?, &resource("syncs", &sync)).await?;
            output.message(&sync, details)?;
        }
        Verb::Watch { sync, timeout } => watch(global, output, sync, timeout).await?,
        Verb::Run { sync, overwrite, detach, timeout } => {
            return run_now(global, output, &sync, overwrite, (!detach).then_some(timeout)).await;
        }
        Verb::Pause { sync, reason } => {
            let connection = Connection::open(global)?;
            let (name, etag) = (resource("syncs", &sync), String::new());
            let request = PauseSyncRequest { name, reason, etag, request_id: request_id() };
            let sync = once(request, async |request| connection.syncs().pause_sync(request).await).await?;
            output.message(&sync, |sync| {
                format!("{} is paused\nNext: dwcp sync resume {}", sync.name, short(&sync.name))
            })?;
        }
        Verb::Resume { sync } => {
            let connection = Connection::open(global)?;
            let request =
                ResumeSyncRequest { name: resource("syncs", &sync), etag: String::new(), request_id: request_id() };
            let sync = once(request, async |request| connection.syncs().resume_sync(request).await).await?;
            output.message(&sync, |sync| {
                format!(
                    "{} goes on ({})\nNext: dwcp sync get {}",
                    sync.name,
                    state_name(sync.state()),
                    short(&sync.name)
                )
            })?;
        }
        Verb::Delete { sync, etag } => {
            let connection = Connection::open(global)?;
            let (name, validate_only) = (resource("syncs", &sync), false);
            let request = DeleteSyncRequest { name, etag, request_id: request_id(), validate_only };
            let sync = once(request, async |request| connection.syncs().delete_sync(request).await).await?;
            output.message(&sync, |sync| format!("{} is deleted; what was published stays", sync.name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(global: &Global, output: &Output, asked: SyncCreate) -> Result<(), Failure> {
    let destination = send::Destination::parse(&asked.destination)?;
    let (source_node, source_path) = match asked.from {
        Some(node) => (node, send::remote_path(&asked.source)?),
        None => {
            let (node, mut paths) = send::local_sources(global, std::slice::from_ref(&asked.source), true).await?;
            (node, paths.pop().unwrap_or_default())
        }
    };
    let spec = SyncSpec {
        source_node: resource("nodes", &source_node),
        source_path,
        destination_node: resource("nodes", &destination.node),
        destination_path: send::text(destination.path)?,
        every: Some(units::to_proto(asked.every)),
        exclude: asked.exclude,
        checksum: asked.checksum,
    };
    let connection = Connection::open(global)?;
    let request = CreateSyncRequest {
        sync_id: asked.name,
        spec: Some(spec),
        adopt: asked.adopt,
        request_id: request_id(),
        validate_only: asked.validate_only,
    };
    let sync = once(request, async |request| connection.syncs().create_sync(request).await).await?;
    if asked.validate_only {
        return output.message(&sync, |_| "√ the sync would be accepted; nothing was begun".to_owned());
    }
    output.talk(&format!("Next: dwcp sync get {0} · dwcp sync watch {0}", short(&sync.name)));
    output.message(&sync, |sync| sync.name.clone())
}

async fn get(connection: &Connection, name: &str) -> Result<Sync, Failure> {
    Ok(connection.syncs().get_sync(GetSyncRequest { name: name.to_owned() }).await?.into_inner())
}

/// All syncs, page by page.
pub(super) async fn all(connection: &Connection, filter: &str) -> Result<ListSyncsResponse, Failure> {
    let mut all = ListSyncsResponse::default();
    loop {
        let request = ListSyncsRequest { page_size: 1000, page_token: all.next_page_token, filter: filter.to_owned() };
        let page = connection.syncs().list_syncs(request).await?.into_inner();
        all.syncs.extend(page.syncs);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn watch(
    global: &Global,
    output: &Output,
    sync: Option<String>,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let connection = Connection::open(global)?;
    if let Some(name) = &sync {
        // An unknown one is an answer, not an empty stream.
        get(&connection, &resource("syncs", name)).await?;
    }
    let filter = sync.map(|name| format!("name={}", short(&name))).unwrap_or_default();
    let request = WatchSyncsRequest { filter, resume_token: String::new() };
    let mut stream = connection.syncs().watch_syncs(request).await?.into_inner();
    let clock = Clock::system();
    let events = async {
        while let Some(event) = stream.message().await? {
            if output.for_people() && event.sync.is_none() {
                continue;
            }
            output.event(&event, |event| {
                let sync = event.sync.clone().unwrap_or_default();
                let deleted = event.r#type() == WatchType::Deleted;
                let state = if deleted { "DELETED" } else { state_name(sync.state()) };
                format!(
                    "{} {} {state:<11} {}",
                    clock.utc().format("%H:%M:%S"),
                    short(&sync.name),
                    note(&sync, clock.utc())
                )
            })?;
        }
        Ok(())
    };
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, events).await.unwrap_or(Ok(())),
        None => events.await,
    }
}

/// Asks for a run; waits for its end, for so long, where that is wanted.
async fn run_now(
    global: &Global,
    output: &Output,
    sync: &str,
    overwrite: bool,
    wait: Option<Option<Duration>>,
) -> Result<ExitCode, Failure> {
    let connection = Connection::open(global)?;
    let name = resource("syncs", sync);
    let request = RunSyncRequest { name: name.clone(), overwrite, etag: String::new(), request_id: request_id() };
    let asked = once(request, async |request| connection.syncs().run_sync(request).await).await?;
    let Some(timeout) = wait else {
        output.talk(&format!("Next: dwcp sync get {}", short(&name)));
        output.message(&asked, |sync| sync.name.clone())?;
        return Ok(ExitCode::SUCCESS);
    };
    let ended = async {
        loop {
            let request = WatchSyncsRequest { filter: format!("name={}", short(&name)), resume_token: String::new() };
            let mut stream = connection.syncs().watch_syncs(request).await?.into_inner();
            // A stream that breaks off is opened anew.
            while let Ok(Some(event)) = stream.message().await {
                let Some(sync) = event.sync.filter(|sync| sync.uid == asked.uid) else { continue };
                if event.r#type == i32::from(WatchType::Deleted) || sync.state() == State::Ended {
                    return Err(Failure::failed(format!("{name} does not run any more")));
                }
                if sync.status.as_ref().is_some_and(|status| status.met_run_request >= asked.run_request) {
                    return Ok(sync);
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let sync = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, ended).await.unwrap_or_else(|_elapsed| {
            Err(Failure::new(Exit::TimedOut, "the run has not ended in time; it goes on")
                .hint(format!("dwcp sync get {}", short(&name))))
        })?,
        None => ended.await?,
    };
    output.message(&sync, |sync| last_run(sync).map(summary).unwrap_or_default())?;
    Ok(match last_run(&sync).map(SyncRun::result) {
        Some(RunResult::Succeeded) => ExitCode::SUCCESS,
        Some(RunResult::WithIssues) => ExitCode::from(Exit::InPart as u8),
        Some(RunResult::Failed | RunResult::Cancelled | RunResult::Unspecified) | None => {
            ExitCode::from(Exit::Failed as u8)
        }
    })
}

fn last_run(sync: &Sync) -> Option<&SyncRun> {
    sync.status.as_ref()?.last_run.as_ref()
}

/// What a run did, for people.
fn summary(run: &SyncRun) -> String {
    let progress = run.progress.unwrap_or_default();
    let took = units::between(run.start_time.as_ref(), run.end_time.as_ref()).unwrap_or_default();
    let error = run.error.clone().unwrap_or_default();
    let saved = progress::saved(&progress).map(|saved| format!(", {saved:.0}% saved")).unwrap_or_default();
    let mut text = format!(
        "run {}  {}  {} in {}, {} on the wire{saved}, {} deleted\n",
        run.number,
        result_name(run.result()),
        units::bytes(progress.bytes_done),
        units::duration(took),
        units::bytes(progress.bytes_sent),
        progress.files_deleted,
    );
    if !error.reason.is_empty() {
        text.push_str(&format!("{} {}\n", error.reason, error.message));
    }
    text.push_str(&issues(run));
    text
}

fn issues(run: &SyncRun) -> String {
    if run.issue_count == 0 {
        return String::new();
    }
    let mut text = format!("{} left out:\n", units::entries(run.issue_count));
    for issue in run.issues.iter().take(SHOWN_ISSUES) {
        text.push_str(&format!("  {}  {}: {}\n", issue.path, issue.reason, issue.message));
    }
    if run.issue_count > SHOWN_ISSUES as u64 {
        text.push_str("  … (more of them: -o json)\n");
    }
    text
}

fn rows(syncs: &[Sync], now: DateTime<Utc>) -> String {
    table(
        ["NAME", "STATE", "FROM", "TO", "EVERY", "RUN", "LAG", "CONFIG", "NOTE"],
        syncs.iter().map(|sync| {
            let status = sync.status.clone().unwrap_or_default();
            [
                short(&sync.name).to_owned(),
                state_name(sync.state()).to_owned(),
                from(sync),
                to(sync),
                duration(sync.spec.as_ref().and_then(|spec| spec.every.as_ref())),
                status.run.to_string(),
                duration(sync.lag.as_ref()),
                short(&sync.config).to_owned(),
                note(sync, now),
            ]
        }),
    )
}

/// What matters most of it in a few words.
fn note(sync: &Sync, now: DateTime<Utc>) -> String {
    let status = sync.status.clone().unwrap_or_default();
    if let Some(pause) = &sync.pause {
        return format!("by {} {}", pause.paused_by, pause.reason);
    }
    if let Some(error) = &status.error {
        return format!("{}: {}", error.reason, error.message);
    }
    match (&status.progress, last_run(sync)) {
        (Some(progress), _) if status.running => {
            format!("{} of {}", units::bytes(progress.bytes_done), units::bytes(progress.bytes_total))
        }
        (_, Some(SyncRun { error: Some(error), .. })) => format!("{}: {}", error.reason, error.message),
        (_, Some(run)) if run.issue_count > 0 => format!("{} left out", units::entries(run.issue_count)),
        _ => format!("last in step {}", units::relative(status.last_success_time.as_ref(), now)),
    }
}

fn details(sync: &Sync) -> String {
    let spec = sync.spec.clone().unwrap_or_default();
    let status = sync.status.clone().unwrap_or_default();
    let last = last_run(sync);
    let error = status.error.clone().or_else(|| last.and_then(|run| run.error.clone())).unwrap_or_default();
    let mut options: Vec<_> = spec.checksum.then(|| "--checksum".to_owned()).into_iter().collect();
    options.extend(spec.exclude.iter().map(|glob| format!("--exclude {glob}")));
    let ratio = match (status.bytes_encoded_in, status.bytes_sent) {
        (0, _) | (_, 0) => String::new(),
        (before, after) => format!(", {:.2} times smaller", float(before) / float(after)),
    };
    let pause = sync.pause.as_ref();
    let mut text = fields([
        ("name", sync.name.clone()),
        ("state", format!("{} {} {}", state_name(sync.state()), error.reason, error.message).trim().to_owned()),
        ("pause", pause.map(|pause| format!("by {} {}", pause.paused_by, pause.reason)).unwrap_or_default()),
        ("from", from(sync)),
        ("to", to(sync)),
        ("every", duration(spec.every.as_ref())),
        ("options", options.join(" ")),
        ("in step", units::time(status.last_success_time.as_ref())),
        ("lag", duration(sync.lag.as_ref())),
        ("next run", units::time(status.next_run_time.as_ref())),
        (
            "runs",
            format!(
                "{} in step, {} with issues, {} failed; {} looks found nothing changed",
                status.runs_succeeded, status.runs_with_issues, status.runs_failed, status.looks_unchanged
            ),
        ),
        (
            "bytes",
            format!(
                "{} of data, {} on the wire{ratio}",
                units::bytes(status.bytes_encoded_in),
                units::bytes(status.bytes_sent)
            ),
        ),
        ("by", sync.created_by.clone()),
        ("config", sync.config.clone()),
        ("accepted", units::time(sync.create_time.as_ref())),
        ("grant ends", units::time(sync.grant_expire_time.as_ref())),
    ]);
    let under_way = status.progress.filter(|_| status.running);
    if let Some(progress) = under_way {
        let (done, total) = (units::bytes(progress.bytes_done), units::bytes(progress.bytes_total));
        text.push_str(&format!("run {}  under way, {done} of {total}\n", status.run));
    }
    match last {
        Some(last) => text.push_str(&summary(last)),
        None => text.push_str("no run has ended yet\n"),
    }
    for run in status.runs.iter().skip(1).take(SHOWN_RUNS - 1) {
        text.push_str(&summary(&SyncRun { issue_count: 0, ..run.clone() }));
    }
    text
}

fn from(sync: &Sync) -> String {
    let spec = sync.spec.clone().unwrap_or_default();
    format!("{}:{}", short(&spec.source_node), spec.source_path)
}

fn to(sync: &Sync) -> String {
    let spec = sync.spec.clone().unwrap_or_default();
    format!("{}:{}", short(&spec.destination_node), spec.destination_path)
}

fn duration(duration: Option<&prost_types::Duration>) -> String {
    let duration = duration.and_then(|duration| Duration::try_from(*duration).ok());
    duration.map(units::duration).unwrap_or_default()
}

#[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNKNOWN",
        known => known.as_str_name(),
    }
}

fn result_name(result: RunResult) -> &'static str {
    match result {
        RunResult::Unspecified => "ended",
        RunResult::Succeeded => "in step",
        RunResult::WithIssues => "with issues",
        RunResult::Failed => "failed",
        RunResult::Cancelled => "cancelled",
    }
}
