//! `dwcp check`: is everything as it should be, and if not, what to do.

use std::{path::Path, process::ExitCode, time::Duration};

use foundation_runtime::Clock;
use proto_rpc::v1::{
    Check as RpcCheck, CheckCategory, GetServerInfoRequest, Node, RunChecksRequest, RunChecksResponse, ServerInfo,
};

use super::{
    agent_check, clock_skew,
    finding::{category, good, warn, wrong},
    local_check,
    node::all as all_nodes,
    node_check,
};
use crate::{
    args::{Check, Global},
    connection::{Connection, agent_socket},
    failure::{Exit, Failure},
    output::Output,
    units,
};

pub(super) async fn run(global: &Global, output: &Output, check: Check) -> Result<ExitCode, Failure> {
    /// How often `--wait` looks again.
    const LOOK_AGAIN: Duration = Duration::from_secs(1);
    let clock = Clock::system();
    let deadline = clock.now() + check.wait.unwrap_or_default();
    loop {
        let categories = if check.pre { local_check::host() } else { fleet(global, &clock).await };
        let success = !has(&categories, "error");
        let well = success && (check.wait.is_none() || !may_change(&categories));
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

/// Whether a warning may go away by itself: nobody makes a backup while this waits.
fn may_change(categories: &[CheckCategory]) -> bool {
    let checks =
        categories.iter().filter(|category| category.category_name != "backup").flat_map(|category| &category.checks);
    checks.into_iter().any(|check| check.result == "warning")
}

async fn fleet(global: &Global, clock: &Clock) -> Vec<CheckCategory> {
    let mut categories = Vec::new();
    let nodes = match Connection::open(global) {
        Ok(connection) => control_plane(&connection, clock, &mut categories).await,
        Err(failure) => {
            let hint = failure.hint.as_deref().unwrap_or_default();
            categories.push(category("control-plane", vec![wrong("a control plane is named", &failure.message, hint)]));
            Vec::new()
        }
    };
    let socket = agent_socket(global);
    // A stopped agent takes its socket along, and leaves its data directory.
    if socket.exists() || global.agent_socket.is_some() || socket.parent().is_some_and(Path::exists) {
        categories.extend(agent_check::local(global, &nodes).await);
    }
    categories
}

/// What the control plane says of itself and of its nodes, which are returned.
async fn control_plane(connection: &Connection, clock: &Clock, categories: &mut Vec<CheckCategory>) -> Vec<Node> {
    const REACHED: &str = "the control plane answers";
    let before = clock.now();
    let info = match connection.system().get_server_info(GetServerInfoRequest {}).await {
        Ok(info) => info.into_inner(),
        Err(status) => {
            let failure = Failure::from(status);
            let error = format!("{}: {}", connection.endpoint, failure.message);
            let hint = failure.hint.unwrap_or_default();
            categories.push(category("control-plane", vec![wrong(REACHED, &error, &hint)]));
            return Vec::new();
        }
    };
    let took = clock.now().duration_since(before);
    categories.push(category("dwcp-cli", vec![version(&info)]));
    let reached = good(&format!("{REACHED} ({}, {} in {})", connection.endpoint, info.caller, units::duration(took)));
    categories.push(category("control-plane", vec![reached, clock_skew::ours(&info, clock)]));
    match connection.system().run_checks(RunChecksRequest {}).await {
        Ok(answer) => merge(categories, answer.into_inner().categories),
        Err(status) => {
            let failure = Failure::from(status);
            let hint = failure.hint.as_deref().unwrap_or_default();
            categories.push(category("server", vec![wrong("the server checks itself", &failure.message, hint)]));
        }
    }
    match all_nodes(connection, "").await {
        Ok(response) => {
            categories.push(node_check::nodes(&response.nodes, &info.version, clock.utc()));
            response.nodes
        }
        Err(failure) => {
            categories.push(category("nodes", vec![wrong("nodes can be listed", &failure.message, "")]));
            Vec::new()
        }
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
