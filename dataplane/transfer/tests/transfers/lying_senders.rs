//! Senders that lie about more than single numbers: what they may write, how much, for how long, and in whose name.

use std::{fs, time::Duration};

use dataplane_transfer::{Received, Settings};
use proto_model::{ByteCount, DirectRequest, Labels, PublicKey, TransferOptions, TransferState, TrustBundle};
use proto_wire::{
    frames::{Authority, FileAborted, FileEnd, Open, ReceiverFrame, SenderFrame},
    manifest::{Entry, Kind},
    piece::{AsRead, BundleRow, HEADER_BYTES, Header, Known, PieceKind, Source, write_known},
};

use crate::{
    bed::{Bed, Faults, PATIENCE, id, noise, pair, settings, tree},
    liars::{
        FILE_BYTES, Liar, Step, bundle, entry, manifest_end, opening, page, page_frame, refusal, refusal_on, segment,
    },
};

const VIOLATION: &str = "PROTOCOL_VIOLATION";

fn frame(frame: SenderFrame) -> Step {
    Step::Frame(frame.encode())
}

/// One file of 200,000 bytes is told and asked for; then these steps.
fn asked(steps: Vec<Step>) -> Vec<Step> {
    let tree = page(&[entry("a", FILE_BYTES)]);
    let mut all = vec![page_frame(&tree), manifest_end(&tree), Step::Wanted];
    all.extend(steps);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_no_tree_are_refused() {
    let link = Entry { kind: Kind::Symlink { target: b"..".to_vec() }, ..entry("b", 0) };
    let folder = Entry { kind: Kind::Folder, ..entry("b", 0) };
    for entries in [
        // Twice, out of order, under a link, under a file, a file that is a folder too, in a folder that is not there.
        vec![entry("a", 1), entry("a", 1)],
        vec![entry("b", 1), entry("a", 1)],
        vec![link.clone(), entry("b/c", 1)],
        vec![entry("b", 1), entry("b/c", 1)],
        vec![entry("b", 1), folder.clone()],
        vec![folder.clone(), folder.clone()],
        vec![folder.clone(), entry("b/c/d", 1)],
    ] {
        let wrong = page(&entries);
        assert_eq!(refusal(vec![page_frame(&wrong)]).await, VIOLATION, "{entries:?}");
    }
    // The same over two pages; a page again; a page after the end; an end twice; a second opening.
    let first = page(&[entry("a", 1)]);
    let mut second = page(&[entry("b", 1)]);
    second.first_index = 1;
    let mut disorder = page(&[entry("A", 1)]);
    disorder.first_index = 1;
    assert_eq!(refusal(vec![page_frame(&first), page_frame(&disorder)]).await, VIOLATION);
    assert_eq!(refusal(vec![page_frame(&first), page_frame(&first)]).await, VIOLATION);
    assert_eq!(refusal(vec![page_frame(&first), manifest_end(&first), page_frame(&second)]).await, VIOLATION);
    assert_eq!(refusal(vec![page_frame(&first), manifest_end(&first), manifest_end(&first)]).await, VIOLATION);
    let bed = Bed::new();
    let again = opening(&bed, &bed.grant(&["data:/x"], "data:/", TransferOptions::default()));
    assert_eq!(refusal(vec![page_frame(&first), again]).await, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_end_is_bounded() {
    let bed = Bed::new();
    bed.b.transfers.set_settings(Settings { manifest_bytes: ByteCount::new(100_000), ..settings() });
    let pages = |per_page: u64| {
        (0..20_000 / per_page).map(move |number| {
            let first = number * per_page;
            let folders = (first..first + per_page)
                .map(|n| Entry { kind: Kind::Symlink { target: vec![b'x'] }, ..entry(&format!("{n:0>9}"), 0) });
            let mut page = page(&folders.collect::<Vec<_>>());
            page.first_index = first;
            page_frame(&page)
        })
    };
    assert_eq!(refusal_on(&bed, TransferOptions::default(), pages(1000).collect()).await, "MANIFEST_TOO_LARGE");
    // Many pages that say nothing are refused before they are a burden.
    let bed = Bed::new();
    assert_eq!(refusal_on(&bed, TransferOptions::default(), pages(1).collect()).await, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reading_widens_neither_the_grant_nor_the_promise() {
    let max_bytes = Some(ByteCount::new(FILE_BYTES));
    let capped = || TransferOptions { max_bytes, ..TransferOptions::default() };
    let Step::Piece(good, encoded) = segment(0, 0) else { unreachable!() };
    let larger = || Step::Piece(Header { attempt: 1, file_bytes: 1 << 41, ..good }, encoded.clone());
    assert_eq!(refusal_on(&Bed::new(), capped(), asked(vec![larger()])).await, "TOO_MANY_BYTES");
    // A small file, too.
    let tree = page(&[entry("a", 5)]);
    let contents = noise(1, 100_000);
    let read = AsRead { size: 100_000, mode: 0o644, mtime: entry("a", 5).mtime, attempt: 1 };
    let (bundle, encoded) = bundle(&[BundleRow { file: 0, basis: false, as_read: Some(read) }], &contents);
    let steps = vec![page_frame(&tree), manifest_end(&tree), Step::Wanted, Step::Piece(bundle, encoded)];
    let options = TransferOptions { max_bytes: Some(ByteCount::new(5)), ..TransferOptions::default() };
    assert_eq!(refusal_on(&Bed::new(), options, steps).await, "TOO_MANY_BYTES");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_aborts_that_nobody_asked_for_are_refused() {
    let end = |file, attempt, entry| frame(SenderFrame::FileEnd(FileEnd { file, root: [0; 32], attempt, entry }));
    assert_eq!(refusal(asked(vec![end(1, 0, None)])).await, VIOLATION);
    assert_eq!(refusal(asked(vec![segment(0, 0), end(0, 0, Some(entry("a", 7)))])).await, VIOLATION);
    let aborted = |file| {
        let (reason, message) = ("UNREADABLE".to_owned(), String::new());
        frame(SenderFrame::FileAborted(FileAborted { file, reason, message }))
    };
    assert_eq!(refusal(asked(vec![aborted(9)])).await, VIOLATION);
    // All is left out at the source: that is an honest end, and another digest than that of nothing is not.
    let finish = frame(SenderFrame::Finish { tree_digest: [7; 32] });
    assert_eq!(refusal(asked(vec![aborted(0), finish])).await, "TREE_MISMATCH");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_never_become_segments_are_bounded() {
    let Step::Piece(good, _) = segment(0, 0) else { unreachable!() };
    let encoded = noise(1, (1 << 20) + (4 << 10));
    let part = |segment, part| Step::Part(Header { segment, decoded_bytes: 4 << 20, ..good }, encoded.clone(), part);
    assert_eq!(refusal(asked(vec![part(0, 0), part(0, 0)])).await, VIOLATION);
    // Last parts of a few bytes each, of segments without end: what is kept of each counts too.
    let pieces = Header { decoded_bytes: 4 << 20, ..good }.pieces([vec![0; HEADER_BYTES], encoded.clone()].concat());
    let last = pieces.unwrap()[1].to_vec();
    let steps = (0_u64..5000).map(|segment| {
        let mut last = last.clone();
        last[24..32].copy_from_slice(&segment.to_le_bytes());
        Step::Raw(last)
    });
    let bed = Bed::new();
    bed.b.transfers.set_settings(Settings { receive_budget: ByteCount::new(1 << 20), ..settings() });
    assert_eq!(refusal_on(&bed, TransferOptions::default(), asked(steps.collect())).await, "BUSY");
    // Whole parts.
    let steps = (0..100).map(|segment| part(segment, 0)).collect();
    assert_eq!(refusal(asked(steps)).await, VIOLATION);
    assert_eq!(refusal(asked(vec![Step::Raw(vec![1; 30])])).await, VIOLATION);
    assert_eq!(refusal(asked(vec![Step::Raw(Vec::new())])).await, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_verify_again_and_again_ends_the_attempt() {
    let Step::Piece(good, encoded) = segment(0, 1) else { unreachable!() };
    let wrong = || Step::Piece(Header { value: [9; 32], ..good }, encoded.clone());
    assert_eq!(refusal(asked((0..1100).flat_map(|_| [wrong(), Step::Resent]).collect())).await, "CORRUPTED");
    // The same by a list of what the receiver is said to hold, and does not.
    let steps = (0..1100).flat_map(|_| {
        let mut list = Vec::new();
        write_known(
            &[Known { segment: 1, count: 1, source: Source::Basis { offset: 1 << 40 }, value: [9; 32] }],
            &mut list,
        );
        let value = *blake3::hash(&list).as_bytes();
        let known = Header { kind: PieceKind::Known, value, decoded_bytes: 52, segment: 0, ..good };
        [Step::Piece(known, list), Step::Resent]
    });
    assert_eq!(refusal(asked(steps.collect())).await, "CORRUPTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_send_does_not_take_the_name_of_anothers_transfer() {
    let bed = Bed::new();
    let tree_of_a = page(&[entry("a", FILE_BYTES)]);
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    // A's transfer breaks off.
    let steps = vec![opening(&bed, &grant), page_frame(&tree_of_a), Step::Wanted, segment(0, 0), Step::HangUp];
    let broken = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await;
    assert!(matches!(broken, Received::Interrupted(_)), "{broken:?}");
    // Another member, whom the root accepts, asks for it under A's name.
    let other = bed.third();
    bed.b.set_roots(false, &["c"]);
    let request = DirectRequest {
        transfer: grant.transfer,
        source_paths: vec!["data:/x".parse().unwrap()],
        destination_path: "data:/".parse().unwrap(),
        options: TransferOptions::default(),
    };
    let outcome = Liar::dial(&bed, other).run(vec![direct(request.clone())]).await;
    assert!(matches!(&outcome, Received::Refused(error) if error.reason == "NOT_ACCEPTED"), "{outcome:?}");
    // Under a name of its own it may.
    let own = DirectRequest { transfer: id(), ..request };
    let tree = page(&[entry("z", 0)]);
    let outcome = Liar::dial(&bed, other).run(vec![direct(own), page_frame(&tree), Step::HangUp]).await;
    assert!(matches!(outcome, Received::Interrupted(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_send_under_a_grants_name_does_not_bring_back_the_grant_of_before_a_restore() {
    let bed = Bed::new();
    let a = bed.a.identity.public_key();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    bed.b.identity.trust().replace_bundle(TrustBundle { epoch: 2.into(), ..bed.fleet.bundle() }).unwrap();
    bed.fleet.enter(&bed.a.identity, "a", Labels::default());
    bed.fleet.share([&bed.b.identity]);
    bed.b.set_roots(false, &["a"]);
    let request = DirectRequest {
        transfer: grant.transfer,
        source_paths: vec!["data:/x".parse().unwrap()],
        destination_path: "data:/".parse().unwrap(),
        options: TransferOptions::default(),
    };
    let begun = vec![direct(request), page_frame(&page(&[entry("z", 0)])), Step::HangUp];
    let outcome = Liar::dial(&bed, a).run(begun).await;
    assert!(matches!(outcome, Received::Interrupted(_)), "{outcome:?}");
    let outcome = Liar::dial(&bed, a).run(vec![opening(&bed, &grant)]).await;
    assert!(matches!(&outcome, Received::Refused(error) if error.reason == "GRANT_OF_OTHER_EPOCH"), "{outcome:?}");
}

fn direct(request: DirectRequest) -> Step {
    let open = Open {
        transfer: request.transfer,
        authority: Authority::Direct(request),
        traceparent: None,
        features: Vec::new(),
        segment_bytes: 64 << 10,
        order: 0,
    };
    frame(SenderFrame::Open(Box::new(open)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_reads_nothing_is_given_up_and_others_go_on() {
    let bed = Bed::new();
    fs::write(bed.a.root.join("honest"), noise(3, 3 << 20)).unwrap();
    bed.b.transfers.set_settings(Settings { stall_timeout: Duration::from_secs(2), ..settings() });
    let key: PublicKey = bed.a.identity.public_key();
    let (mut link, theirs, _) = pair(key, bed.b.identity.public_key(), Faults::default());
    let to = bed.b.transfers.clone();
    #[allow(clippy::disallowed_methods, reason = "the test waits for it")]
    let outcome = tokio::spawn(async move { Box::pin(to.receive(theirs, |_reports| {})).await });
    let grant = bed.grant(&["data:/x"], "data:/lie/", TransferOptions::default());
    let Step::Frame(open) = opening(&bed, &grant) else { unreachable!() };
    link.control_out.send(&open).await.unwrap();
    // Page after page, never an ear for the answers.
    let flood = async {
        for number in 0_u64.. {
            let files: Vec<_> = (0..1000).map(|n| entry(&format!("{number:0>9}-{n:0>4}"), 1)).collect();
            let mut page = page(&files);
            page.first_index = number * 1000;
            let Step::Frame(frame) = page_frame(&page) else { unreachable!() };
            if link.control_out.send(&frame).await.is_err() {
                break;
            }
        }
    };
    let honest = bed.send(&["data:/honest"], "data:/", TransferOptions::default());
    let (flooded, (report, _)) = tokio::join!(tokio::time::timeout(PATIENCE, flood), honest);
    flooded.unwrap();
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    let Received::Interrupted(report) = outcome.await.unwrap() else { panic!("it should be given up") };
    let error = report.error.unwrap();
    assert_eq!(error.reason, "STALLED");
    assert!(error.message.starts_with("with a: "), "{}", error.message);
    assert!(tree(&bed.b.root.join("lie")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_sent_in_a_second_reading_leaves_nothing_of_the_first() {
    let bed = Bed::new();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    let tree_of_a = page(&[entry("a", FILE_BYTES)]);
    let whole: Vec<u8> = (0..4).flat_map(|n| noise(n, 65_536)).take(usize::try_from(FILE_BYTES).unwrap()).collect();
    let Step::Piece(good, _) = segment(0, 0) else { unreachable!() };
    let second = (0..4_u64).map(|number| {
        use blake3::hazmat::HasherExt;
        let start = usize::try_from(number * 65_536).unwrap();
        let bytes = &whole[start..whole.len().min(start + 65_536)];
        let mut encoded = Vec::new();
        let plain = dataplane_hde::Version::plain(dataplane_hde::Options::default());
        dataplane_hde::Encoder::new().encode(&plain, 0, bytes, &mut encoded).unwrap();
        let value = blake3::Hasher::new().set_input_offset(number * 65_536).update(bytes).finalize_non_root();
        let decoded_bytes = u32::try_from(bytes.len()).unwrap();
        Step::Piece(Header { attempt: 1, segment: number, decoded_bytes, value, ..good }, encoded)
    });
    let root = *blake3::hash(&whole).as_bytes();
    let end = frame(SenderFrame::FileEnd(FileEnd { file: 0, root, attempt: 1, entry: None }));
    let mut steps = vec![opening(&bed, &grant), page_frame(&tree_of_a), manifest_end(&tree_of_a), Step::Wanted];
    steps.push(segment(0, 0));
    steps.extend(second);
    steps.extend([end, Step::Published, Step::HangUp]);
    let outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await;
    assert!(matches!(outcome, Received::Interrupted(_)), "{outcome:?}");
    let names: Vec<_> = fs::read_dir(&bed.b.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::read(bed.b.root.join("a")).unwrap(), whole);
    // What was said meanwhile is one frame of published files, and decodes.
    assert!(ReceiverFrame::decode(&ReceiverFrame::Published(vec![0]).encode()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_is_not_what_was_said_of_it_is_never_built_upon() {
    let bed = Bed::new();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    let bytes = usize::try_from(FILE_BYTES).unwrap();
    let old = noise(77, bytes);
    fs::write(bed.b.root.join("a"), &old).unwrap();
    let (tree_of_a, at) = (page(&[entry("a", FILE_BYTES)]), bed.b.root.join("a"));
    let Step::Piece(good, _) = segment(0, 0) else { unreachable!() };
    let value = |number: u64| {
        use blake3::hazmat::HasherExt;
        let start = usize::try_from(number * 65_536).unwrap();
        let bytes = &old[start..bytes.min(start + 65_536)];
        (bytes.to_vec(), blake3::Hasher::new().set_input_offset(number * 65_536).update(bytes).finalize_non_root())
    };
    let known = |number: u64| {
        let mut list = Vec::new();
        let source = Source::Basis { offset: number * 65_536 };
        write_known(&[Known { segment: number, count: 1, source, value: value(number).1 }], &mut list);
        let header = Header {
            kind: PieceKind::Known,
            value: *blake3::hash(&list).as_bytes(),
            decoded_bytes: 52,
            segment: 0,
            ..good
        };
        Step::Piece(header, list)
    };
    // A bit of the second segment flips after its digest was said.
    let mut spoiled = old.clone();
    spoiled[70_000] ^= 1;
    let mut steps = vec![opening(&bed, &grant), page_frame(&tree_of_a), manifest_end(&tree_of_a), Step::Wanted];
    steps.push(Step::Do(Box::new(move || fs::write(at, spoiled).unwrap())));
    steps.extend([known(0), known(1), Step::Resent]);
    let (whole, chaining) = value(1);
    let mut encoded = Vec::new();
    let plain = dataplane_hde::Version::plain(dataplane_hde::Options::default());
    dataplane_hde::Encoder::new().encode(&plain, 0, &whole, &mut encoded).unwrap();
    steps.push(Step::Piece(Header { segment: 1, value: chaining, ..good }, encoded));
    let root = *blake3::hash(&old).as_bytes();
    let end = frame(SenderFrame::FileEnd(FileEnd { file: 0, root, attempt: 0, entry: None }));
    steps.extend([known(2), known(3), end, Step::Published, Step::HangUp]);
    let outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await;
    assert!(matches!(outcome, Received::Interrupted(_)), "{outcome:?}");
    assert_eq!(fs::read(bed.b.root.join("a")).unwrap(), old);
}
