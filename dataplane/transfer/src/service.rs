//! [`Transfers`]: all transfers of a host, and what they share.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::ArcSwap;
use dataplane_content::Baselines;
use dataplane_identity::TrustStore;
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{ByteCount, PublicKey, TransferId, TransferRole};
use proto_wire::Signed;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    confine::Closed,
    dictionaries::{Dictionaries, DictionaryTotals},
    ends::TransferFolder,
    offset::Offset,
    orders::Orders,
    reason::end,
    receiver::Decoders,
    roots::Roots,
    sender::{Encoders, Keepers},
    stop::Stop,
    sync::Book,
    versions::Versions,
};

/// How long a new attempt waits for the one before it to let go.
const TAKE_OVER: Duration = Duration::from_secs(30);

/// How transfers are done; may be changed while they run, and holds for those that begin after it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What is encoded and verified at once: a power of two from 64 KiB to 4 MiB.
    pub segment_bytes: u32,
    /// Encoded bytes that may be under way to this host in one transfer.
    pub receive_window: ByteCount,
    /// The longest pause between two tries to go on.
    pub retry_interval: Duration,
    /// What a transfer leaves free on a file system.
    pub reserve: ByteCount,
    /// How segments are encoded.
    pub hde: dataplane_hde::Options,
    /// How long an end of a transfer may say nothing, or take nothing, while something is expected of it.
    pub stall_timeout: Duration,
    /// Memory for parts of segments that wait for their other parts, of all transfers.
    pub receive_budget: ByteCount,
    /// Memory for what receivers say of their old versions, of all transfers.
    pub basis_budget: ByteCount,
    /// What a sender may say of its tree: all pages of the manifest.
    pub manifest_bytes: ByteCount,
    /// Whether dictionaries are trained of small files that are sent.
    pub dictionaries: bool,
    /// Bytes of all dictionaries on the disk, trained or received; with none, none is received.
    pub dictionary_bytes: ByteCount,
    /// Syncs of which this host, as a receiver, keeps something; deleted ones included.
    pub received_syncs: usize,
}

impl Default for Settings {
    /// Segments of 1 MiB; 64 MiB under way, which is a gigabit a second over half a second; retries within a minute; a GiB free;
    /// a manifest of 4 GiB, which is some forty million entries.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 20,
            receive_window: ByteCount::new(64 << 20),
            retry_interval: Duration::from_secs(60),
            reserve: ByteCount::new(1 << 30),
            hde: dataplane_hde::Options::default(),
            stall_timeout: Duration::from_secs(600),
            receive_budget: ByteCount::new(128 << 20),
            basis_budget: ByteCount::new(256 << 20),
            manifest_bytes: ByteCount::new(4 << 30),
            dictionaries: false,
            dictionary_bytes: ByteCount::new(64 << 20),
            received_syncs: 512,
        }
    }
}

/// What transfers need of their host.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where journals and pages lie: `DIR/transfers`.
    pub folder: PathBuf,
    /// Whom this host trusts, and who is in the fleet.
    pub trust: TrustStore,
    /// This host's own key.
    pub key: PublicKey,
    /// What may be read and written.
    pub roots: Roots,
    /// What is not, whichever root leads to it: the agent's data directory.
    pub own: Option<PathBuf>,
    /// How.
    pub settings: Settings,
    /// Counts what HDE does.
    pub meter: Option<dataplane_hde::Meter>,
    /// Versions that both ends may hold; without it every changed file is described by its receiver.
    pub baselines: Option<Baselines>,
}

/// All transfers of a host. Clones are the same.
#[derive(Clone, Debug)]
pub struct Transfers(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) folder: TransferFolder,
    pub(crate) trust: TrustStore,
    pub(crate) key: PublicKey,
    pub(crate) roots: ArcSwap<Roots>,
    closed: Option<Arc<Closed>>,
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskGroup,
    running: Mutex<HashMap<(TransferId, TransferRole), Running>>,
    /// What decodes.
    pub(crate) decoders: Decoders,
    /// What encodes.
    pub(crate) encoders: Encoders,
    /// Bytes of segments that wait for their other parts.
    pub(crate) assembling: Arc<AtomicUsize>,
    /// Bytes of what receivers said of their old versions.
    pub(crate) bases: Arc<AtomicUsize>,
    /// KiB that there were for indexes of baselines at the start.
    pub(crate) index_kib: u64,
    /// Those that are free.
    pub(crate) indexes: Arc<Semaphore>,
    /// Versions that both ends may hold.
    pub(crate) versions: Versions,
    /// Dictionaries of small files.
    pub(crate) dictionaries: Dictionaries,
    /// Who keeps some of them now.
    pub(crate) keepers: Keepers,
    /// Bytes that running transfers were promised, by file system.
    promised: Mutex<HashMap<u64, u64>>,
    /// What is held.
    pub(crate) orders: Orders,
    /// Syncs that are received here.
    pub(crate) syncs: Book,
    /// This host's clock and the control plane's.
    pub(crate) offset: Offset,
    /// Rung when something was left that has a deadline.
    pub(crate) left_with_deadline: tokio::sync::Notify,
    /// Grants that came for transfers that are sent here already.
    pub(crate) renewals: Mutex<HashMap<TransferId, Signed>>,
}

/// A transfer that runs at this end.
#[derive(Clone, Debug)]
struct Running {
    cancel: CancellationToken,
    /// Cancelled when a newer link takes over.
    superseded: CancellationToken,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Holds a transfer at this end, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    shared: Arc<Shared>,
    key: (TransferId, TransferRole),
    pub(crate) cancel: CancellationToken,
    pub(crate) superseded: CancellationToken,
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Transfers {
    /// Other roots, for transfers that begin after this.
    pub fn set_roots(&self, roots: Roots) {
        self.0.roots.store(Arc::new(roots.without(self.0.closed.clone())));
    }

    /// Other settings, for transfers that begin after this.
    pub fn set_settings(&self, settings: Settings) {
        self.0.syncs.limit(settings.received_syncs);
        self.0.settings.store(Arc::new(settings));
    }

    /// The present settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        **self.0.settings.load()
    }

    /// Dictionaries of small files: how many there are, and how large they are.
    #[must_use]
    pub fn dictionaries(&self) -> DictionaryTotals {
        self.0.dictionaries.totals()
    }

    /// How many transfers run at this host.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running()
    }
}

impl Shared {
    /// How many transfers run at this host.
    pub(crate) fn running(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A peer as people know it: its name in the fleet, or its node id.
    pub(crate) fn name_of(&self, peer: &PublicKey) -> String {
        let member = self.trust.membership().by_key(peer);
        member.map_or_else(|| peer.node_id().to_string(), |member| member.name.to_string())
    }

    /// # Errors
    /// The data directory cannot be looked at.
    pub(crate) fn new(options: Options, folder: TransferFolder, clock: Clock, tasks: TaskGroup) -> io::Result<Self> {
        let orders = Orders::kept_in(&folder)?;
        let syncs = Book::open(folder.path().join("syncs"))?;
        syncs.limit(options.settings.received_syncs);
        let closed = options.own.as_deref().map(Closed::new).transpose()?.map(Arc::new);
        let index_kib = usize::try_from(options.settings.basis_budget.bytes() / 1024).unwrap_or(usize::MAX);
        let index_kib = index_kib.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            folder,
            trust: options.trust.clone(),
            key: options.key,
            roots: ArcSwap::from_pointee(options.roots.without(closed.clone())),
            closed,
            settings: ArcSwap::from_pointee(options.settings),
            clock,
            tasks,
            running: Mutex::default(),
            decoders: Decoders::default(),
            encoders: Encoders::new(options.meter),
            assembling: Arc::default(),
            bases: Arc::default(),
            index_kib: u64::try_from(index_kib).unwrap_or(u64::MAX),
            indexes: Arc::new(Semaphore::new(index_kib)),
            keepers: Keepers::default(),
            dictionaries: Dictionaries::new(options.folder.join("dictionaries")),
            versions: Versions::new(options.baselines, options.trust.clone()),
            promised: Mutex::default(),
            orders,
            syncs,
            offset: Offset::default(),
            left_with_deadline: tokio::sync::Notify::new(),
            renewals: Mutex::default(),
        })
    }

    /// Tells a transfer that runs here to stop for good; false where there is none.
    pub(crate) fn cancel_running(&self, id: TransferId, role: TransferRole) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(&(id, role)).map(|running| running.cancel.cancel()).is_some()
    }

    /// Waits for its turn at a transfer; an attempt that still runs is told to let go.
    pub(crate) async fn turn(self: &Arc<Self>, id: TransferId, role: TransferRole) -> Result<Turn, Stop> {
        let before = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&(id, role)).cloned();
        if let Some(before) = before {
            before.superseded.cancel();
            let waited = tokio::time::timeout(TAKE_OVER, Arc::clone(&before.turn).lock_owned()).await;
            drop(waited.map_err(|_elapsed| {
                Stop::temporary(end::BUSY, "an earlier attempt of this transfer still runs here")
            })?);
        }
        // Two that waited for the same one: the second comes back later.
        let busy = || Stop::temporary(end::BUSY, "another attempt of this transfer began at the same time");
        self.turn_if_free(id, role).ok_or_else(busy)
    }

    /// The folder of transfers fails, or its file system is full.
    pub(crate) fn own(&self, role: &str, error: &io::Error) -> Stop {
        let what = format!("the {role}'s folder {}", self.folder.path().display());
        Stop::of_file_system(&what, "state", self.folder.space().ok(), error)
    }

    /// Promises bytes of a file system to a transfer, if what is free allows it.
    pub(crate) fn promise(&self, device: u64, free: u64, bytes: u64) -> bool {
        let reserve = self.settings.load().reserve.bytes();
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let held = promised.entry(device).or_default();
        let fits = held.checked_add(bytes).and_then(|sum| sum.checked_add(reserve)).is_some_and(|sum| sum <= free);
        if fits {
            *held += bytes;
        }
        fits
    }

    /// Gives promised bytes back: they are written, or will not be.
    pub(crate) fn release(&self, device: u64, bytes: u64) {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = promised.get_mut(&device) {
            *held = held.saturating_sub(bytes);
        }
    }
}

impl Shared {
    /// The turn at a transfer that does not run here.
    pub(crate) fn turn_if_free(self: &Arc<Self>, id: TransferId, role: TransferRole) -> Option<Turn> {
        let fresh = Running {
            cancel: CancellationToken::new(),
            superseded: CancellationToken::new(),
            turn: Arc::new(tokio::sync::Mutex::new(())),
        };
        let guard = Arc::clone(&fresh.turn).try_lock_owned().expect("a new mutex is free");
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains_key(&(id, role)) {
            return None;
        }
        running.insert((id, role), fresh.clone());
        let Running { cancel, superseded, .. } = fresh;
        Some(Turn { shared: Arc::clone(self), key: (id, role), cancel, superseded, _guard: guard })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
