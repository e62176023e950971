//! A channel of AMST as a [`Link`].

use std::sync::Arc;

use bytes::Bytes;
use dataplane_amst::{
    Channel, ControlError, ControlReceiver, ControlSender, PathUse, PieceReceiver, PieceSender, SendError, Session,
};
use futures::{FutureExt, future::BoxFuture};
use proto_model::{PathKind, TransferPathInfo};

use crate::link::{ControlIn, ControlOut, Link, LinkError, PiecesIn, PiecesOut};

impl Link {
    /// The channel, and the session that it is a part of, where that is known.
    #[must_use]
    pub fn of_channel(channel: Channel, session: Option<Session>) -> Self {
        Self::of_opened(channel, session, None)
    }

    /// The same, where a first frame was taken from the channel already.
    #[must_use]
    pub fn of_opened(channel: Channel, session: Option<Session>, first: Option<Bytes>) -> Self {
        let is_early = session.as_ref().is_some_and(Session::is_early);
        Self {
            is_early,
            peer: channel.peer,
            control_out: Box::new(Out(channel.control_tx)),
            control_in: Box::new(In { taken: first, rest: channel.control_rx }),
            pieces_out: Arc::new(PiecesTo(channel.pieces_tx)),
            pieces_in: Box::new(PiecesFrom(channel.pieces_rx)),
            path: Arc::new(move || session.as_ref().map(path_info)),
        }
    }
}

pub(crate) fn path_info(session: &Session) -> TransferPathInfo {
    let info = session.info();
    TransferPathInfo {
        lanes: u32::try_from(info.lanes).unwrap_or(u32::MAX),
        streams: u32::try_from(info.streams).unwrap_or(u32::MAX),
        congestion_algorithm: info.congestion_algorithm.to_owned(),
        path: PathKind::Direct,
        remote_address: Some(info.remote),
        rtt_ms: info.rtt.as_secs_f64() * 1000.0,
    }
}

struct Out(ControlSender);
struct In {
    taken: Option<Bytes>,
    rest: ControlReceiver,
}
struct PiecesTo(PieceSender);
struct PiecesFrom(PieceReceiver);

impl From<ControlError> for LinkError {
    fn from(error: ControlError) -> Self {
        // An abandoned channel is what a dying peer leaves: a new one may go on.
        let temporary = error.is_temporary() || error == ControlError::Abandoned;
        Self { message: error.to_string(), temporary }
    }
}

impl From<SendError> for LinkError {
    fn from(error: SendError) -> Self {
        let temporary = error.is_temporary() || error == SendError::NotWanted;
        Self { message: error.to_string(), temporary }
    }
}

impl ControlOut for Out {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, Result<(), LinkError>> {
        async move { Ok(self.0.send(frame).await?) }.boxed()
    }
}

impl ControlIn for In {
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>> {
        async move {
            match self.taken.take() {
                Some(first) => Ok(Some(first)),
                None => Ok(self.rest.recv().await?),
            }
        }
        .boxed()
    }
}

impl PiecesOut for PiecesTo {
    fn send(&self, number: u64, payload: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        async move { Ok(self.0.send(number, payload).await?) }.boxed()
    }

    fn path_use(&self) -> PathUse {
        self.0.path_use()
    }

    fn tell(&self, span: &tracing::Span) {
        self.0.tell(span);
    }
}

impl PiecesIn for PiecesFrom {
    fn recv(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        async move { self.0.recv().await.map(|piece| piece.payload) }.boxed()
    }
}
