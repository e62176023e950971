//! A temporary folder that PostgreSQL's own user can reach into.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Removed when dropped, unless `DWCP_TEST_KEEP` is set.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// A new folder below `/tmp`: short, since a Unix socket's path has at most 107 bytes.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("dwcp-").tempdir_in("/tmp").context("a temporary folder")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        if std::env::var_os("DWCP_TEST_KEEP").is_some() {
            dir.disable_cleanup(true);
        }
        Ok(Self { dir })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A folder below it, made where it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}
