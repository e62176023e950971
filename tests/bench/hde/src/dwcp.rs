//! `dwcp hde encode` and `decode`, in the ways that are measured.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::{
    child::{Cost, run},
    contestant::Places,
    pair::{Pair, same},
};

/// How it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dwcp {
    /// One thread.
    Default,
    TwoThreads,
    /// With the baseline's index kept from an earlier run.
    Kept,
    Strongest,
}

impl Dwcp {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "dwcp",
            Self::TwoThreads => "dwcp 2 threads",
            Self::Kept => "dwcp index kept",
            Self::Strongest => "dwcp strongest",
        }
    }

    pub(crate) fn encode(self, pair: &Pair, places: &Places) -> Result<(u64, Cost)> {
        let out = places.encoded();
        let index = places.scratch.join("index");
        if self == Self::Kept {
            drop(fs::remove_file(&index));
            run(&mut self.command("encode", pair, &pair.new, &out, places))?;
        }
        let (cost, _) = run(&mut self.command("encode", pair, &pair.new, &out, places))?;
        let whole = places.scratch.join("one-thread");
        match self {
            Self::Default => drop(fs::copy(&out, whole)?),
            // Bytes do not depend on threads, nor on where the index is from.
            Self::TwoThreads | Self::Kept => same(&whole, &out)?,
            Self::Strongest => {}
        }
        Ok((fs::metadata(&out)?.len(), cost))
    }

    pub(crate) fn decode(self, pair: &Pair, places: &Places) -> Result<Cost> {
        Ok(run(&mut self.command("decode", pair, &places.encoded(), &places.decoded(), places))?.0)
    }

    fn command(self, verb: &str, pair: &Pair, file: &Path, out: &Path, places: &Places) -> Command {
        let mut command = Command::new(&places.dwcp);
        command.args(["hde", verb]).arg(file).arg("--out").arg(out);
        if let Some(old) = &pair.old {
            command.arg("--baseline").arg(old);
        }
        if places.threads {
            command.args(["--threads", if self == Self::TwoThreads { "2" } else { "1" }]);
        }
        if verb == "encode" {
            match self {
                Self::Strongest => drop(command.args(["--level", "19"])),
                Self::Kept => drop(command.arg("--index").arg(places.scratch.join("index"))),
                Self::Default | Self::TwoThreads => {}
            }
        }
        command
    }
}

/// What this build of it can do, as its help says; and whether threads can be chosen.
pub(crate) fn ways(program: &Path) -> Result<(Vec<Dwcp>, bool)> {
    let (_, help) = run(Command::new(program).args(["hde", "encode", "--help"]))?;
    let threads = help.contains("--threads");
    let mut ways = vec![Dwcp::Default];
    if threads {
        ways.push(Dwcp::TwoThreads);
    }
    if help.contains("--index") {
        ways.push(Dwcp::Kept);
    }
    ways.push(Dwcp::Strongest);
    Ok((ways, threads))
}
