//! The passphrase: out of a file, never on a command line.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// A passphrase is a line.
const MAX_BYTES: u64 = 4096;

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file cannot be read.
    #[error("cannot read the passphrase from {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// It is no passphrase.
    #[error("{path} does not hold a passphrase: one line of 1 to {MAX_BYTES} bytes is expected", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// The file's first and only line, without its end; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    let io = |source| PassphraseError::Io { path: path.to_path_buf(), source };
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    if path == Path::new("-") {
        io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    } else {
        let file = File::open(path).map_err(io)?;
        if file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o077 != 0) {
            eprintln!("‼ {} can be read by others: chmod 600 it", path.display());
        }
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() || bytes.len() as u64 > MAX_BYTES || bytes.contains(&b'\n') {
        return Err(PassphraseError::Form { path: path.to_path_buf() });
    }
    Ok(bytes)
}
