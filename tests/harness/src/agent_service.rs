//! `AgentService` as an agent calls it, with whatever certificate a test likes to show.

use std::{io, sync::Arc};

use anyhow::{Context, Result};
use dataplane_identity::{
    CaFingerprint,
    tls::{control_plane_name, pinned_client_config},
};
use hyper_util::rt::TokioIo;
use proto_rpc::agent::agent_service_client::AgentServiceClient;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// A certificate to show, and its key.
#[derive(Debug)]
pub struct Shown(Arc<CertifiedKey>);

impl Shown {
    /// This chain, with the key in PKCS #8.
    ///
    /// # Errors
    /// They do not fit.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Ok(Self(Arc::new(CertifiedKey::from_der(chain, key, &provider)?)))
    }
}

/// What every HTTP/2 client says first, with empty settings (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A client of one TLS connection to `HOST:PORT` that pins the CA by its fingerprint.
///
/// # Errors
/// There is no connection.
pub async fn agent_service(
    endpoint: &str,
    ca: CaFingerprint,
    shown: Option<Shown>,
) -> Result<AgentServiceClient<Channel>> {
    Ok(AgentServiceClient::new(agent_channel(endpoint, ca, shown).await?))
}

/// One TLS connection to `HOST:PORT`, for calls of any service.
///
/// # Errors
/// There is no connection.
pub async fn agent_channel(endpoint: &str, ca: CaFingerprint, shown: Option<Shown>) -> Result<Channel> {
    let stream = connect(endpoint, ca, shown).await?;
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_uri: tonic::transport::Uri| {
        let once = Arc::clone(&once);
        async move {
            let stream = once.lock().await.take();
            stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
        }
    });
    Ok(Endpoint::from_static("http://control-plane.dwcp").connect_with_connector(connector).await?)
}

/// The alert with which the server refuses this certificate in the handshake; none where it goes on. In TLS 1.3 a client
/// has finished before the server looks at its certificate, so the alert comes where the first answer would.
///
/// # Errors
/// There is no connection.
pub async fn certificate_refusal(endpoint: &str, ca: CaFingerprint, shown: Shown) -> Result<Option<String>> {
    let mut stream = connect(endpoint, ca, Some(shown)).await?;
    stream.write_all(PREFACE).await?;
    Ok(stream.read_u8().await.err().map(|error| error.to_string()))
}

async fn connect(endpoint: &str, ca: CaFingerprint, shown: Option<Shown>) -> Result<TlsStream<TcpStream>> {
    let mut tls = pinned_client_config(ca)?;
    if let Some(Shown(key)) = shown {
        tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    }
    let tcp = TcpStream::connect(endpoint).await.with_context(|| format!("connect to {endpoint}"))?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::new(tls)).connect(control_plane_name(), tcp).await.context("TLS")
}
