//! `dwcp check`: is everything as it should be, and if not, what to do.

use std::{process::ExitCode, time::Duration};

use foundation_runtime::Clock;
use proto_rpc::{
    agent::{GetLocalStatusRequest, LocalStatus},
    v1::{
        Check as RpcCheck, CheckCategory, GetServerInfoRequest, Node, RunChecksRequest, RunChecksResponse, ServerInfo,
        applied_config, node,
    },
};

use super::{
    finding::{category, good, warn, wrong},
    local_check,
    node::all as all_nodes,
    short,
};
use crate::{
    args::{Check, Global},
    connection::{Connection, agent_socket, local_agent},
    failure::{Exit, Failure},
    output::Output,
    units,
};

/// D4: so much skew is tolerated; more than a tenth of it is worth a word.
const SKEW_TOLERATED: Duration = Duration::from_secs(300);
const SKEW_NOTED: Duration = Duration::from_secs(30);

pub(super) async fn run(global: &Global, output: &Output, check: Check) -> Result<ExitCode, Failure> {
    /// How often `--wait` looks again.
    const LOOK_AGAIN: Duration = Duration::from_secs(1);
    let clock = Clock::system();
    let deadline = clock.now() + check.wait.unwrap_or_default();
    loop {
        let categories = if check.pre { local_check::host() } else { fleet(global, &clock).await };
        let success = !has(&categories, "error");
        let well = success && (check.wait.is_none() || !has(&categories, "warning"));
        if well || clock.now() >= deadline {
            let report = RunChecksResponse { success, categories };
            output.message(&report, |report| lines(output, report, check.short))?;
            return Ok(if success { ExitCode::SUCCESS } else { ExitCode::from(Exit::CheckFound as u8) });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn has(categories: &[CheckCategory], result: &str) -> bool {
    categories.iter().flat_map(|category| &category.checks).any(|check| check.result == result)
}

async fn fleet(global: &Global, clock: &Clock) -> Vec<CheckCategory> {
    let mut categories = Vec::new();
    match Connection::open(global) {
        Ok(connection) => control_plane(&connection, clock, &mut categories).await,
        Err(failure) => categories.push(category(
            "control-plane",
            vec![wrong("a control plane is named", &failure.message, failure.hint.as_deref().unwrap_or_default())],
        )),
    }
    if agent_socket(global).exists() {
        categories.push(local(global).await);
    }
    categories
}

async fn control_plane(connection: &Connection, clock: &Clock, categories: &mut Vec<CheckCategory>) {
    const REACHED: &str = "the control plane answers";
    let before = clock.now();
    let info = match connection.system().get_server_info(GetServerInfoRequest {}).await {
        Ok(info) => info.into_inner(),
        Err(status) => {
            let failure = Failure::from(status);
            let error = format!("{}: {}", connection.endpoint, failure.message);
            let hint = failure.hint.unwrap_or_default();
            categories.push(category("control-plane", vec![wrong(REACHED, &error, &hint)]));
            return;
        }
    };
    let took = clock.now().duration_since(before);
    categories.push(category("dwcp-cli", vec![version(&info)]));
    let reached = good(&format!("{REACHED} ({}, {} in {})", connection.endpoint, info.caller, units::duration(took)));
    categories.push(category("control-plane", vec![reached, skew(&info, clock)]));
    match connection.system().run_checks(RunChecksRequest {}).await {
        Ok(answer) => merge(categories, answer.into_inner().categories),
        Err(status) => {
            let failure = Failure::from(status);
            let hint = failure.hint.as_deref().unwrap_or_default();
            categories.push(category("server", vec![wrong("the server checks itself", &failure.message, hint)]));
        }
    }
    match all_nodes(connection, "").await {
        Ok(response) => categories.push(nodes(&response.nodes)),
        Err(failure) => categories.push(category("nodes", vec![wrong("nodes can be listed", &failure.message, "")])),
    }
}

/// Categories of the same name become one.
fn merge(categories: &mut Vec<CheckCategory>, more: Vec<CheckCategory>) {
    for new in more {
        match categories.iter_mut().find(|category| category.category_name == new.category_name) {
            Some(category) => category.checks.extend(new.checks),
            None => categories.push(new),
        }
    }
}

fn version(info: &ServerInfo) -> RpcCheck {
    const DESCRIPTION: &str = "the command line and the control plane are of one version";
    let ours = env!("CARGO_PKG_VERSION");
    if info.version == ours {
        return good(&format!("{DESCRIPTION} ({ours})"));
    }
    warn(
        DESCRIPTION,
        &format!("this is {ours}, the control plane {}", info.version),
        "install the same version of both",
    )
}

fn skew(info: &ServerInfo, clock: &Clock) -> RpcCheck {
    const DESCRIPTION: &str = "this host's clock agrees with the control plane's";
    let Some(server) = info.server_time.as_ref().and_then(units::utc) else {
        return warn(DESCRIPTION, "the control plane does not say its time", "");
    };
    let skew = (clock.utc() - server).abs().to_std().unwrap_or_default();
    skew_check(DESCRIPTION, skew)
}

fn skew_check(description: &str, skew: Duration) -> RpcCheck {
    const HINT: &str = "keep clocks in step, for example with systemd-timesyncd or chrony";
    let error = format!("it is {} off", units::duration(skew));
    if skew > SKEW_TOLERATED {
        wrong(description, &error, HINT)
    } else if skew > SKEW_NOTED {
        warn(description, &error, HINT)
    } else {
        good(description)
    }
}

fn nodes(nodes: &[Node]) -> CheckCategory {
    let present: Vec<_> = nodes.iter().filter(|node| node.state() != node::State::Revoked).collect();
    let mut checks = Vec::new();
    if present.is_empty() {
        checks.push(warn("hosts have joined", "none has yet", "dwcp token create"));
    }
    for node in present {
        checks.push(node_check(node));
        let skew = Duration::from_millis(node.clock_skew_ms.unsigned_abs());
        if skew > SKEW_NOTED {
            checks.push(skew_check(&format!("{}'s clock agrees with the control plane's", short(&node.name)), skew));
        }
    }
    category("nodes", checks)
}

fn node_check(node: &Node) -> RpcCheck {
    let name = short(&node.name);
    let description = format!("{name} is connected and does what it should");
    let applied = node.applied_config.clone().unwrap_or_default();
    if applied.status() == applied_config::Status::Rejected {
        let hint = format!("dwcp config effective {name} --show-origin");
        return wrong(&description, &format!("it rejected its configuration: {}", applied.errors.join("; ")), &hint);
    }
    match node.state() {
        node::State::Ready => good(&description),
        node::State::Degraded => warn(&description, &node.state_reason, &format!("dwcp node get {name}")),
        node::State::Offline => {
            warn(&description, "it is not connected", "is the agent running, and can it reach the control plane?")
        }
        node::State::Unspecified | node::State::Revoked => {
            warn(&description, "its state is unknown", &format!("dwcp node get {name}"))
        }
    }
}

async fn local(global: &Global) -> CheckCategory {
    const NAME: &str = "local-agent";
    let status = match local_agent(global).get_local_status(GetLocalStatusRequest {}).await {
        Ok(status) => status.into_inner(),
        Err(status) => {
            let error = Failure::from(status).message;
            return category(NAME, vec![wrong("this host's agent answers", &error, "is dwcp-agent running?")]);
        }
    };
    category(NAME, vec![joined(&status), connected(&status), opened(&status)])
}

fn joined(status: &LocalStatus) -> RpcCheck {
    if status.name.is_empty() {
        return wrong("this host's agent has joined", "it has not", "dwcp token create, then dwcp-agent join …");
    }
    good(&format!("this host's agent has joined, as {}", status.name))
}

fn connected(status: &LocalStatus) -> RpcCheck {
    const DESCRIPTION: &str = "it has a session with the control plane";
    if status.connected {
        return good(DESCRIPTION);
    }
    let why = if status.trouble.is_empty() { "it has not tried yet" } else { &status.trouble };
    let error = format!("{why}; it works on its last good configuration");
    warn(DESCRIPTION, &error, "mend what it says; the agent tries again by itself, every 15 s at most")
}

fn opened(status: &LocalStatus) -> RpcCheck {
    const DESCRIPTION: &str = "it has a root";
    if status.roots.is_empty() {
        return warn(DESCRIPTION, "nothing can be read or written", "start it with --root NAME=DIR");
    }
    good(&format!("{DESCRIPTION} ({})", status.roots.join(", ")))
}

fn lines(output: &Output, report: &RunChecksResponse, short: bool) -> String {
    let mut text = String::new();
    for category in &report.categories {
        let shown: Vec<_> = category.checks.iter().filter(|check| !short || check.result != "success").collect();
        if shown.is_empty() {
            continue;
        }
        let name = &category.category_name;
        text.push_str(&format!("{name}\n{}\n", "-".repeat(name.chars().count())));
        for check in shown {
            let mark = mark(output, &check.result);
            text.push_str(&format!("{mark} {}\n", check.description));
            if !check.error.is_empty() {
                text.push_str(&format!("    {}\n", check.error));
            }
            if !check.hint.is_empty() {
                text.push_str(&format!("    fix: {}\n", check.hint));
            }
        }
        text.push('\n');
    }
    let result = if report.success { "success" } else { "error" };
    text.push_str(&format!("Status check results are {}\n", mark(output, result)));
    text
}

fn mark(output: &Output, result: &str) -> String {
    match result {
        "success" => output.paint("32", "√"),
        "warning" => output.paint("33", "‼"),
        _ => output.paint("31", "×"),
    }
}
