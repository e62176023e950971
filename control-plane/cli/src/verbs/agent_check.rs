//! `dwcp check`: this host's agent, and the way from it to its peers.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use proto_rpc::{
    agent::{GetLocalStatusRequest, LocalStatus, PingNodeRequest},
    v1::{Check, CheckCategory, Node, node},
};

use super::{
    finding::{category, good, warn, wrong},
    local_check, node_check, short,
};
use crate::{
    args::Global,
    connection::{agent_socket, local_agent},
    failure::Failure,
    units,
};

/// Peers that are tried: enough to see a firewall, few enough to be quick.
const MAX_PEERS: usize = 16;
/// How long a way may take to be found.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent of this host, the kernel that it runs on, and the ways to peers that are connected.
pub(super) async fn local(global: &Global, nodes: &[Node]) -> Vec<CheckCategory> {
    const NAME: &str = "local-agent";
    let status = match local_agent(global).get_local_status(GetLocalStatusRequest {}).await {
        Ok(status) => status.into_inner(),
        Err(status) => {
            let failure = Failure::from(status);
            let hint = "is dwcp-agent running (systemctl status dwcp-agent), and are you in its socket's group?";
            // Its data directory may be all that is left of one that was taken away.
            let say = if global.agent_socket.is_some() || agent_socket(global).exists() { wrong } else { warn };
            return vec![category(NAME, vec![say("this host's agent answers", &failure.message, hint)])];
        }
    };
    let mut checks = vec![joined(&status), connected(&status), opened(&status)];
    checks.extend(node_check::storage("it", &status.components));
    checks.extend(node_check::content("it", &status.components));
    let log = status.components.iter().find(|part| part.component == "log_file" && !part.message.is_empty());
    checks.extend(log.map(|log| {
        warn("its log is written to its file", &log.message, "free the disk, or set logging.file to another one")
    }));
    let mut categories = vec![category(NAME, checks), category("kernel", local_check::kernel())];
    let ways = ways(global, &status, nodes).await;
    if !ways.is_empty() {
        categories.push(category("peers", ways));
    }
    categories
}

fn joined(status: &LocalStatus) -> Check {
    if status.name.is_empty() {
        return wrong("this host's agent has joined", "it has not", "dwcp token create, then dwcp-agent join …");
    }
    good(&format!("this host's agent has joined, as {}", status.name))
}

fn connected(status: &LocalStatus) -> Check {
    const DESCRIPTION: &str = "it has a session with the control plane";
    if status.connected {
        return good(DESCRIPTION);
    }
    let why = if status.trouble.is_empty() { "it has not tried yet" } else { &status.trouble };
    if why.contains("revoked this node") {
        // It says itself what to do.
        return wrong(DESCRIPTION, why, "if the host is to be in the fleet: a new token, and a new data directory");
    }
    let error = format!("{why}; it works on its last good configuration");
    warn(
        DESCRIPTION,
        &error,
        "mend what it says (is 7442/tcp open?); the agent tries again by itself, every 15 s at most",
    )
}

fn opened(status: &LocalStatus) -> Check {
    const DESCRIPTION: &str = "it has a root that can be written";
    let hint = "sudo deploy/install agent --root NAME=DIR, or start it with --root NAME=DIR";
    if status.roots.is_empty() {
        return warn("it has a root", "nothing can be read or written", hint);
    }
    if status.roots.iter().all(|root| root.ends_with(":ro")) {
        return warn(DESCRIPTION, &format!("it can send and not receive ({})", status.roots.join(", ")), hint);
    }
    good(&format!("{DESCRIPTION} ({})", status.roots.join(", ")))
}

/// A round trip over QUIC to each peer that should answer.
async fn ways(global: &Global, status: &LocalStatus, nodes: &[Node]) -> Vec<Check> {
    let should_answer =
        |node: &&Node| node.uid != status.uid && matches!(node.state(), node::State::Ready | node::State::Degraded);
    let peers = nodes.iter().filter(should_answer).take(MAX_PEERS);
    stream::iter(peers.map(|node| way(global, node))).buffered(MAX_PEERS).collect().await
}

async fn way(global: &Global, node: &Node) -> Check {
    let name = short(&node.name);
    let description = format!("UDP reaches {name}");
    let request = PingNodeRequest { node: name.to_owned(), count: 1 };
    let mut agent = local_agent(global);
    let error = match tokio::time::timeout(PATIENCE, agent.ping_node(request)).await {
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            let rtt = Duration::from_micros(answer.rtt_us.first().copied().unwrap_or_default());
            return good(&format!("{description} ({} in {})", answer.remote_address, units::duration(rtt)));
        }
        Ok(Err(status)) => Failure::from(status).message,
        Err(_elapsed) => "no answer".to_owned(),
    };
    let addresses =
        if node.quic_addresses.is_empty() { "none known".to_owned() } else { node.quic_addresses.join(", ") };
    if error.contains("member of the fleet") {
        let hint =
            format!("see what local-agent says; where this host is in the fleet, {name} learns it within seconds");
        return warn(&description, &error, &hint);
    }
    let hint = format!(
        "open UDP in both firewalls, here and at {name} ({addresses}); behind a NAT forward its port and give {name} --advertise IP:PORT; \
         {name} may still send to this host"
    );
    warn(&description, &error, &hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_can_only_send_is_said() {
        let status = |roots: &[&str]| LocalStatus {
            roots: roots.iter().map(|root| (*root).to_owned()).collect(),
            ..LocalStatus::default()
        };
        assert_eq!(opened(&status(&["data", "old:ro"])).result, "success");
        assert_eq!(opened(&status(&["old:ro"])).result, "warning");
        assert_eq!(opened(&status(&[])).result, "warning");
    }
}
