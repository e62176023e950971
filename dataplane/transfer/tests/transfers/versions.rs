//! Versions that both ends hold, or that only the receiver does: what changed travels, whatever becomes of the rest.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

use dataplane_transfer::{Received, Settings};
use proto_model::{ByteCount, TransferOptions, TransferReport, TransferState};

use crate::bed::{Bed, Faults, noise, settings, tree};

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
    assert!(tree(&bed.a.root) == tree(&bed.b.root));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
    (report, wires.bytes().iter().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_between_versions_that_both_ends_hold_is_all_that_travels() {
    let bed = Bed::with_versions().await;
    make(&bed, 0);
    let (_, whole) = send(&bed, Faults::default()).await;
    for version in 1..4 {
        bed.a.keeps(&bed.b, "small/199").await;
        make(&bed, version);
        let (report, bytes) = send(&bed, Faults { waits_for_consent: version == 3, ..Faults::default() }).await;
        // A few bytes of the large file, a line of each of 200 small ones: less than 40 bytes a file.
        assert!(bytes < 8000, "version {version}: {bytes} of {whole}");

        assert!(report.progress.bytes_reused.bytes() > u64::try_from(LARGE).unwrap() - 200_000, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_version_at_the_sender_the_receiver_describes_its_own() {
    let bed = Bed::with_versions().await;
    make(&bed, 0);
    send(&bed, Faults::default()).await;
    // All that was kept is damaged, then gone; and what the receiver has was made by somebody else.
    for (version, spoil) in [(1, true), (2, false)] {
        bed.a.keeps(&bed.b, "small/199").await;
        make(&bed, version);
        for object in bed.a.objects() {
            let mut file = File::options().write(true).open(&object).unwrap();
            if spoil { file.write_all(b"spoiled").unwrap() } else { fs::remove_file(&object).unwrap() }
        }
        send(&bed, Faults::default()).await;
    }
    bed.a.keeps(&bed.b, "small/199").await;
    let large = File::options().write(true).open(bed.b.root.join("large")).unwrap();
    large.write_all_at(b"by somebody else", 77).unwrap();
    drop(large);
    make(&bed, 3);
    // Two or three chunks of the large file.
    let (_, bytes) = send(&bed, Faults::default()).await;
    assert!(bytes < 60_000, "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_changes_while_it_is_referred_to_costs_bytes_only() {
    let bed = Bed::with_versions().await;
    make(&bed, 0);
    send(&bed, Faults::default()).await;
    make(&bed, 1);
    // The old inodes, whatever is in place by then.
    let old = |name: &str| File::options().write(true).open(bed.b.root.join(name)).unwrap();
    let large = (old("large"), noise(77, LARGE));
    let small: Vec<_> = (0..200).map(|n| old(&format!("small/{n:03}"))).collect();
    // When the first piece is under way, all answers were given.
    let spoil = move || {
        large.0.write_all_at(&large.1, 0).unwrap();
        small.iter().for_each(|file| file.write_all_at(b"spoiled", 0).unwrap());
    };
    let (report, bytes) = send(&bed, Faults { on_piece: Some((0, Arc::new(spoil))), ..Faults::default() }).await;
    assert!(bytes < 3 * u64::try_from(LARGE).unwrap(), "{bytes}");
    // What fell back is not counted as reused: nearly all of it travelled.
    assert!(report.progress.bytes_reused.bytes() < u64::try_from(LARGE).unwrap() / 4, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_arrive_though_links_break_and_programs_start_anew_between_them() {
    let mut bed = Bed::with_versions().await;
    for version in 0..6 {
        make(&bed, version);
        send(&bed, Faults { cut_after: Some(1), ..Faults::default() }).await;
        if version % 2 == 0 { bed.a.restart().await } else { bed.b.restart().await }
    }
    // What was in place before a link broke is not sent again, so its sender cannot tell which version that is.
    make(&bed, 6);
    send(&bed, Faults::default()).await;
    bed.a.keeps(&bed.b, "small/199").await;
    make(&bed, 7);
    let (_, bytes) = send(&bed, Faults { shuffle: Some(5), ..Faults::default() }).await;
    assert!(bytes < 60_000, "{bytes}");
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
    assert_eq!(wires.bytes(), [0]);
    assert!(tree(&a) == tree(&b));
    assert_eq!(report.progress.bytes_reused, report.progress.bytes_total);
    // And back again.
    fs::rename(a.join("elsewhere/larger"), a.join("large")).unwrap();
    let (_, wires) = bed.send(&["data:/"], "data:/", delete.clone()).await;
    assert_eq!(wires.bytes(), [0]);
    assert!(tree(&a) == tree(&b));
    fs::rename(a.join("large"), a.join("elsewhere/larger")).unwrap();
    bed.send(&["data:/"], "data:/", delete.clone()).await;

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
    assert!(tree(&a) == tree(&b));
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

/// Sends one file over a link of its own.
async fn send_one(bed: &Bed, path: &str, faults: Faults) -> u64 {
    let grant = bed.grant(&[path], "data:/", TransferOptions::default());
    let (report, wires) = bed.send_job(bed.job(&grant), vec![faults]).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    wires.bytes().iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_raised_while_the_program_runs_keeps_nothing_waiting() {
    let mut bed = Bed::with_versions().await;
    bed.a.settings = Settings { basis_budget: ByteCount::new(1 << 20), ..settings() };
    bed.a.restart().await;
    fs::write(bed.a.root.join("large"), noise(1, LARGE)).unwrap();
    send(&bed, Faults::default()).await;
    bed.a.keeps(&bed.b, "large").await;
    // More than there was when the program started.
    bed.a.transfers.set_settings(settings());
    fs::write(bed.a.root.join("large"), [noise(1, LARGE), b"and a tail".to_vec()].concat()).unwrap();
    let (_, bytes) = send(&bed, Faults::default()).await;
    assert!(bytes < 1000, "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_others_hold_the_memory_of_indexes_a_file_goes_whole() {
    const SMALL: usize = 200_000;
    let mut bed = Bed::with_versions().await;
    let stall_timeout = Duration::from_secs(4);
    bed.a.settings = Settings { basis_budget: ByteCount::new(3 << 20), stall_timeout, ..settings() };
    bed.a.restart().await;
    fs::write(bed.a.root.join("shrinks"), noise(1, 16 << 20)).unwrap();
    fs::write(bed.a.root.join("grows"), noise(2, SMALL)).unwrap();
    send(&bed, Faults::default()).await;
    bed.a.keeps(&bed.b, "shrinks").await;
    bed.a.keeps(&bed.b, "grows").await;
    // The index is that of what was: two of three MiB, until its receiver takes the rest of it.
    fs::write(bed.a.root.join("shrinks"), noise(3, SMALL)).unwrap();
    fs::write(bed.a.root.join("grows"), [noise(2, SMALL), b"and a tail".to_vec()].concat()).unwrap();
    let begun = Arc::new(tokio::sync::Notify::new());
    let ring = Arc::clone(&begun);
    let slow =
        Faults { on_piece: Some((0, Arc::new(move || ring.notify_one()))), hold_from: Some(1), ..Faults::default() };
    let other = async {
        begun.notified().await;
        send_one(&bed, "data:/grows", Faults::default()).await
    };
    let (_, bytes) = tokio::join!(send_one(&bed, "data:/shrinks", slow), other);
    assert!(bytes > u64::try_from(SMALL).unwrap(), "{bytes}");
    assert!(tree(&bed.a.root) == tree(&bed.b.root));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_read_to_decode_small_files_is_not_counted_as_reused() {
    let bed = Bed::with_versions().await;
    let file = |n: u64, version: u64| {
        // Every second stretch is new.
        let stretch = |at: u64| noise(n * 1000 + at + if at.is_multiple_of(2) { 0 } else { version * 100 }, 2000);
        (1..=8).flat_map(stretch).collect::<Vec<_>>()
    };
    let make = |version| (1..20).for_each(|n| fs::write(bed.a.root.join(n.to_string()), file(n, version)).unwrap());
    make(1);
    send(&bed, Faults::default()).await;
    bed.a.keeps(&bed.b, "19").await;
    make(2);
    let (report, wires) = bed.send(&["data:/"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    let received = wires.received().await;
    let [Received::Ended(received)] = &received[..] else { panic!("{received:?}") };
    let reused = [report.progress.bytes_reused.bytes(), received.progress.bytes_reused.bytes()];
    assert!(reused.iter().all(|bytes| (19 * 7000..19 * 9000).contains(bytes)), "{reused:?}");
}
