//! Trees of files to move, and what they come to.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Writes `bytes` of incompressible contents, the same for the same seed.
///
/// # Errors
/// What the file system answers.
pub fn fill_random(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut block = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        random.fill(&mut block[..]);
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(block.get(..part).unwrap_or_default())?;
        left -= part as u64;
    }
    Ok(())
}

/// A small tree with every kind of entry: files of many sizes, empty ones, sparse ones, folders, symlinks, modes, times,
/// names that are no UTF-8.
///
/// # Errors
/// What the file system answers.
pub fn write_sample_tree(folder: &Path, seed: u64) -> Result<()> {
    fs::create_dir_all(folder.join("deep/er/and/deeper"))?;
    fs::create_dir_all(folder.join("empty-folder"))?;
    for (name, bytes) in [("empty", 0), ("one", 1), ("block", 65_536), ("odd", 1_048_577), ("large", 9_000_001)] {
        fill_random(&folder.join(name), bytes, seed.wrapping_add(bytes))?;
    }
    for number in 0..300_u64 {
        fill_random(&folder.join(format!("deep/er/small-{number:03}")), number * 37 % 5000, seed ^ number)?;
    }
    fs::write(folder.join("deep/er/and/deeper/text"), "all work and no play\n".repeat(20_000))?;
    fs::write(folder.join(OsStr::from_bytes(b"not utf-8 \xff\xfe")), "x")?;
    fs::write(folder.join("with\nnewline"), "y")?;
    let sparse = File::create(folder.join("sparse"))?;
    sparse.set_len(64 << 20)?;
    sparse.write_all_at(b"in the middle", 31 << 20)?;
    symlink("one", folder.join("link"))?;
    symlink("/nowhere/at all", folder.join("dangling"))?;
    fs::set_permissions(folder.join("one"), fs::Permissions::from_mode(0o750))?;
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(folder.join("block"))?.set_modified(old)?;
    Ok(())
}

/// What a tree comes to: each entry's kind, mode, time and contents, by its path.
///
/// # Errors
/// What the file system answers.
pub fn digest_tree(folder: &Path) -> Result<BTreeMap<Vec<u8>, String>> {
    let mut found = BTreeMap::new();
    visit(folder, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn visit(folder: &Path, prefix: &mut Vec<u8>, found: &mut BTreeMap<Vec<u8>, String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let length = prefix.len();
        prefix.extend_from_slice(&entry.file_name().into_vec());
        let data = entry.path().symlink_metadata()?;
        let kind = data.file_type();
        let mode = data.mode() & 0o777;
        if kind.is_symlink() {
            found.insert(prefix.clone(), format!("link to {:?}", fs::read_link(entry.path())?));
        } else if kind.is_dir() {
            found.insert(prefix.clone(), format!("folder {mode:o} {}.{:09}", data.mtime(), data.mtime_nsec()));
            prefix.push(b'/');
            visit(&entry.path(), prefix, found)?;
        } else {
            let contents = fs::read(entry.path())?;
            let hash = contents
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            let (size, seconds, nanos) = (data.len(), data.mtime(), data.mtime_nsec());
            found.insert(prefix.clone(), format!("file {mode:o} {seconds}.{nanos:09} {size} {hash:016x}"));
        }
        prefix.truncate(length);
    }
    Ok(())
}
