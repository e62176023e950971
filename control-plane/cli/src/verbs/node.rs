//! `dwcp node`: hosts of the fleet.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use proto_rpc::v1::{
    AppliedConfig, DeleteNodeRequest, FreeNodeNameRequest, GetNodeRequest, ListNodesRequest, ListNodesResponse, Node,
    UpdateNodeRequest, WatchNodesRequest, WatchType, applied_config, node,
};

use super::{labels, once, request_id, resource, short};
use crate::{
    args::{Global, Node as Verb},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, fields, table},
    units,
};

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<(), Failure> {
    let connection = Connection::open(global)?;
    match verb {
        Verb::List { filter } => list(&connection, output, filter).await,
        Verb::Get { node } => get(&connection, output, &node).await,
        Verb::Set { node, labels, removed, relay } => {
            set(&connection, output, &node, Change { labels, removed, relay }).await
        }
        Verb::Watch { filter } => watch(&connection, output, filter).await,
        Verb::Delete { node, yes } => delete(&connection, output, &node, yes).await,
        Verb::Free { node } => free(&connection, output, &node).await,
    }
}

/// All nodes, page by page.
pub(super) async fn all(connection: &Connection, filter: &str) -> Result<ListNodesResponse, Failure> {
    let mut all = ListNodesResponse::default();
    loop {
        let request = ListNodesRequest { page_size: 1000, page_token: all.next_page_token, filter: filter.to_owned() };
        let page = connection.nodes().list_nodes(request).await?.into_inner();
        all.nodes.extend(page.nodes);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn list(connection: &Connection, output: &Output, filter: String) -> Result<(), Failure> {
    let response = all(connection, &filter).await?;
    let now = Clock::system().utc();
    output.list(&response, &response.nodes, |nodes| rows(nodes, now))?;
    if response.nodes.is_empty() && filter.is_empty() {
        output.talk("no nodes yet; next: dwcp token create");
    }
    Ok(())
}

async fn get(connection: &Connection, output: &Output, name: &str) -> Result<(), Failure> {
    let node = connection.nodes().get_node(GetNodeRequest { name: resource("nodes", name) }).await?.into_inner();
    output.message(&node, |node| details(node, Clock::system().utc()))
}

struct Change {
    labels: Vec<(String, String)>,
    removed: Vec<String>,
    relay: Option<bool>,
}

async fn set(connection: &Connection, output: &Output, name: &str, change: Change) -> Result<(), Failure> {
    if change.labels.is_empty() && change.removed.is_empty() && change.relay.is_none() {
        return Err(Failure::usage("nothing to change: give --label, --remove-label or --relay"));
    }
    let mut node = connection.nodes().get_node(GetNodeRequest { name: resource("nodes", name) }).await?.into_inner();
    let mut paths = Vec::new();
    if !change.labels.is_empty() || !change.removed.is_empty() {
        paths.push("labels".to_owned());
        node.labels.extend(change.labels);
        for key in change.removed {
            node.labels.remove(&key);
        }
    }
    if let Some(relay) = change.relay {
        paths.push("relay".to_owned());
        node.relay = relay;
    }
    let request = UpdateNodeRequest {
        node: Some(node),
        update_mask: Some(prost_types::FieldMask { paths }),
        request_id: request_id(),
        validate_only: false,
    };
    let node = once(request, async |request| connection.nodes().update_node(request).await).await?;
    output.message(&node, |node| details(node, Clock::system().utc()))
}

async fn watch(connection: &Connection, output: &Output, filter: String) -> Result<(), Failure> {
    let request = WatchNodesRequest { filter, resume_token: String::new() };
    let mut stream = connection.nodes().watch_nodes(request).await?.into_inner();
    let clock = Clock::system();
    while let Some(event) = stream.message().await? {
        let kind = event.r#type();
        if output.for_people() && event.node.is_none() {
            continue;
        }
        output.event(&event, |event| {
            let node = event.node.clone().unwrap_or_default();
            let time = clock.utc().format("%H:%M:%S");
            let applied = applied(node.applied_config.as_ref());
            format!("{time} {:<8} {:<24} {:<9} {applied}", kind_name(kind), short(&node.name), state(&node))
        })?;
    }
    Ok(())
}

async fn delete(connection: &Connection, output: &Output, name: &str, yes: bool) -> Result<(), Failure> {
    let name = resource("nodes", name);
    if !yes && !confirmed(&name)? {
        return Err(Failure::new(Exit::Refused, "not confirmed; nothing was changed"));
    }
    let request =
        DeleteNodeRequest { name: name.clone(), etag: String::new(), request_id: request_id(), validate_only: false };
    once(request, async |request| connection.nodes().delete_node(request).await).await?;
    output.talk(&format!(
        "√ {name} is revoked and cut off; its name stays reserved\nNext: dwcp token create --node {} to let a rebuilt \
         host take its place, or dwcp node free {} to let any host have its name",
        short(&name),
        short(&name)
    ));
    Ok(())
}

async fn free(connection: &Connection, output: &Output, name: &str) -> Result<(), Failure> {
    let name = resource("nodes", name);
    let request = FreeNodeNameRequest { name: name.clone(), request_id: request_id(), validate_only: false };
    connection.nodes().free_node_name(request).await?;
    output.talk(&format!(
        "√ the name {0} is free\nA configuration node.{0}, where there is one, counts for the next host of this name: dwcp config get node.{0}",
        short(&name)
    ));
    Ok(())
}

fn confirmed(name: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("deleting {name} needs --yes where nobody can be asked")));
    }
    let fail = |error: io::Error| Failure::chain("cannot ask", &error);
    write!(io::stderr(), "Revoke {name}? It is cut off at once and for good. Type its name: ").map_err(fail)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(fail)?;
    Ok(answer.trim() == short(name) || answer.trim() == name)
}

fn rows(nodes: &[Node], now: DateTime<Utc>) -> String {
    table(
        ["NAME", "STATE", "CONFIG", "RELAY", "VERSION", "ROOTS", "SEEN", "LABELS"],
        nodes.iter().map(|node| {
            [
                short(&node.name).to_owned(),
                state(node).to_owned(),
                applied(node.applied_config.as_ref()),
                if node.relay { "yes" } else { "-" }.to_owned(),
                node.agent_version.clone(),
                node.roots.join(","),
                units::relative(node.last_seen_time.as_ref(), now),
                labels(&node.labels),
            ]
        }),
    )
}

fn details(node: &Node, now: DateTime<Utc>) -> String {
    let components: Vec<_> = node
        .components
        .iter()
        .map(|part| format!("{} {} {}", part.component, part.status, part.message).trim_end().to_owned())
        .collect();
    let errors = node.applied_config.as_ref().map(|applied| applied.errors.join("\n")).unwrap_or_default();
    fields([
        ("name", node.name.clone()),
        ("state", format!("{} {}", state(node), node.state_reason).trim_end().to_owned()),
        ("uid", node.uid.clone()),
        ("node id", node.node_id.clone()),
        ("labels", labels(&node.labels)),
        ("may relay", if node.relay { "yes" } else { "no" }.to_owned()),
        ("version", node.agent_version.clone()),
        ("system", node.os.clone()),
        ("roots", node.roots.join("\n")),
        ("quic", node.quic_addresses.join("\n")),
        ("dht", node.dht_addresses.join("\n")),
        ("config", applied(node.applied_config.as_ref())),
        ("rejected", errors),
        ("components", components.join("\n")),
        ("clock", format!("{} ms ahead of the control plane", node.clock_skew_ms)),
        ("joined", units::time(node.create_time.as_ref())),
        ("seen", units::relative(node.last_seen_time.as_ref(), now)),
        ("certificate", format!("ends {}", units::relative(node.certificate_expire_time.as_ref(), now))),
    ])
}

fn state(node: &Node) -> &'static str {
    match node.state() {
        node::State::Unspecified => "UNKNOWN",
        node::State::Ready => "READY",
        node::State::Degraded => "DEGRADED",
        node::State::Offline => "OFFLINE",
        node::State::Revoked => "REVOKED",
    }
}

fn applied(applied: Option<&AppliedConfig>) -> String {
    let Some(applied) = applied else { return "-".to_owned() };
    let status = match applied.status() {
        applied_config::Status::Unspecified => "-",
        applied_config::Status::Applied => "APPLIED",
        applied_config::Status::Rejected => "REJECTED",
        applied_config::Status::Pending => "PENDING",
    };
    if applied.generation == 0 { status.to_owned() } else { format!("{status} (generation {})", applied.generation) }
}

fn kind_name(kind: WatchType) -> &'static str {
    match kind {
        WatchType::Unspecified => "",
        WatchType::Added => "added",
        WatchType::Modified => "changed",
        WatchType::Deleted => "deleted",
        WatchType::Synced => "synced",
        WatchType::Bookmark => "bookmark",
    }
}
