//! The services of the gRPC port, what reflection says of them, and their health.

use control_plane_api::State;
use control_plane_fleet::Fleet;
use control_plane_store::Db;
use foundation_runtime::{OnEnd, TaskGroup};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::{Builder, Error};

use crate::backend::ServerBackend;

/// All services.
///
/// # Errors
/// A descriptor set cannot be read.
pub(crate) fn routes(state: State, fleet: Fleet) -> Result<(Routes, HealthReporter), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    // Both versions: grpcurl before 1.9 knows only the older.
    let routes = Routes::new(health).add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    drop((state, fleet));
    Ok((routes, reporter))
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
    let mut serving = backend.is_serving().await;
    report(reporter, serving).await;
    let (reporter, backend, mut bell, token) = (reporter.clone(), backend.clone(), db.bell(), tasks.token().clone());
    tasks.spawn("grpc-health", OnEnd::Fatal, async move {
        let follow = async {
            while bell.changed().await.is_ok() {
                let now = backend.is_serving().await;
                if now != serving {
                    serving = now;
                    report(&reporter, serving).await;
                }
            }
        };
        token.run_until_cancelled(follow).await;
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
