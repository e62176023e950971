//! What the administrator of the machine finds in the data directory: a token and the CA's certificate.

use std::{fs, io, path::PathBuf};

use control_plane_pki::{OperatorSecret, SecretError};
use control_plane_store::{Context, Db, Error as StoreError, Keys, operator_tokens};
use foundation_runtime::durable;
use proto_model::Role;
use zeroize::Zeroizing;

use crate::data_dir::DataDir;

/// Why the files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AdminFilesError {
    /// A file cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// The file of the token holds something else.
    #[error("{path} does not hold an operator token; remove it to have one made", path = path.display())]
    NotAToken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SecretError,
    },
    /// There is no randomness.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The token could not be entered.
    #[error("the administrator's token could not be stored")]
    Store(#[from] StoreError),
}

/// Writes `ca.pem` and `admin.token`, where they are not there already.
///
/// # Errors
/// See [`AdminFilesError`].
pub(crate) async fn write(dir: &DataDir, db: &Db, keys: &Keys, host: &str) -> Result<(), AdminFilesError> {
    let pem = keys.ca().certificate_pem();
    let path = dir.file("ca.pem");
    if fs::read(&path).ok().as_deref() != Some(pem.as_bytes()) {
        durable::replace(&path, pem.as_bytes(), 0o644).map_err(|source| AdminFilesError::Io { path, source })?;
    }
    let secret = secret(dir)?;
    // A token that was revoked stays so: admin.sock is the way in for whoever did that.
    let new = operator_tokens::NewOperatorToken { display_name: format!("admin@{host}"), role: Role::Admin, ttl: None };
    if operator_tokens::by_secret(db, &secret).await?.is_none() {
        db.write("admin-token", Context::system(), move |tx| {
            Box::pin(async move { operator_tokens::ensure(tx, new, &secret).await.map(drop) })
        })
        .await
        .map_err(|error: StoreError| AdminFilesError::Store(error))?;
    }
    Ok(())
}

/// The secret in the file; a new one is on disk before the database knows it, so that a crash in between loses nothing.
fn secret(dir: &DataDir) -> Result<OperatorSecret, AdminFilesError> {
    let path = dir.file("admin.token");
    match fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => OperatorSecret::parse(&text).map_err(|source| AdminFilesError::NotAToken { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = OperatorSecret::generate()?;
            let text = Zeroizing::new(format!("{}\n", *secret.expose()));
            durable::create(&path, text.as_bytes(), 0o600).map_err(|source| AdminFilesError::Io { path, source })?;
            Ok(secret)
        }
        Err(source) => Err(AdminFilesError::Io { path, source }),
    }
}
