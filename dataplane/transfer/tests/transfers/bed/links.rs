//! Links in memory, and what they do to what they carry.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use dataplane_transfer::{Connector, ControlIn, ControlOut, Link, LinkError, PiecesIn, PiecesOut, Received, Transfers};
use foundation_runtime::{OnEnd, TaskGroup};
use futures::{FutureExt, future::BoxFuture};
use proto_model::PublicKey;
use proto_wire::{
    frames::SenderFrame,
    piece::{Header, PieceKind},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::Host;

/// Gives the far end of a link to whoever plays the receiver.
pub(crate) struct Caught {
    from: PublicKey,
    links: mpsc::Sender<Link>,
}

impl Caught {
    pub(crate) fn new(from: PublicKey) -> (Arc<Self>, mpsc::Receiver<Link>) {
        let (links, caught) = mpsc::channel(16);
        (Arc::new(Self { from, links }), caught)
    }
}

impl Connector for Caught {
    fn connect(&self, peer: PublicKey) -> BoxFuture<'_, Result<Link, LinkError>> {
        let (ours, theirs, _) = pair(self.from, peer, Faults::default());
        async move {
            drop(self.links.send(theirs).await);
            Ok(ours)
        }
        .boxed()
    }
}

/// What a link does to what it carries.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Done when the first page of the manifest goes over the link: after the walk, before anything is read.
    pub(crate) on_page: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Done when this piece goes over the link: while a file is read.
    pub(crate) on_piece: Option<(usize, Arc<dyn Fn() + Send + Sync>)>,
    /// Pieces of segments are held from this one on, until the link is closed.
    pub(crate) hold_from: Option<usize>,
    /// The link dies after so many pieces.
    pub(crate) cut_after: Option<usize>,
    /// Pieces overtake each other, drawn by this seed.
    pub(crate) shuffle: Option<u64>,
    /// A bit of this piece flips.
    pub(crate) spoil: Option<usize>,
    /// One in so many frames and pieces, in both directions, is changed, cut short, doubled or told again, drawn by the seed.
    pub(crate) mangle: Option<Arc<Mangle>>,
    /// The receiver's program takes nothing before it has consented.
    pub(crate) waits_for_consent: bool,
}

/// Draws what becomes of frames.
pub(crate) struct Mangle {
    state: Mutex<u64>,
    one_in: u64,
    told: Mutex<Vec<Bytes>>,
}

impl Mangle {
    pub(crate) fn new(seed: u64, one_in: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            one_in,
            told: Mutex::default(),
        })
    }

    fn dice(&self, sides: usize) -> usize {
        let mut state = self.state.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*state >> 33).unwrap() % sides.max(1)
    }

    /// What is sent instead of it; always something, since a reliable link loses nothing.
    fn of(&self, frame: &Bytes) -> Vec<Bytes> {
        if self.dice(usize::try_from(self.one_in).unwrap()) > 0 {
            let mut told = self.told.lock().unwrap();
            if told.len() < 64 {
                told.push(frame.clone());
            }
            return vec![frame.clone()];
        }
        let mut bytes = frame.to_vec();
        let at = self.dice(bytes.len());
        match self.dice(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, u8::try_from(self.dice(256)).unwrap()),
            2 => return vec![frame.clone(), frame.clone()],
            3 => {
                return [Some(frame.clone()), self.told.lock().unwrap().last().cloned()]
                    .into_iter()
                    .flatten()
                    .collect();
            }
            _ if bytes.is_empty() => {}
            _ => bytes[at] ^= 1 << self.dice(8),
        }
        vec![bytes.into()]
    }
}

/// Makes links to B, and counts what goes over them.
pub(crate) struct Wires {
    to: Transfers,
    tasks: TaskGroup,
    from: PublicKey,
    faults: Mutex<VecDeque<Faults>>,
    /// Bytes of the pieces of each link.
    links: Mutex<Vec<Arc<AtomicU64>>>,
    received: Arc<Mutex<Vec<Received>>>,
    done: Arc<Notify>,
}

impl Wires {
    pub(crate) fn new(to: &Host, from: PublicKey, faults: Vec<Faults>) -> Self {
        Self {
            to: to.transfers.clone(),
            tasks: to.tasks.clone(),
            from,
            faults: Mutex::new(faults.into()),
            links: Mutex::default(),
            received: Arc::default(),
            done: Arc::default(),
        }
    }

    /// Bytes of pieces and of what stands for dictionaries, link by link.
    pub(crate) fn bytes(&self) -> Vec<u64> {
        self.links.lock().unwrap().iter().map(|bytes| bytes.load(SeqCst)).collect()
    }

    /// How each link ended at B, once all have.
    pub(crate) async fn received(&self) -> Vec<Received> {
        loop {
            let rung = self.done.notified();
            let received = self.received.lock().unwrap().clone();
            if received.len() == self.links.lock().unwrap().len() {
                return received;
            }
            rung.await;
        }
    }
}

impl Connector for Wires {
    fn connect(&self, peer: PublicKey) -> BoxFuture<'_, Result<Link, LinkError>> {
        let faults = self.faults.lock().unwrap().pop_front().unwrap_or_default();
        let (ours, theirs, bytes) = pair(self.from, peer, faults);
        self.links.lock().unwrap().push(bytes);
        let (to, received, done) = (self.to.clone(), Arc::clone(&self.received), Arc::clone(&self.done));
        self.tasks.spawn("receive", OnEnd::Expected, async move {
            let outcome = Box::pin(to.receive(theirs, |_reports| {})).await;
            received.lock().unwrap().push(outcome);
            done.notify_one();
        });
        async move { Ok(ours) }.boxed()
    }
}

struct Shared {
    dead: CancellationToken,
    faults: Faults,
    carried: AtomicUsize,
    bytes: Arc<AtomicU64>,
}

/// Two ends of a link; `a` and `b` are who stands there.
pub(crate) fn pair(a: PublicKey, b: PublicKey, faults: Faults) -> (Link, Link, Arc<AtomicU64>) {
    let shared = Arc::new(Shared {
        dead: CancellationToken::new(),
        faults,
        carried: AtomicUsize::new(0),
        bytes: Arc::default(),
    });
    let (a_to_b, from_a) = mpsc::channel(4);
    let (b_to_a, from_b) = mpsc::channel(4);
    let (pieces, from_pieces) = mpsc::channel(16);
    let (back, from_back) = mpsc::channel(16);
    let end = |peer, out, control_in, pieces_out, pieces_in| Link {
        peer,
        control_out: Box::new(Out(out, Arc::clone(&shared))),
        control_in: Box::new(In(control_in, Arc::clone(&shared))),
        pieces_out: Arc::new(PiecesTo(pieces_out, Arc::clone(&shared))),
        pieces_in: Box::new(PiecesFrom {
            from: pieces_in,
            held: Vec::new(),
            state: shared.faults.shuffle,
            shared: Arc::clone(&shared),
        }),
        path: Arc::new(|| None),
        is_early: !shared.faults.waits_for_consent,
    };
    let bytes = Arc::clone(&shared.bytes);
    (end(b, a_to_b, from_b, pieces, from_back), end(a, b_to_a, from_a, back, from_pieces), bytes)
}

fn dead() -> LinkError {
    LinkError { message: "the link is cut".into(), temporary: true }
}

struct Out(mpsc::Sender<Bytes>, Arc<Shared>);
struct In(mpsc::Receiver<Bytes>, Arc<Shared>);
struct PiecesTo(mpsc::Sender<Bytes>, Arc<Shared>);
struct PiecesFrom {
    from: mpsc::Receiver<Bytes>,
    held: Vec<Bytes>,
    state: Option<u64>,
    shared: Arc<Shared>,
}

impl ControlOut for Out {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, Result<(), LinkError>> {
        if let (Some(act), Ok(SenderFrame::Page(_))) = (&self.1.faults.on_page, SenderFrame::decode(frame)) {
            act();
        }
        if let Ok(SenderFrame::Dictionaries(_) | SenderFrame::Dictionary(_)) = SenderFrame::decode(frame) {
            self.1.bytes.fetch_add(u64::try_from(frame.len()).unwrap(), SeqCst);
        }
        let frame = Bytes::copy_from_slice(frame);
        async move {
            let frames = self.1.faults.mangle.as_ref().map_or_else(|| vec![frame.clone()], |mangle| mangle.of(&frame));
            for frame in frames {
                tokio::select! {
                    () = self.1.dead.cancelled() => return Err(dead()),
                    sent = self.0.send(frame) => sent.map_err(|_closed| dead())?,
                }
            }
            Ok(())
        }
        .boxed()
    }
}

impl ControlIn for In {
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>> {
        async move {
            tokio::select! {
                () = self.1.dead.cancelled() => Err(dead()),
                frame = self.0.recv() => Ok(frame),
            }
        }
        .boxed()
    }
}

impl PiecesOut for PiecesTo {
    fn send(&self, _number: u64, payload: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        async move {
            let shared = &self.1;
            let is_segment = Header::parse(&payload).is_ok_and(|(header, _)| header.kind == PieceKind::Segment);
            let place = tokio::select! {
                () = shared.dead.cancelled() => return Err(dead()),
                place = self.0.reserve() => place.map_err(|_closed| dead())?,
            };
            // Numbered when it has its place: what waits for one is not yet on the link, so that no crowd slips past a hold.
            let number = shared.carried.fetch_add(1, SeqCst);
            if is_segment && shared.faults.hold_from.is_some_and(|hold| number >= hold) {
                drop(place);
                shared.dead.cancelled().await;
                return Err(dead());
            }
            if let Some((_, act)) = shared.faults.on_piece.as_ref().filter(|(at, _)| *at == number) {
                act();
            }
            if shared.faults.cut_after.is_some_and(|cut| number >= cut) {
                shared.dead.cancel();
                return Err(dead());
            }
            let mut payload = payload.to_vec();
            if shared.faults.spoil == Some(number) {
                let at = payload.len() - 1;
                payload[at] ^= 1;
            }
            shared.bytes.fetch_add(u64::try_from(payload.len()).unwrap(), SeqCst);
            let payload = Bytes::from(payload);
            let mut pieces =
                shared.faults.mangle.as_ref().map_or_else(|| vec![payload.clone()], |mangle| mangle.of(&payload));
            place.send(pieces.remove(0));
            for piece in pieces {
                self.0.send(piece).await.map_err(|_closed| dead())?;
            }
            Ok(())
        }
        .boxed()
    }
}

impl PiecesIn for PiecesFrom {
    fn recv(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        async move {
            let Some(state) = &mut self.state else {
                return tokio::select! {
                    () = self.shared.dead.cancelled() => None,
                    piece = self.from.recv() => piece,
                };
            };
            // What is there is held back, and drawn from.
            while let Ok(piece) = self.from.try_recv() {
                self.held.push(piece);
            }
            if self.held.is_empty() {
                let piece = tokio::select! {
                    () = self.shared.dead.cancelled() => None,
                    piece = self.from.recv() => piece,
                };
                self.held.push(piece?);
            }
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(*state >> 33).unwrap() % self.held.len();
            Some(self.held.swap_remove(at))
        }
        .boxed()
    }
}
