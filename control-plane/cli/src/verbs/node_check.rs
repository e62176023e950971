//! `dwcp check`: the nodes of the fleet, as the control plane knows them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use proto_rpc::v1::{Check, CheckCategory, ComponentHealth, Node, applied_config, node};

use super::{
    clock_skew,
    finding::{category, good, warn, wrong},
    short,
};
use crate::units;

/// A certificate lives 90 days and is renewed when 60 are left: with fewer, renewal has failed for some time.
const RENEWED_ABOVE_DAYS: i64 = 30;
/// Then the node is cut off from its peers soon.
const LAST_DAYS: i64 = 7;

/// All of them.
pub(super) fn nodes(nodes: &[Node], server_version: &str, now: DateTime<Utc>) -> CheckCategory {
    let present: Vec<_> = nodes.iter().filter(|node| node.state() != node::State::Revoked).collect();
    let mut checks = Vec::new();
    if present.is_empty() {
        checks.push(warn("hosts have joined", "none has yet", "dwcp token create"));
    }
    for node in present {
        checks.push(state(node, now));
        checks.extend(skew(node));
        checks.extend(certificate(node, now));
        checks.extend(version(node, server_version));
        checks.extend(writable_root(node));
        checks.extend(storage(short(&node.name), &node.components));
        checks.extend(content(short(&node.name), &node.components));
    }
    category("nodes", checks)
}

fn state(node: &Node, now: DateTime<Utc>) -> Check {
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
        node::State::Offline => warn(
            &description,
            &match units::relative(node.last_seen_time.as_ref(), now) {
                since if since.is_empty() => "it never was connected".to_owned(),
                since => format!("it is not connected; last heard of {since}"),
            },
            &format!("on {name}: systemctl status dwcp-agent, and does it reach the control plane (7442/tcp)?"),
        ),
        node::State::Unspecified | node::State::Revoked => {
            warn(&description, "its state is unknown", &format!("dwcp node get {name}"))
        }
    }
}

fn skew(node: &Node) -> Option<Check> {
    let skew = Duration::from_millis(node.clock_skew_ms.unsigned_abs());
    (skew > clock_skew::NOTED)
        .then(|| clock_skew::check(&format!("{}'s clock agrees with the control plane's", short(&node.name)), skew))
}

fn certificate(node: &Node, now: DateTime<Utc>) -> Option<Check> {
    let name = short(&node.name);
    let description = format!("{name}'s certificate is renewed in time");
    let hint = format!("on {name}: is the agent running and connected? It renews by itself, also an expired one");
    match (node.certificate_expire_time.as_ref().and_then(units::utc)? - now).num_days() {
        days @ ..0 => Some(wrong(&description, &format!("it ended {} days ago", -days), &hint)),
        days @ 0..LAST_DAYS => Some(wrong(&description, &format!("it ends in {days} days"), &hint)),
        days @ LAST_DAYS..RENEWED_ABOVE_DAYS => Some(warn(&description, &format!("it ends in {days} days"), &hint)),
        RENEWED_ABOVE_DAYS.. => None,
    }
}

fn version(node: &Node, server: &str) -> Option<Check> {
    let (name, theirs) = (short(&node.name), &node.agent_version);
    (!theirs.is_empty() && theirs != server).then(|| {
        warn(
            &format!("{name} runs the control plane's version"),
            &format!("it runs {theirs}, the control plane {server}"),
            &format!("on {name}, with the newer programs: sudo deploy/install agent (the control plane first)"),
        )
    })
}

/// A relay needs none, and a host that only sends is one that somebody may have wanted.
fn writable_root(node: &Node) -> Option<Check> {
    let name = short(&node.name);
    let writable = node.roots.iter().any(|root| !root.ends_with(":ro"));
    let known = node.state() != node::State::Offline;
    (known && !writable && !node.relay).then(|| {
        let error = if node.roots.is_empty() { "it has no root" } else { "its roots are all read-only" };
        let hint = format!("on {name}: sudo deploy/install agent --root NAME=DIR");
        warn(&format!("{name} can receive"), &format!("{error}: nothing can be written there"), &hint)
    })
}

/// Room and rights below a host's roots, of which it says something also while it can still work.
pub(super) fn storage(name: &str, components: &[ComponentHealth]) -> Option<Check> {
    let storage = components.iter().find(|part| part.component == "storage" && !part.message.is_empty())?;
    let hint = if storage.message.contains("written") || storage.message.contains("read-only") {
        "give its user the right (chgrp dwcp DIR; chmod g+rwx DIR), and name the root by `sudo deploy/install agent --root NAME=DIR`"
    } else if storage.message.contains("exist") {
        "make the folder, mount what belongs there, or take the root out of /etc/dwcp/agent.yaml"
    } else {
        "free some, or set storage.reserve lower"
    };
    Some(warn(&format!("{name} has room and rights below its roots"), &storage.message, hint))
}

/// A host's content store, without which transfers go on and cost more.
pub(super) fn content(name: &str, components: &[ComponentHealth]) -> Option<Check> {
    let content = components.iter().find(|part| part.component == "content_store" && !part.message.is_empty())?;
    let hint = if content.message.contains("damaged") {
        "look at the disk (smartctl, dmesg), then remove what is set aside; dwcp-agent content verify reads all of it"
    } else {
        "its log says more; removing the folder content in its data directory does no harm"
    };
    Some(warn(&format!("{name} keeps versions that deltas can refer to"), &content.message, hint))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proto_rpc::v1::AppliedConfig;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn timestamp(days: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: (NOW + TimeDelta::days(days)).timestamp(), nanos: 0 })
    }

    fn healthy() -> Node {
        Node {
            name: "nodes/site-a".to_owned(),
            state: node::State::Ready.into(),
            agent_version: "0.1.0".to_owned(),
            roots: vec!["data".to_owned()],
            certificate_expire_time: timestamp(80),
            last_seen_time: timestamp(0),
            ..Node::default()
        }
    }

    /// The one thing that is found, with its fix.
    fn found(node: Node) -> (String, String, String) {
        let checks = nodes(&[node], "0.1.0", NOW).checks;
        let mut bad = checks.into_iter().filter(|check| check.result != "success");
        let one = bad.next().expect("something is found");
        assert_eq!(bad.next(), None, "and nothing else");
        assert!(!one.hint.is_empty(), "{} has a fix", one.error);
        (one.result, one.error, one.hint)
    }

    #[test]
    fn a_healthy_node_is_one_line() {
        let checks = nodes(&[healthy()], "0.1.0", NOW).checks;
        assert!(checks.len() == 1 && checks[0].result == "success", "{checks:?}");
    }

    #[test]
    fn each_trouble_of_a_node_is_named_with_its_fix() {
        let offline = Node { state: node::State::Offline.into(), last_seen_time: timestamp(-2), ..healthy() };
        assert!(
            found(offline).1.contains("last heard of 2d"),
            "{}",
            found(Node { state: node::State::Offline.into(), last_seen_time: timestamp(-2), ..healthy() }).1
        );
        let rejected = AppliedConfig {
            status: applied_config::Status::Rejected.into(),
            errors: vec!["transport: no".to_owned()],
            ..AppliedConfig::default()
        };
        assert!(found(Node { applied_config: Some(rejected), ..healthy() }).1.contains("transport: no"));
        assert_eq!(found(Node { clock_skew_ms: -400_000, ..healthy() }).0, "error");
        assert_eq!(found(Node { certificate_expire_time: timestamp(20), ..healthy() }).1, "it ends in 20 days");
        assert_eq!(found(Node { certificate_expire_time: timestamp(-3), ..healthy() }).0, "error");
        assert!(found(Node { agent_version: "0.0.9".to_owned(), ..healthy() }).1.contains("0.0.9"));
        assert!(found(Node { roots: vec!["data:ro".to_owned()], ..healthy() }).2.contains("--root"));
        let content = ComponentHealth {
            component: "content_store".to_owned(),
            message: "1 damaged objects were set aside".to_owned(),
            ..ComponentHealth::default()
        };
        let (_, _, hint) = found(Node { components: vec![content], ..healthy() });
        assert!(hint.contains("dwcp-agent content verify"), "{hint}");
        for (message, fix) in [
            ("root data: /srv/x does not exist", "mount"),
            ("root data: /srv/x is read-only for the agent", "chgrp"),
            ("root data: /srv/x is nearly full: 1.0 GiB of 100.0 GiB are free", "free some"),
        ] {
            let storage = ComponentHealth {
                component: "storage".to_owned(),
                message: message.to_owned(),
                ..ComponentHealth::default()
            };
            let (_, error, hint) = found(Node { components: vec![storage], ..healthy() });
            assert_eq!(error, message);
            assert!(hint.contains(fix), "{hint}");
        }
    }
}
