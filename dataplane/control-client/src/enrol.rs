//! Redeems a join token: the CA is pinned by its fingerprint, everything else is learnt over that connection.

use std::time::Duration;

use dataplane_identity::{
    CaFingerprint, Certificate,
    tls::{self, WrongCa},
};
use proto_model::{HostFacts, TrustBundle};
use proto_rpc::agent::{EnrollRequest, EnrollResponse, agent_service_client::AgentServiceClient};
use tokio::time::timeout;
use tonic::Status;

use crate::{
    dial::{DialError, dial},
    endpoint::{Endpoint, MAX_ENDPOINTS},
    enrolment::Enrolment,
};

/// How long the control plane may take to issue a certificate.
const CALL: Duration = Duration::from_secs(30);

/// What was asked for.
#[derive(Debug)]
pub struct EnrolRequest {
    /// The secret.
    pub token: String,
    /// PKCS #10 over the node's key, DER.
    pub csr: Vec<u8>,
    /// The name wished for.
    pub name: String,
    /// What the host reports.
    pub facts: HostFacts,
}

/// What came of it; nothing is stored yet.
#[derive(Debug)]
pub struct Enrolled {
    /// The node's place in the fleet.
    pub enrolment: Enrolment,
    /// The node's certificate.
    pub certificate: Certificate,
    /// What to trust.
    pub bundle: TrustBundle,
}

/// Why a host did not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Somebody else answers there, or the fingerprint is a wrong one.
    #[error(
        "refusing to go on with {endpoint}, the token was not sent: {source}; \
         compare the address and the fingerprint with what `dwcp token create` printed"
    )]
    WrongCa {
        /// Where to.
        endpoint: Endpoint,
        /// What its chain has.
        source: WrongCa,
    },
    /// It showed the right CA in the handshake, and another one in its answer.
    #[error("{0} answers with another CA than the one in its own certificate chain; refusing to go on")]
    TwoFaced(Endpoint),
    /// No connection.
    #[error(transparent)]
    Dial(DialError),
    /// The control plane refuses.
    #[error("the control plane refuses this host: {0}")]
    Refused(String),
    /// It failed otherwise.
    #[error("the control plane could not enrol this host: {0}")]
    Failed(String),
    /// Its answer makes no sense.
    #[error("the control plane's answer makes no sense: {0}")]
    Answer(String),
}

/// Redeems the token with a control plane whose chain ends in the pinned CA, and no other.
///
/// # Errors
/// See [`EnrolError`]; a wrong CA is found out before the token is sent.
pub async fn enrol(endpoint: &Endpoint, pinned: CaFingerprint, request: EnrolRequest) -> Result<Enrolled, EnrolError> {
    let tls = tls::pinned_client_config(pinned).map_err(|error| EnrolError::Failed(error.to_string()))?;
    let channel = dial(endpoint, &tls).await.map_err(|error| match error {
        DialError::OtherCa { endpoint, source } => EnrolError::WrongCa { endpoint, source },
        other => EnrolError::Dial(other),
    })?;
    let call =
        EnrollRequest { token: request.token, csr: request.csr, name: request.name, facts: Some(request.facts.into()) };
    let answer = timeout(CALL, AgentServiceClient::new(channel).enroll(call))
        .await
        .map_err(|_elapsed| EnrolError::Failed("no answer within 30 s".to_owned()))?
        .map_err(|status| refused(&status))?;
    accept(answer.into_inner(), endpoint, pinned)
}

fn refused(status: &Status) -> EnrolError {
    let message = proto_model::escape(status.message().as_bytes());
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::Internal | tonic::Code::Unknown | tonic::Code::DeadlineExceeded => {
            EnrolError::Failed(message)
        }
        _refusal => EnrolError::Refused(message),
    }
}

fn accept(answer: EnrollResponse, endpoint: &Endpoint, pinned: CaFingerprint) -> Result<Enrolled, EnrolError> {
    fn wrong<E: std::fmt::Display>(field: &'static str) -> impl FnOnce(E) -> EnrolError {
        move |error| EnrolError::Answer(format!("{field}: {error}"))
    }
    let bundle = answer.trust_bundle.ok_or_else(|| EnrolError::Answer("there is no trust bundle".to_owned()))?;
    let bundle = TrustBundle::try_from(bundle).map_err(wrong("trust_bundle"))?;
    if CaFingerprint::of(&bundle.ca_certificate) != pinned {
        return Err(EnrolError::TwoFaced(endpoint.clone()));
    }
    // What was typed works from here; what the control plane says of itself may work later too.
    let told = answer.endpoints.iter().filter_map(|text| text.parse().ok());
    let mut endpoints = vec![endpoint.clone()];
    endpoints.extend(told.filter(|other| other != endpoint).take(MAX_ENDPOINTS - 1));
    Ok(Enrolled {
        enrolment: Enrolment {
            name: answer.name.parse().map_err(wrong("name"))?,
            uid: answer.uid.parse().map_err(wrong("uid"))?,
            fleet: bundle.fleet,
            ca_fingerprint: pinned,
            endpoints,
        },
        certificate: Certificate::parse(answer.certificate).map_err(wrong("certificate"))?,
        bundle,
    })
}
