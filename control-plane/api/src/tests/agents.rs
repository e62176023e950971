//! What agents call: getting in, renewing, trying the way in.

use std::time::Duration;

use control_plane_pki::{node_uid_of, public_key_of};
use ed25519_dalek::{Signer as _, SigningKey};
use proto_rpc::{
    agent::{EnrollRequest, ProbeReachRequest, RenewRequest, agent_service_client::AgentServiceClient},
    v1::{
        CreateJoinTokenRequest, DeleteNodeRequest, join_token_service_client::JoinTokenServiceClient,
        node_service_client::NodeServiceClient,
    },
};
use tokio::net::UdpSocket;
use tonic::Code;

use super::world::{World, csr, fields, reason};

fn renewal(world: &World, name: &str, uid: &str) -> RenewRequest {
    let key = SigningKey::from_bytes(proto_model::Digest::sha256(name.as_bytes()).as_bytes());
    let (now, csr) = (world.state.clock.utc(), csr(name));
    let parsed: proto_model::NodeUid = uid.parse().unwrap();
    let message = proto_wire::renew::message(parsed.uuid().as_bytes(), now.timestamp_millis(), &csr);
    RenewRequest {
        csr,
        uid: uid.to_owned(),
        time: Some(proto_model::to_timestamp(now)),
        signature: key.sign(&message).to_bytes().to_vec(),
    }
}

#[tokio::test]
async fn a_node_renews_with_its_own_key_only() {
    let world = World::new().await;
    let node = world.node("a").await;
    world.hand.advance(Duration::from_hours(24 * 100));
    let mut client = AgentServiceClient::new(world.stranger());
    let renewed = client.renew(renewal(&world, "a", &node.uid)).await.unwrap().into_inner();
    assert_ne!(renewed.certificate, node.certificate);
    assert_eq!(node_uid_of(&renewed.certificate).unwrap().to_string(), node.uid);
    assert_eq!(public_key_of(&renewed.certificate), public_key_of(&node.certificate));
    assert_eq!(renewed.trust_bundle, node.trust_bundle);
    let refused = client.renew(renewal(&world, "stranger", &node.uid)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "CREDENTIALS_REFUSED".to_owned()));
    assert_eq!(world.sql("SELECT actor FROM audit_events WHERE action = 'node.renew'"), "node:a");
}

#[tokio::test]
async fn a_probe_goes_to_where_the_call_comes_from() {
    let world = World::new().await;
    let node = world.node("a").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = u32::from(socket.local_addr().unwrap().port());
    let mut client = AgentServiceClient::new(world.host(&node.certificate));
    let probe = ProbeReachRequest { udp_port: port, nonce: vec![7; 16] };
    let answer = client.probe_reach(probe.clone()).await.unwrap().into_inner();
    assert_eq!(answer.observed_address, "127.0.0.1:50000");
    let mut received = [0; 64];
    let (length, _from) =
        tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut received)).await.unwrap().unwrap();
    assert_eq!(&received[..length], [7; 16]);
    let short = ProbeReachRequest { nonce: vec![7; 15], ..probe.clone() };
    assert_eq!(fields(&client.probe_reach(short).await.unwrap_err()), ["nonce"]);
    let mut last = Code::Ok;
    for _ in 0..40 {
        last = client.probe_reach(probe.clone()).await.map_or_else(|status| status.code(), |_sent| Code::Ok);
    }
    assert_eq!(last, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_deleted_nodes_certificate_and_a_replaced_keys_open_nothing() {
    let world = World::new().await;
    let node = world.node("a").await;
    let probe = |certificate: Vec<u8>| {
        let mut client = AgentServiceClient::new(world.host(&certificate));
        async move { client.probe_reach(ProbeReachRequest { udp_port: 9, nonce: vec![7; 16] }).await.map(drop) }
    };
    probe(node.certificate.clone()).await.unwrap();
    let mut tokens = JoinTokenServiceClient::new(world.admin());
    let request = CreateJoinTokenRequest { node_name: "a".to_owned(), ..CreateJoinTokenRequest::default() };
    let token = tokens.create_join_token(request).await.unwrap().into_inner().token;
    let rebuilt = EnrollRequest { token, csr: csr("a rebuilt"), ..EnrollRequest::default() };
    let rebuilt = AgentServiceClient::new(world.stranger()).enroll(rebuilt).await.unwrap().into_inner();
    assert_eq!((&rebuilt.uid, rebuilt.name.as_str()), (&node.uid, "a"));
    let refused = probe(node.certificate).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "CREDENTIALS_REFUSED".to_owned()));
    probe(rebuilt.certificate.clone()).await.unwrap();
    let delete = DeleteNodeRequest { name: "nodes/a".to_owned(), ..DeleteNodeRequest::default() };
    NodeServiceClient::new(world.admin()).delete_node(delete).await.unwrap();
    assert_eq!(probe(rebuilt.certificate).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_request_over_no_key_is_answered_with_its_field() {
    let world = World::new().await;
    let token = world.join_token().await;
    let mut client = AgentServiceClient::new(world.stranger());
    let empty = EnrollRequest { token: token.clone(), ..EnrollRequest::default() };
    assert_eq!(fields(&client.enroll(empty).await.unwrap_err()), ["csr"]);
    let nonsense = EnrollRequest { token: token.clone(), csr: vec![1, 2, 3], name: "a".to_owned(), facts: None };
    assert_eq!(fields(&client.enroll(nonsense).await.unwrap_err()), ["csr"]);
    let unnamed = EnrollRequest { token, csr: csr("a"), ..EnrollRequest::default() };
    assert_eq!(fields(&client.enroll(unnamed).await.unwrap_err()), ["name"]);
    assert_eq!(world.sql("SELECT used_count FROM join_tokens"), "0", "a refused host spends no use");
}
