//! A new large file that is like another one in the granted folder costs what differs; what lies outside of that is neither used nor told of.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, symlink},
    sync::Arc,
};

use proto_model::{TransferOptions, TransferState};

use crate::bed::{Bed, Faults, noise, tree};

const BYTES: usize = 20 << 20;

/// The first contents with changes: some bytes in many places, and some put in.
fn changed(seed: u64) -> Vec<u8> {
    let mut bytes = noise(1, BYTES);
    for n in 0..40 {
        let at = usize::try_from(seed).unwrap() * 4099 + n * 500_001;
        bytes[at..at + 1000].copy_from_slice(&noise(seed * 100 + u64::try_from(n).unwrap(), 1000));
    }
    bytes.splice(7_000_000..7_000_000, *b"put in, so that all behind it moves");
    bytes
}

async fn send(bed: &Bed, from: &str, to: &str, faults: Faults) -> u64 {
    let grant = bed.grant(&[from], to, TransferOptions::default());
    let (report, wires) = bed.send_job(bed.job(&grant), vec![faults]).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    wires.bytes().iter().sum()
}

/// The first file is at B, in this folder.
async fn first(to: &str) -> Bed {
    let bed = Bed::with_versions().await;
    fs::create_dir_all(bed.a.root.join("set")).unwrap();
    fs::write(bed.a.root.join("set/first.img"), noise(1, BYTES)).unwrap();
    if let Some(folder) = to.strip_prefix("data:/") {
        fs::create_dir_all(bed.b.root.join(folder)).unwrap();
    }
    let whole = send(&bed, "data:/set/first.img", to, Faults::default()).await;
    assert!(whole > u64::try_from(BYTES).unwrap());
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_and_changed_or_a_second_one_of_a_kind_costs_what_differs() {
    let bed = first("data:/in").await;
    fs::write(bed.a.root.join("set/second.img"), changed(1)).unwrap();
    let second = send(&bed, "data:/set/second.img", "data:/in", Faults::default()).await;
    assert!(second < 400_000, "{second}");
    // Renamed and changed at once, and sent with whatever else is there.
    fs::remove_file(bed.a.root.join("set/second.img")).unwrap();
    fs::rename(bed.a.root.join("set/first.img"), bed.a.root.join("set/renamed")).unwrap();
    fs::write(bed.a.root.join("set/renamed"), changed(2)).unwrap();
    let renamed = send(&bed, "data:/set/", "data:/in", Faults { cut_after: Some(3), ..Faults::default() }).await;
    assert!(renamed < 800_000, "{renamed}");
    assert!(fs::read(bed.b.root.join("in/renamed")).unwrap() == changed(2));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_of_the_granted_folder_or_behind_a_link_is_not_used() {
    let bed = first("data:/elsewhere").await;
    let inside = bed.b.root.join("in");
    fs::create_dir(&inside).unwrap();
    // Links to it, of both kinds, under the name of one that was published there once.
    fs::write(bed.a.root.join("set/linked.img"), noise(9, BYTES)).unwrap();
    fs::write(bed.a.root.join("set/hard.img"), noise(8, BYTES)).unwrap();
    send(&bed, "data:/set/linked.img", "data:/in", Faults::default()).await;
    send(&bed, "data:/set/hard.img", "data:/in", Faults::default()).await;
    for name in ["linked.img", "hard.img"] {
        fs::remove_file(inside.join(name)).unwrap();
    }
    symlink("../elsewhere/first.img", inside.join("linked.img")).unwrap();
    fs::hard_link(bed.b.root.join("elsewhere/first.img"), inside.join("hard.img")).unwrap();
    fs::write(bed.a.root.join("set/second.img"), changed(1)).unwrap();
    let whole = send(&bed, "data:/set/second.img", "data:/in", Faults::default()).await;
    assert!(whole > u64::try_from(BYTES).unwrap(), "{whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_changes_or_goes_while_it_is_used_costs_bytes_only() {
    for goes in [false, true] {
        let bed = first("data:/in").await;
        fs::write(bed.a.root.join("set/second.img"), changed(1)).unwrap();
        let path = bed.b.root.join("in/first.img");
        let spoil = move || {
            if goes {
                fs::remove_file(&path).unwrap();
            } else {
                File::options().write(true).open(&path).unwrap().write_all_at(&noise(77, BYTES), 0).unwrap();
            }
        };
        let faults = Faults { on_piece: Some((0, Arc::new(spoil))), ..Faults::default() };
        let bytes = send(&bed, "data:/set/second.img", "data:/in", faults).await;
        assert!(bytes < 3 * u64::try_from(BYTES).unwrap() && (bytes < 400_000 || !goes), "{bytes}");
        assert!(fs::read(bed.b.root.join("in/second.img")).unwrap() == changed(1));
        assert!(!tree(&bed.b.root).is_empty() && bed.b.leftovers().is_empty());
    }
}
