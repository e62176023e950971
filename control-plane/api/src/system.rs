//! `dwcp.v1.SystemService`: what this server is, and what it finds when it looks at itself.

mod checks;
mod host;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use control_plane_store::{backup, configs, operation};
use proto_rpc::v1::{self as rpc, system_service_server::SystemService};
use tonic::{Request, Response, Status};

use crate::{State, auth::caller, error, paging::MAX_PAGE_SIZE, service_names::SERVICES, time::timestamp};

pub use host::{Finding, HostFindings, Severity};

/// What a server is, as its program knows.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// The program's version.
    pub version: &'static str,
    /// The commit it was built from; empty where that is not known.
    pub commit: &'static str,
    /// Whose the database is.
    pub database: DatabaseKind,
    /// When the process began to serve.
    pub start_time: DateTime<Utc>,
    /// Sessions that this server holds at most.
    pub max_sessions: usize,
    /// The longest message of a call.
    pub max_request_bytes: usize,
    /// Watches that one caller may have at once.
    pub max_watches: usize,
    /// Joins and renewals of one address in a minute.
    pub max_entries: u32,
    /// How many syncs there are at most.
    pub sync_bounds: control_plane_store::syncs::Bounds,
    /// All that bounds the server, by name.
    pub limits: Vec<ServerLimit>,
    /// What it finds of its host.
    pub host: HostFindings,
}

/// Something that bounds the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    /// The name in the server's options.
    pub name: &'static str,
    /// In force.
    pub value: String,
    /// Where nobody sets it.
    pub default: String,
    /// What it bounds.
    pub meaning: &'static str,
}

/// Whose the database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A private one.
    Embedded,
    /// One that others operate.
    External,
}

/// The service.
#[derive(Clone, Debug)]
pub struct System(State);

impl System {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }

    fn limits(&self) -> HashMap<String, String> {
        let limits = [
            ("agent_sessions", self.0.server.max_sessions.to_string()),
            ("request_bytes", self.0.server.max_request_bytes.to_string()),
            ("config_document_bytes", proto_model::config::MAX_DOCUMENT_BYTES.to_string()),
            ("transfer_source_paths", proto_model::TransferSpec::MAX_SOURCES.to_string()),
            ("page_size", MAX_PAGE_SIZE.to_string()),
        ];
        limits.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl DatabaseKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::External => "external",
        }
    }
}

fn bound(limit: &ServerLimit) -> rpc::ServerLimit {
    rpc::ServerLimit {
        name: limit.name.to_owned(),
        value: limit.value.clone(),
        default: limit.default.clone(),
        meaning: limit.meaning.to_owned(),
    }
}

#[tonic::async_trait]
impl SystemService for System {
    async fn get_server_info(
        &self,
        request: Request<rpc::GetServerInfoRequest>,
    ) -> Result<Response<rpc::ServerInfo>, Status> {
        let caller = caller(&request)?;
        let state = &self.0;
        let generation = configs::newest_generation(&state.db).await.map_err(error::store)?;
        let database_version = operation::database_version(&state.db).await.map_err(error::store)?;
        Ok(Response::new(rpc::ServerInfo {
            version: state.server.version.to_owned(),
            commit: state.server.commit.to_owned(),
            fleet_id: state.keys.fleet().to_string(),
            epoch: generation.epoch.value(),
            generation: generation.number,
            services: SERVICES.iter().map(|service| (*service).to_owned()).collect(),
            ca_fingerprint: state.keys.ca_fingerprint(),
            ca_certificate: state.keys.ca().certificate_pem(),
            database: state.server.database.as_str().to_owned(),
            database_version,
            start_time: timestamp(state.server.start_time),
            server_time: timestamp(state.clock.utc()),
            advertised_addresses: state.advertised.to_vec(),
            dht_ring: state.fleet.ring(),
            connected_agents: u32::try_from(state.fleet.connected()).unwrap_or(u32::MAX),
            limits: self.limits().into_iter().collect(),
            caller: caller.actor().to_string(),
            last_backup_time: backup::last_success(&state.db).await.map_err(error::store)?.and_then(timestamp),
            caller_role: caller.role.map(|role| role.to_string()).unwrap_or_default(),
            bounds: state.server.limits.iter().map(bound).collect(),
        }))
    }

    async fn run_checks(
        &self,
        _request: Request<rpc::RunChecksRequest>,
    ) -> Result<Response<rpc::RunChecksResponse>, Status> {
        let categories = checks::run(&self.0).await;
        let success = categories.iter().flat_map(|category| &category.checks).all(|check| check.result != "error");
        Ok(Response::new(rpc::RunChecksResponse { success, categories }))
    }
}
