//! The node's Ed25519 key: made at the first start, `ed25519_private.key` (PKCS #8 PEM, 0600) and `ed25519_public.key`.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ed25519_dalek::{
    Signer, SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey},
};
use foundation_runtime::durable;
use proto_model::{NodeId, PublicKey};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::certificate;

/// The private half, in a data directory.
const PRIVATE_FILE: &str = "ed25519_private.key";

/// The public half, beside it, for people and backups; made again where it is missing.
const PUBLIC_FILE: &str = "ed25519_public.key";

/// DER of an Ed25519 SubjectPublicKeyInfo (RFC 8410) up to the key's 32 bytes.
pub(crate) const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The node's key. Clones are the same key.
#[derive(Clone)]
pub struct NodeKey(Arc<SigningKey>);

/// Why the node's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeKeyError {
    /// The file may be read by others than its owner.
    #[error("{path} has mode {mode:04o}, so others may have read the key; if nobody did: chmod 600 {path}", path = path.display())]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be read or written.
    #[error("cannot use the key file {path}", path = path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// The file holds no Ed25519 key.
    #[error("{path} is damaged: it is not an Ed25519 private key in PKCS #8 PEM; restore it from a backup, or remove it, node.crt and node.json and join anew with a token made for this node", path = path.display())]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
    /// There is a certificate, and not the key that it is over.
    #[error("{path} is missing, though node.crt beside it is over that key; restore it from a backup, or remove node.crt and node.json and join anew with a token made for this node", path = path.display())]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// There is no randomness to make a key from.
    #[error("the system gives no randomness")]
    Randomness,
    /// The certificate request could not be made.
    #[error("the certificate request could not be made")]
    Request {
        /// What rcgen found.
        source: rcgen::Error,
    },
}

impl NodeKey {
    /// The key of a data directory, made there if there is none and never was one.
    ///
    /// # Errors
    /// See [`NodeKeyError`]; a key file that others may read is refused.
    pub fn load_or_create(dir: &Path) -> Result<Self, NodeKeyError> {
        let path = dir.join(PRIVATE_FILE);
        let key = match Self::load(&path)? {
            Some(key) => key,
            None if dir.join(certificate::FILE).exists() => return Err(NodeKeyError::Missing { path }),
            None => Self::create(&path)?,
        };
        key.keep_public(&dir.join(PUBLIC_FILE))?;
        Ok(key)
    }

    /// A new key that is kept nowhere.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate() -> Result<Self, NodeKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_unspecified| NodeKeyError::Randomness)?;
        Ok(Self(Arc::new(SigningKey::from_bytes(&seed))))
    }

    fn load(path: &Path) -> Result<Option<Self>, NodeKeyError> {
        let io = |source| NodeKeyError::Io { path: path.to_path_buf(), source };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(NodeKeyError::Permissions { path: path.to_path_buf(), mode });
        }
        let pem = Zeroizing::new(fs::read(path).map_err(io)?);
        let damaged = || NodeKeyError::Damaged { path: path.to_path_buf() };
        let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(&pem).map_err(|_malformed| damaged())? else {
            return Err(damaged());
        };
        let key = SigningKey::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|_malformed| damaged())?;
        Ok(Some(Self(Arc::new(key))))
    }

    fn create(path: &Path) -> Result<Self, NodeKeyError> {
        let key = Self::generate()?;
        let text = Zeroizing::new(pem("PRIVATE KEY", &key.pkcs8_der()));
        match durable::create(path, text.as_bytes(), 0o600) {
            Ok(()) => Ok(key),
            // Somebody else made it in between: theirs is the key.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)?.ok_or_else(|| NodeKeyError::Damaged { path: path.to_path_buf() })
            }
            Err(source) => Err(NodeKeyError::Io { path: path.to_path_buf(), source }),
        }
    }

    fn keep_public(&self, path: &Path) -> Result<(), NodeKeyError> {
        let text = pem("PUBLIC KEY", &[SPKI_PREFIX.as_slice(), self.0.verifying_key().as_bytes()].concat());
        if fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(());
        }
        durable::replace(path, text.as_bytes(), 0o644)
            .map_err(|source| NodeKeyError::Io { path: path.to_path_buf(), source })
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey::try_from(self.0.verifying_key()).expect("a key that was made from a seed is not weak")
    }

    /// SHA-1 of the public half.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::of(&self.public_key())
    }

    /// Signs a message. What is signed must begin with words that say what for.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The key itself, for the DHT, whose items it signs.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    /// A certificate request over the key, PKCS #10 DER. It carries no names: the CA ignores them.
    ///
    /// # Errors
    /// The request could not be made.
    pub fn csr_der(&self) -> Result<Vec<u8>, NodeKeyError> {
        let failed = |source| NodeKeyError::Request { source };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.pkcs8_der().as_slice()),
            &PKCS_ED25519,
        )
        .map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(failed)?;
        Ok(request.der().to_vec())
    }

    /// The key itself, in PKCS #8: for TLS.
    #[must_use]
    pub fn pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        let der = self.0.to_pkcs8_der().expect("an Ed25519 key has a PKCS #8 form");
        Zeroizing::new(der.as_bytes().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.node_id()).finish()
    }
}

/// PEM, RFC 7468: lines of 64 characters.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::load_or_create(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(PRIVATE_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(dir.path().join(PUBLIC_FILE)).unwrap();
        let again = NodeKey::load_or_create(dir.path()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert!(fs::read_to_string(dir.path().join(PUBLIC_FILE)).unwrap().starts_with("-----BEGIN PUBLIC KEY-----\n"));
    }

    #[test]
    fn refuses_a_key_file_that_others_may_read_and_says_how_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        NodeKey::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(PRIVATE_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = NodeKey::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("mode 0640") && refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn refuses_a_damaged_key_file_instead_of_making_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        durable::create(&dir.path().join(PRIVATE_FILE), b"nothing", 0o600).unwrap();
        assert!(matches!(NodeKey::load_or_create(dir.path()), Err(NodeKeyError::Damaged { .. })));
    }

    #[test]
    fn asks_for_a_certificate_over_its_own_key() {
        let key = NodeKey::generate().unwrap();
        let request = key.csr_der().unwrap();
        let parsed = rcgen::CertificateSigningRequestParams::from_der(&request.as_slice().into()).unwrap();
        let spki = rcgen::PublicKeyData::der_bytes(&parsed.public_key);
        assert_eq!(spki, key.signing_key().verifying_key().as_bytes());
    }
}
