//! ConfigService.

use proto_rpc::agent::Hello;
use proto_rpc::v1::{
    Config, CreateConfigRequest, DeleteConfigRequest, DiffConfigRevisionsRequest, GetConfigRequest,
    GetConfigRevisionRequest, GetEffectiveConfigRequest, ListConfigRevisionsRequest, ListConfigsRequest,
    RollbackConfigRequest, UpdateConfigRequest, ValidateConfigRequest, config_service_client::ConfigServiceClient,
    diff_config_revisions_request::Target,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    agent::{Agent, facts},
    world::{Connection, World, fields, reason},
};

type Client = ConfigServiceClient<Connection>;

fn create(id: &str, document: &str) -> CreateConfigRequest {
    CreateConfigRequest { config_id: id.to_owned(), document: document.to_owned(), ..CreateConfigRequest::default() }
}

fn update(of: &Config, document: &str) -> UpdateConfigRequest {
    UpdateConfigRequest {
        name: of.name.clone(),
        document: document.to_owned(),
        etag: of.etag.clone(),
        ..UpdateConfigRequest::default()
    }
}

async fn get(client: &mut Client, name: &str) -> Result<Config, Status> {
    client.get_config(GetConfigRequest { name: name.to_owned() }).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_bad_document_is_refused_with_its_field_and_place() {
    let world = World::new().await;
    let mut client = ConfigServiceClient::new(world.admin());
    let refused = client.create_config(create("fleet", "transport:\n  max_streams: 8\n")).await.unwrap_err();
    assert_eq!(
        (refused.code(), fields(&refused)),
        (Code::InvalidArgument, vec!["config.transport.max_streams".to_owned()])
    );
    assert!(refused.message().contains("configs/fleet:2:"), "{}", refused.message());
    assert_eq!(get(&mut client, "configs/fleet").await.unwrap_err().code(), Code::NotFound);
    // The same question is no error when it is only asked.
    let name = String::new();
    let asked = ValidateConfigRequest { name, document: "transport:\n  max_streams: 8\n".to_owned() };
    let answer = client.validate_config(asked).await.unwrap().into_inner();
    assert!(!answer.valid);
    assert_eq!((answer.diagnostics[0].path.as_str(), answer.diagnostics[0].line), ("transport.max_streams", 2));
    assert_eq!(fields(&client.create_config(create("group.x", "")).await.unwrap_err()), ["config_id"]);
}

#[tokio::test]
async fn a_document_that_a_host_cannot_merge_is_refused() {
    let world = World::new().await;
    let a = world.node("a").await;
    let hello = Hello {
        facts: Some(facts()),
        host_layer: "transport: {min_streams: 100}\n".to_owned(),
        host_layer_origin: "/etc/dwcp.yaml".to_owned(),
        ..Hello::default()
    };
    let mut agent = Agent::connect_with(&world, &a, hello).await;
    agent.welcome().await;
    let mut client = ConfigServiceClient::new(world.admin());
    let refused = client.create_config(create("fleet", "transport: {max_streams: 64}\n")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("nodes/a"), "{}", refused.message());
    let made = client.create_config(create("fleet", "transport: {max_streams: 128}\n")).await.unwrap().into_inner();
    // The effective values name the layer that each comes from.
    let name = "nodes/a/effectiveConfig".to_owned();
    let effective = client.get_effective_config(GetEffectiveConfigRequest { name }).await.unwrap().into_inner();
    let value = |path: &str| effective.values.iter().find(|value| value.path == path).unwrap().clone();
    assert_eq!(
        (value("transport.max_streams").value, value("transport.max_streams").origin),
        ("128".to_owned(), "configs/fleet".to_owned())
    );
    assert_eq!(value("transport.min_streams").origin, "host:/etc/dwcp.yaml");
    assert_eq!(value("transport.initial_streams").origin, "default");
    assert_eq!(made.revision, 1);
    let name = "configs/fleet".to_owned();
    let fleet = client.get_effective_config(GetEffectiveConfigRequest { name }).await.unwrap().into_inner();
    assert_ne!(fleet.digest, effective.digest);
}

#[tokio::test]
async fn writes_need_the_present_etag_and_repeats_are_harmless() {
    let world = World::new().await;
    let mut client = ConfigServiceClient::new(world.admin());
    let id = "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".to_owned();
    let first = CreateConfigRequest { request_id: id.clone(), ..create("fleet", "enabled: true\n") };
    let made = client.create_config(first.clone()).await.unwrap().into_inner();
    assert_eq!(client.create_config(first).await.unwrap().into_inner().etag, made.etag);
    let other = CreateConfigRequest { request_id: id, ..create("fleet", "enabled: false\n") };
    assert_eq!(reason(&client.create_config(other).await.unwrap_err()), "REQUEST_ID_REUSED");
    assert_eq!(client.create_config(create("fleet", "")).await.unwrap_err().code(), Code::AlreadyExists);

    let checked = UpdateConfigRequest { validate_only: true, ..update(&made, "enabled: false\n") };
    assert_eq!(client.update_config(checked).await.unwrap().into_inner().revision, 2);
    let second = client.update_config(update(&made, "enabled: false\n")).await.unwrap().into_inner();
    assert_eq!(second.revision, 2);
    let stale = client.update_config(update(&made, "enabled: true\n")).await.unwrap_err();
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "STALE_ETAG"));
    assert_eq!(stale.get_error_details().error_info().unwrap().metadata["currentEtag"], second.etag);
    let without = UpdateConfigRequest { etag: String::new(), ..update(&made, "") };
    assert_eq!(fields(&client.update_config(without).await.unwrap_err()), ["etag"]);
}

#[tokio::test]
async fn revisions_are_kept_compared_and_gone_back_to() {
    let world = World::new().await;
    let token = world.operator("ann", proto_rpc::v1::Role::Operator).await;
    let mut client = ConfigServiceClient::new(world.bearer(&token));
    let first = DiffConfigRevisionsRequest {
        name: "configs/fleet".to_owned(),
        base_revision: 0,
        target: Some(Target::TargetDocument("transport: {max_streams: 64}\n".to_owned())),
    };
    let first = client.diff_config_revisions(first).await.unwrap().into_inner();
    assert_eq!((first.changes.len(), first.changes[0].old_value.as_str(), first.etag.as_str()), (1, "", ""));
    let made = client.create_config(create("fleet", "transport: {max_streams: 64}\n")).await.unwrap().into_inner();
    let request = UpdateConfigRequest { message: "more".to_owned(), ..update(&made, "transport: {max_streams: 65}\n") };
    client.update_config(request).await.unwrap();
    let diff = DiffConfigRevisionsRequest {
        name: "configs/fleet".to_owned(),
        base_revision: 1,
        target: Some(Target::TargetRevision(2)),
    };
    let diff = client.diff_config_revisions(diff).await.unwrap().into_inner();
    assert_eq!((diff.changes.len(), diff.changes[0].path.as_str()), (1, "transport.max_streams"));
    assert_eq!((diff.changes[0].old_value.as_str(), diff.changes[0].new_value.as_str()), ("64", "65"));
    assert!(
        diff.unified_diff.contains("-transport: {max_streams: 64}\n+transport: {max_streams: 65}\n"),
        "{}",
        diff.unified_diff
    );

    let back =
        RollbackConfigRequest { name: "configs/fleet/revisions/1".to_owned(), ..RollbackConfigRequest::default() };
    let back = client.rollback_config(back).await.unwrap().into_inner();
    assert_eq!((back.revision, back.document.as_str()), (3, "transport: {max_streams: 64}\n"));
    let list = ListConfigRevisionsRequest { parent: "configs/fleet".to_owned(), page_size: 2, ..Default::default() };
    let page = client.list_config_revisions(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.revisions.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((page.revisions[1].author.as_str(), page.revisions[1].message.as_str()), ("operator:ann", "more"));
    let rest = ListConfigRevisionsRequest { page_token: page.next_page_token, ..list };
    assert_eq!(client.list_config_revisions(rest).await.unwrap().into_inner().revisions[0].revision, 1);
    let latest = GetConfigRevisionRequest { name: "configs/fleet/revisions/latest".to_owned() };
    assert_eq!(client.get_config_revision(latest).await.unwrap().into_inner().revision, 3);
    let missing = GetConfigRevisionRequest { name: "configs/fleet/revisions/9".to_owned() };
    assert_eq!(client.get_config_revision(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_nodes_configuration_can_be_removed_and_the_fleets_stays() {
    let world = World::new().await;
    let mut client = ConfigServiceClient::new(world.admin());
    let fleet = client.create_config(create("fleet", "enabled: true\n")).await.unwrap().into_inner();
    let node = client.create_config(create("node.a", "enabled: false\n")).await.unwrap().into_inner();
    let listed = client.list_configs(ListConfigsRequest::default()).await.unwrap().into_inner().configs;
    assert_eq!(
        listed.iter().map(|config| config.name.as_str()).collect::<Vec<_>>(),
        ["configs/fleet", "configs/node.a"]
    );
    let delete =
        |of: &Config| DeleteConfigRequest { name: of.name.clone(), etag: of.etag.clone(), ..Default::default() };
    assert_eq!(client.delete_config(delete(&fleet)).await.unwrap_err().code(), Code::FailedPrecondition);
    client.delete_config(delete(&node)).await.unwrap();
    assert_eq!(get(&mut client, "configs/node.a").await.unwrap_err().code(), Code::NotFound);
}
