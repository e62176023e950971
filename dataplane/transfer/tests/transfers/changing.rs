//! Files that change, vanish or become something else while they are sent: what arrives is whole, and what cannot is said.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto_model::{TransferOptions, TransferState};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::bed::{Bed, Faults, noise, tree};

type Act = fn(&Path);

fn grow(path: &Path) {
    File::options().append(true).open(path).unwrap().write_all(&noise(5, 150_000)).unwrap();
}

fn shrink(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
}

fn vanish(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn become_a_folder(path: &Path) {
    vanish(path);
    fs::create_dir(path).unwrap();
    fs::write(path.join("inner"), b"nobody asked for this").unwrap();
}

fn become_a_link(path: &Path) {
    vanish(path);
    symlink("other", path).unwrap();
}

fn become_a_pipe(path: &Path) {
    vanish(path);
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
}

/// A bed with a file of this size and another one beside it.
fn bed_with(size: usize) -> (Bed, PathBuf) {
    let bed = Bed::new();
    let path = bed.a.root.join("file");
    fs::write(&path, noise(1, size)).unwrap();
    fs::write(bed.a.root.join("other"), b"other").unwrap();
    (bed, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn between_the_walk_and_the_reading() {
    let acts: [(&str, Act, Option<&str>); 6] = [
        ("grow", grow, None),
        ("shrink", shrink, None),
        ("vanish", vanish, Some("UNREADABLE")),
        ("folder", become_a_folder, Some("UNREADABLE")),
        ("link", become_a_link, Some("UNREADABLE")),
        ("pipe", become_a_pipe, Some("UNREADABLE")),
    ];
    for size in [3000, 700_000] {
        for (name, act, reason) in acts {
            let (bed, path) = bed_with(size);
            let faults = Faults { on_page: Some(Arc::new(move || act(&path))), ..Faults::default() };
            let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
            let (report, _) = bed.send_job(bed.job(&grant), vec![faults]).await;
            let reasons: Vec<_> = report.issues.iter().map(|issue| issue.reason.as_str()).collect();
            assert_eq!(reasons, reason.into_iter().collect::<Vec<_>>(), "{name} {size}");
            let state = if reason.is_some() { TransferState::SucceededInPart } else { TransferState::Succeeded };
            assert_eq!(report.state, state, "{name} {size} {report:?}");
            let mut sent = tree(&bed.a.root);
            if reason.is_some() {
                sent.retain(|name, _| name == b"other");
            }
            assert_eq!(tree(&bed.b.root), sent, "{name} {size}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_large_file_is_read() {
    // One that changes is read again; one that loses its name is read to its end, as it was.
    let acts: [(&str, Act, bool); 5] = [
        ("grow", grow, true),
        ("shrink", shrink, true),
        ("vanish", vanish, false),
        ("folder", become_a_folder, false),
        ("pipe", become_a_pipe, false),
    ];
    for (name, act, follows) in acts {
        let (bed, path) = bed_with(5_000_000);
        let before = tree(&bed.a.root);
        let at = path.clone();
        // The second piece: others of the first reading are under way.
        let faults = Faults { on_piece: Some((2, Arc::new(move || act(&at)))), ..Faults::default() };
        let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
        let (report, _) = bed.send_job(bed.job(&grant), vec![faults]).await;
        assert_eq!(report.state, TransferState::Succeeded, "{name} {report:?}");
        if !follows {
            assert_eq!(tree(&bed.b.root), before, "{name}");
            continue;
        }
        // Nothing hidden is left of the first reading either.
        let names: Vec<_> = tree(&bed.b.root).into_keys().collect();
        assert_eq!(names, [b"file".to_vec(), b"other".to_vec()], "{name}");
        assert!(fs::read(bed.b.root.join("file")).unwrap() == fs::read(&path).unwrap(), "{name}");
        // Linux shows the new size before the new time: what was read in between has the old one until it is sent again.
        let (again, _) = bed.send(&["data:/"], "data:/", TransferOptions::default()).await;
        assert_eq!(again.state, TransferState::Succeeded, "{name} {again:?}");
        assert_eq!(tree(&bed.b.root), tree(&bed.a.root), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_never_rests_is_left_out_and_said() {
    let (bed, path) = bed_with(300_000);
    let grows = move || grow(&path);
    let grows = Arc::new(grows);
    let faults = Faults { on_page: Some(grows.clone()), on_piece: Some((4, grows)), ..Faults::default() };
    let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
    let (report, _) = bed.send_job(bed.job(&grant), vec![faults]).await;
    assert_eq!(report.state, TransferState::SucceededInPart, "{report:?}");
    assert_eq!(report.issues[0].reason, "CHANGED_WHILE_READ");
    assert_eq!(tree(&bed.b.root).into_keys().collect::<Vec<_>>(), [b"other".to_vec()]);
}
