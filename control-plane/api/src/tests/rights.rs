//! Who may call what.

use http::Request;
use prost::Message as _;
use proto_rpc::v1::{
    CreateJoinTokenRequest, ListNodesRequest, ListOperatorTokensRequest, RevokeOperatorTokenRequest, Role,
    join_token_service_client::JoinTokenServiceClient, node_service_client::NodeServiceClient,
    operator_token_service_client::OperatorTokenServiceClient,
};
use tonic::{Code, Status, body::Body};
use tower::Service as _;

use super::world::{Connection, OWN_USER, World, reason};

async fn list_nodes(connection: Connection) -> Result<(), Status> {
    NodeServiceClient::new(connection).list_nodes(ListNodesRequest::default()).await.map(drop)
}

fn refused(result: Result<(), Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), reason(&status))
}

#[tokio::test]
async fn nothing_but_what_is_meant_to_be_open_answers_a_stranger() {
    let world = World::new().await;
    let set = prost_types::FileDescriptorSet::decode(proto_rpc::DESCRIPTOR_SET).unwrap();
    let mut asked = 0;
    for file in set.file.iter().filter(|file| ["dwcp.v1", "dwcp.agent.v1"].contains(&file.package())) {
        for service in file.service.iter().filter(|service| service.name() != "LocalService") {
            for method in &service.method {
                if ["Enroll", "Renew"].contains(&method.name()) {
                    continue;
                }
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let request =
                    Request::post(&path).header("content-type", "application/grpc").body(Body::empty()).unwrap();
                let response = world.stranger().call(request).await.unwrap();
                let status = Status::from_header_map(response.headers()).unwrap();
                assert_eq!(status.code(), Code::Unauthenticated, "{path}");
                assert_eq!(reason(&status), "CREDENTIALS_MISSING", "{path}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 30, "{asked}");
}

#[tokio::test]
async fn a_role_covers_what_it_should_and_no_more() {
    let world = World::new().await;
    let viewer = world.bearer(&world.operator("vera", Role::Viewer).await);
    let operator = world.bearer(&world.operator("otto", Role::Operator).await);
    list_nodes(viewer.clone()).await.unwrap();
    let create = |connection: Connection| async move {
        let mut client = JoinTokenServiceClient::new(connection);
        client.create_join_token(CreateJoinTokenRequest::default()).await.map(drop)
    };
    assert_eq!(refused(create(viewer).await), (Code::PermissionDenied, "ROLE_TOO_LOW".to_owned()));
    create(operator.clone()).await.unwrap();
    let list = |connection: Connection| async move {
        let mut client = OperatorTokenServiceClient::new(connection);
        client.list_operator_tokens(ListOperatorTokensRequest::default()).await
    };
    assert_eq!(list(operator).await.unwrap_err().code(), Code::PermissionDenied);
    let listed = list(world.admin()).await.unwrap().into_inner().operator_tokens;
    assert_eq!(listed.len(), 2);
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE actor = 'operator:otto' AND outcome = 'ok'"), "1");
}

#[tokio::test]
async fn unknown_expired_and_revoked_tokens_open_nothing() {
    let world = World::new().await;
    let denied = (Code::Unauthenticated, "CREDENTIALS_REFUSED".to_owned());
    assert_eq!(refused(list_nodes(world.bearer("nonsense")).await), denied);
    let unknown = control_plane_pki::OperatorSecret::generate().unwrap();
    assert_eq!(refused(list_nodes(world.bearer(&unknown.expose())).await), denied);
    let secret = world.operator("vera", Role::Viewer).await;
    list_nodes(world.bearer(&secret)).await.unwrap();
    let mut admin = OperatorTokenServiceClient::new(world.admin());
    let listed = admin.list_operator_tokens(ListOperatorTokensRequest::default()).await.unwrap().into_inner();
    let name = listed.operator_tokens[0].name.clone();
    let revoke = RevokeOperatorTokenRequest { name, request_id: String::new() };
    let revoked = admin.revoke_operator_token(revoke.clone()).await.unwrap().into_inner();
    assert!(revoked.revoke_time.is_some());
    assert_eq!(admin.revoke_operator_token(revoke).await.unwrap().into_inner(), revoked, "twice is as once");
    assert_eq!(refused(list_nodes(world.bearer(&secret)).await), denied);
    world.state.tasks.shutdown(std::time::Duration::from_secs(20)).await.unwrap();
    let recorded = world.sql(
        "SELECT actor, sum((detail->>'count')::int) FROM audit_events WHERE outcome = 'refused' GROUP BY actor ORDER BY actor",
    );
    assert_eq!(recorded, "anonymous|2\noperator:vera|1");
}

#[tokio::test]
async fn the_socket_is_for_root_and_the_servers_user() {
    let world = World::new().await;
    list_nodes(world.socket(0)).await.unwrap();
    list_nodes(world.socket(OWN_USER)).await.unwrap();
    assert_eq!(refused(list_nodes(world.socket(1234)).await).0, Code::PermissionDenied);
}

#[tokio::test]
async fn a_nodes_certificate_opens_the_agents_service_only() {
    let world = World::new().await;
    let node = world.node("a").await;
    let result = list_nodes(world.host(&node.certificate)).await;
    assert_eq!(refused(result), (Code::PermissionDenied, "WRONG_KIND_OF_CALLER".to_owned()));
}
