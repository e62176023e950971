//! Opens one TLS connection to one endpoint of the control plane and speaks gRPC on it.
//!
//! A channel of this module is its one connection: when that breaks, calls fail at once, and who owns the channel dials
//! again, perhaps elsewhere. So every failure to connect has a cause that can be shown.

use std::{io, sync::Arc, time::Duration};

use dataplane_identity::tls::{WrongCa, control_plane_name};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint as TonicEndpoint};
use tower::service_fn;

use crate::endpoint::Endpoint;

/// Until TCP and TLS stand: a WAN's worst round trips, with one lost packet repeated twice.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is tried, so that a dead path is noticed although nobody says anything.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long the answer to that may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames of HTTP/2 are taken into this much memory for a stream before the sender has to wait.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// Why no connection came to stand.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP.
    #[error("cannot reach {endpoint} over TCP: {source}")]
    Tcp {
        /// Where to.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// The CA is not the one that was pinned.
    #[error("{endpoint} is not the control plane that was named")]
    OtherCa {
        /// Where to.
        endpoint: Endpoint,
        /// What its chain has.
        source: WrongCa,
    },
    /// The certificate is not valid at this time, which is as likely to be wrong as the certificate is.
    #[error(
        "{endpoint} presents a certificate that is not valid at this host's time ({now}): {source}; set the host's clock, or the control plane's where that one is wrong"
    )]
    Clock {
        /// Where to.
        endpoint: Endpoint,
        /// What this host's clock says.
        now: chrono::DateTime<chrono::Utc>,
        /// Before or after.
        source: rustls::Error,
    },
    /// The certificate is not one that this side trusts.
    #[error("{endpoint} presents a certificate that is not trusted here: {source}")]
    Certificate {
        /// Where to.
        endpoint: Endpoint,
        /// Why.
        source: rustls::Error,
    },
    /// Anything else of TLS.
    #[error("{endpoint} does not complete a TLS handshake: {source}")]
    Tls {
        /// Where to.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("{0} did not answer within 10 s")]
    TimedOut(Endpoint),
    /// HTTP/2.
    #[error("{endpoint} does not speak gRPC: {source}")]
    Http {
        /// Where to.
        endpoint: Endpoint,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Connects, and speaks gRPC over this one connection.
///
/// # Errors
/// As [`DialError`] says.
pub async fn dial(endpoint: &Endpoint, tls: &ClientConfig) -> Result<Channel, DialError> {
    let stream = connect(endpoint, tls).await?;
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_uri: http::Uri| {
        let once = Arc::clone(&once);
        async move {
            let stream = once.lock().await.take();
            stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
        }
    });
    // TLS is done above, so that tonic must not begin its own: hence the scheme.
    TonicEndpoint::from_static("http://control-plane.dwcp")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|source| DialError::Http { endpoint: endpoint.clone(), source })
}

async fn connect(endpoint: &Endpoint, tls: &ClientConfig) -> Result<TlsStream<TcpStream>, DialError> {
    let late = |_elapsed| DialError::TimedOut(endpoint.clone());
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((endpoint.host(), endpoint.port())))
        .await
        .map_err(late)?
        .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
        .map_err(|source| DialError::Tcp { endpoint: endpoint.clone(), source })?;
    timeout(CONNECT_TIMEOUT, TlsConnector::from(Arc::new(tls.clone())).connect(control_plane_name(), tcp))
        .await
        .map_err(late)?
        .map_err(|source| refused(endpoint, source))
}

fn refused(endpoint: &Endpoint, source: io::Error) -> DialError {
    match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error @ rustls::Error::InvalidCertificate(reason)) => match reason {
            CertificateError::Other(other) if other.0.is::<WrongCa>() => {
                let source = other.0.downcast_ref::<WrongCa>().expect("its type was just looked at").clone();
                DialError::OtherCa { endpoint: endpoint.clone(), source }
            }
            CertificateError::ExpiredContext { time, .. } | CertificateError::NotValidYetContext { time, .. } => {
                let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
                let now = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
                DialError::Clock { endpoint: endpoint.clone(), now, source: error.clone() }
            }
            _ => DialError::Certificate { endpoint: endpoint.clone(), source: error.clone() },
        },
        _ => DialError::Tls { endpoint: endpoint.clone(), source },
    }
}
