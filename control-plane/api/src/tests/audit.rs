//! The log through the API, checked as a client would.

use foundation_merkle::{Checkpoint, Hash, VerifierKey, verify_consistency, verify_inclusion};
use proto_rpc::v1::{
    AuditEvent, GetAuditEventRequest, GetAuditHeadRequest, GetConsistencyProofRequest, GetInclusionProofRequest,
    ListAuditEventsRequest, ListOperatorTokensRequest, RevokeOperatorTokenRequest, Role, TailAuditEventsRequest,
    audit_service_client::AuditServiceClient, operator_token_service_client::OperatorTokenServiceClient,
};
use tonic::Code;

use super::world::{World, fields, reason};

fn hashes(hashes: Vec<Vec<u8>>) -> Vec<Hash> {
    hashes.into_iter().map(|hash| Hash::try_from(hash.as_slice()).unwrap()).collect()
}

#[tokio::test]
async fn a_client_can_verify_all_of_it_by_itself() {
    let world = World::new().await;
    let mut client = AuditServiceClient::new(world.admin());
    let first = client.get_audit_head(GetAuditHeadRequest {}).await.unwrap().into_inner();
    for name in ["a", "b", "c"] {
        world.node(name).await;
    }
    let head = client.get_audit_head(GetAuditHeadRequest {}).await.unwrap().into_inner();
    let verifier: VerifierKey = head.verifier_key.parse().unwrap();
    let checkpoint = |note: &str| Checkpoint::parse_and_verify(note, &verifier).unwrap();
    let (early, late) = (checkpoint(&first.checkpoint), checkpoint(&head.checkpoint));
    assert_eq!((late.size, late.root.to_string()), (head.tree_size, head.root_hash));

    let request = GetConsistencyProofRequest { first_size: early.size, second_size: 0 };
    let proof = client.get_consistency_proof(request).await.unwrap().into_inner();
    verify_consistency(early.size, &early.root, late.size, &late.root, &hashes(proof.hashes)).unwrap();

    let mut events: Vec<AuditEvent> = Vec::new();
    let mut request = ListAuditEventsRequest { page_size: 2, ..ListAuditEventsRequest::default() };
    loop {
        let page = client.list_audit_events(request.clone()).await.unwrap().into_inner();
        events.extend(page.audit_events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(events.len(), 7);
    for event in &events {
        let request = GetInclusionProofRequest { sequence: event.sequence, tree_size: 0 };
        let proof = client.get_inclusion_proof(request).await.unwrap().into_inner();
        verify_inclusion(&late.root, late.size, event.sequence, &event.leaf, &hashes(proof.hashes)).unwrap();
        let one = client.get_audit_event(GetAuditEventRequest { name: event.name.clone() }).await.unwrap();
        assert_eq!(one.into_inner(), *event);
    }
    let newest = ListAuditEventsRequest {
        page_size: 1,
        order_by: "sequence desc".to_owned(),
        filter: "action=node.*".to_owned(),
        ..ListAuditEventsRequest::default()
    };
    let newest = client.list_audit_events(newest).await.unwrap().into_inner();
    assert_eq!(newest.audit_events[0], events[6]);
    assert!(!newest.next_page_token.is_empty());

    let beyond = GetInclusionProofRequest { sequence: 0, tree_size: 99 };
    assert_eq!(fields(&client.get_inclusion_proof(beyond).await.unwrap_err()), ["tree_size"]);
    let missing = GetAuditEventRequest { name: "auditEvents/99".to_owned() };
    assert_eq!(client.get_audit_event(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_tail_follows_the_log() {
    let world = World::new().await;
    let mut client = AuditServiceClient::new(world.admin());
    let mut all = client
        .tail_audit_events(TailAuditEventsRequest { from_sequence: Some(0), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut fresh = client.tail_audit_events(TailAuditEventsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.message().await.unwrap().unwrap().action, "fleet.create");
    world.join_token().await;
    for tail in [&mut all, &mut fresh] {
        let event = tail.message().await.unwrap().unwrap();
        assert_eq!((event.sequence, event.action.as_str(), event.actor.as_str()), (1, "join_token.create", "socket:0"));
    }
}

#[tokio::test]
async fn a_tail_of_a_revoked_token_ends_before_the_next_event() {
    let world = World::new().await;
    let vera = world.operator("vera", Role::Viewer).await;
    let mut tail = AuditServiceClient::new(world.bearer(&vera))
        .tail_audit_events(TailAuditEventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    world.join_token().await;
    assert_eq!(tail.message().await.unwrap().unwrap().action, "join_token.create");
    let mut admin = OperatorTokenServiceClient::new(world.admin());
    let tokens = admin.list_operator_tokens(ListOperatorTokensRequest::default()).await.unwrap().into_inner();
    let name = tokens.operator_tokens[0].name.clone();
    admin.revoke_operator_token(RevokeOperatorTokenRequest { name, ..Default::default() }).await.unwrap();
    let ended = tail.message().await.unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unauthenticated, "CREDENTIALS_REFUSED"));
}
