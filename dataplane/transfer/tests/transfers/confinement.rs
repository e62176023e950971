//! Nothing leads out of a root, at either end.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use proto_model::{TransferOptions, TransferState};

use crate::bed::{Bed, noise, tree};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_swapped_for_a_link_meanwhile_lets_nothing_out() {
    let bed = Bed::new();
    for n in 0..40 {
        fs::create_dir_all(bed.a.root.join("set/sub")).unwrap();
        fs::write(bed.a.root.join(format!("set/sub/{n}")), noise(n, 300_000)).unwrap();
    }
    let folder = bed.b.root.join("in/set");
    fs::create_dir_all(folder.join("sub")).unwrap();
    symlink(&bed.b.outside, folder.join("trap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (swapping, at) = (Arc::clone(&stop), folder.clone());
    let swapper = std::thread::spawn(move || {
        let mut swaps = 0_u64;
        while !swapping.load(Relaxed) {
            // The folder and the link change names, back and forth.
            let swap = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, at.join("sub"), rustix::fs::CWD, at.join("trap"), swap).unwrap();
            swaps += 1;
        }
        swaps
    });
    let (report, _) = bed.send(&["data:/set"], "data:/in", TransferOptions::default()).await;
    stop.store(true, Relaxed);
    let swaps = swapper.join().unwrap();
    assert!(swaps > 100, "{swaps}");
    assert!(report.state.is_end());
    assert!(tree(&bed.b.outside).is_empty(), "after {swaps} swaps: {:?}", tree(&bed.b.outside));
}
