//! The services of the gRPC port, what reflection says of them, and their health.

use control_plane_api::State;
use control_plane_store::Db;
use foundation_runtime::{OnEnd, TaskGroup};
use prost::Message as _;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::{Builder, Error};

use crate::backend::ServerBackend;

/// All services.
///
/// # Errors
/// A descriptor set cannot be read.
pub(crate) fn routes(state: &State) -> Result<(Routes, HealthReporter), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let routes = control_plane_api::services(state)
        .add_service(health)
        // Both versions: grpcurl before 1.9 knows only the older.
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok((routes, reporter))
}

/// Every method that could be called, by service and name, for spans and metrics.
pub(crate) fn methods() -> Vec<String> {
    let sets = [
        proto_rpc::DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files =
        sets.iter().filter_map(|set| prost_types::FileDescriptorSet::decode(*set).ok()).flat_map(|set| set.file);
    files
        .flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let service_name = format!("{package}.{}", service.name());
                service.method.into_iter().map(move |method| format!("{service_name}/{}", method.name()))
            })
        })
        .collect()
}

fn reflection<'a>() -> Builder<'a> {
    Builder::configure()
        .register_encoded_file_descriptor_set(proto_rpc::OPERATOR_DESCRIPTOR_SET)
        // Without the first, grpcurl cannot show the details of an error; without the second, it cannot call Health.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Serving while the database answers; looked at now and with every bell.
pub(crate) async fn follow_health(reporter: &HealthReporter, backend: &ServerBackend, db: &Db, tasks: &TaskGroup) {
    let mut serving = backend.is_serving();
    report(reporter, serving).await;
    let (reporter, backend, mut bell, token) = (reporter.clone(), backend.clone(), db.bell(), tasks.token().clone());
    tasks.spawn("grpc-health", OnEnd::Fatal, async move {
        let follow = async {
            while bell.changed().await.is_ok() {
                let now = backend.is_serving();
                if now != serving {
                    serving = now;
                    report(&reporter, serving).await;
                }
            }
        };
        token.run_until_cancelled(Box::pin(follow)).await;
    });
}

/// Says that the server is about to stop.
pub(crate) async fn stop_serving(reporter: &HealthReporter) {
    report(reporter, false).await;
}

async fn report(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status("", status).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_methods_are_known_by_name() {
        let methods = methods();
        for method in
            ["dwcp.v1.NodeService/ListNodes", "dwcp.agent.v1.AgentService/Session", "grpc.health.v1.Health/Check"]
        {
            assert!(methods.iter().any(|known| known == method), "{method}");
        }
    }
}
