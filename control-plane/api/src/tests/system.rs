//! SystemService.

use proto_rpc::v1::{GetServerInfoRequest, RunChecksRequest, system_service_client::SystemServiceClient};

use super::{agent::Agent, world::World};

#[tokio::test]
async fn says_what_it_is_and_who_asks() {
    let world = World::new().await;
    let info =
        SystemServiceClient::new(world.admin()).get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.epoch, info.generation, info.database.as_str()), (1, 0, "external"));
    assert!(info.ca_fingerprint.starts_with("sha256:") && info.ca_certificate.contains("BEGIN CERTIFICATE"));
    assert_eq!((info.caller.as_str(), info.caller_role.as_str()), ("socket:0", "admin"));
    assert!(info.services.contains(&"dwcp.v1.ConfigService".to_owned()));
    assert!(!info.database_version.is_empty());
}

#[tokio::test]
async fn finds_what_is_wrong_with_it() {
    let world = World::new().await;
    let a = world.node("a").await;
    let mut agent = Agent::connect(&world, &a).await;
    agent.welcome().await;
    let mut client = SystemServiceClient::new(world.admin());
    let found = client.run_checks(RunChecksRequest {}).await.unwrap().into_inner();
    assert!(found.success);
    let names: Vec<_> = found.categories.iter().map(|category| category.category_name.as_str()).collect();
    assert_eq!(names, ["postgres", "audit", "backup", "certificates", "dht", "agents", "syncs"]);
    let results: Vec<_> =
        found.categories.iter().flat_map(|category| &category.checks).map(|check| check.result.as_str()).collect();
    // All is well but the ring, which nobody is in.
    let bad: Vec<_> = results.iter().enumerate().filter(|(_, result)| **result != "success").collect();
    assert_eq!((results.len(), bad), (16, vec![(9, &"warning")]));
    world.sql(
        "ALTER TABLE audit_events DISABLE TRIGGER ALL; UPDATE audit_events SET actor = 'nobody' WHERE sequence = 1",
    );
    let found = client.run_checks(RunChecksRequest {}).await.unwrap().into_inner();
    assert!(!found.success);
    assert_eq!(found.categories[1].checks[1].error, "event 1 was changed");

    let finding = |category, description, trouble| crate::Finding { category, description, trouble };
    world.state.server.host.look_by(move || {
        let low = (crate::Severity::Warning, "9 MiB are free".to_owned(), "free some");
        vec![finding("host", "there is room", Some(low)), finding("audit", "the log goes on", None)]
    });
    let found = client.run_checks(RunChecksRequest {}).await.unwrap().into_inner();
    let host = &found.categories.last().unwrap().checks[0];
    assert_eq!(
        (host.result.as_str(), host.error.as_str(), host.hint.as_str()),
        ("warning", "9 MiB are free", "free some")
    );
    assert_eq!(found.categories[1].checks.last().unwrap().description, "the log goes on");
}
