//! What no pair of versions shows: data that nothing makes smaller, tiny edits in a large file, many small files, and files beyond 3 GB.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use tests_harness::fill_random;

use crate::{
    Common,
    child::Cost,
    contestant::Places,
    dwcp::Dwcp,
    machine,
    pair::{Pair, pairs, same},
    places, prefix, print_line,
    table::megabytes,
};

#[derive(Debug, Args)]
pub(crate) struct Cases {
    /// By name, with commas [default: all]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// 1 GB of random bytes, and files that are compressed already, without a baseline
    Incompressible,
    /// Some edits of a few bytes in the pair `linuxsrc`
    TinyEdits,
    /// The 2,000 files of `small`, each against its own older version
    Small,
    /// Five pairs as one file, the new versions in reverse order: 3.8 GB. Needs 12 GB beside the pairs
    Large,
}

impl Cases {
    pub(crate) fn measure(&self) -> Result<()> {
        print_line(&machine()?);
        let wanted = if self.cases.is_empty() { Case::value_variants() } else { &self.cases };
        for case in wanted {
            // Files beyond 3 GB are not for memory.
            let folder = if *case == Case::Large { &self.common.data } else { &self.common.scratch };
            let scratch = tempfile::tempdir_in(folder)?;
            let places = places(&self.common, scratch.path())?;
            match case {
                Case::Incompressible => self.incompressible(&places)?,
                Case::TinyEdits => self.tiny_edits(&places)?,
                Case::Small => self.small(&places)?,
                Case::Large => self.large(&places)?,
            }
        }
        Ok(())
    }

    fn pairs(&self, names: &[&str]) -> Result<Vec<Pair>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        pairs(&self.common.data.join("pairs"), &names)
    }

    fn incompressible(&self, places: &Places) -> Result<()> {
        let random = places.scratch.join("random");
        fill_random(&random, 1_000_000_000, 7)?;
        let mut all = vec![Pair::new("random", None, random)?];
        for pair in self.pairs(&["whl", "media"])? {
            all.push(Pair::new(&pair.name, None, pair.new)?);
        }
        print_line("\nwithout a baseline: goal 1 GB per CPU second, at most 0.1 % larger");
        for pair in &all {
            let (bytes, encode, decode) = there_and_back(Dwcp::Default, pair, places)?;
            say(pair, bytes, encode, decode);
        }
        Ok(())
    }

    fn tiny_edits(&self, places: &Places) -> Result<()> {
        const EDITS: usize = 5;
        let pair = self.pairs(&["linuxsrc"])?.remove(0);
        let edited = places.scratch.join("edited");
        let mut bytes = fs::read(&pair.new)?;
        let part = bytes.len() / (EDITS + 1);
        for edit in 1..=EDITS {
            let at = part * edit;
            bytes[at..at + 10].copy_from_slice(b"0123456789");
        }
        // One that moves all that follows.
        bytes.splice(part / 2..part / 2, *b"twenty bytes of more");
        fs::write(&edited, &bytes)?;
        let edited = Pair::new("tiny edits", Some(pair.new), edited)?;
        let (bytes, encode, decode) = there_and_back(Dwcp::Default, &edited, places)?;
        say(&edited, bytes, encode, decode);
        let goal = 1024.0 + 70.0 + 20.0 * megabytes(edited.new_bytes);
        print_line(&format!("70 bytes edited: {bytes} bytes; goal {goal:.0}"));
        Ok(())
    }

    fn small(&self, places: &Places) -> Result<()> {
        let (old, new) = (self.common.data.join("pairs/small.v0"), self.common.data.join("pairs/small.v1"));
        let mut files = Vec::new();
        files_below(&new, &mut files)?;
        ensure!(!files.is_empty(), "the pair small");
        let (mut mine, mut three, mut nineteen, mut size) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut cost = Cost::default();
        for file in &files {
            let older = old.join(file.strip_prefix(&new)?);
            let pair = Pair::new("small", Some(older.clone()), file.clone())?;
            let (bytes, encode, _) = there_and_back(Dwcp::Default, &pair, places)?;
            cost.cpu_seconds += encode.cpu_seconds;
            mine += bytes;
            size += pair.new_bytes;
            let (older, newer) = (fs::read(older)?, fs::read(file)?);
            three += u64::try_from(prefix::compress(&older, &newer, 3)?.len())?;
            nineteen += u64::try_from(prefix::compress(&older, &newer, 19)?.len())?;
        }
        let best = three.min(nineteen);
        print_line(&format!(
            "\n{} changed files, {:.1} MB: dwcp {mine} bytes ({:.1} CPU s, a process each), pf-3 {three}, pf-19 {nineteen}: {:.2} of the best; goal at most 1.5",
            files.len(),
            megabytes(size),
            cost.cpu_seconds,
            megabytes(mine) / megabytes(best)
        ));
        Ok(())
    }

    fn large(&self, places: &Places) -> Result<()> {
        const PARTS: [&str; 5] = ["kernel", "rootfs", "pgdata", "linuxsrc", "vmimg"];
        let found = self.pairs(&PARTS)?;
        let in_order = PARTS.iter().filter_map(|name| found.iter().find(|pair| pair.name == *name));
        let (old, new) = (places.scratch.join("large.v0"), places.scratch.join("large.v1"));
        let olds: Vec<&Path> = in_order.clone().filter_map(|pair| pair.old.as_deref()).collect();
        let news: Vec<&Path> = in_order.rev().map(|pair| pair.new.as_path()).collect();
        concatenate(&olds, &old)?;
        concatenate(&news, &new)?;
        let pair = Pair::new("large", Some(old), new)?;
        let mut sum = 0;
        for part in &found {
            sum += Dwcp::Default.encode(part, places)?.0;
        }
        for way in [Dwcp::Default, Dwcp::TwoThreads] {
            let (bytes, encode, decode) = there_and_back(way, &pair, places)?;
            print_line(&format!("\n{}; its parts one by one: {:.1} MB", way.name(), megabytes(sum)));
            say(&pair, bytes, encode, decode);
        }
        Ok(())
    }
}

/// Encodes, decodes, compares.
fn there_and_back(way: Dwcp, pair: &Pair, places: &Places) -> Result<(u64, Cost, Cost)> {
    let (bytes, encode) = way.encode(pair, places)?;
    let decode = way.decode(pair, places)?;
    same(&places.decoded(), &pair.new).with_context(|| pair.name.clone())?;
    fs::remove_file(places.decoded())?;
    Ok((bytes, encode, decode))
}

fn say(pair: &Pair, bytes: u64, encode: Cost, decode: Cost) {
    let size = megabytes(pair.new_bytes);
    let side = |cost: Cost| {
        format!(
            "{:.0} MB/CPU s, {:.2} s, {:.0} MB resident, {:.0} MB heap",
            size / cost.cpu_seconds,
            cost.wall_seconds,
            megabytes(cost.resident),
            megabytes(cost.heap)
        )
    };
    print_line(&format!(
        "{}: {size:.1} MB to {:.6} MB ({:+.4} %); encode {}; decode {}",
        pair.name,
        megabytes(bytes),
        (megabytes(bytes) / size - 1.0) * 100.0,
        side(encode),
        side(decode)
    ));
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn concatenate(parts: &[&Path], out: &Path) -> Result<()> {
    let mut out = File::create(out)?;
    for part in parts {
        std::io::copy(&mut File::open(part)?, &mut out)?;
    }
    Ok(())
}
