//! What is small on the wire and claims to be large: refused before its memory is spent, 64 at once too (R24).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on fails here")]
#![allow(dead_code, unused_imports, reason = "what plays a lying sender is shared with the other tests")]

#[path = "transfers/bed.rs"]
mod bed;
#[path = "transfers/liars.rs"]
mod liars;

use std::{fs, thread::available_parallelism};

use bytes::Bytes;
use dataplane_transfer::{Received, Settings};
use metrics_exporter_prometheus::PrometheusBuilder;
use proto_model::{ByteCount, TransferOptions};
use proto_wire::{
    frames::{Authority, Open, SenderFrame},
    hde::{Flags, Head, Kind, LiteralCodec, MAX_OPS, Op, OpWriter, Source, put_ops, put_stream, put_varint},
    piece::Header,
};
use tokio::sync::Mutex;

use bed::{Bed, noise, settings};
use liars::{Liar, Step, entry, header, manifest_end, page, page_frame};

const SEGMENT: u32 = 1 << 20;
const FILE: u64 = 4 << 20;
/// One measures memory at a time.
static ALONE: Mutex<()> = Mutex::const_new(());
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

fn steps(bed: &Bed, number: usize, file: u64, bomb: Vec<u8>) -> Vec<Step> {
    let grant = bed.grant(&["data:/x"], &format!("data:/{number}/"), TransferOptions::default());
    let open = Open {
        transfer: grant.transfer,
        authority: Authority::Grant(bed.sign(&grant)),
        traceparent: None,
        features: Vec::new(),
        segment_bytes: SEGMENT,
        order: 0,
    };
    let tree = page(&[entry("a", file)]);
    let bomb = Step::Piece(Header { decoded_bytes: SEGMENT, file_bytes: file, ..header(0, 1, [1; 32]) }, bomb);
    let open = Step::Frame(SenderFrame::Open(Box::new(open)).encode());
    vec![open, page_frame(&tree), manifest_end(&tree), Step::Wanted, bomb]
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_before_their_memory_is_spent() {
    let _alone = ALONE.lock().await;
    let bed = Bed::new();
    let key = bed.a.identity.public_key();
    let bombs = bombs();
    // Once, so that what is kept for good is there.
    let first = Liar::dial(&bed, key).run(steps(&bed, 1000, FILE, bombs[0].clone())).await;
    assert!(matches!(first, Received::Ended(_)), "{first:?}");
    peak();
    let before = peak();
    let all = (0..64).map(|number| {
        let bomb = bombs[number % bombs.len()].clone();
        let liar = Liar::dial(&bed, key);
        let steps = steps(&bed, number, FILE, bomb);
        async move { (number, liar.run(steps).await) }
    });
    for (number, outcome) in futures::future::join_all(all).await {
        let Received::Ended(report) = outcome else { panic!("{number}: {outcome:?}") };
        let error = report.error.unwrap();
        assert_eq!(error.reason, "PROTOCOL_VIOLATION", "{number}: {}", error.message);
        assert!(bed::tree(&bed.b.root.join(number.to_string())).is_empty());
    }
    let spent = peak().saturating_sub(before);
    println!("64 bombs at once took {} KiB more than there was", spent / 1024);
    assert!(spent <= MOST_BYTES, "{spent}");
}

/// A delta of legal operations against the basis, whose literals repeat one byte.
fn delta(prefix: bool, ops: &[Op]) -> Vec<u8> {
    let flags = Flags { basis: true, prefix, ..Flags::default() };
    let (mut writer, mut bytes) = (OpWriter::default(), Vec::new());
    ops.iter().for_each(|op| writer.push(*op));
    bytes.extend(Head { kind: Kind::Delta, flags, segment_bytes: SEGMENT }.bytes());
    if prefix {
        put_varint(OLD, &mut bytes);
        put_varint(0, &mut bytes);
    }
    put_ops(writer.finish(), &mut bytes);
    put_stream(LiteralCodec::Raw, 0, &[], &mut bytes);
    let literals = ops.iter().filter(|op| matches!(op, Op::Literal { .. })).map(|op| op.length());
    let literals = vec![7; usize::try_from(literals.sum::<u32>()).unwrap()];
    put_stream(LiteralCodec::Raw, 0, &literals, &mut bytes);
    bytes
}

/// Gaps, or none, and copies of one byte in so great strides; they make a segment.
fn shreds(gap: u32, stride: u64) -> Vec<Op> {
    let (mut ops, mut left) = (Vec::new(), SEGMENT);
    for at in 0.. {
        if gap > 0 {
            ops.push(Op::Literal { length: gap });
        }
        left -= gap + 1;
        let last = ops.len() + 4 > MAX_OPS || left < 2 * (gap + 1);
        let length = if last { left + 1 } else { 1 };
        ops.push(Op::Copy { length, source: Source::Basis, offset: at * stride % (OLD - u64::from(SEGMENT)) });
        if last {
            return ops;
        }
    }
    ops
}

/// What the receiver holds in the place of the file, and the file.
const OLD: u64 = 24 << 20;
const LIARS: usize = 12;
const BUDGET: u64 = 2 << 20;
/// What one that is to wait has on the wire, and how much of that the links between them hold.
const WAITING: usize = 200_000;
const IN_LINKS: u64 = 16 * (LIARS * WAITING) as u64;
/// What a decoder and its segment take, whatever they are given.
const DECODER: u64 = 21 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bombs_against_a_baseline_and_what_is_to_wait_stay_within_the_receivers_budget() {
    let _alone = ALONE.lock().await;
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let bed = Bed::new();
    bed.b.transfers.set_settings(Settings { receive_budget: ByteCount::new(BUDGET), ..settings() });
    let [copies, pieces] = [delta(false, &shreds(0, 40)), delta(true, &shreds(17, 1000))].map(Bytes::from);
    // It refers to earlier segments, none of which comes.
    let waits = Head {
        kind: Kind::Plain(LiteralCodec::Zstd),
        flags: Flags { history: true, ..Flags::default() },
        segment_bytes: SEGMENT,
    };
    let waits = Bytes::from([&waits.bytes()[..], &[1], &noise(1, WAITING)].concat());
    let lies = Bytes::from(container(0, SEGMENT - 1, &noise(2, 1000)));
    let liars: Vec<_> = (0..LIARS)
        .map(|number| {
            let folder = bed.b.root.join(number.to_string());
            fs::create_dir(&folder).unwrap();
            fs::File::create(folder.join("a")).unwrap().set_len(OLD).unwrap();
            let mut all = steps(&bed, number, OLD, Vec::new());
            all.pop();
            let piece = |segment, encoded: &Bytes| {
                let header = Header { decoded_bytes: SEGMENT, file_bytes: OLD, ..header(0, segment, [1; 32]) };
                Step::Shared(header, encoded.clone())
            };
            // Each is decoded, and is not what was said.
            all.extend([piece(0, &copies), Step::Resent, piece(1, &pieces), Step::Resent]);
            all.extend((8..24).map(|segment| piece(segment, &waits)));
            all.extend([Step::Resent, piece(2, &lies)]);
            (number, Liar::dial(&bed, bed.a.identity.public_key()).run(all))
        })
        .collect();
    peak();
    let before = peak();
    let liars = liars.into_iter().map(|(number, liar)| async move { (number, liar.await) });
    for (number, outcome) in futures::future::join_all(liars).await {
        let Received::Ended(report) = outcome else { panic!("{number}: {outcome:?}") };
        let error = report.error.unwrap();
        assert_eq!(error.reason, "PROTOCOL_VIOLATION", "{number}: {}", error.message);
        assert!(error.message.contains("makes 1048575 bytes instead of 1048576"), "{number}: {}", error.message);
        // What was held stands as it was, alone.
        let left = bed::tree(&bed.b.root.join(number.to_string()));
        assert_eq!(left.into_keys().collect::<Vec<_>>(), [b"a"]);
        assert_eq!(fs::metadata(bed.b.root.join(format!("{number}/a"))).unwrap().len(), OLD);
    }
    let spent = peak().saturating_sub(before);
    println!("{LIARS} at once took {} KiB more than there was", spent / 1024);
    // As many decoders as there are, what waits, and what is on its way; and tests beside this one.
    let decoders = 2 * u64::try_from(available_parallelism().unwrap().get().clamp(2, 16)).unwrap();
    assert!(spent <= decoders.min(LIARS as u64) * DECODER + BUDGET + IN_LINKS + MOST_BYTES, "{spent}");
    let hits = metrics.render();
    let hits = hits.lines().find(|line| line.contains("dwcp_limit_hits_total{limit=\"limits.receive_budget\"}"));
    let hits = hits.and_then(|line| line.split(' ').next_back()?.parse::<u64>().ok());
    // Each of them has as much as fits its share, and was told of the rest.
    assert!(hits.is_some_and(|hits| hits >= LIARS as u64), "{hits:?}");
}
