//! Nothing leads out of a root, at either end.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use proto_model::{TransferOptions, TransferState};
use rustix::fs::{FileType, Mode};

use crate::{
    bed::{Bed, noise, tree},
    liars::{FILE_BYTES, Liar, Step, entry, manifest_end, opening, page, page_frame, segment},
};

#[tokio::test(flavor = "multi_thread")]
async fn links_planted_at_the_destination_are_not_followed() {
    let bed = Bed::new();
    fs::create_dir_all(bed.a.root.join("set/sub")).unwrap();
    fs::write(bed.a.root.join("set/sub/file"), b"through a folder").unwrap();
    fs::write(bed.a.root.join("set/file"), b"through a name").unwrap();
    fs::write(bed.b.outside.join("precious"), b"precious").unwrap();
    fs::create_dir_all(bed.b.root.join("in/set")).unwrap();
    symlink(&bed.b.outside, bed.b.root.join("in/set/sub")).unwrap();
    symlink(bed.b.outside.join("precious"), bed.b.root.join("in/set/file")).unwrap();
    let (report, _) = bed.send(&["data:/set"], "data:/in", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::SucceededInPart, "{report:?}");
    assert_eq!(tree(&bed.b.outside).len(), 1);
    assert_eq!(fs::read(bed.b.outside.join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read(bed.b.root.join("in/set/file")).unwrap(), b"through a name");
    assert!(fs::symlink_metadata(bed.b.root.join("in/set/file")).unwrap().is_file());

    // The granted folder itself is a link.
    symlink(&bed.b.outside, bed.b.root.join("alias")).unwrap();
    let (report, _) = bed.send(&["data:/set"], "data:/alias", TransferOptions::default()).await;
    assert_eq!(report.error.unwrap().reason, "DESTINATION_UNAVAILABLE");
    assert_eq!(tree(&bed.b.outside).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_at_the_source_are_sent_as_links_and_never_read_through() {
    let bed = Bed::new();
    fs::write(bed.a.outside.join("secret"), b"secret").unwrap();
    symlink(bed.a.outside.join("secret"), bed.a.root.join("leak")).unwrap();
    symlink(&bed.a.outside, bed.a.root.join("way-out")).unwrap();
    let (report, _) = bed.send(&["data:/"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert!(fs::symlink_metadata(bed.b.root.join("leak")).unwrap().is_symlink());
    for source in ["data:/leak", "data:/way-out/secret", "data:/way-out"] {
        let (report, _) = bed.send(&[source], "data:/in", TransferOptions::default()).await;
        assert_eq!(report.error.as_ref().unwrap().reason, "SOURCE_UNAVAILABLE", "{report:?}");
    }
}

/// Swaps two names in a folder, back and forth, until it is told to stop; gives how often.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Swapper {
    fn begin(folder: PathBuf, one: &'static str, other: &'static str) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            let (here, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            while !stopping.load(Relaxed) {
                rustix::fs::renameat_with(here, folder.join(one), here, folder.join(other), exchange).unwrap();
                counting.fetch_add(1, Relaxed);
            }
        });
        Self { stop, swaps, thread }
    }

    fn so_far(&self) -> u64 {
        self.swaps.load(Relaxed)
    }

    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        self.swaps.load(Relaxed)
    }
}

/// How many swaps a race has to stand: few here, many where somebody asks (`tests/races`).
fn swaps_wanted() -> u64 {
    std::env::var("DWCP_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_swapped_for_a_link_at_the_destination_lets_nothing_out() {
    let bed = Bed::new();
    fs::create_dir_all(bed.a.root.join("set/sub")).unwrap();
    for n in 0..40 {
        fs::write(bed.a.root.join(format!("set/sub/{n}")), noise(n, 300_000)).unwrap();
    }
    let folder = bed.b.root.join("in/set");
    fs::create_dir_all(folder.join("sub")).unwrap();
    symlink(&bed.b.outside, folder.join("trap")).unwrap();
    // What `--delete` would find there.
    fs::write(bed.b.outside.join("precious"), b"precious").unwrap();
    let outside = tree(&bed.b.outside);
    let swapper = Swapper::begin(folder, "sub", "trap");
    let mut sent = 0;
    while sent < 2 || swapper.so_far() < swaps_wanted() {
        let exclude = vec!["trap".parse().unwrap()];
        let options = TransferOptions { checksum: true, delete: sent % 2 == 1, exclude, ..TransferOptions::default() };
        let (report, _) = bed.send(&["data:/set"], "data:/in", options).await;
        assert!(report.state.is_end());
        sent += 1;
    }
    let swaps = swapper.end();
    println!("{swaps} swaps in {sent} transfers");
    assert_eq!(tree(&bed.b.outside), outside, "after {swaps} swaps");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_swapped_for_a_link_at_the_source_shows_nothing_outside() {
    const SECRET: &[u8] = b"a secret of somebody else";
    let bed = Bed::new();
    fs::create_dir_all(bed.a.root.join("set/sub")).unwrap();
    for n in 0..40 {
        fs::write(bed.a.root.join(format!("set/sub/{n}")), noise(n, 300_000)).unwrap();
        fs::write(bed.a.outside.join(n.to_string()), SECRET.repeat(12_000)).unwrap();
    }
    symlink(&bed.a.outside, bed.a.root.join("set/trap")).unwrap();
    let swapper = Swapper::begin(bed.a.root.join("set"), "sub", "trap");
    let mut sent = 0;
    while sent < 2 || swapper.so_far() < swaps_wanted() {
        let (report, _) = bed.send(&["data:/set"], &format!("data:/{sent}/"), TransferOptions::default()).await;
        assert!(report.state.is_end());
        let mut folders = vec![bed.b.root.join(sent.to_string())];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if entry.file_type().unwrap().is_file() {
                    assert!(!fs::read(entry.path()).unwrap().starts_with(SECRET), "{}", entry.path().display());
                }
            }
        }
        sent += 1;
    }
    println!("{} swaps in {sent} transfers", swapper.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_of_a_file_outside_changes_nothing_there() {
    let bed = Bed::new();
    let file = |path: &Path, bytes: &[u8], mode: u32| {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    // Equal by size and time, of another mode; and one of other contents.
    file(&bed.a.root.join("equal"), b"same", 0o755);
    file(&bed.a.root.join("other"), b"longer than before", 0o644);
    file(&bed.b.outside.join("equal"), b"same", 0o640);
    file(&bed.b.outside.join("other"), b"before", 0o640);
    for name in ["equal", "other"] {
        fs::hard_link(bed.b.outside.join(name), bed.b.root.join(name)).unwrap();
    }
    let outside = tree(&bed.b.outside);
    let (report, _) = bed.send(&["data:/"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.b.outside), outside);
    assert_eq!(tree(&bed.b.root), tree(&bed.a.root));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_file_that_is_another_name_of_one_outside_is_not_written() {
    let bed = Bed::new();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    let precious = bed.b.outside.join("precious");
    fs::write(&precious, noise(9, usize::try_from(FILE_BYTES).unwrap())).unwrap();
    let outside = tree(&bed.b.outside);
    let root = bed.b.root.clone();
    let plant = move || {
        let temporary = fs::read_dir(&root).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(&temporary).unwrap();
        fs::hard_link(&precious, temporary).unwrap();
    };
    let tree_of_a = page(&[entry("a", FILE_BYTES)]);
    let steps = vec![
        opening(&bed, &grant),
        page_frame(&tree_of_a),
        manifest_end(&tree_of_a),
        Step::Wanted,
        segment(0, 0),
        // Until it is there.
        Step::Verified,
        Step::Do(Box::new(plant)),
        segment(0, 1),
        Step::Verified,
        Step::HangUp,
    ];
    let _outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await;
    assert_eq!(tree(&bed.b.outside), outside);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_devices_and_set_user_bits_are_neither_opened_nor_kept() {
    let bed = Bed::new();
    for name in ["pipe", "device", "program"] {
        fs::write(bed.a.root.join(name), noise(1, 200_000)).unwrap();
    }
    let make = |name: &str, kind: FileType, device: u64| {
        rustix::fs::mknodat(rustix::fs::CWD, bed.b.root.join(name), kind, Mode::RUSR | Mode::WUSR, device)
    };
    make("pipe", FileType::Fifo, 0).unwrap();
    // Only root may; then it is /dev/full, which says so when it is written to.
    let device = make("device", FileType::CharacterDevice, rustix::fs::makedev(1, 7)).is_ok();
    fs::write(bed.b.root.join("program"), b"old").unwrap();
    fs::set_permissions(bed.b.root.join("program"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(bed.a.root.join("program"), fs::Permissions::from_mode(0o6755)).unwrap();
    let (report, _) = bed.send(&["data:/"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::SucceededInPart, "{report:?}");
    assert_eq!(report.issue_count, if device { 2 } else { 1 });
    let program = fs::metadata(bed.b.root.join("program")).unwrap();
    assert_eq!((program.len(), program.permissions().mode() & 0o7777), (200_000, 0o755));
    assert!(fs::symlink_metadata(bed.b.root.join("pipe")).unwrap().file_type().is_fifo());
}
