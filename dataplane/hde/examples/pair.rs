//! Encodes and decodes one pair of files and prints bytes and CPU seconds: `pair OLD NEW [level] [threads] [kept|pf]`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a tool for measuring"
)]

use std::{collections::BTreeMap, fs::File, io::Cursor, sync::Arc};

use dataplane_hde::{
    Against, Baseline, Encoding, FileAt, FileOptions, FileOutput, Level, Options, ReadAt, WriteAt, decode_file,
    encode_file,
};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn open(path: &str) -> Arc<dyn ReadAt> {
    Arc::new(FileAt::new(File::open(path).unwrap()).unwrap())
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (old, new) = (&args[1], &args[2]);
    let level: i64 = args.get(3).map_or(3, |level| level.parse().unwrap());
    let threads: usize = args.get(4).map_or(1, |threads| threads.parse().unwrap());
    let mode = args.get(5).map_or("", String::as_str);
    let name = new.rsplit('/').next().unwrap();
    if mode == "pf" {
        return pf(name, old, new, i32::try_from(level).unwrap());
    }
    let (input, bytes) = (open(new), open(old));
    let size = input.size() as f64 / 1e6;
    let options = Options { level: Level::new(level).unwrap(), ..Options::default() };
    let how = FileOptions { options, threads, ..FileOptions::default() };
    let index = (mode == "kept").then(|| Baseline::new(Arc::clone(&bytes), None).built_by(1).unwrap().clone());
    let begun = cpu();
    let wall = std::time::SystemTime::now();
    let baseline = Arc::new(Baseline::new(bytes, index));
    let root = if mode == "kept" { [0; 32] } else { baseline.root(threads).unwrap() };
    let hashed = cpu();
    let against = (mode != "none").then_some(Against { baseline, root });
    let mut encoded = Vec::new();
    let mut sums: BTreeMap<&str, [u64; 7]> = BTreeMap::new();
    let mut explain = |_: u64, encoding: &Encoding| {
        let sum = sums.entry(encoding.codec.name()).or_default();
        let values = [
            1,
            encoding.output_bytes,
            encoding.ops.into(),
            encoding.literal_bytes,
            encoding.changed_bytes,
            encoding.history_bytes,
            encoding.zero_bytes,
        ];
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    };
    encode_file(&input, against.as_ref(), &mut encoded, &how, &mut explain).unwrap();
    let made = cpu();
    let wall = wall.elapsed().unwrap().as_secs_f64();
    let peak_encode = peak();
    let out = format!("/var/tmp/codec-{}.out", std::process::id());
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&out).unwrap();
    let output: Arc<dyn WriteAt> = Arc::new(FileOutput(file));
    let baseline = (mode != "none").then(|| open(old));
    let before = cpu();
    let decoded = if mode == "kept" {
        Ok(())
    } else {
        decode_file(&mut Cursor::new(&encoded), baseline, &output, threads, u64::MAX).map(|_| ())
    };
    let after = cpu();
    let same = mode == "kept" || std::fs::read(&out).unwrap() == std::fs::read(new).unwrap();
    std::fs::remove_file(&out).unwrap();
    println!(
        "{name:16} hde-{level} t{threads} {mode:5} {:10} bytes  enc {:6.0} MB/s ({:.2} s, hash {:.2}, wall {wall:.2})  dec {:6.0} MB/s  rss {peak_encode} {}",
        encoded.len(),
        size / (made - begun).max(0.01),
        made - begun,
        hashed - begun,
        size / (after - before).max(0.01),
        if decoded.is_ok() && same { "ok" } else { "WRONG" },
    );
    if std::env::var("V").is_ok() {
        println!("    codec: segments out ops literal changed history zero");
        sums.iter().for_each(|(codec, sum)| println!("    {codec}: {sum:?}"));
    }
    if let Err(error) = decoded {
        println!("    {error:?}");
    }
}

/// zstd with the whole baseline as prefix.
fn pf(name: &str, old: &str, new: &str, level: i32) {
    let (old, new) = (std::fs::read(old).unwrap(), std::fs::read(new).unwrap());
    let begun = cpu();
    let mut packed = Vec::with_capacity(new.len());
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(level)).unwrap();
    context.set_parameter(CParameter::EnableLongDistanceMatching(true)).unwrap();
    let window = (old.len() + new.len()).next_power_of_two().trailing_zeros().min(31);
    context.set_parameter(CParameter::WindowLog(window)).unwrap();
    context.ref_prefix(&old).unwrap();
    context.compress2(&mut packed, &new).unwrap();
    let made = cpu();
    let mut out = vec![0; new.len()];
    let mut context = DCtx::create();
    context.ref_prefix(&old).unwrap();
    let before = cpu();
    context.decompress(&mut out[..], &packed).unwrap();
    let after = cpu();
    let size = new.len() as f64 / 1e6;
    println!(
        "{name:16} pf-{level} {:10} bytes  enc {:6.0} MB/s  dec {:6.0} MB/s",
        packed.len(),
        size / (made - begun).max(0.01),
        size / (after - before).max(0.01)
    );
}
