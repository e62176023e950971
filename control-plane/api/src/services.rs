//! All services of the API, for the server's router.

use proto_rpc::{
    agent::agent_service_server::AgentServiceServer,
    v1::{
        audit_service_server::AuditServiceServer, bench_service_server::BenchServiceServer,
        config_service_server::ConfigServiceServer, join_token_service_server::JoinTokenServiceServer,
        node_service_server::NodeServiceServer, operator_token_service_server::OperatorTokenServiceServer,
        sync_service_server::SyncServiceServer, system_service_server::SystemServiceServer,
        transfer_service_server::TransferServiceServer,
    },
};
use tonic::service::Routes;

use crate::{
    State, agent::Agents, audit::Audit, bench::Benches, config::Configs, join_tokens::JoinTokens, nodes::Nodes,
    operator_tokens::OperatorTokens, syncs::Syncs, system::System, transfers::Transfers,
};

/// All services. [`crate::auth::AuthLayer`] belongs before them.
#[must_use]
pub fn services(state: &State) -> Routes {
    let limit = state.server.max_request_bytes;
    Routes::new(NodeServiceServer::new(Nodes::new(state.clone())).max_decoding_message_size(limit))
        .add_service(JoinTokenServiceServer::new(JoinTokens::new(state.clone())).max_decoding_message_size(limit))
        .add_service(
            OperatorTokenServiceServer::new(OperatorTokens::new(state.clone())).max_decoding_message_size(limit),
        )
        .add_service(ConfigServiceServer::new(Configs::new(state.clone())).max_decoding_message_size(limit))
        .add_service(TransferServiceServer::new(Transfers::new(state.clone())).max_decoding_message_size(limit))
        .add_service(BenchServiceServer::new(Benches::new(state.clone())).max_decoding_message_size(limit))
        .add_service(SyncServiceServer::new(Syncs::new(state.clone())).max_decoding_message_size(limit))
        .add_service(SystemServiceServer::new(System::new(state.clone())).max_decoding_message_size(limit))
        .add_service(AuditServiceServer::new(Audit::new(state.clone())).max_decoding_message_size(limit))
        .add_service(AgentServiceServer::new(Agents::new(state.clone())).max_decoding_message_size(limit))
}
