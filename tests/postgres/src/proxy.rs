//! Stands between a program and its PostgreSQL, and does to their connections what a network does on a bad day.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

/// PostgreSQL names its socket after a port, also where it listens on none.
const SOCKET: &str = ".s.PGSQL.5432";
/// How long a silent path holds its bytes before it looks whether it is to carry them again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// It arrives.
    Open = 0,
    /// Nothing arrives, in either direction, and nobody is told: a half-open connection. New ones are accepted and hear nothing.
    Silent = 1,
    /// The next COMMIT reaches PostgreSQL, and its answer never comes: the connection breaks instead. Then the path is open again.
    LosesACommit = 2,
}

/// A path to a cluster that can be spoilt. Ends with the process.
#[derive(Debug)]
pub struct Proxy {
    folder: PathBuf,
    mode: Arc<AtomicU8>,
    target: Arc<Mutex<PathBuf>>,
}

impl Proxy {
    /// A path to the cluster whose socket lies in `cluster`, with a socket of its own in `folder`.
    ///
    /// # Panics
    /// The socket cannot be made.
    #[must_use]
    pub fn start(cluster: &Path, folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("the proxy's folder can be made");
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("the proxy's socket can be made");
        let mode = Arc::new(AtomicU8::new(Way::Open as u8));
        let target = Arc::new(Mutex::new(cluster.join(SOCKET)));
        let proxy = Self { folder: folder.to_path_buf(), mode: Arc::clone(&mode), target: Arc::clone(&target) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (mode, target) = (Arc::clone(&mode), held(&target).clone());
                thread::spawn(move || carry(client, &target, &mode));
            }
        });
        proxy
    }

    /// Changes what becomes of what is sent, on all connections.
    pub fn set(&self, path: Way) {
        self.mode.store(path as u8, Ordering::SeqCst);
    }

    /// Leads new connections to the server whose socket lies there, as an address that moves does.
    pub fn lead_to(&self, cluster: &Path) {
        *held(&self.target) = cluster.join(SOCKET);
    }

    /// Whether the path is this at present.
    #[must_use]
    pub fn is(&self, path: Way) -> bool {
        self.mode.load(Ordering::SeqCst) == path as u8
    }

    /// The URL of a database of the cluster, by this path.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        let (before, _) = direct.split_once("?host=").unwrap_or((direct, ""));
        format!("{before}?host={}", self.folder.display())
    }
}

fn held(target: &Mutex<PathBuf>) -> MutexGuard<'_, PathBuf> {
    target.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(client: UnixStream, target: &Path, mode: &Arc<AtomicU8>) {
    let Ok(server) = UnixStream::connect(target) else { return };
    let cut = Arc::new(AtomicBool::new(false));
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
    let (answers_mode, answers_cut) = (Arc::clone(mode), Arc::clone(&cut));
    thread::spawn(move || pump(from_server, to_client, &answers_mode, &answers_cut, Direction::Answers));
    pump(client, server, mode, &cut, Direction::Questions);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Questions,
    Answers,
}

fn pump(mut from: UnixStream, mut to: UnixStream, mode: &AtomicU8, cut: &AtomicBool, direction: Direction) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        while mode.load(Ordering::SeqCst) == Way::Silent as u8 {
            thread::sleep(LOOK_AGAIN);
        }
        let bytes = &buffer[..count];
        if direction == Direction::Questions && bytes.windows(6).any(|window| window == b"COMMIT") {
            let lost = Way::LosesACommit as u8;
            if mode.compare_exchange(lost, Way::Open as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                cut.store(true, Ordering::SeqCst);
            }
        }
        if direction == Direction::Answers && cut.load(Ordering::SeqCst) {
            break;
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    for end in [&from, &to] {
        // The other direction may have closed it already.
        drop(end.shutdown(Shutdown::Both));
    }
}
