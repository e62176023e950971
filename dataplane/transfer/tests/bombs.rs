//! What is small on the wire and claims to be large: refused before its memory is spent, 64 at once too (R24).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on fails here")]
#![allow(dead_code, unused_imports, reason = "what plays a lying sender is shared with the other tests")]

#[path = "transfers/bed.rs"]
mod bed;
#[path = "transfers/liars.rs"]
mod liars;

use std::fs;

use proto_model::TransferOptions;
use proto_wire::{
    frames::{Authority, Open, SenderFrame},
    piece::Header,
};

use bed::Bed;
use liars::{Liar, Step, entry, header, manifest_end, page, page_frame};

const SEGMENT: u32 = 1 << 20;
const FILE: u64 = 4 << 20;
/// What refusing 64 bombs at once may take beyond what the process had: R24.
const MOST_BYTES: u64 = 64 << 20;

/// A plain container of the segment, in this codec.
fn container(codec: u8, claimed: u32, literals: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, codec][..], &claimed.to_le_bytes(), literals].concat()
}

/// A zstd frame of a GiB of zeros in 32 KiB: blocks that repeat one byte. `window` is its descriptor, `size` what it claims.
fn zstd(window: u8, size: Option<u64>) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    match size {
        // Eight bytes of size, and a window.
        Some(size) => frame.extend([&[0xc0, window][..], &size.to_le_bytes()].concat()),
        None => frame.extend([0, window]),
    }
    let block = |last: u32| ((128 * 1024) << 3 | 1 << 1 | last).to_le_bytes();
    for number in 0..8192 {
        frame.extend([&block(u32::from(number == 8191))[..3], &[0]].concat());
    }
    frame
}

/// A byte, then a match on it that goes on for a quarter of a GiB.
fn lz4() -> Vec<u8> {
    [&[0x1f, 0, 1, 0][..], &vec![0xff; 1 << 20], &[0]].concat()
}

/// Claims this length; a byte, then copies of it without end.
fn snappy(claimed: [u8; 5]) -> Vec<u8> {
    [&claimed[..], &[0, 0], &[0xfe, 1, 0].repeat(100_000)].concat()
}

fn bombs() -> Vec<Vec<u8>> {
    // 2^41 of window, 2^31, 2^10; sizes that lie high and low.
    let frames =
        [zstd(0xff, None), zstd(21 << 3, None), zstd(0, None), zstd(21 << 3, Some(u64::MAX)), zstd(0, Some(5))];
    let mut all: Vec<_> = frames.iter().map(|frame| container(1, SEGMENT, frame)).collect();
    all.push(container(2, SEGMENT, &lz4()));
    all.push(container(3, SEGMENT, &snappy([0xff, 0xff, 0xff, 0xff, 0x0f])));
    all.push(container(3, SEGMENT, &snappy([0x80, 0x80, 0xc0, 0x80, 0x00])));
    // And the container's own claims: too long, too short, zeros and copies that make more than it says.
    all.push(container(1, u32::MAX, &zstd(0, None)));
    all.push(container(0, 5, b"12345"));
    // Operations that are not there; a prefix of all that the receiver may hold.
    let lengths = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for kind in [[2, 1, 8, 0], [2, 1, 1, 0], [2, 0, 1, 1]] {
        all.push([&kind[..], &SEGMENT.to_le_bytes(), &lengths, &lengths, &lengths].concat());
    }
    all
}

/// Peak memory of this process since it was last asked about, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    kib * 1024
}

fn steps(bed: &Bed, number: usize, bomb: Vec<u8>) -> Vec<Step> {
    let grant = bed.grant(&["data:/x"], &format!("data:/{number}/"), TransferOptions::default());
    let open = Open {
        transfer: grant.transfer,
        authority: Authority::Grant(bed.sign(&grant)),
        traceparent: None,
        features: Vec::new(),
        segment_bytes: SEGMENT,
        order: 0,
    };
    let tree = page(&[entry("a", FILE)]);
    let bomb = Step::Piece(Header { decoded_bytes: SEGMENT, file_bytes: FILE, ..header(0, 1, [1; 32]) }, bomb);
    let open = Step::Frame(SenderFrame::Open(Box::new(open)).encode());
    vec![open, page_frame(&tree), manifest_end(&tree), Step::Wanted, bomb]
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_before_their_memory_is_spent() {
    let bed = Bed::new();
    let key = bed.a.identity.public_key();
    let bombs = bombs();
    // Once, so that what is kept for good is there.
    let first = Liar::dial(&bed, key).run(steps(&bed, 1000, bombs[0].clone())).await;
    assert!(matches!(first, dataplane_transfer::Received::Ended(_)), "{first:?}");
    peak();
    let before = peak();
    let all = (0..64).map(|number| {
        let bomb = bombs[number % bombs.len()].clone();
        let liar = Liar::dial(&bed, key);
        let steps = steps(&bed, number, bomb);
        async move { (number, liar.run(steps).await) }
    });
    for (number, outcome) in futures::future::join_all(all).await {
        let dataplane_transfer::Received::Ended(report) = outcome else { panic!("{number}: {outcome:?}") };
        let error = report.error.unwrap();
        assert_eq!(error.reason, "PROTOCOL_VIOLATION", "{number}: {}", error.message);
        assert!(bed::tree(&bed.b.root.join(number.to_string())).is_empty());
    }
    let spent = peak().saturating_sub(before);
    println!("64 bombs at once took {} KiB more than there was", spent / 1024);
    assert!(spent <= MOST_BYTES, "{spent}");
}
