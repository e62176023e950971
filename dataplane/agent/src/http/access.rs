//! What callers from elsewhere need: TLS with the host's own certificate, and a token (D27). Read from the files that the host's configuration
//! names, each time that it is put in force.

use std::{fmt, fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use foundation_listener::origin::is_same_secret;
use proto_model::config::{Http, PemSource};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// The longest token file that is read.
const MAX_TOKEN_BYTES: u64 = 4096;
/// The shortest token that is taken: 96 bits in base64.
const MIN_TOKEN_BYTES: usize = 16;

/// What callers from elsewhere need, as it is in force. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Access(Arc<ArcSwap<Credentials>>);

/// Certificate and tokens.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) token: Option<String>,
    pub(super) metrics_token: Option<String>,
}

impl Access {
    /// Puts them in force, for connections and requests to come.
    pub(crate) fn replace(&self, credentials: Credentials) {
        self.0.store(Arc::new(credentials));
    }

    /// TLS, where there is a certificate.
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.0.load().tls.clone()
    }

    /// Whether this token opens everything; the one for metrics opens these alone.
    pub(crate) fn opens(&self, token: &str, metrics: bool) -> bool {
        let present = self.0.load();
        let is = |own: &Option<String>| own.as_deref().is_some_and(|own| is_same_secret(own, token));
        is(&present.token) || (metrics && is(&present.metrics_token))
    }
}

impl Credentials {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// A sentence with the key that cannot be used.
    pub(crate) fn read(http: &Http) -> Result<Self, String> {
        Ok(Self {
            tls: tls(http)?.map(Arc::new),
            token: http.token_file.as_deref().map(|path| token("http.token_file", path)).transpose()?,
            metrics_token: http
                .metrics_token_file
                .as_deref()
                .map(|path| token("http.metrics_token_file", path))
                .transpose()?,
        })
    }
}

fn tls(http: &Http) -> Result<Option<rustls::ServerConfig>, String> {
    let (Some(certificate), Some(key)) = (&http.tls_certificate, &http.tls_private_key) else {
        return match http.tls_certificate {
            Some(_) => Err("http.tls_certificate is given without http.tls_private_key".to_owned()),
            None => Ok(None),
        };
    };
    if let PemSource::File(path) = key {
        refuse_open_file("http.tls_private_key", path)?;
    }
    let (certificate, key) = (pem("http.tls_certificate", certificate)?, pem("http.tls_private_key", key)?);
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("http.tls_certificate: {error}"))?;
    // The error would show what is in the file.
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_secret| "http.tls_private_key: there is no key in it")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| format!("http.tls_certificate and its key: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(config))
}

fn pem(key: &str, source: &PemSource) -> Result<Vec<u8>, String> {
    match source {
        PemSource::Text(text) => Ok(text.clone().into_bytes()),
        PemSource::File(path) => fs::read(path).map_err(|error| format!("{key}: {}: {error}", path.display())),
    }
}

fn token(key: &str, path: &Path) -> Result<String, String> {
    refuse_open_file(key, path)?;
    let shown = path.display();
    let wrong = |error: std::io::Error| format!("{key}: {shown}: {error}");
    if fs::metadata(path).map_err(wrong)?.len() > MAX_TOKEN_BYTES {
        return Err(format!("{key}: {shown} is longer than {MAX_TOKEN_BYTES} bytes"));
    }
    let token = fs::read_to_string(path).map_err(wrong)?.trim().to_owned();
    if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{key}: {shown} holds no token: at least {MIN_TOKEN_BYTES} characters without spaces"));
    }
    Ok(token)
}

/// A secret that every user of the host can read is none.
fn refuse_open_file(key: &str, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let mode = fs::metadata(path).map_err(|error| format!("{key}: {shown}: {error}"))?.permissions().mode();
    if mode & 0o004 != 0 {
        return Err(format!("{key}: {shown} can be read by everybody; chmod o-r {shown}"));
    }
    Ok(())
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("tls", &self.tls().is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}
