//! Who makes the new version small: programs, as their users run them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    child::{Cost, run},
    dwcp::Dwcp,
    pair::Pair,
};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Without the baseline.
    Zstd3,
    /// The library, with the baseline as prefix, at a level; what reading its inputs takes does not count.
    Prefix(i32),
    /// The command line's `-19 --patch-from`.
    PatchFrom19,
    Xdelta3,
    /// The bytes that both ends send; its processor time is that of both.
    Rsync,
    /// What it adds to a store that has the baseline, and the index.
    Casync,
    HDiffPatch,
    Dwcp(Dwcp),
}

impl Contestant {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Zstd3 => "zstd -3".to_owned(),
            Self::Prefix(level) => format!("pf-{level}"),
            Self::PatchFrom19 => "zstd -19 --patch-from".to_owned(),
            Self::Xdelta3 => "xdelta3 -B".to_owned(),
            Self::Rsync => "rsync -z".to_owned(),
            Self::Casync => "casync".to_owned(),
            Self::HDiffPatch => "HDiffPatch".to_owned(),
            Self::Dwcp(how) => how.name().to_owned(),
        }
    }

    /// So slow that one run must do, and that its figures of an earlier run may stand.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Self::PatchFrom19 | Self::Xdelta3 | Self::Rsync | Self::Casync | Self::HDiffPatch)
    }

    /// Whether it runs on a pair of this size within minutes, and at all.
    pub(crate) fn takes(self, pair: &Pair, limits: &Limits) -> bool {
        match self {
            Self::PatchFrom19 => pair.new_bytes <= limits.slow_bytes,
            Self::HDiffPatch => pair.new_bytes <= limits.hdiffpatch_bytes,
            // zstd refuses an input and prefix beyond its window.
            Self::Prefix(_) => pair.new_bytes < 1 << 31,
            Self::Zstd3 | Self::Xdelta3 | Self::Rsync | Self::Casync | Self::Dwcp(_) => true,
        }
    }
}

/// What is worth its time.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The largest new version for `zstd -19`.
    pub(crate) slow_bytes: u64,
    pub(crate) hdiffpatch_bytes: u64,
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Kept between contestants: nothing.
    pub(crate) scratch: PathBuf,
    pub(crate) dwcp: PathBuf,
    /// Whether this build of it takes `--threads`.
    pub(crate) threads: bool,
    /// A Python that has the package hdiffpatch.
    pub(crate) python: PathBuf,
}

impl Places {
    pub(crate) fn encoded(&self) -> PathBuf {
        self.scratch.join("encoded")
    }

    pub(crate) fn decoded(&self) -> PathBuf {
        self.scratch.join("decoded")
    }
}

const HDIFFPATCH: &str = "
import sys, hdiffpatch
verb, old, this, out = sys.argv[1:]
old, this = open(old, 'rb').read(), open(this, 'rb').read()
made = hdiffpatch.diff(old, this, compression=hdiffpatch.ZStdConfig(level=19)) if verb == 'encode' else hdiffpatch.apply(old, this)
open(out, 'wb').write(made)
";

/// Encodes into [`Places::encoded`]; bytes that would travel, and what it took.
pub(crate) fn encode(who: Contestant, pair: &Pair, places: &Places) -> Result<(u64, Cost)> {
    let old = pair.old.as_deref().context("a baseline")?;
    let out = places.encoded();
    match who {
        Contestant::Rsync => return rsync(old, pair, places),
        Contestant::Casync => return casync(old, pair, places),
        Contestant::Dwcp(how) => return how.encode(pair, places),
        _ => {}
    }
    let mut command = match who {
        Contestant::Zstd3 => zstd(&["-3"], &pair.new, &out),
        Contestant::PatchFrom19 => {
            let mut command = zstd(&["-19", "--long=31"], &pair.new, &out);
            command.arg(format!("--patch-from={}", old.display()));
            command
        }
        Contestant::Prefix(level) => prefix("prefix-encode", level, old, &pair.new, &out)?,
        Contestant::Xdelta3 => {
            let mut command = Command::new("xdelta3");
            let bytes = fs::metadata(old)?.len().max(1 << 19);
            command.args(["-q", "-e", "-f", "-B", &bytes.to_string(), "-s"]).args([old, &pair.new, &out]);
            command
        }
        Contestant::HDiffPatch => hdiffpatch("encode", old, &pair.new, &out, places),
        Contestant::Rsync | Contestant::Casync | Contestant::Dwcp(_) => bail!("has a way of its own"),
    };
    let (cost, said) = run(&mut command)?;
    let cost = if let Contestant::Prefix(_) = who { cost.without_reading(&said)? } else { cost };
    Ok((fs::metadata(&out)?.len(), cost))
}

/// Decodes into [`Places::decoded`], where this contestant has a step for that.
pub(crate) fn decode(who: Contestant, pair: &Pair, places: &Places) -> Result<Option<Cost>> {
    let old = pair.old.as_deref().context("a baseline")?;
    let (encoded, out) = (places.encoded(), places.decoded());
    let mut command = match who {
        Contestant::Zstd3 => zstd(&["-d"], &encoded, &out),
        Contestant::PatchFrom19 => {
            let mut command = zstd(&["-d", "--long=31"], &encoded, &out);
            command.arg(format!("--patch-from={}", old.display()));
            command
        }
        Contestant::Prefix(level) => prefix("prefix-decode", level, old, &encoded, &out)?,
        Contestant::Xdelta3 => {
            let mut command = Command::new("xdelta3");
            let bytes = fs::metadata(old)?.len().max(1 << 19);
            command.args(["-q", "-d", "-f", "-B", &bytes.to_string(), "-s"]).args([old, &encoded, &out]);
            command
        }
        Contestant::HDiffPatch => hdiffpatch("decode", old, &encoded, &out, places),
        Contestant::Rsync | Contestant::Casync => return Ok(None),
        Contestant::Dwcp(how) => return how.decode(pair, places).map(Some),
    };
    let (cost, said) = run(&mut command)?;
    Ok(Some(if let Contestant::Prefix(_) = who { cost.without_reading(&said)? } else { cost }))
}

fn zstd(arguments: &[&str], file: &Path, out: &Path) -> Command {
    let mut command = Command::new("zstd");
    command.args(["-q", "-f", "--single-thread"]).args(arguments).arg(file).arg("-o").arg(out);
    command
}

fn prefix(verb: &str, level: i32, old: &Path, file: &Path, out: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(verb).arg(level.to_string()).args([old, file, out]);
    Ok(command)
}

fn hdiffpatch(verb: &str, old: &Path, file: &Path, out: &Path, places: &Places) -> Command {
    let mut command = Command::new(&places.python);
    command.args(["-c", HDIFFPATCH, verb]).args([old, file, out]);
    command
}

/// Over a pipe in place of ssh; the receiver updates a copy of the baseline.
fn rsync(old: &Path, pair: &Pair, places: &Places) -> Result<(u64, Cost)> {
    let (shell, target) = (places.scratch.join("shell"), places.decoded());
    fs::write(&shell, "shift\nexec \"$@\"\n")?;
    fs::copy(old, &target)?;
    let mut command = Command::new("rsync");
    command.args(["-z", "--no-whole-file", "--ignore-times", "--stats", "-e", &format!("sh {}", shell.display())]);
    command.arg(&pair.new).arg(format!("other:{}", target.display()));
    let (cost, said) = run(&mut command)?;
    let sum = ["Total bytes sent:", "Total bytes received:"].iter().try_fold(0, |sum, name| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).with_context(|| said.clone())?;
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        anyhow::Ok(sum + digits.parse::<u64>()?)
    })?;
    crate::pair::same(&target, &pair.new)?;
    Ok((sum, cost))
}

fn casync(old: &Path, pair: &Pair, places: &Places) -> Result<(u64, Cost)> {
    let (store, index) = (places.scratch.join("store.castr"), places.scratch.join("index.caibx"));
    drop(fs::remove_dir_all(&store));
    let make = |file: &Path| {
        let mut command = Command::new("casync");
        command.arg("make").arg(format!("--store={}", store.display())).arg(&index).arg(file);
        run(&mut command)
    };
    make(old)?;
    let before = bytes_below(&store)?;
    let (cost, _) = make(&pair.new)?;
    let bytes = bytes_below(&store)? - before + fs::metadata(&index)?.len();
    fs::remove_dir_all(&store)?;
    ensure!(bytes > 0, "casync made nothing");
    Ok((bytes, cost))
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
