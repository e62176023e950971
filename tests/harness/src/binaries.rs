//! The programs under test: those in the folder `DWCP_BIN`, or else of the same build as the test itself.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The path of a program of this workspace.
///
/// # Errors
/// It has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DWCP_BIN") {
        let path = PathBuf::from(folder).join(name);
        ensure!(path.exists(), "{} is not there (DWCP_BIN)", path.display());
        return Ok(path);
    }
    // target/PROFILE/deps/test-hash, or target/PROFILE/program
    let me = std::env::current_exe().context("where am I?")?;
    let mut folder = me.parent().context("a test has a folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("a test has a folder")?;
    }
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} is not built; `tests/run` builds it, or: cargo build --release --workspace",
        path.display()
    );
    Ok(path)
}
