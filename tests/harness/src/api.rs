//! The API's generated clients, over TLS with a token.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use proto_rpc::v1::{
    audit_service_client::AuditServiceClient, config_service_client::ConfigServiceClient,
    join_token_service_client::JoinTokenServiceClient, node_service_client::NodeServiceClient,
    operator_token_service_client::OperatorTokenServiceClient, system_service_client::SystemServiceClient,
    transfer_service_client::TransferServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// Puts a token into each request.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Bearer>;

/// A caller of the API.
#[derive(Clone, Debug)]
pub struct Api(Service);

impl Api {
    /// With a token.
    ///
    /// # Errors
    /// The CA's certificate cannot be read, or the token is none.
    pub fn with_token(endpoint: &str, ca: &Path, token: &str) -> Result<Self> {
        let bearer = format!("Bearer {token}").parse().context("a token is ASCII")?;
        Self::open(endpoint, ca, Bearer(Some(bearer)))
    }

    /// Without any credential.
    ///
    /// # Errors
    /// The CA's certificate cannot be read.
    pub fn anonymous(endpoint: &str, ca: &Path) -> Result<Self> {
        Self::open(endpoint, ca, Bearer(None))
    }

    fn open(endpoint: &str, ca: &Path, bearer: Bearer) -> Result<Self> {
        let pem = fs::read(ca).with_context(|| format!("read {}", ca.display()))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost");
        let channel = Endpoint::from_shared(format!("https://{endpoint}"))?.tls_config(tls)?.connect_lazy();
        Ok(Self(InterceptedService::new(channel, bearer)))
    }

    /// Nodes.
    #[must_use]
    pub fn nodes(&self) -> NodeServiceClient<Service> {
        NodeServiceClient::new(self.0.clone())
    }

    /// Join tokens.
    #[must_use]
    pub fn join_tokens(&self) -> JoinTokenServiceClient<Service> {
        JoinTokenServiceClient::new(self.0.clone())
    }

    /// Operator tokens.
    #[must_use]
    pub fn operator_tokens(&self) -> OperatorTokenServiceClient<Service> {
        OperatorTokenServiceClient::new(self.0.clone())
    }

    /// Configurations.
    #[must_use]
    pub fn configs(&self) -> ConfigServiceClient<Service> {
        ConfigServiceClient::new(self.0.clone())
    }

    /// Transfers.
    #[must_use]
    pub fn transfers(&self) -> TransferServiceClient<Service> {
        TransferServiceClient::new(self.0.clone())
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> AuditServiceClient<Service> {
        AuditServiceClient::new(self.0.clone())
    }

    /// The server itself.
    #[must_use]
    pub fn system(&self) -> SystemServiceClient<Service> {
        SystemServiceClient::new(self.0.clone())
    }
}
