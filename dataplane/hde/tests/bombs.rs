//! What is small and claims, or asks for, much: decoded against a baseline within a bound of memory, and within a bound of reads.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs, io,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use dataplane_hde::{DecodeError, Decoded, Decoder, HeldSources, ReadAt};
use proto_wire::hde::{
    Flags, Head, Kind, LiteralCodec, MAX_OPS, Op, OpWriter, Source, put_ops, put_stream, put_varint,
};

const SEGMENT: usize = 4 << 20;
/// What a decoder and a segment may take: 20 MB and 4 MiB.
const MOST_BYTES: u64 = (20_000_000) + (4 << 20);

/// A baseline of any size, which counts how often it is read.
#[derive(Debug)]
struct Endless {
    size: u64,
    reads: AtomicU64,
}

impl ReadAt for Endless {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Relaxed);
        // It lies: a TiB is there, whatever it says.
        let end = offset.saturating_add(room.len() as u64);
        if end > 1 << 40 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        room.fill((offset >> 12).to_le_bytes()[0]);
        Ok(())
    }
}

/// A container.
fn container(kind: Kind, flags: Flags, body: &[u8]) -> Vec<u8> {
    let head = Head { kind, flags, segment_bytes: u32::try_from(SEGMENT).unwrap() };
    [&head.bytes()[..], body].concat()
}

fn delta(flags: Flags, ops: &[Op], literals: (LiteralCodec, usize, &[u8])) -> Vec<u8> {
    let (mut writer, mut body) = (OpWriter::default(), Vec::new());
    ops.iter().for_each(|op| writer.push(*op));
    if flags.prefix {
        put_varint(u64::MAX, &mut body);
        put_varint(u64::MAX, &mut body);
    }
    put_ops(writer.finish(), &mut body);
    put_stream(LiteralCodec::Raw, 0, &[], &mut body);
    put_stream(literals.0, literals.1, literals.2, &mut body);
    container(Kind::Delta, flags, &body)
}

/// Gaps of 17 bytes or none, and copies of one byte, each far from the one before; they make a segment.
fn shreds(gap: u32, stride: u64) -> Vec<Op> {
    let (mut ops, mut left) = (Vec::new(), u32::try_from(SEGMENT).unwrap());
    for at in 0.. {
        if gap > 0 {
            ops.push(Op::Literal { length: gap });
        }
        left -= gap + 1;
        let last = ops.len() + 4 > MAX_OPS || left < 2 * (gap + 1);
        let length = if last { left + 1 } else { 1 };
        ops.push(Op::Copy { length, source: Source::Basis, offset: at * stride });
        if last {
            break;
        }
    }
    ops
}

/// A frame of zstd: blocks that repeat one byte. `window` is its descriptor, `size` what it claims.
fn zstd(window: u8, size: Option<u64>, blocks: u32) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    match size {
        Some(size) => frame.extend([&[0xc0, window][..], &size.to_le_bytes()].concat()),
        None => frame.extend([0, window]),
    }
    for number in 0..blocks {
        let block = (128 * 1024) << 3 | 1 << 1 | u32::from(number + 1 == blocks);
        frame.extend([&block.to_le_bytes()[..3], &[0]].concat());
    }
    frame
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let (plain, none) = (Kind::Plain(LiteralCodec::Zstd), Flags::default());
    let (basis, prefix) = (Flags { basis: true, ..none }, Flags { basis: true, prefix: true, ..none });
    let lengths = |numbers: &[u64], frame: &[u8]| {
        let mut body = Vec::new();
        numbers.iter().for_each(|number| put_varint(*number, &mut body));
        [&body[..], frame].concat()
    };
    let (whole, size) = (zstd(0x50, Some(SEGMENT as u64), 32), SEGMENT as u64);
    let literals = |ops: &[Op]| {
        let length = |op: &Op| if matches!(op, Op::Literal { .. }) { op.length() as usize } else { 0 };
        ops.iter().map(length).sum::<usize>()
    };
    let gaps = shreds(17, 1 << 20);
    let raw = vec![7; literals(&gaps)];
    let packed = zstd_of(&raw);
    let overlapping: Vec<Op> =
        (0..32).map(|at| Op::Copy { length: 128 << 10, source: Source::Basis, offset: at }).collect();
    vec![
        ("a window of 2^41", container(plain, none, &zstd(0xff, None, 32))),
        ("a window of 2^31 and the right size", container(plain, none, &zstd(21 << 3, Some(size), 32))),
        ("a size that lies", container(plain, none, &zstd(0, Some(u64::MAX), 32))),
        ("more than it says", container(plain, none, &zstd(0x50, Some(size), 8192))),
        ("many legal frames", container(plain, none, &zstd(0x50, Some(128 << 10), 1).repeat(32))),
        ("behind 8 MiB of baseline", container(plain, basis, &lengths(&[8 << 20], &whole))),
        ("behind more of it than may be", container(plain, basis, &lengths(&[(8 << 20) + 1], &whole))),
        ("behind 2^64 of it", container(plain, basis, &lengths(&[u64::MAX], &whole))),
        ("a prefix of very many pieces", delta(prefix, &gaps, (LiteralCodec::Zstd, raw.len(), &packed))),
        ("the same, raw", delta(prefix, &gaps, (LiteralCodec::Raw, raw.len(), &raw))),
        ("literals that are not there", delta(prefix, &gaps, (LiteralCodec::Zstd, SEGMENT, &whole))),
        ("very many copies of a byte", delta(basis, &shreds(0, 5000), (LiteralCodec::Raw, 0, &[]))),
        ("the same beside one another", delta(basis, &shreds(0, 2), (LiteralCodec::Raw, 0, &[]))),
        ("copies of one another", delta(basis, &overlapping, (LiteralCodec::Raw, 0, &[]))),
        ("from where nothing is", delta(basis, &shreds(0, 1 << 41), (LiteralCodec::Raw, 0, &[]))),
        ("numbers of noise", container(Kind::Typed, basis, &lengths(&[0], &[0xff; 4096]))),
        ("numbers beyond the end", container(Kind::Typed, basis, &lengths(&[1 << 59], &[2, 0, 64]))),
    ]
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    ::zstd::bulk::compress(bytes, 3).unwrap()
}

fn decode(bomb: &[u8], size: u64) -> (Result<Decoded, DecodeError>, u64) {
    let baseline = Arc::new(Endless { size, reads: AtomicU64::new(0) });
    let held: Arc<dyn ReadAt> = baseline.clone();
    let mut room = vec![0; SEGMENT];
    let made = Decoder::new().decode_into(bomb, &mut HeldSources::new(Some(held), None), &mut room);
    (made, baseline.reads.load(Relaxed))
}

/// Peak memory of this process since it was last asked about, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    kib * 1024
}

/// Where memory is bounded by the system as well: what would take more ends the process.
#[test]
fn bombs_stay_within_their_memory() {
    const CAP: &str = "DWCP_HDE_CAPPED";
    if std::env::var_os(CAP).is_none() {
        let (this, name) = (std::env::current_exe().unwrap(), "bombs_stay_within_their_memory");
        let mut capped = Command::new("sh");
        capped.args(["-c", "ulimit -v 400000; exec \"$0\" --exact \"$1\" --test-threads 1"]).arg(this).arg(name);
        let output = capped.env(CAP, "1").env("MALLOC_ARENA_MAX", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    for (name, bomb) in bombs() {
        assert!(bomb.len() <= SEGMENT + 8, "{name}: {}", bomb.len());
        for size in [5, u64::MAX] {
            peak();
            let before = peak();
            let (made, _) = decode(&bomb, size);
            let grown = peak().saturating_sub(before);
            assert!(grown <= MOST_BYTES, "{name}, a baseline of {size}: {grown} bytes more, {made:?}");
        }
    }
}

#[test]
fn any_number_of_copies_costs_a_bounded_number_of_reads() {
    for (name, bomb) in bombs() {
        let (_, reads) = decode(&bomb, 1 << 40);
        // Two for each operation, and for each piece of a prefix of the least length.
        let most = 2 * (MAX_OPS as u64 + (8 << 20) / 512) + 16;
        assert!(reads <= most, "{name}: {reads}");
        if name == "the same beside one another" {
            assert!(reads < 300, "{reads}");
        }
    }
}
