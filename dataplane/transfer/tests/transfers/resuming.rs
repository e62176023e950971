//! A transfer that breaks goes on where it was.

use std::{fs, sync::Arc};

use dataplane_transfer::{Received, Sent};
use proptest::prelude::*;
use proto_model::{Grant, TransferOptions, TransferReport, TransferRole, TransferState, TrustBundle};
use tokio::sync::watch;

use crate::bed::{Bed, Faults, Wires, noise, tree};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_under_way_is_sent_again() {
    let bed = Bed::new();
    let bytes = 16 << 20;
    fs::write(bed.a.root.join("file"), noise(5, bytes)).unwrap();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let cut = |after| Faults { cut_after: Some(after), ..Faults::default() };
    let (report, wires) = bed.send_job(bed.job(&grant), vec![cut(150), cut(60)]).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    let sent: u64 = wires.bytes().iter().sum();
    // Two breaks, each with at most what the link held and the threads were writing.
    assert!(wires.bytes().len() == 3 && sent < u64::try_from(bytes).unwrap() + 5_000_000, "{:?}", wires.bytes());
    let received = wires.received().await;
    assert!(matches!(received[..], [Received::Interrupted(_), Received::Interrupted(_), Received::Ended(_)]));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_may_start_anew() {
    let mut bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(6, 8 << 20)).unwrap();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let job = bed.job(&grant);
    // The first link carries some of it, those after it nothing: it waits until both are stopped.
    let cuts = std::iter::once(60).chain(std::iter::repeat_n(0, 1000));
    let cuts = cuts.map(|cut| Faults { cut_after: Some(cut), ..Faults::default() }).collect();
    let wires = Arc::new(Wires::new(&bed.b, bed.a.identity.public_key(), cuts));
    let (reports, mut watch) = watch::channel(TransferReport::new(grant.transfer, TransferRole::Sender));
    let (sender, dyn_wires) = (bed.a.transfers.clone(), Arc::clone(&wires) as Arc<dyn dataplane_transfer::Connector>);
    #[allow(clippy::disallowed_methods, reason = "the test waits for it")]
    let sending = tokio::spawn(async move { Box::pin(sender.send(job, dyn_wires, reports)).await });
    watch.wait_for(|report| report.state == TransferState::Waiting).await.unwrap();
    bed.a.restart().await;
    bed.b.restart().await;
    let Sent::Interrupted(report) = sending.await.unwrap() else { panic!("it should be interrupted") };
    assert_eq!(report.state, TransferState::Waiting);

    let jobs = bed.a.transfers.unfinished().unwrap();
    assert_eq!(jobs.len(), 1);
    let (report, again) = bed.send_job(jobs[0].clone(), Vec::new()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    assert!(again.bytes()[0] < 7 << 20, "{:?}", again.bytes());
    assert!(report.progress.bytes_reused.bytes() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_of_an_ended_transfer_goes_at_the_next_start() {
    let mut bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(6, 100_000)).unwrap();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let (report, _) = bed.send_job(bed.job(&grant), Vec::new()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    for (host, role) in [(&mut bed.a, "sender"), (&mut bed.b, "receiver")] {
        // The end is kept before the folder goes: a crash between the two leaves the folder, or some of it.
        let half_gone = host.folder.join(format!("{}.{role}", grant.transfer));
        fs::create_dir(&half_gone).unwrap();
        fs::write(half_gone.join("journal"), b"some of it").unwrap();
        // One of a transfer of which nothing was written down yet.
        fs::create_dir(host.folder.join(format!("{}.{role}", crate::bed::id()))).unwrap();
        host.restart().await;
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_segment_is_found_and_sent_again() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(7, 1 << 20)).unwrap();
    fs::write(bed.a.root.join("tiny"), noise(8, 1000)).unwrap();
    for spoil in 0..4 {
        let grant = bed.grant(&["data:/"], &format!("data:/{spoil}/"), TransferOptions::default());
        let faults = Faults { spoil: Some(spoil), ..Faults::default() };
        let (report, _) = bed.send_job(bed.job(&grant), vec![faults]).await;
        assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
        assert_eq!(tree(&bed.a.root), tree(&bed.b.root.join(spoil.to_string())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_leaves_what_is_in_place_and_nothing_half_done() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("0-first"), b"in place").unwrap();
    fs::write(bed.a.root.join("file"), noise(9, 8 << 20)).unwrap();
    let grant = bed.grant(&["data:/"], "data:/in/", TransferOptions::default());
    let faults = vec![Faults { hold_from: Some(40), ..Faults::default() }];
    let wires = Arc::new(Wires::new(&bed.b, bed.a.identity.public_key(), faults));
    let (reports, mut watch) = watch::channel(TransferReport::new(grant.transfer, TransferRole::Sender));
    let connector = Arc::clone(&wires) as Arc<dyn dataplane_transfer::Connector>;
    let transfers = bed.a.transfers.clone();
    let cancel = async {
        watch.wait_for(|report| report.progress.files_done > 0).await.unwrap();
        assert!(transfers.cancel(grant.transfer, TransferRole::Sender));
    };
    let (sent, ()) = tokio::join!(Box::pin(bed.a.transfers.send(bed.job(&grant), connector, reports)), cancel);
    assert!(matches!(sent, Sent::Ended(report) if report.state == TransferState::Cancelled));
    let received = wires.received().await;
    assert!(
        matches!(&received[..], [Received::Ended(report)] if report.state == TransferState::Cancelled),
        "{received:?}"
    );
    let left: Vec<_> = tree(&bed.b.root).into_keys().collect();
    assert_eq!(left, [b"in".to_vec(), b"in/0-first".to_vec()]);
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_can_be_given_up_at_the_receiver() {
    let bed = Bed::new();
    fs::create_dir(bed.a.root.join("sub")).unwrap();
    fs::write(bed.a.root.join("sub/file"), noise(9, 4 << 20)).unwrap();
    let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
    let cut = Faults { cut_after: Some(30), ..Faults::default() };
    let wires = Arc::new(Wires::new(&bed.b, bed.a.identity.public_key(), vec![cut]));
    let (reports, mut watch) = watch::channel(TransferReport::new(grant.transfer, TransferRole::Sender));
    let connector = Arc::clone(&wires) as Arc<dyn dataplane_transfer::Connector>;
    let transfers = bed.a.transfers.clone();
    let cancel = async {
        watch.wait_for(|report| report.state == TransferState::Waiting).await.unwrap();
        assert!(transfers.cancel(grant.transfer, TransferRole::Sender));
    };
    let (sent, ()) = tokio::join!(Box::pin(bed.a.transfers.send(bed.job(&grant), connector, reports)), cancel);
    assert!(matches!(sent, Sent::Ended(report) if report.state == TransferState::Cancelled));
    // The sender may have come once more to say that it is cancelled: then nothing is left already.
    let broken = !wires.received().await.iter().any(|received| matches!(received, Received::Ended(_)));
    let hidden = || tree(&bed.b.root).into_keys().filter(|path| path.ends_with(b".part")).count();
    assert_eq!((hidden(), bed.b.leftovers().len()), if broken { (1, 1) } else { (0, 0) });
    assert_eq!(bed.b.transfers.cancel(grant.transfer, TransferRole::Receiver), broken);
    bed.b.tasks.shutdown(crate::bed::PATIENCE).await.unwrap();
    assert_eq!((hidden(), bed.b.leftovers().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_meanwhile_is_read_once_more() {
    for size in [5_000, 700_000] {
        for grows in [5_000, 700_000] {
            let bed = Bed::new();
            let path = bed.a.root.join("file");
            fs::write(&path, noise(1, size)).unwrap();
            fs::write(bed.a.root.join("other"), noise(2, 300_000)).unwrap();
            let changed = path.clone();
            let act = move || fs::write(&changed, noise(3, grows)).unwrap();
            let faults = Faults { on_page: Some(Arc::new(act)), shuffle: Some(4), ..Faults::default() };
            let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
            let (report, _) = bed.send_job(bed.job(&grant), vec![faults]).await;
            assert_eq!(report.state, TransferState::Succeeded, "{size} {grows} {report:?}");
            assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanishes_meanwhile_is_left_out_and_said() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(1, 700_000)).unwrap();
    fs::write(bed.a.root.join("other"), b"other").unwrap();
    let gone = bed.a.root.join("file");
    let act = move || fs::remove_file(&gone).unwrap();
    let faults = Faults { on_page: Some(Arc::new(act)), ..Faults::default() };
    let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
    let (report, _) = bed.send_job(bed.job(&grant), vec![faults]).await;
    assert_eq!(report.state, TransferState::SucceededInPart, "{report:?}");
    assert_eq!((report.issue_count, report.issues[0].reason.as_str()), (1, "UNREADABLE"));
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_and_any_order_end_in_an_equal_tree(
        sizes in prop::collection::vec(0_usize..600_000, 1..6),
        cuts in prop::collection::vec((1_usize..30, any::<u64>()), 0..3),
        order in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let bed = Bed::new();
            for (n, size) in sizes.iter().enumerate() {
                fs::create_dir_all(bed.a.root.join(format!("{}", n % 2))).unwrap();
                fs::write(bed.a.root.join(format!("{}/{n}", n % 2)), noise(u64::try_from(n).unwrap(), *size)).unwrap();
            }
            let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
            let mut faults: Vec<_> = cuts
                .iter()
                .map(|(cut, seed)| Faults { cut_after: Some(*cut), shuffle: Some(*seed), ..Faults::default() })
                .collect();
            faults.push(Faults { shuffle: Some(order), ..Faults::default() });
            let (report, wires) = bed.send_job(bed.job(&grant), faults).await;
            assert_eq!(report.state, TransferState::Succeeded, "{report:?} {:?}", wires.received().await);
            assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
            assert!(bed.b.leftovers().is_empty());
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rots_between_two_attempts_is_found_and_sent_again() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(5, 16 << 20)).unwrap();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let root = bed.b.root.clone();
    // When the second attempt says what there is, nobody writes the temporary file of the first.
    let rot = move || {
        let hidden = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let hidden = hidden.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".dwcp-"));
        for path in hidden {
            let mut bytes = fs::read(&path).unwrap();
            bytes[100_000] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    };
    let cut = Faults { cut_after: Some(150), ..Faults::default() };
    let rotten = Faults { on_page: Some(Arc::new(rot)), ..Faults::default() };
    let (report, wires) = bed.send_job(bed.job(&grant), vec![cut, rotten]).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    // Only that segment, and what was under way, went again.
    assert!(wires.bytes()[1] < 12 << 20, "{:?}", wires.bytes());
}

fn restore(bed: &Bed) {
    let bundle = TrustBundle { epoch: 2.into(), ..bed.fleet.bundle() };
    for host in [&bed.a, &bed.b] {
        host.identity.trust().replace_bundle(bundle.clone()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_goes_on_when_the_control_plane_is_restored() {
    let bed = Arc::new(Bed::new());
    let bytes = 16 << 20;
    fs::write(bed.a.root.join("file"), noise(9, bytes)).unwrap();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let restored = Arc::clone(&bed);
    let during = Faults { on_piece: Some((30, Arc::new(move || restore(&restored)))), ..Faults::default() };
    let (report, wires) = bed.send_job(bed.job(&grant), vec![Faults { cut_after: Some(150), ..during }]).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    let sent: u64 = wires.bytes().iter().sum();
    assert!(wires.bytes().len() == 2 && sent < u64::try_from(bytes).unwrap() + 5_000_000, "{:?}", wires.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_begun_before_a_restore_waits_for_its_new_grant() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(9, 1 << 20)).unwrap();
    let old = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    restore(&bed);
    let wires = Arc::new(Wires::new(&bed.b, bed.a.identity.public_key(), Vec::new()));
    let (reports, mut watch) = watch::channel(TransferReport::new(old.transfer, TransferRole::Sender));
    let (sender, connector) = (bed.a.transfers.clone(), Arc::clone(&wires) as Arc<dyn dataplane_transfer::Connector>);
    let job = bed.job(&old);
    #[allow(clippy::disallowed_methods, reason = "the test waits for it")]
    let sending = tokio::spawn(async move { Box::pin(sender.send(job, connector, reports)).await });
    let waiting = watch.wait_for(|report| report.state == TransferState::Waiting).await.unwrap().error.clone().unwrap();
    assert_eq!(waiting.reason, "GRANT_OF_OTHER_EPOCH", "{waiting:?}");
    assert!(waiting.message.contains("restored") && waiting.message.contains("send it again"), "{waiting:?}");
    assert!(tree(&bed.b.root).is_empty());

    bed.a.transfers.renew(old.transfer, bed.sign(&Grant { epoch: 2.into(), ..old.clone() }));
    let Sent::Ended(report) = sending.await.unwrap() else { panic!("it should end") };
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}
