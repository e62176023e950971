//! Nodes and join tokens through the API.

use std::{collections::BTreeMap, time::Duration};

use proto_rpc::v1::{
    CreateJoinTokenRequest, CreateOperatorTokenRequest, DeleteNodeRequest, GetJoinTokenRequest, GetNodeRequest,
    ListNodesRequest, Node, UpdateNodeRequest, WatchNodesRequest, WatchNodesResponse, WatchType, join_token,
    join_token_service_client::JoinTokenServiceClient, node, node_service_client::NodeServiceClient,
    operator_token_service_client::OperatorTokenServiceClient,
};
use tonic::{Code, Streaming};

use super::world::{Connection, World, fields, reason};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn client(world: &World) -> NodeServiceClient<Connection> {
    NodeServiceClient::new(world.admin())
}

#[tokio::test]
async fn a_token_is_made_once_and_its_secret_shown_once() {
    let world = World::new().await;
    let mut client = JoinTokenServiceClient::new(world.admin());
    let request = CreateJoinTokenRequest {
        request_id: "0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".to_owned(),
        node_labels: labels(&[("region", "north")]),
        ..CreateJoinTokenRequest::default()
    };
    let first = client.create_join_token(request.clone()).await.unwrap().into_inner();
    let token = first.join_token.clone().unwrap();
    assert_eq!((token.max_uses, token.state()), (1, join_token::State::Active));
    assert_eq!(token.expire_time.unwrap().seconds - token.create_time.unwrap().seconds, 3600);
    assert_eq!(
        first.join_command,
        format!("dwcp-agent join cp.example:7442 --token {} --ca-fingerprint {}", first.token, first.ca_fingerprint)
    );
    let repeat = client.create_join_token(request.clone()).await.unwrap().into_inner();
    assert_eq!(
        (repeat.join_token, repeat.token, repeat.join_command),
        (Some(token.clone()), String::new(), String::new())
    );
    let other = CreateJoinTokenRequest { max_uses: 2, ..request.clone() };
    let refused = client.create_join_token(other).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    let checked = CreateJoinTokenRequest { validate_only: true, request_id: String::new(), ..request };
    assert_eq!(client.create_join_token(checked).await.unwrap().into_inner().token, "");
    assert_eq!(world.sql("SELECT count(*) FROM join_tokens"), "1");

    let node = world.enroll("a", &first.token).await.unwrap();
    assert_eq!((node.name.as_str(), node.endpoints.as_slice()), ("a", &["cp.example:7442".to_owned()][..]));
    let used = client.get_join_token(GetJoinTokenRequest { name: token.name }).await.unwrap().into_inner();
    assert_eq!((used.state(), used.used_count), (join_token::State::Used, 1));
    // The secret stands nowhere: not in a table, not in the log.
    let dump = world.sql(
        "SELECT row_to_json(t)::text FROM join_tokens t UNION ALL SELECT convert_from(leaf, 'UTF8') FROM audit_events
         UNION ALL SELECT row_to_json(r)::text FROM requests r",
    );
    assert!(dump.contains("join_token.create") && !dump.contains(first.token.split('.').nth(1).unwrap()));
}

#[tokio::test]
async fn a_mistake_is_answered_with_its_field() {
    let world = World::new().await;
    let mut nodes = client(&world);
    let mut tokens = JoinTokenServiceClient::new(world.admin());
    let mut operators = OperatorTokenServiceClient::new(world.admin());
    let size = ListNodesRequest { page_size: -1, ..ListNodesRequest::default() };
    let status = nodes.list_nodes(size).await.unwrap_err();
    assert_eq!(
        (status.code(), fields(&status), reason(&status)),
        (Code::InvalidArgument, vec!["page_size".to_owned()], "INVALID_ARGUMENT".to_owned())
    );
    let filter = ListNodesRequest { filter: "state=HAPPY".to_owned(), ..ListNodesRequest::default() };
    assert_eq!(fields(&nodes.list_nodes(filter).await.unwrap_err()), ["filter"]);
    // A key that no node has is most likely typed wrong: an empty list would hide that.
    let filter = ListNodesRequest { filter: "stat=READY".to_owned(), ..ListNodesRequest::default() };
    let refused = nodes.list_nodes(filter).await.unwrap_err();
    assert!(refused.message().starts_with("filter: no node has a label \"stat\"; known are state"), "{refused:?}");
    let token = ListNodesRequest { page_token: "x".to_owned(), ..ListNodesRequest::default() };
    assert_eq!(fields(&nodes.list_nodes(token).await.unwrap_err()), ["page_token"]);
    let named = GetNodeRequest { name: "nodes/a\u{1b}[2J".to_owned() };
    let status = nodes.get_node(named).await.unwrap_err();
    assert_eq!(fields(&status), ["name"]);
    assert!(!status.message().contains('\u{1b}'));
    let missing = nodes.get_node(GetNodeRequest { name: "nodes/a".to_owned() }).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing)), (Code::NotFound, "NOT_FOUND".to_owned()));
    let two = CreateJoinTokenRequest { max_uses: 2, node_name: "a".to_owned(), ..CreateJoinTokenRequest::default() };
    assert_eq!(fields(&tokens.create_join_token(two).await.unwrap_err()), ["max_uses"]);
    let id = CreateJoinTokenRequest { request_id: "7".to_owned(), ..CreateJoinTokenRequest::default() };
    assert_eq!(fields(&tokens.create_join_token(id).await.unwrap_err()), ["request_id"]);
    let long = prost_types::Duration { seconds: 31 * 24 * 3600, nanos: 0 };
    let long = CreateJoinTokenRequest { ttl: Some(long), ..CreateJoinTokenRequest::default() };
    assert_eq!(fields(&tokens.create_join_token(long).await.unwrap_err()), ["ttl"]);
    let name = CreateOperatorTokenRequest {
        display_name: "a\nb".to_owned(),
        role: 1,
        ..CreateOperatorTokenRequest::default()
    };
    assert_eq!(fields(&operators.create_operator_token(name).await.unwrap_err()), ["display_name"]);
    let role = CreateOperatorTokenRequest { display_name: "a".to_owned(), ..CreateOperatorTokenRequest::default() };
    assert_eq!(fields(&operators.create_operator_token(role).await.unwrap_err()), ["role"]);
}

#[tokio::test]
async fn of_fifty_joiners_one_is_in_and_the_others_are_told_why() {
    let world = World::new().await;
    let token = world.join_token().await;
    let names: Vec<String> = (0..50).map(|number| format!("h{number}")).collect();
    let joined = futures::future::join_all(names.iter().map(|name| world.enroll(name, &token))).await;
    assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 1);
    for refused in joined.iter().filter_map(|joined| joined.as_ref().err()) {
        assert_eq!((refused.code(), reason(refused)), (Code::PermissionDenied, "JOIN_TOKEN_USED".to_owned()));
    }
}

#[tokio::test]
async fn nodes_are_paged_filtered_updated_and_deleted() {
    let world = World::new().await;
    for name in ["c", "a", "b"] {
        world.node(name).await;
    }
    let mut client = client(&world);
    let mut names = Vec::new();
    let mut request = ListNodesRequest { page_size: 2, ..ListNodesRequest::default() };
    loop {
        let page = client.list_nodes(request.clone()).await.unwrap().into_inner();
        names.extend(page.nodes.into_iter().map(|node| node.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["nodes/a", "nodes/b", "nodes/c"]);

    let before = client.get_node(GetNodeRequest { name: "nodes/b".to_owned() }).await.unwrap().into_inner();
    assert_eq!((before.state(), before.os.as_str()), (node::State::Offline, "Debian"));
    let update = UpdateNodeRequest {
        node: Some(Node { labels: labels(&[("site", "b")]), etag: before.etag.clone(), ..before.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] }),
        ..UpdateNodeRequest::default()
    };
    let check = UpdateNodeRequest { validate_only: true, ..update.clone() };
    assert_eq!(client.update_node(check).await.unwrap().into_inner().labels, labels(&[("site", "b")]));
    let updated = client.update_node(update.clone()).await.unwrap().into_inner();
    assert_ne!(updated.etag, before.etag);
    let stale = UpdateNodeRequest { node: Some(Node { relay: true, ..before.clone() }), update_mask: None, ..update };
    let stale = client.update_node(stale).await.unwrap_err();
    assert_eq!((stale.code(), reason(&stale)), (Code::Aborted, "STALE_ETAG".to_owned()));
    let filter = ListNodesRequest { filter: "site=b,state=OFFLINE".to_owned(), ..ListNodesRequest::default() };
    let found = client.list_nodes(filter).await.unwrap().into_inner().nodes;
    assert_eq!(found, std::slice::from_ref(&updated));

    let by_uid = format!("nodes/{}", updated.uid);
    let delete = DeleteNodeRequest { name: by_uid.clone(), etag: updated.etag, ..DeleteNodeRequest::default() };
    client.delete_node(delete.clone()).await.unwrap();
    let again = client.delete_node(delete).await.unwrap_err();
    assert_eq!((again.code(), reason(&again)), (Code::FailedPrecondition, "REVOKED".to_owned()));
    let gone = client.get_node(GetNodeRequest { name: by_uid }).await.unwrap().into_inner();
    assert_eq!(gone.state(), node::State::Revoked);
    let left = client.list_nodes(ListNodesRequest::default()).await.unwrap().into_inner().nodes;
    assert_eq!(left.len(), 2);
}

async fn next(stream: &mut Streaming<WatchNodesResponse>) -> (WatchType, String, String) {
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(20), stream.message()).await.unwrap().unwrap().unwrap();
        if answer.r#type() != WatchType::Bookmark {
            let kind = answer.r#type();
            return (kind, answer.node.map(|node| node.name).unwrap_or_default(), answer.resume_token);
        }
    }
}

#[tokio::test]
async fn a_watch_shows_what_is_and_what_becomes_and_goes_on_where_it_was() {
    let world = World::new().await;
    world.node("a").await;
    let mut client = client(&world);
    let mut watch = client.watch_nodes(WatchNodesRequest::default()).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.0, WatchType::Added);
    let (kind, _, resume_token) = next(&mut watch).await;
    assert_eq!(kind, WatchType::Synced);
    world.node("b").await;
    let (kind, name, _) = next(&mut watch).await;
    assert_eq!((kind, name.as_str()), (WatchType::Added, "nodes/b"));
    let update = UpdateNodeRequest {
        node: Some(Node { name: "nodes/a".to_owned(), relay: true, ..Node::default() }),
        ..UpdateNodeRequest::default()
    };
    client.update_node(update).await.unwrap();
    let (kind, name, _) = next(&mut watch).await;
    assert_eq!((kind, name.as_str()), (WatchType::Modified, "nodes/a"));
    let delete = DeleteNodeRequest { name: "nodes/b".to_owned(), ..DeleteNodeRequest::default() };
    client.delete_node(delete).await.unwrap();
    let (kind, name, _) = next(&mut watch).await;
    assert_eq!((kind, name.as_str()), (WatchType::Deleted, "nodes/b"));

    let resume = WatchNodesRequest { resume_token: resume_token.clone(), ..WatchNodesRequest::default() };
    let mut resumed = client.watch_nodes(resume).await.unwrap().into_inner();
    let (kind, name, _) = next(&mut resumed).await;
    assert_eq!((kind, name.as_str()), (WatchType::Modified, "nodes/a"));
    assert_eq!(next(&mut resumed).await.0, WatchType::Synced);
    let (_, revision) = resume_token.split_once('.').unwrap();
    let restored = WatchNodesRequest { resume_token: format!("7.{revision}"), ..WatchNodesRequest::default() };
    let expired = client.watch_nodes(restored).await.unwrap_err();
    assert_eq!((expired.code(), reason(&expired)), (Code::OutOfRange, "RESUME_TOKEN_EXPIRED".to_owned()));
}
