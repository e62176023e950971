//! Two hosts of a fleet, trees to send, and links in memory between them.

#[path = "bed/links.rs"]
mod links;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use dataplane_content::{
    Baselines, ContentStore, Limits, Place, References,
    policy::{Copying, Policy},
};
use dataplane_identity::{Identity, testing::TestFleet};
use dataplane_local_store::LocalStore;
use dataplane_transfer::{Connector, Options, Roots, SendAuthority, SendJob, Sent, Settings, Transfers};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{
    ByteCount, Grant, GrantParty, PublicKey, TransferId, TransferOptions, TransferReport, TransferRole,
    config::{AcceptRule, Root},
};
use proto_wire::{Signed, grant};
use tokio::sync::watch;

pub(crate) use self::links::{Caught, Faults, Mangle, Wires, pair};

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
