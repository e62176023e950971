//! `dwcp config`: configuration of the fleet and of single nodes.

use std::{
    fs,
    io::{self, IsTerminal as _, Read},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use foundation_runtime::Clock;
use proto_model::printable;
use proto_rpc::v1::{
    Config, ConfigRevision, ConfigRollout, CreateConfigRequest, DiffConfigRevisionsRequest,
    DiffConfigRevisionsResponse, GetConfigRequest, GetConfigRevisionRequest, GetEffectiveConfigRequest,
    GetServerInfoRequest, ListConfigRevisionsRequest, ListConfigRevisionsResponse, ListConfigsRequest,
    ListConfigsResponse, RollbackConfigRequest, ServerLimit, UpdateConfigRequest, config_rollout::State,
    diff_config_revisions_request::Target,
};
use tonic::Code;

use super::{once, request_id, resource, short};
use crate::{
    args::{Config as Verb, Global},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, table},
    units,
};

mod validate;

/// A document above this is refused by the server; reading more of a wrong file is of no use.
const MAX_DOCUMENT_BYTES: u64 = 1024 * 1024;

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Validate { file, online } => validate::run(global, output, &file, online.as_deref()).await,
        Verb::Get { config, revision } => get(&Connection::open(global)?, output, config, revision).await.map(done),
        Verb::Set { config, file, message, etag, dry_run, no_wait, timeout } => {
            let connection = Connection::open(global)?;
            let document = read(&file)?;
            // What a pipe brings whose first program failed; it would take every value back.
            if document.trim().is_empty() {
                return Err(Failure::usage(format!("{} is empty", file.display()))
                    .hint("a document that sets nothing is written as {}"));
            }
            let write = Write { document, message, etag, dry_run };
            let written = set(&connection, output, &config, write).await?;
            if dry_run {
                output.message(&written, |_| "√ the document is good; nothing was written".to_owned())?;
                return Ok(ExitCode::SUCCESS);
            }
            rolled_out(&connection, output, written, (!no_wait).then_some(timeout)).await
        }
        Verb::Diff { config, file, from, to, exit_code } => {
            diff(&Connection::open(global)?, output, &config, Compare { file, from, to, exit_code }).await
        }
        Verb::History { config } => history(&Connection::open(global)?, output, &config).await.map(done),
        Verb::Rollback { config, revision, message, no_wait, timeout } => {
            let connection = Connection::open(global)?;
            let written = rollback(&connection, &config, revision, message).await?;
            rolled_out(&connection, output, written, (!no_wait).then_some(timeout)).await
        }
        Verb::Effective { control_plane: true, .. } => bounds(&Connection::open(global)?, output).await.map(done),
        Verb::Effective { node, show_origin, control_plane: false } => {
            effective(&Connection::open(global)?, output, node, show_origin).await.map(done)
        }
    }
}

async fn get(
    connection: &Connection,
    output: &Output,
    config: Option<String>,
    revision: Option<u64>,
) -> Result<(), Failure> {
    match (config, revision) {
        (None, _) => list(connection, output).await,
        (Some(config), None) => {
            let request = GetConfigRequest { name: resource("configs", &config) };
            let config = connection.configs().get_config(request).await?.into_inner();
            output.message(&config, |config| shown(&config.document))
        }
        (Some(config), Some(revision)) => {
            let name = format!("{}/revisions/{revision}", resource("configs", &config));
            let revision = connection.configs().get_config_revision(GetConfigRevisionRequest { name }).await?;
            output.message(&revision.into_inner(), |revision| shown(&revision.document))
        }
    }
}

/// A document as it was written, so that it can be written again; to a terminal what would steer it is escaped.
fn shown(document: &str) -> String {
    if io::stdout().is_terminal() { printable(document) } else { document.to_owned() }
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut all = ListConfigsResponse::default();
    loop {
        let request = ListConfigsRequest { page_size: 1000, page_token: all.next_page_token };
        let page = connection.configs().list_configs(request).await?.into_inner();
        all.configs.extend(page.configs);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    let now = Clock::system().utc();
    output.list(&all, &all.configs, |configs| {
        table(
            ["NAME", "REVISION", "ROLLOUT", "WRITTEN"],
            configs.iter().map(|config| {
                [
                    short(&config.name).to_owned(),
                    config.revision.to_string(),
                    state_name(config.rollout.as_ref()).to_owned(),
                    units::relative(config.update_time.as_ref(), now),
                ]
            }),
        )
    })
}

struct Write {
    document: String,
    message: String,
    etag: Option<String>,
    dry_run: bool,
}

/// Writes over what is present, or makes what is not.
async fn set(connection: &Connection, output: &Output, config: &str, write: Write) -> Result<Config, Failure> {
    let name = resource("configs", config);
    let present = match connection.configs().get_config(GetConfigRequest { name: name.clone() }).await {
        Ok(config) => Some(config.into_inner()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => return Err(status.into()),
    };
    let Write { document, message, etag, dry_run } = write;
    let written = match present {
        Some(present) => {
            let etag = etag.unwrap_or(present.etag);
            let request =
                UpdateConfigRequest { name, document, etag, message, request_id: request_id(), validate_only: dry_run };
            once(request, async |request| connection.configs().update_config(request).await).await?
        }
        None => {
            let config_id = short(&name).to_owned();
            let request =
                CreateConfigRequest { config_id, document, message, request_id: request_id(), validate_only: dry_run };
            once(request, async |request| connection.configs().create_config(request).await).await?
        }
    };
    for key in &written.not_in_force {
        output.talk(&format!("‼ {key} is known, but has no effect yet"));
    }
    Ok(written)
}

async fn rollback(
    connection: &Connection,
    config: &str,
    revision: Option<u64>,
    message: String,
) -> Result<Config, Failure> {
    let name = resource("configs", config);
    let present = connection.configs().get_config(GetConfigRequest { name: name.clone() }).await?.into_inner();
    let revision = match revision {
        Some(revision) => revision,
        None if present.revision > 1 => present.revision - 1,
        None => return Err(Failure::new(Exit::NotFound, format!("{name} has no revision before the present one"))),
    };
    let request = RollbackConfigRequest {
        name: format!("{name}/revisions/{revision}"),
        etag: present.etag,
        message,
        request_id: request_id(),
    };
    once(request, async |request| connection.configs().rollback_config(request).await).await
}

/// Waits for the agents' answers, where that is wanted, and shows them.
async fn rolled_out(
    connection: &Connection,
    output: &Output,
    written: Config,
    wait: Option<Duration>,
) -> Result<ExitCode, Failure> {
    /// A rollout of one stage ends within a second or so; a person does not notice this.
    const LOOK_AGAIN: Duration = Duration::from_millis(200);
    let name = written.name.clone();
    let revision = written.revision;
    let running = |config: &Config| config.rollout.as_ref().is_none_or(|rollout| rollout.state() == State::Running);
    let mut config = written;
    if let Some(wait) = wait {
        let clock = Clock::system();
        let deadline = clock.now() + wait;
        while running(&config) && config.revision == revision && clock.now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
            let request = GetConfigRequest { name: name.clone() };
            config = connection.configs().get_config(request).await?.into_inner();
        }
    }
    output.message(&config, rollout_lines)?;
    Ok(match config.rollout.as_ref().map(ConfigRollout::state) {
        Some(State::Failed) => ExitCode::from(Exit::InPart as u8),
        Some(State::Running) if wait.is_some() => ExitCode::from(Exit::TimedOut as u8),
        Some(State::Unspecified | State::Running | State::Succeeded | State::Superseded) | None => ExitCode::SUCCESS,
    })
}

fn rollout_lines(config: &Config) -> String {
    let rollout = config.rollout.clone().unwrap_or_default();
    let mut text = format!("{} is at revision {}: ", config.name, config.revision);
    text.push_str(&format!("{} applied", rollout.applied_nodes.len()));
    for (count, word) in [
        (rollout.rejections.len(), "rejected"),
        (rollout.pending_nodes.len(), "still to answer"),
        (rollout.offline_nodes.len(), "away (they get it when they return)"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text.push('\n');
    for rejection in &rollout.rejections {
        text.push_str(&format!("× {} keeps its last good configuration:\n", short(&rejection.node)));
        for error in &rejection.errors {
            text.push_str(&format!("    {error}\n"));
        }
    }
    text.push_str(&format!(
        "Next: dwcp config effective --show-origin · dwcp config rollback {}\n",
        short(&config.name)
    ));
    text
}

struct Compare {
    file: Option<std::path::PathBuf>,
    from: Option<u64>,
    to: Option<u64>,
    exit_code: bool,
}

async fn diff(connection: &Connection, output: &Output, config: &str, compare: Compare) -> Result<ExitCode, Failure> {
    let target = match (&compare.file, compare.to) {
        (Some(file), _) => Target::TargetDocument(read(file)?),
        (None, Some(revision)) => Target::TargetRevision(revision),
        (None, None) => return Err(Failure::usage("give a file, or --to REVISION")),
    };
    let request = DiffConfigRevisionsRequest {
        name: resource("configs", config),
        base_revision: compare.from.unwrap_or(0),
        target: Some(target),
    };
    let diff = connection.configs().diff_config_revisions(request).await?.into_inner();
    output.message(&diff, |diff| diff_lines(output, diff))?;
    if let (Some(file), false) = (&compare.file, diff.changes.is_empty()) {
        let etag = if diff.etag.is_empty() { String::new() } else { format!(" --etag {}", diff.etag) };
        output.talk(&format!("\nTo write it: dwcp config set {config} {}{etag}", file.display()));
    }
    let differs = compare.exit_code && !diff.changes.is_empty();
    Ok(if differs { ExitCode::from(Exit::Failed as u8) } else { ExitCode::SUCCESS })
}

fn diff_lines(output: &Output, diff: &DiffConfigRevisionsResponse) -> String {
    if diff.changes.is_empty() {
        return "no value differs\n".to_owned();
    }
    let mut text = String::new();
    for change in &diff.changes {
        let line = match (change.old_value.is_empty(), change.new_value.is_empty()) {
            (true, _) => output.paint("32", &format!("+   {}: {}", change.path, change.new_value)),
            (_, true) => output.paint("31", &format!("-   {}: {}", change.path, change.old_value)),
            _ => output.paint("33", &format!("+/- {}: {} => {}", change.path, change.old_value, change.new_value)),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

async fn history(connection: &Connection, output: &Output, config: &str) -> Result<(), Failure> {
    let mut all = ListConfigRevisionsResponse::default();
    loop {
        let request = ListConfigRevisionsRequest {
            parent: resource("configs", config),
            page_size: 1000,
            page_token: all.next_page_token,
        };
        let page = connection.configs().list_config_revisions(request).await?.into_inner();
        all.revisions.extend(page.revisions);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    output.list(&all, &all.revisions, |revisions: &[ConfigRevision]| {
        table(
            ["REVISION", "WRITTEN", "BY", "ROLLOUT", "MESSAGE"],
            revisions.iter().map(|revision| {
                [
                    revision.revision.to_string(),
                    units::time(revision.create_time.as_ref()),
                    revision.author.clone(),
                    state_name(revision.rollout.as_ref()).to_owned(),
                    revision.message.clone(),
                ]
            }),
        )
    })
}

async fn effective(
    connection: &Connection,
    output: &Output,
    node: Option<String>,
    show_origin: bool,
) -> Result<(), Failure> {
    let name = match node {
        Some(node) => format!("{}/effectiveConfig", resource("nodes", &node)),
        None => "configs/fleet".to_owned(),
    };
    let effective = connection.configs().get_effective_config(GetEffectiveConfigRequest { name }).await?.into_inner();
    output.message(&effective, |effective| {
        if !show_origin {
            return effective.document.clone();
        }
        table(
            ["KEY", "VALUE", "ORIGIN"],
            effective.values.iter().map(|value| {
                let place = if value.line == 0 { String::new() } else { format!(":{}:{}", value.line, value.column) };
                let force = if effective.not_in_force.contains(&value.path) { " (not in force)" } else { "" };
                [value.path.clone(), format!("{}{force}", value.value.trim_end()), format!("{}{place}", value.origin)]
            }),
        )
    })?;
    if !effective.applied_digest.is_empty() && effective.applied_digest != effective.digest {
        output.talk("‼ the node runs with another configuration; dwcp node get says why");
    }
    Ok(())
}

/// What bounds the control plane; in JSON all that it says of itself.
async fn bounds(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let info = connection.system().get_server_info(GetServerInfoRequest {}).await?.into_inner();
    output.message(&info, |info| {
        let set = |bound: &ServerLimit| if bound.value == bound.default { "" } else { "set" }.to_owned();
        table(
            ["NAME", "VALUE", "DEFAULT", "", "MEANING"],
            info.bounds.iter().map(|bound| {
                [bound.name.clone(), bound.value.clone(), bound.default.clone(), set(bound), bound.meaning.clone()]
            }),
        )
    })
}

/// A document from a file, or from standard input for `-`.
fn read(file: &Path) -> Result<String, Failure> {
    let fail = |error: io::Error| Failure::chain(format!("cannot read {}", file.display()), &error);
    let mut text = String::new();
    let source: Box<dyn Read> =
        if file == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(file).map_err(fail)?) };
    source.take(MAX_DOCUMENT_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Failure::usage(format!("{} is larger than 1 MiB", file.display())));
    }
    Ok(text)
}

fn state_name(rollout: Option<&ConfigRollout>) -> &'static str {
    match rollout.map(ConfigRollout::state) {
        None | Some(State::Unspecified) => "",
        Some(State::Running) => "RUNNING",
        Some(State::Succeeded) => "SUCCEEDED",
        Some(State::Failed) => "FAILED",
        Some(State::Superseded) => "SUPERSEDED",
    }
}
