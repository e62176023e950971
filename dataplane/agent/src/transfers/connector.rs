//! From a peer's key to a link with it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use dataplane_amst::{Channel, DialError, Endpoint, OpenChannelError, Session};
use dataplane_transfer::{Connector, Link, LinkError};
use futures::future::BoxFuture;
use proto_model::PublicKey;

use super::Peers;
use crate::turns::{Turn, Turns};

/// Opens channels in AMST sessions; a session that stands is used without asking for addresses.
pub(crate) struct AmstConnector {
    endpoint: Endpoint,
    peers: Arc<dyn Peers>,
}

impl AmstConnector {
    pub(crate) fn new(endpoint: Endpoint, peers: Arc<dyn Peers>) -> Self {
        Self { endpoint, peers }
    }

    async fn open(&self, peer: PublicKey) -> Result<Link, LinkError> {
        if let Some(session) = self.endpoint.present_session(&peer)
            && let Ok(channel) = opened(&session).await
        {
            return Ok(Link::of_channel(channel, Some(session)));
        }
        let session = self.dialled(peer).await?;
        let channel = opened(&session)
            .await
            .map_err(|error| LinkError { message: described(&error), temporary: error.is_temporary() })?;
        Ok(Link::of_channel(channel, Some(session)))
    }

    /// A session with the peer: the one that stands, or a new one.
    pub(crate) async fn session(&self, peer: PublicKey) -> Result<Session, LinkError> {
        match self.endpoint.present_session(&peer) {
            Some(session) => Ok(session),
            None => self.dialled(peer).await,
        }
    }

    async fn dialled(&self, peer: PublicKey) -> Result<Session, LinkError> {
        let addresses = self.peers.addresses(peer).await;
        if addresses.is_empty() {
            let message =
                format!("no address of {} is known, neither by the DHT nor by the control plane", peer.node_id());
            return Err(LinkError { message, temporary: true });
        }
        let dialled = self.dial(peer, &addresses).await;
        dialled.map_err(|error| LinkError { message: described(&error), temporary: error.is_temporary() })
    }

    /// Dials; where nobody answers at what was remembered, once more at what is known now.
    async fn dial(&self, peer: PublicKey, addresses: &[SocketAddr]) -> Result<Session, DialError> {
        let refused = match self.endpoint.session(peer, addresses).await {
            Err(error) if error.is_temporary() && !matches!(error, DialError::Shutdown) => error,
            dialled => return dialled,
        };
        let newer = self.peers.newer_addresses(peer).await;
        if newer.is_empty() || newer == addresses {
            return Err(refused);
        }
        tracing::info!(peer = %peer.node_id(), reason = %refused, "Failed to connect; newer addresses are tried");
        self.endpoint.session(peer, &newer).await
    }
}

impl Connector for AmstConnector {
    fn connect(&self, peer: PublicKey) -> BoxFuture<'_, Result<Link, LinkError>> {
        Box::pin(self.open(peer))
    }
}

/// Opens links for one transfer, each with a place among those that send at once: a transfer that waits to go on has none, so
/// that it holds up no other.
pub(super) struct InTurn {
    connector: Arc<dyn Connector>,
    sending: Turns,
    /// The place that it begins with; none where it is held at first.
    first: Mutex<Option<Turn>>,
}

impl InTurn {
    pub(super) fn new(connector: Arc<dyn Connector>, sending: Turns, first: Option<Turn>) -> Self {
        Self { connector, sending, first: Mutex::new(first) }
    }

    /// Another transfer may have the place that it begins with, where it has not begun.
    pub(super) fn give_back(&self) {
        drop(self.first.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    async fn open(&self, peer: PublicKey) -> Result<Link, LinkError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let place = match first {
            Some(place) => place,
            None => self
                .sending
                .next()
                .await
                .ok_or_else(|| LinkError { message: "this agent sends nothing more".to_owned(), temporary: true })?,
        };
        let mut link = self.connector.connect(peer).await?;
        let path = Arc::clone(&link.path);
        // Kept as long as the link is.
        link.path = Arc::new(move || {
            let _held = &place;
            path()
        });
        Ok(link)
    }
}

impl Connector for InTurn {
    fn connect(&self, peer: PublicKey) -> BoxFuture<'_, Result<Link, LinkError>> {
        Box::pin(self.open(peer))
    }
}

/// A channel; where the other end takes it so, its answer is not waited for.
async fn opened(session: &Session) -> Result<Channel, OpenChannelError> {
    if session.is_early() { session.open_channel_early().await } else { session.open_channel().await }
}

/// An error with what caused it, in one line.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
