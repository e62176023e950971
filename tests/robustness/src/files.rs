//! Files that say by themselves whether they are whole: the digest of the rest stands first.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use anyhow::Result;
use rand::{Rng, RngExt};

const DIGEST: usize = 32;

/// Writes a file of incompressible contents that carries its digest.
///
/// # Errors
/// What the file system answers.
pub fn write_file(path: &Path, bytes: usize, random: &mut impl Rng) -> Result<()> {
    let mut body = vec![0; bytes.saturating_sub(DIGEST)];
    random.fill(&mut body[..]);
    let mut file = File::create(path)?;
    file.write_all(blake3::hash(&body).as_bytes())?;
    file.write_all(&body)?;
    Ok(())
}

/// Whether a file is as it was written.
#[must_use]
pub fn file_is_whole(contents: &[u8]) -> bool {
    contents.split_first_chunk::<DIGEST>().is_some_and(|(digest, body)| blake3::hash(body).as_bytes() == digest)
}

/// Changes a tree: a large file or two, some of middle size, a few dozen small ones; some go. Gives the bytes that are new.
///
/// # Errors
/// What the file system answers.
pub fn change_tree(folder: &Path, large: usize, random: &mut impl Rng) -> Result<u64> {
    let small = folder.join("deep/er");
    fs::create_dir_all(&small)?;
    let mut fresh = 0_u64;
    let mut write = |path: &Path, bytes: usize, random: &mut dyn FnMut(&Path, usize) -> Result<()>| -> Result<()> {
        random(path, bytes)?;
        fresh += u64::try_from(bytes)?;
        Ok(())
    };
    let mut names = vec![(folder.join("large"), random.random_range(large / 2..=large))];
    for number in 0..4 {
        if random.random_bool(0.5) {
            names.push((folder.join(format!("middle-{number}")), random.random_range(70_000..900_000)));
        }
    }
    for number in 0..60 {
        let path = small.join(format!("small-{number:02}"));
        if random.random_bool(0.3) {
            names.push((path, random.random_range(40..5000)));
        } else if random.random_bool(0.1) && path.exists() {
            fs::remove_file(path)?;
        }
    }
    for (path, bytes) in names {
        write(&path, bytes, &mut |path, bytes| write_file(path, bytes, random))?;
    }
    Ok(fresh)
}
