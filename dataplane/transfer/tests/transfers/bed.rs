//! Two hosts of a fleet, trees to send, and links in memory between them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::TimeDelta;
use dataplane_content::{
    Baselines, ContentStore, Limits, Place, References,
    policy::{Copying, Policy},
};
use dataplane_identity::{Identity, testing::TestFleet};
use dataplane_local_store::LocalStore;
use dataplane_transfer::{
    Connector, ControlIn, ControlOut, Link, LinkError, Options, PiecesIn, PiecesOut, Received, Roots, SendAuthority,
    SendJob, Sent, Settings, Transfers,
};
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use futures::{FutureExt, future::BoxFuture};
use proto_model::{
    ByteCount, Grant, GrantParty, PublicKey, TransferId, TransferOptions, TransferReport, TransferRole,
    config::{AcceptRule, Root},
};
use proto_wire::{
    Signed,
    frames::SenderFrame,
    grant,
    piece::{Header, PieceKind},
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes; only a test that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Host {
    _dir: tempfile::TempDir,
    pub(crate) identity: Identity,
    pub(crate) root: PathBuf,
    pub(crate) outside: PathBuf,
    pub(crate) transfers: Transfers,
    pub(crate) tasks: TaskGroup,
    pub(crate) folder: PathBuf,
    versions: Option<Baselines>,
    /// With these it starts anew.
    pub(crate) settings: Settings,
}

pub(crate) struct Bed {
    pub(crate) fleet: TestFleet,
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) stranger: Identity,
}

pub(crate) fn settings() -> Settings {
    Settings {
        segment_bytes: 64 << 10,
        retry_interval: Duration::from_millis(300),
        reserve: ByteCount::new(0),
        ..Settings::default()
    }
}

impl Host {
    fn new(fleet: &TestFleet, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("node")).unwrap();
        let identity = fleet.node(&dir.path().join("node"), name);
        let root = dir.path().join("root");
        let outside = dir.path().join("outside");
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        let folder = dir.path().join("node/transfers");
        let tasks = TaskGroup::new("host");
        let transfers = open(&identity, &folder, &root, None, settings(), &tasks);
        transfers.is_ahead_of_control_plane(TimeDelta::zero());
        Self { _dir: dir, identity, root, outside, transfers, tasks, folder, versions: None, settings: settings() }
    }

    /// It remembers versions from now on, all of them.
    pub(crate) async fn remember_versions(&mut self) {
        let dir = self.state();
        fs::create_dir_all(&dir).unwrap();
        let clock = Clock::system();
        let tasks = TaskGroup::new("versions");
        let rows = LocalStore::open(&dir, clock.clone(), &tasks).await.unwrap();
        let limits = Limits { reserve: ByteCount::new(0), ..Limits::default() };
        let references = References::new(ContentStore::open(&dir, limits).unwrap(), rows, tasks);
        let policy = Policy { copying: Copying::Always, interval: Duration::ZERO, ..Policy::default() };
        let settings = dataplane_content::Settings { policy, ..dataplane_content::Settings::default() };
        self.versions = Some(Baselines::new(references, clock, settings));
        self.restart().await;
    }

    /// Waits until it keeps what is at this path as the newest version that the peer has at the same.
    pub(crate) async fn keeps(&self, peer: &Self, path: &str) {
        let place = Place { root: "data".to_owned(), path: path.as_bytes().to_vec() };
        let now = *blake3::hash(&fs::read(self.root.join(path)).unwrap()).as_bytes();
        let kept = async {
            loop {
                let newest = self.versions.as_ref().unwrap().newest(peer.identity.uid(), &place).await.unwrap();
                if newest.first().is_some_and(|kept| kept.digest.as_bytes() == &now) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, kept).await.unwrap();
    }

    /// Where it remembers versions.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.with_file_name("state")
    }

    /// The objects of its content store.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let shards = fs::read_dir(self.state().join("content/objects")).unwrap();
        let files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    }

    /// The host's program starts anew.
    pub(crate) async fn restart(&mut self) {
        self.restart_alone().await;
        self.transfers.is_ahead_of_control_plane(TimeDelta::zero());
    }

    /// The same, while the control plane is away.
    pub(crate) async fn restart_alone(&mut self) {
        self.tasks.shutdown(PATIENCE).await.unwrap();
        self.tasks = TaskGroup::new("host");
        let versions = self.versions.clone();
        self.transfers = open(&self.identity, &self.folder, &self.root, versions, self.settings, &self.tasks);
    }

    pub(crate) fn set_roots(&self, read_only: bool, accept: &[&str]) {
        self.transfers.set_roots(roots(&self.root, read_only, accept));
    }

    fn party(&self) -> GrantParty {
        GrantParty { uid: self.identity.uid(), key: self.identity.public_key() }
    }

    /// Files of transfers that are not over.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "ended" && name != "syncs" && name != "dictionaries")
            .collect();
        names.sort();
        names
    }
}

fn roots(path: &Path, read_only: bool, accept: &[&str]) -> Roots {
    let accept = accept.iter().map(|rule| rule.parse::<AcceptRule>().unwrap()).collect();
    let root = Root { path: path.to_path_buf(), read_only, accept };
    Roots::new(BTreeMap::from([("data".parse().unwrap(), root)]))
}

fn open(
    identity: &Identity,
    folder: &Path,
    root: &Path,
    baselines: Option<Baselines>,
    settings: Settings,
    tasks: &TaskGroup,
) -> Transfers {
    let options = Options {
        folder: folder.to_path_buf(),
        trust: identity.trust().clone(),
        key: identity.public_key(),
        roots: roots(root, false, &[]),
        settings,
        own: None,
        meter: None,
        baselines,
    };
    Transfers::open(options, Clock::system(), tasks.clone()).unwrap()
}

impl Bed {
    pub(crate) fn new() -> Self {
        let fleet = TestFleet::new();
        let (a, b) = (Host::new(&fleet, "a"), Host::new(&fleet, "b"));
        let dir = a.outside.join("stranger");
        fs::create_dir(&dir).unwrap();
        let stranger = fleet.stranger(&dir);
        fleet.share([&a.identity, &b.identity]);
        Self { fleet, a, b, stranger }
    }

    /// The same, where both remember versions.
    pub(crate) async fn with_versions() -> Self {
        let mut bed = Self::new();
        bed.a.remember_versions().await;
        bed.b.remember_versions().await;
        bed
    }

    /// The key of a third member, C.
    pub(crate) fn third(&self) -> PublicKey {
        let dir = self.a.outside.join("third");
        fs::create_dir(&dir).unwrap();
        let third = self.fleet.node(&dir, "c");
        self.fleet.share([&self.a.identity, &self.b.identity]);
        third.public_key()
    }

    /// A grant from A to B that holds now.
    pub(crate) fn grant(&self, sources: &[&str], destination: &str, options: TransferOptions) -> Grant {
        let now = Clock::system().utc();
        Grant {
            fleet: self.fleet.bundle().fleet,
            epoch: self.fleet.bundle().epoch,
            transfer: id(),
            source: self.a.party(),
            destination: self.b.party(),
            source_paths: sources.iter().map(|path| path.parse().unwrap()).collect(),
            destination_path: destination.parse().unwrap(),
            options,
            not_before: now - TimeDelta::minutes(1),
            not_after: now + TimeDelta::days(7),
        }
    }

    pub(crate) fn sign(&self, grant: &Grant) -> Signed {
        grant::sign(self.fleet.grant_key(), grant)
    }

    pub(crate) fn job(&self, grant: &Grant) -> SendJob {
        SendJob { authority: SendAuthority::Grant(self.sign(grant)), traceparent: None }
    }

    /// Sends over links with these faults, one after another; links after that have none.
    pub(crate) async fn send_job(&self, job: SendJob, faults: Vec<Faults>) -> (TransferReport, Arc<Wires>) {
        self.send_job_within(PATIENCE, job, faults).await
    }

    pub(crate) async fn send_job_within(
        &self,
        patience: Duration,
        job: SendJob,
        faults: Vec<Faults>,
    ) -> (TransferReport, Arc<Wires>) {
        let wires = Arc::new(Wires::new(&self.b, self.a.identity.public_key(), faults));
        let (reports, _keep) = watch::channel(TransferReport::new(job.transfer().unwrap(), TransferRole::Sender));
        let connector: Arc<dyn Connector> = Arc::clone(&wires) as Arc<dyn Connector>;
        let sent = tokio::time::timeout(patience, self.a.transfers.send(job, connector, reports)).await.unwrap();
        match sent {
            Sent::Ended(report) => (report, wires),
            Sent::Interrupted(report) => panic!("interrupted: {report:?}"),
        }
    }

    pub(crate) async fn send(
        &self,
        sources: &[&str],
        destination: &str,
        options: TransferOptions,
    ) -> (TransferReport, Arc<Wires>) {
        self.send_job(self.job(&self.grant(sources, destination, options)), Vec::new()).await
    }
}

pub(crate) fn id() -> TransferId {
    TransferId::new(uuid::Uuid::now_v7())
}

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

/// Bytes that nothing compresses, different for each seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What an entry is, as far as a transfer keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    contents: Vec<u8>,
}

/// Everything below a folder; contents as BLAKE3 or a link's target.
pub(crate) fn tree(folder: &Path) -> BTreeMap<Vec<u8>, Shown> {
    let mut shown = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (kind, contents) = if meta.is_dir() {
                folders.push(path.clone());
                ("folder", Vec::new())
            } else if meta.is_symlink() {
                ("link", fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
            } else if meta.is_file() {
                ("file", blake3::hash(&fs::read(&path).unwrap()).as_bytes().to_vec())
            } else {
                ("special", Vec::new())
            };
            let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
            let name = path.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
            shown.insert(name, Shown { kind, mode, mtime: (meta.mtime(), meta.mtime_nsec()), contents });
        }
    }
    shown
}
