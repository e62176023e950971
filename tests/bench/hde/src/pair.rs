//! Two versions of one thing.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// The baseline and the new version, both in files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) name: String,
    /// None where the receiver holds nothing.
    pub(crate) old: Option<PathBuf>,
    pub(crate) new: PathBuf,
    pub(crate) new_bytes: u64,
}

impl Pair {
    pub(crate) fn new(name: &str, old: Option<PathBuf>, new: PathBuf) -> Result<Self> {
        let new_bytes = fs::metadata(&new).with_context(|| new.display().to_string())?.len();
        Ok(Self { name: name.to_owned(), old, new, new_bytes })
    }

    /// Reads both, so that no disk is waited for later.
    pub(crate) fn warm(&self) -> Result<()> {
        for file in self.old.iter().chain([&self.new]) {
            std::io::copy(&mut File::open(file)?, &mut std::io::sink())?;
        }
        Ok(())
    }
}

/// Those below this folder, by name or all, the smallest first.
pub(crate) fn pairs(folder: &Path, names: &[String]) -> Result<Vec<Pair>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("{}: make it by tests/bench/hde/datasets", folder.display()))?
    {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(".v1") else { continue };
        let (old, new) = (folder.join(format!("{name}.v0")), folder.join(&file));
        if new.is_file() && (names.is_empty() || names.iter().any(|wanted| wanted == name)) {
            found.push(Pair::new(name, Some(old), new)?);
        }
    }
    for name in names {
        ensure!(found.iter().any(|pair| pair.name == *name), "no pair {name} in {}", folder.display());
    }
    found.sort_by(|one, other| (one.new_bytes, &one.name).cmp(&(other.new_bytes, &other.name)));
    Ok(found)
}

/// Compares them byte by byte.
pub(crate) fn same(one: &Path, other: &Path) -> Result<()> {
    let (mut first, mut second) = (File::open(one)?, File::open(other)?);
    ensure!(first.metadata()?.len() == second.metadata()?.len(), "{} is not {}", one.display(), other.display());
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let filled = first.read(&mut here)?;
        if filled == 0 {
            return Ok(());
        }
        second.read_exact(&mut there[..filled])?;
        ensure!(here[..filled] == there[..filled], "{} is not {}", one.display(), other.display());
    }
}
