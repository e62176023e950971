//! A new certificate over the same key, long before the old one ends, and also after (D4).

use std::time::Duration;

use dataplane_identity::{Certificate, Identity, IdentityError, tls};
use foundation_runtime::{Cancelled, Clock, TaskGroup};
use proto_model::{InvalidField, TrustBundle, to_timestamp};
use proto_rpc::agent::{RenewRequest, agent_service_client::AgentServiceClient};
use tokio::time::timeout;
use tonic::Status;

use crate::{
    dial::{DialError, dial},
    endpoint::Endpoint,
};

/// How long the control plane may take to issue a certificate.
const CALL: Duration = Duration::from_secs(30);

/// Why there is no new certificate; the old one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The TLS library refuses the CA's certificate.
    #[error("the CA's certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The control plane refuses.
    #[error("the control plane does not renew the certificate: {0}")]
    Call(#[from] Status),
    /// It did not answer.
    #[error("the control plane did not answer within 30 s")]
    TimedOut,
    /// Its answer makes no sense.
    #[error("the control plane's answer makes no sense: {0}")]
    Answer(#[from] InvalidField),
    /// The new certificate cannot be used, or not kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The agent is stopping.
    #[error(transparent)]
    Stopping(#[from] Cancelled),
}

/// Asks for a new certificate, keeps and uses it. Needs no valid certificate: the request is signed by the node's key.
///
/// # Errors
/// See [`RenewError`].
pub async fn renew(
    endpoint: &Endpoint,
    identity: &Identity,
    clock: &Clock,
    tasks: &TaskGroup,
) -> Result<(), RenewError> {
    let tls = tls::anonymous_grpc_client_config(&identity.trust().bundle())?;
    let channel = dial(endpoint, &tls).await?;
    let csr = identity.key().csr_der().map_err(IdentityError::from)?;
    let (uid, now) = (identity.uid(), clock.utc());
    let signed = proto_wire::renew::message(uid.uuid().as_bytes(), now.timestamp_millis(), &csr);
    let request = RenewRequest {
        csr,
        uid: uid.to_string(),
        time: Some(to_timestamp(now)),
        signature: identity.key().sign(&signed).to_vec(),
    };
    let mut client = AgentServiceClient::new(channel);
    let answer = timeout(CALL, client.renew(request)).await.map_err(|_elapsed| RenewError::TimedOut)??.into_inner();
    let certificate = Certificate::parse(answer.certificate).map_err(IdentityError::from)?;
    let bundle = answer.trust_bundle.map(TrustBundle::try_from).transpose()?;
    let identity = identity.clone();
    let kept = tasks.blocking("keep a certificate", move || {
        identity.renewed(certificate)?;
        bundle.map_or(Ok(()), |bundle| identity.trust().replace_bundle(bundle).map_err(IdentityError::from))
    });
    Ok(kept.await??)
}
