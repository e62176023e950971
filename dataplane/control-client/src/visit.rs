//! A short session of a host that joins: shows that its certificate opens one, and where the DHT's ring is.

use std::{net::SocketAddr, time::Duration};

use foundation_runtime::Clock;
use proto_model::{HostFacts, to_timestamp};
use proto_rpc::agent::{self as rpc, agent_message::Message, agent_service_client::AgentServiceClient};
use rustls::ClientConfig;
use tokio::{
    sync::mpsc,
    time::{error::Elapsed, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    dial::dial,
    endpoint::Endpoint,
    incoming::{Incoming, Welcome},
    session::{chain, explain},
};

/// Until the Welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// The ring is said right after the Welcome; where there is none, nothing comes.
const RING: Duration = Duration::from_secs(2);

/// What was learnt.
#[derive(Debug)]
pub struct Visit {
    /// For further calls as this node.
    pub channel: Channel,
    /// The DHT's ring; empty where the control plane has none.
    pub ring: Vec<SocketAddr>,
    /// How far this host's clock is ahead of the control plane's.
    pub skew_ms: Option<i64>,
    /// The address that this host has there.
    pub observed_address: Option<SocketAddr>,
}

/// Opens a session, looks around, and leaves.
///
/// # Errors
/// No session opens; a sentence for people.
pub async fn visit(endpoint: &Endpoint, tls: &ClientConfig, facts: HostFacts, clock: &Clock) -> Result<Visit, String> {
    let channel = dial(endpoint, tls).await.map_err(|error| chain(&error))?;
    let (send, queue) = mpsc::channel(1);
    let hello =
        rpc::Hello { facts: Some(facts.into()), time: Some(to_timestamp(clock.utc())), ..rpc::Hello::default() };
    let hello = rpc::AgentMessage { message: Some(Message::Hello(hello)) };
    send.send(hello).await.map_err(|_closed| "the session could not begin".to_owned())?;
    let asked = clock.utc();
    let (mut receive, welcome) = timeout(WELCOME, open(channel.clone(), queue))
        .await
        .map_err(|_elapsed| "no Welcome within 10 s".to_owned())?
        .map_err(|status| explain(&status))?;
    let half_way = asked + (clock.utc() - asked) / 2;
    let ring = timeout(RING, ring(&mut receive)).await.unwrap_or_else(|_: Elapsed| Vec::new());
    drop(send);
    Ok(Visit {
        channel,
        ring,
        skew_ms: welcome.time.map(|time| (half_way - time).num_milliseconds()),
        observed_address: welcome.observed_address,
    })
}

async fn open(
    channel: Channel,
    queue: mpsc::Receiver<rpc::AgentMessage>,
) -> Result<(Streaming<rpc::ServerMessage>, Welcome), Status> {
    let mut receive = AgentServiceClient::new(channel).session(ReceiverStream::new(queue)).await?.into_inner();
    while let Some(message) = receive.message().await? {
        if let Ok(Incoming::Welcome(welcome)) = Incoming::try_from(message) {
            return Ok((receive, *welcome));
        }
    }
    Err(Status::unavailable("it was closed at once"))
}

async fn ring(receive: &mut Streaming<rpc::ServerMessage>) -> Vec<SocketAddr> {
    while let Ok(Some(message)) = receive.message().await {
        if let Ok(Incoming::Ring(nodes)) = Incoming::try_from(message) {
            return nodes;
        }
    }
    Vec::new()
}
