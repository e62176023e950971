//! The seal on keys at rest: AES-256-GCM-SIV under a key that lies outside of the database.
//!
//! A sealed value is `version (1) ‖ key id (4) ‖ nonce (12) ‖ ciphertext and tag`. It is bound to the table and the name it is stored
//! under, so that whoever writes to the database cannot put one in another's place.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// What the key's file begins with.
const FILE_PREFIX: &str = "dwcp-seal-v1:";

/// The form of what is sealed.
const VERSION: u8 = 1;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 4;

/// The longest file that is read as a key.
const MAX_FILE_BYTES: u64 = 4096;

/// The key that seals.
pub struct SealKey {
    key: RandomizedNonceKey,
    id: [u8; KEY_ID_BYTES],
}

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file cannot be read or made.
    #[error("cannot use the seal key {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// The key's file is not one.
    #[error("{path} is not a seal key: `{FILE_PREFIX}` and 32 bytes of base64 are expected", path = path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// What was sealed was sealed with another key.
    #[error("sealed with another key: this server needs the seal.key that the fleet's first server made")]
    OtherKey,
    /// What was sealed is not what is stored: changed, or moved here from another place.
    #[error("the sealed value is damaged, or was moved from another place")]
    Damaged,
    /// There is no randomness.
    #[error("the machine has no randomness")]
    NoRandomness,
}

impl SealKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate() -> Result<(Self, Zeroizing<String>), SealError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| SealError::NoRandomness)?;
        let text = Zeroizing::new(format!("{FILE_PREFIX}{}\n", STANDARD.encode(bytes.as_slice())));
        Ok((Self::from_bytes(&bytes), text))
    }

    /// Reads the key of a data directory, without making one.
    ///
    /// # Errors
    /// It cannot be read, or is no key.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let io = |source| SealError::Io { path: path.to_path_buf(), source };
        let not_a_key = || SealError::NotAKey { path: path.to_path_buf() };
        if fs::metadata(path).map_err(io)?.len() > MAX_FILE_BYTES {
            return Err(not_a_key());
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
        let encoded = text.trim().strip_prefix(FILE_PREFIX).ok_or_else(not_a_key)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_not_base64| not_a_key())?);
        let bytes: &[u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_length| not_a_key())?;
        Ok(Self::from_bytes(bytes))
    }

    /// Reads the key of a data directory, or makes it, with mode 0600.
    ///
    /// # Errors
    /// It cannot be read or made, or is no key.
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        match Self::load(path) {
            Err(SealError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::create(path),
            loaded => loaded,
        }
    }

    fn create(path: &Path) -> Result<Self, SealError> {
        let io = |source| SealError::Io { path: path.to_path_buf(), source };
        let (key, text) = Self::generate()?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        // Without this a power cut could leave sealed keys that nothing opens.
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        Ok(key)
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes).expect("the key has the algorithm's length");
        let hash = digest(&SHA256, &[b"dwcp seal key id", bytes.as_slice()].concat());
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash.as_ref()[..KEY_ID_BYTES]);
        Self { key, id }
    }

    /// Seals a value for its place: a table and a name in it.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn seal(&self, table: &str, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut ciphertext = plain.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(place(table, name)), &mut ciphertext)
            .map_err(|_unspecified| SealError::NoRandomness)?;
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut ciphertext);
        Ok(sealed)
    }

    /// Opens a value that was sealed for this place.
    ///
    /// # Errors
    /// It was sealed with another key, changed, or moved.
    pub fn open(&self, table: &str, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let Some((&VERSION, rest)) = sealed.split_first() else { return Err(SealError::Damaged) };
        let (id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>().ok_or(SealError::Damaged)?;
        if *id != self.id {
            return Err(SealError::OtherKey);
        }
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Damaged)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place(table, name)), &mut buffer)
            .map_err(|_unspecified| SealError::Damaged)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// Table and name, unmistakably: a name has no zero byte.
fn place(table: &str, name: &str) -> Vec<u8> {
    [table.as_bytes(), b"\0", name.as_bytes()].concat()
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKey").field("id", &hex::encode(self.id)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn opens_only_in_the_place_it_was_sealed_for_and_unchanged() {
        let (key, _) = SealKey::generate().unwrap();
        let sealed = key.seal("keys", "ca", b"secret").unwrap();
        assert_eq!(key.open("keys", "ca", &sealed).unwrap().as_slice(), b"secret");
        assert!(matches!(key.open("keys", "grant", &sealed), Err(SealError::Damaged)));
        assert!(matches!(key.open("key", "sca", &sealed), Err(SealError::Damaged)));
        for at in [0, 10, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("keys", "ca", &changed).is_err());
        }
        assert!(key.open("keys", "ca", &sealed[..9]).is_err());
        let (other, _) = SealKey::generate().unwrap();
        assert!(matches!(other.open("keys", "ca", &sealed), Err(SealError::OtherKey)));
    }

    #[test]
    fn the_key_is_made_once_and_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        let sealed = SealKey::load_or_create(&path).unwrap().seal("keys", "ca", b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SealKey::load_or_create(&path).unwrap().open("keys", "ca", &sealed).unwrap().as_slice(), b"secret");
        fs::write(&path, "dwcp-seal-v1:AAAA").unwrap();
        assert!(matches!(SealKey::load_or_create(&path), Err(SealError::NotAKey { .. })));
    }
}
