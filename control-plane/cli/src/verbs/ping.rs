//! `dwcp ping`: the way from this host's agent to a node.

use std::io::ErrorKind;

use proto_rpc::agent::PingNodeRequest;

use crate::{
    args::{Global, Ping},
    connection::{agent_socket, local_agent},
    failure::{Exit, Failure},
    output::Output,
};

pub(super) async fn run(global: &Global, output: &Output, ping: Ping) -> Result<(), Failure> {
    let request = PingNodeRequest { node: ping.node.clone(), count: ping.count };
    let answer = local_agent(global).ping_node(request).await.map_err(|status| no_agent(global, status))?.into_inner();
    if answer.rtt_us.is_empty() {
        return Err(Failure::new(Exit::TimedOut, format!("{} did not answer", ping.node)));
    }
    output.message(&answer, |answer| {
        let mut text = String::new();
        for rtt in &answer.rtt_us {
            text.push_str(&format!(
                "pong from {} ({}) {} in {}\n",
                ping.node,
                answer.remote_address,
                answer.path,
                ms(*rtt)
            ));
        }
        text
    })
}

/// What to say where the local agent cannot be asked.
pub(super) fn no_agent(global: &Global, status: tonic::Status) -> Failure {
    let unreachable = status.code() == tonic::Code::Unavailable || status.code() == tonic::Code::Unknown;
    let failure = Failure::from(status);
    if !unreachable || failure.reason.is_some() {
        return failure;
    }
    let socket = agent_socket(global);
    if socket.exists() && failure.message.contains("onnection refused") {
        let message = format!("the agent of this host does not answer at {}", socket.display());
        return Failure::new(Exit::Temporary, message).hint("is dwcp-agent running?");
    }
    if failure.message.contains("ermission denied")
        || matches!(socket.try_exists(), Err(error) if error.kind() == ErrorKind::PermissionDenied)
    {
        let message = format!(
            "permission denied: {} is for root, the agent's user and the members of its group",
            socket.display()
        );
        return Failure::new(Exit::Refused, message).hint("sudo deploy/install agent --member USER, then log in again");
    }
    if !socket.exists() {
        return Failure::failed(format!("no agent listens at {}", socket.display()))
            .hint("give --agent-socket DIR/agent.sock, or name the sending node by --from");
    }
    Failure { hint: None, ..failure }
}

fn ms(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}
