//! Receivers that do not keep to the protocol: the sender reads only what it may, does only what is needed, and ends.

use std::{fs, time::Duration};

use dataplane_hde::Signature;
use dataplane_transfer::{Connector, ControlIn, Link, Sent, Settings};
use proto_model::{ByteCount, TransferOptions, TransferReport, TransferRole, TransferState};
use proto_wire::frames::{Abort, Finished, Opened, ReceiverFrame, SenderFrame, Wanted, WantedFile};
use tokio::sync::watch;

use crate::bed::{Bed, Caught, PATIENCE, noise, settings};

/// What the liar does.
enum Say {
    Frame(ReceiverFrame),
    Raw(Vec<u8>),
    /// Reads frames until one is of this kind, and takes pieces meanwhile.
    Until(fn(&SenderFrame) -> bool),
    /// Says nothing more, and reads nothing.
    Freeze,
}

fn opened() -> Say {
    opened_with(&["holes", "deltas"])
}

fn opened_with(features: &[&str]) -> Say {
    Say::Frame(ReceiverFrame::Opened(Opened {
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        receive_window_bytes: u64::MAX,
        resuming: true,
    }))
}

fn manifest_ended() -> Say {
    Say::Until(|frame| matches!(frame, SenderFrame::ManifestEnd(_)))
}

fn told_all() -> Say {
    Say::Until(|frame| matches!(frame, SenderFrame::Finish { .. }))
}

fn wants(files: Vec<WantedFile>) -> Say {
    Say::Frame(ReceiverFrame::Wanted(Wanted { files, page_complete: true, equal_bytes: 0, equal_files: 0 }))
}

fn file(number: u64) -> WantedFile {
    WantedFile { file: number, ..WantedFile::default() }
}

fn finished(tree_digest: [u8; 32], issue_count: u64) -> Say {
    Say::Frame(ReceiverFrame::Finished(Finished {
        tree_digest,
        issues: Vec::new(),
        issue_count,
        deleted: u64::MAX,
        planned_changes: Vec::new(),
    }))
}

/// Waits until the sender gives up.
async fn aborted(control: &mut dyn ControlIn) {
    while let Ok(Some(frame)) = control.recv().await {
        if matches!(SenderFrame::decode(&frame), Ok(SenderFrame::Abort(_))) {
            return;
        }
    }
}

async fn play(mut link: Link, lies: Vec<Say>) {
    let mut frozen = None;
    for lie in lies {
        let frame = match lie {
            Say::Frame(frame) => frame.encode(),
            Say::Raw(bytes) => bytes,
            Say::Until(kind) => {
                let found = async {
                    loop {
                        tokio::select! {
                            frame = link.control_in.recv() => match frame {
                                Ok(Some(frame)) if !SenderFrame::decode(&frame).is_ok_and(|frame| kind(&frame)) => {}
                                _ => return,
                            },
                            _ = link.pieces_in.recv() => {}
                        }
                    }
                };
                tokio::time::timeout(PATIENCE, found).await.unwrap();
                continue;
            }
            Say::Freeze => {
                frozen = Some(());
                break;
            }
        };
        tokio::select! {
            biased;
            sent = link.control_out.send(&frame) => if sent.is_err() {
                return;
            },
            () = aborted(link.control_in.as_mut()) => return,
        }
    }
    if frozen.is_some() {
        // Held, until the test ends.
        std::future::pending::<()>().await;
    }
    while let Ok(Some(frame)) = link.control_in.recv().await {
        if matches!(SenderFrame::decode(&frame), Ok(SenderFrame::Abort(_))) {
            break;
        }
    }
}

/// Sends `big` (16 MiB, in segments of 64 KiB) and `small` to a receiver that does this, and no more.
async fn sent_to(options: TransferOptions, lies: Vec<Say>) -> TransferReport {
    sent_with(settings(), options, lies).await
}

async fn sent_with(settings: Settings, options: TransferOptions, lies: Vec<Say>) -> TransferReport {
    let bed = Bed::new();
    bed.a.transfers.set_settings(Settings { stall_timeout: Duration::from_secs(2), ..settings });
    fs::write(bed.a.root.join("big"), noise(1, 16 << 20)).unwrap();
    fs::write(bed.a.root.join("small"), noise(2, 100)).unwrap();
    fs::create_dir(bed.a.root.join("zone")).unwrap();
    // What only looks like a part of the tree.
    fs::write(bed.a.outside.join("secret"), b"secret").unwrap();
    let grant = bed.grant(&["data:/"], "data:/", options);
    let (connector, mut links) = Caught::new(bed.a.identity.public_key());
    let (reports, mut watched) = watch::channel(TransferReport::new(grant.transfer, TransferRole::Sender));
    let lying = async {
        let link = links.recv().await.unwrap();
        play(link, lies).await;
        // Nobody answers after that.
        while links.recv().await.is_some() {}
    };
    let connector: std::sync::Arc<dyn Connector> = connector;
    let transfers = bed.a.transfers.clone();
    let sending = async {
        // One that waits for another attempt has said why.
        tokio::select! {
            sent = Box::pin(transfers.send(bed.job(&grant), connector, reports)) => match sent {
                Sent::Ended(report) | Sent::Interrupted(report) => report,
            },
            report = async {
                let report = watched.wait_for(|report| report.state == TransferState::Waiting).await;
                report.unwrap().clone()
            } => report,
        }
    };
    tokio::select! {
        report = tokio::time::timeout(PATIENCE, sending) => report.unwrap(),
        () = lying => unreachable!("the links do not end before the sender"),
    }
}

async fn refusal(lies: Vec<Say>) -> String {
    refused(sent_to(TransferOptions::default(), lies).await)
}

/// Why a sender with these settings gives up, where its receiver consents to all there is and then says this.
pub(crate) async fn refusal_of(settings: Settings, lie: ReceiverFrame) -> String {
    let opened = Opened {
        features: ["deltas", "dictionaries"].map(str::to_owned).to_vec(),
        receive_window_bytes: u64::MAX,
        resuming: false,
    };
    let lies = vec![Say::Frame(ReceiverFrame::Opened(opened)), manifest_ended(), Say::Frame(lie)];
    refused(sent_with(settings, TransferOptions::default(), lies).await)
}

fn refused(report: TransferReport) -> String {
    let error = report.error.unwrap_or_else(|| panic!("{:?}", report.state));
    if error.reason == "PROTOCOL_VIOLATION" {
        assert_eq!(report.state, TransferState::Failed);
        assert!(error.message.starts_with("b does not keep to the protocol: "), "{}", error.message);
    }
    error.reason
}

const VIOLATION: &str = "PROTOCOL_VIOLATION";

#[tokio::test(flavor = "multi_thread")]
async fn consents_that_are_none_are_refused() {
    assert_eq!(refusal(vec![wants(vec![file(0)])]).await, VIOLATION);
    assert_eq!(refusal(vec![Say::Raw(vec![0xff; 64])]).await, VIOLATION);
    assert_eq!(refusal(vec![Say::Raw(Vec::new())]).await, VIOLATION);
    assert_eq!(refusal(vec![opened(), manifest_ended(), opened()]).await, VIOLATION);
    let abort = Abort { reason: "X\u{1b}[31m".into(), message: "y\nz".repeat(5000), temporary: false };
    let report = sent_to(TransferOptions::default(), vec![Say::Frame(ReceiverFrame::Abort(abort))]).await;
    let error = report.error.unwrap();
    assert!(!error.reason.contains('\u{1b}') && !error.message.contains('\n') && error.message.len() < 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_there_is_not_gets_nothing() {
    let after = |files| vec![opened(), manifest_ended(), wants(files)];
    // Beyond the manifest, a folder, twice.
    assert_eq!(refusal(after(vec![file(9)])).await, VIOLATION);
    assert_eq!(refusal(after(vec![file(u64::MAX)])).await, VIOLATION);
    assert_eq!(refusal(after(vec![file(2)])).await, VIOLATION);
    assert_eq!(refusal(after(vec![file(0), file(0)])).await, VIOLATION);
    // Parts of two files mixed.
    let more = WantedFile { more: true, ..file(0) };
    assert_eq!(refusal(after(vec![more, file(1)])).await, VIOLATION);
    // Segments beyond the end, twice, more than there are.
    let held = |held: Vec<u64>| WantedFile { held: held.into_iter().map(|n| (n, [1; 32])).collect(), ..file(0) };
    assert_eq!(refusal(after(vec![held(vec![256])])).await, VIOLATION);
    assert_eq!(refusal(after(vec![held(vec![u64::MAX])])).await, VIOLATION);
    assert_eq!(refusal(after(vec![held(vec![3, 3])])).await, VIOLATION);
    assert_eq!(refusal(after(vec![held((0..257).collect())])).await, VIOLATION);
    // An answer to a page that was not sent, and wishes of a dry run.
    assert_eq!(refusal(vec![opened(), manifest_ended(), wants(Vec::new()), wants(Vec::new())]).await, VIOLATION);
    let dry = TransferOptions { dry_run: true, ..TransferOptions::default() };
    assert_eq!(sent_to(dry, after(vec![file(0)])).await.error.unwrap().reason, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_cannot_be_is_refused() {
    let after = |files| vec![opened(), manifest_ended(), wants(files)];
    let signed = |basis_bytes, signature: &[u8]| WantedFile { basis_bytes, signature: signature.to_vec(), ..file(0) };
    let (honest, _) = Signature::read(&mut &*noise(5, 1 << 20), 1 << 20).unwrap();
    let honest = honest.as_bytes();
    // No signature of anything, or one cut off; more than so many bytes have; of no bytes; of more than the file needs.
    for wrong in [
        signed(1 << 20, &[0xff; 100]),
        signed(1 << 20, &honest[..honest.len() - 1]),
        signed(1 << 20, &vec![1; 200_000]),
        signed(1000, honest),
        signed(0, honest),
        signed(u64::MAX, honest),
        signed(1 << 40, honest),
        WantedFile { baseline: Some([1; 32]), ..signed(1 << 20, honest) },
    ] {
        let said = format!("{} bytes of {}", wrong.signature.len(), wrong.basis_bytes);
        assert_eq!(refusal(after(vec![wrong])).await, VIOLATION, "{said}");
    }
    let first = |basis_bytes| WantedFile { more: true, ..signed(basis_bytes, &honest[..100]) };
    assert_eq!(refusal(after(vec![first(1 << 20), signed(1 << 19, &honest[100..])])).await, VIOLATION);
    assert_eq!(
        refusal(after(vec![first(1 << 20), WantedFile { baseline: Some([1; 32]), ..file(0) }])).await,
        VIOLATION
    );
    // Without end.
    assert_eq!(refusal(after((0..10_000).map(|_| first(1 << 20)).collect())).await, VIOLATION);
    // Made of what the sender knows nothing of.
    assert_eq!(refusal(after(vec![WantedFile { made: true, ..file(0) }])).await, VIOLATION);
    // Of another file, where the sender said nothing of what this one is like.
    assert_eq!(refusal(after(vec![WantedFile { elsewhere: true, ..file(1) }])).await, VIOLATION);
    // A version that the sender never had counts for nothing.
    let baseline = Some([7; 32]);
    let lies = vec![
        opened(),
        manifest_ended(),
        wants(vec![WantedFile { baseline, ..file(0) }, WantedFile { baseline, ..file(1) }]),
        told_all(),
        finished([0; 32], 1),
    ];
    assert_eq!(sent_to(TransferOptions::default(), lies).await.state, TransferState::SucceededInPart);
    // Small files again and again.
    let again = || Say::Frame(ReceiverFrame::ResendFiles(vec![1]));
    assert_eq!(refusal(vec![opened(), manifest_ended(), again()]).await, VIOLATION);
    assert_eq!(
        refusal(vec![opened(), manifest_ended(), wants(vec![file(0), file(1)]), told_all(), again(), again()]).await,
        VIOLATION
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_for_an_old_version_the_whole_file_travels() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(1, 4 << 20)).unwrap();
    // Of another length: two files written within one tick of the clock may have one time.
    let mut old = noise(1, 4 << 20);
    old.push(1);
    fs::write(bed.b.root.join("file"), old).unwrap();
    bed.a.transfers.set_settings(Settings { basis_budget: ByteCount::new(100), ..settings() });
    let (report, wires) = bed.send(&["data:/file"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert!(wires.bytes()[0] > 4 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_are_none_are_refused() {
    assert_eq!(refusal(vec![opened(), finished([0; 32], 0)]).await, VIOLATION);
    // Who takes pages before it has consented has what they are made of.
    assert_eq!(refusal(vec![opened_with(&["deltas"]), Say::Freeze]).await, VIOLATION);
    assert_eq!(refusal(vec![opened(), manifest_ended(), finished([0; 32], 0)]).await, VIOLATION);
    let all = |end| vec![opened(), manifest_ended(), wants(vec![file(0), file(1)]), told_all(), end];
    assert_eq!(refusal(all(finished([0; 32], 0))).await, "TREE_MISMATCH");
    // What it counts as left out cannot hide that anything was.
    let report = sent_to(TransferOptions::default(), all(finished([0; 32], u64::MAX))).await;
    assert_eq!((report.state, report.issue_count), (TransferState::SucceededInPart, u64::MAX));
    // It holds all that it was not asked about: more than there is counts for nothing.
    let equal = Wanted { files: Vec::new(), page_complete: true, equal_bytes: u64::MAX, equal_files: u64::MAX };
    let lies =
        vec![opened(), manifest_ended(), Say::Frame(ReceiverFrame::Wanted(equal)), told_all(), finished([0; 32], 1)];
    let report = sent_to(TransferOptions::default(), lies).await;
    assert_eq!(report.state, TransferState::SucceededInPart);
    assert!(report.progress.bytes_reused <= report.progress.bytes_total, "{:?}", report.progress);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_without_end_is_cut_off() {
    let again = |file, segment| Say::Frame(ReceiverFrame::Resend { file, segment });
    // What it never asked for.
    assert_eq!(refusal(vec![opened(), manifest_ended(), again(0, 0)]).await, VIOLATION);
    assert_eq!(refusal(vec![opened(), manifest_ended(), wants(vec![file(1)]), again(0, 0)]).await, VIOLATION);
    let mut lies = vec![opened(), manifest_ended(), wants(vec![file(0), file(1)]), told_all()];
    lies.extend((0..2000).map(|n| again(0, n % 256)));
    assert_eq!(refusal(lies).await, VIOLATION);
    // Answers without end lie on the disk: no more than there is to say.
    let mut lies = vec![opened(), manifest_ended()];
    lies.extend((0..5000).map(|_| {
        let held = (0..8000).map(|n| (n, [1; 32])).collect();
        let files = vec![WantedFile { held, more: true, ..file(0) }];
        Say::Frame(ReceiverFrame::Wanted(Wanted { files, ..Wanted::default() }))
    }));
    assert_eq!(refusal(lies).await, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_nothing_or_reads_nothing_is_given_up() {
    for lies in
        [vec![opened(), Say::Freeze], vec![opened(), manifest_ended(), wants(vec![file(0), file(1)]), Say::Freeze]]
    {
        let report = sent_to(TransferOptions::default(), lies).await;
        assert_eq!(report.state, TransferState::Waiting, "{report:?}");
        let error = report.error.unwrap();
        assert_eq!(error.reason, "STALLED");
        assert!(error.message.starts_with("with b: "), "{}", error.message);
    }
}
