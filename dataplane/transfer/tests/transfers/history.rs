//! Segments that refer to earlier ones of the same file: what repeats far apart travels once, whatever comes late, breaks or is damaged.

use std::{fs, sync::Arc};

use blake3::hazmat::HasherExt as _;
use dataplane_hde::{Basis, Encoder, HistoryUse, LAG, Options, Version};
use dataplane_transfer::{Received, Settings};
use proto_model::{ByteCount, TransferOptions, TransferState};

use proto_wire::{
    frames::{Authority, FileEnd, Open, SenderFrame},
    manifest::{Entry, Mtime},
    piece::{Header, PieceKind},
};

use crate::{
    bed::{Bed, Faults, noise, settings, tree},
    liars::{Liar, Step, entry, manifest_end, page, page_frame},
};

/// Bytes that nothing compresses, and that come again and again.
const NOISE: usize = 1 << 20;
const TIMES: usize = 5;

/// What goes over each link until the transfer has succeeded.
async fn send(bed: &Bed, faults: Vec<Faults>) -> Vec<u64> {
    fs::write(bed.a.root.join("dump"), noise(3, NOISE).repeat(TIMES)).unwrap();
    let grant = bed.grant(&["data:/dump"], "data:/", TransferOptions::default());
    let (report, wires) = bed.send_job(bed.job(&grant), faults).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
    let received = wires.received().await;
    let Some(Received::Ended(last)) = received.last() else { panic!("{received:?}") };
    // The receiver held nothing before but what came by an earlier link.
    assert!(received.len() > 1 || last.progress.bytes_reused == ByteCount::new(0), "{last:?}");
    assert!(received.len() > 1 || report.progress.bytes_reused == ByteCount::new(0), "{report:?}");
    wires.bytes()
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_repeats_far_apart_in_a_file_travels_once_in_whatever_order_it_comes() {
    for shuffle in [None, Some(1), Some(2)] {
        let bed = Bed::new();
        let bytes = send(&bed, vec![Faults { shuffle, ..Faults::default() }]).await;
        assert!(bytes.len() == 1 && bytes[0] < wide(NOISE + NOISE / 8), "{shuffle:?}: {bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_others_refer_to_may_be_damaged_on_its_way() {
    // The first ones carry the noise, those behind them refer to it.
    for spoil in [0, 3, 6] {
        let bed = Bed::new();
        let faults = Faults { spoil: Some(spoil), shuffle: Some(wide(spoil)), ..Faults::default() };
        let bytes = send(&bed, vec![faults]).await;
        assert!(bytes.len() == 1 && bytes[0] < wide(NOISE + NOISE / 4), "{spoil}: {bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_it_broke_though_nothing_is_known_there_of_what_came_before() {
    for cut in [4, 12, 30, 60] {
        let mut bed = Bed::new();
        let cut = Faults { cut_after: Some(cut), ..Faults::default() };
        send(&bed, vec![cut.clone(), cut, Faults { shuffle: Some(3), ..Faults::default() }]).await;
        bed.a.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_to_wait_in_segments_are_asked_for_again_and_refer_to_nothing() {
    let mut bed = Bed::new();
    bed.b.settings = Settings { receive_budget: ByteCount::new(1), ..settings() };
    bed.b.restart().await;
    let bytes = send(&bed, vec![Faults { shuffle: Some(5), ..Faults::default() }]).await;
    assert!(bytes.len() == 1 && bytes[0] <= wide(NOISE * (TIMES + 1)), "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_whose_history_does_not_pay_travel_without_it() {
    let bed = Bed::new();
    let lines = |from: u64| {
        (from..from + 12_000)
            .map(|line| format!("{line} GET /{} 200\n", line.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 977))
    };
    let text: String = lines(0).collect();
    fs::write(bed.a.root.join("log"), text.repeat(8)).unwrap();
    let (report, _) = bed.send(&["data:/log"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}

const SEGMENT: usize = 64 << 10;

/// Segments of a file whose last one is the same as its first, and refers to that.
fn segments(attempt: u8) -> Vec<(Header, Vec<u8>)> {
    let count = usize::try_from(LAG).unwrap() + 1;
    let mut bytes = noise(attempt.into(), SEGMENT * (count - 1));
    bytes.extend_from_within(..SEGMENT);
    let whole = HistoryUse::Whole(Arc::new(bytes.clone()));
    let segment_bytes = u32::try_from(SEGMENT).unwrap();
    let version = Version::new(Options::default(), Basis::Nothing, wide(bytes.len()), segment_bytes, whole);
    let mut encoder = Encoder::new();
    let each = bytes.chunks(SEGMENT).zip(0..).map(|(part, segment)| {
        let mut encoded = Vec::new();
        encoder.encode(&version, segment, part, &mut encoded).unwrap();
        let value = blake3::Hasher::new().set_input_offset(segment * wide(SEGMENT)).update(part).finalize_non_root();
        let header = Header {
            kind: PieceKind::Segment,
            part: 0,
            parts: 1,
            attempt,
            encoded_bytes: 0,
            decoded_bytes: segment_bytes,
            file: 0,
            segment,
            file_bytes: wide(bytes.len()),
            value,
        };
        (header, encoded)
    });
    let all: Vec<_> = each.collect();
    assert!(all.last().unwrap().1.len() < 1000, "it refers to the first one");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_while_segments_of_it_waited_comes_anew() {
    let bed = Bed::new();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    let open = Open {
        transfer: grant.transfer,
        authority: Authority::Grant(bed.sign(&grant)),
        traceparent: None,
        features: vec!["history".to_owned()],
        segment_bytes: u32::try_from(SEGMENT).unwrap(),
        order: 0,
    };
    let (first, mut second) = (segments(0), segments(1));
    let (waits, size) = (second.pop().unwrap(), first[0].0.file_bytes);
    let told = page(&[entry("x", size)]);
    let mut steps = vec![Step::Frame(SenderFrame::Open(Box::new(open)).encode())];
    steps.extend([page_frame(&told), manifest_end(&told), Step::Wanted]);
    // The last one of either reading waits; all others of the first never come, and one of the second was asked for again meanwhile.
    let (header, encoded) = first.into_iter().last().unwrap();
    steps.push(Step::Piece(header, encoded));
    steps.push(Step::Piece(waits.0, waits.1.clone()));
    steps.push(Step::Piece(waits.0, waits.1));
    steps.push(Step::Piece(second[3].0, second[3].1.clone()));
    steps.extend(second.into_iter().map(|(header, encoded)| Step::Piece(header, encoded)));
    let mut bytes = noise(1, SEGMENT * usize::try_from(LAG).unwrap());
    bytes.extend_from_within(..SEGMENT);
    let read = Entry { mtime: Mtime { seconds: 2, nanos: 0 }, ..entry("x", size) };
    let end = FileEnd { file: 0, root: *blake3::hash(&bytes).as_bytes(), attempt: 1, entry: Some(read) };
    steps.extend([Step::Frame(SenderFrame::FileEnd(end).encode()), Step::Published, Step::HangUp]);
    let outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await;
    assert!(fs::read(bed.b.root.join("x")).is_ok_and(|there| there == bytes), "{outcome:?}");
}
