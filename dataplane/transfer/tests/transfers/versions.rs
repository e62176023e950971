//! Versions that both ends hold, or that only the receiver does: what changed travels, whatever becomes of the rest.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    sync::Arc,
};

use proto_model::{TransferOptions, TransferReport, TransferState};

use crate::bed::{Bed, Faults, noise, tree};

const LARGE: usize = 8 << 20;

/// Puts a version of a tree at A: a large file and 200 small ones of text; every version differs a little in each.
fn make(bed: &Bed, version: u64) {
    let mut large = noise(1, LARGE);
    let mut at = usize::try_from(version).unwrap() * 700_001 % LARGE;
    large[at] ^= 0xff;
    at = (at + LARGE / 2) % LARGE;
    large.splice(at..at, format!("inserted by version {version}").into_bytes());
    fs::write(bed.a.root.join("large"), large).unwrap();
    fs::create_dir_all(bed.a.root.join("small")).unwrap();
    for n in 0..200_u64 {
        let lines = (0..120_u64).map(|line| {
            let of = if line == n % 120 { version } else { 0 };
            format!(
                "{:016x} line {line} of file {n}, version {of}\n",
                (n * 1000 + line).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            )
        });
        fs::write(bed.a.root.join(format!("small/{n:03}")), lines.collect::<String>()).unwrap();
    }
}

async fn send(bed: &Bed, faults: Faults) -> (TransferReport, u64) {
    let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
    let (report, wires) = bed.send_job(bed.job(&grant), vec![faults]).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
    (report, wires.bytes().iter().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_changes_while_it_is_referred_to_costs_bytes_only() {
    let bed = Bed::with_versions().await;
    make(&bed, 0);
    send(&bed, Faults::default()).await;
    make(&bed, 1);
    let root = bed.b.root.clone();
    // When the first piece is under way, all answers were given.
    let spoil = move || {
        let large = File::options().write(true).open(root.join("large")).unwrap();
        large.write_all_at(&noise(77, LARGE), 0).unwrap();
        for n in 0..200 {
            File::options()
                .write(true)
                .open(root.join(format!("small/{n:03}")))
                .unwrap()
                .write_all(b"spoiled")
                .unwrap();
        }
    };
    let (_, bytes) = send(&bed, Faults { on_piece: Some((0, Arc::new(spoil))), ..Faults::default() }).await;
    assert!(bytes < 3 * u64::try_from(LARGE).unwrap(), "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_renamed_costs_no_data_and_what_only_seems_so_arrives_as_it_is() {
    let bed = Bed::with_versions().await;
    make(&bed, 0);
    send(&bed, Faults::default()).await;
    let (a, b) = (bed.a.root.clone(), bed.b.root.clone());
    fs::create_dir(a.join("elsewhere")).unwrap();
    fs::rename(a.join("large"), a.join("elsewhere/larger")).unwrap();
    for n in 0..100 {
        fs::rename(a.join(format!("small/{n:03}")), a.join(format!("elsewhere/{n:03}"))).unwrap();
    }
    let delete = TransferOptions { delete: true, ..TransferOptions::default() };
    let (report, wires) = bed.send(&["data:/"], "data:/", delete.clone()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!((tree(&a), wires.bytes()), (tree(&b), vec![0]));
    assert_eq!(report.progress.bytes_reused, report.progress.bytes_total);

    // Other contents behind the same inode, size and time: the sender reads before it confirms.
    let modified = fs::metadata(a.join("elsewhere/larger")).unwrap().modified().unwrap();
    fs::rename(a.join("elsewhere/larger"), a.join("large")).unwrap();
    let large = File::options().write(true).open(a.join("large")).unwrap();
    large.write_all_at(b"forged", 4 << 20).unwrap();
    large.set_modified(modified).unwrap();
    // And a copy at the receiver that is not what it was: it is not taken.
    fs::rename(a.join("elsewhere/000"), a.join("first")).unwrap();
    fs::write(b.join("elsewhere/000"), b"by somebody else").unwrap();
    let (report, _) = bed.send(&["data:/"], "data:/", delete).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&a), tree(&b));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_of_the_granted_folder_is_taken_for_a_renamed_file() {
    let bed = Bed::with_versions().await;
    fs::write(bed.a.root.join("secret"), noise(5, 300_000)).unwrap();
    let (report, _) = bed.send(&["data:/secret"], "data:/in", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    fs::rename(bed.a.root.join("secret"), bed.a.root.join("other")).unwrap();
    for (destination, travels) in [("data:/elsewhere", true), ("data:/inside", true), ("data:/in", false)] {
        let (report, wires) = bed.send(&["data:/other"], destination, TransferOptions::default()).await;
        assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
        assert_eq!(wires.bytes()[0] > 300_000, travels, "{destination}");
    }
}
