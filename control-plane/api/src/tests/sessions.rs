//! What an agent is told in its session, and what becomes of what it says.

use foundation_merkle::{Checkpoint, VerifierKey};
use proto_model::PublicKey;
use proto_rpc::{
    agent::{
        HeldConfig, Hello, LookupNodes, NodeRecord, Observed, RosterUpdate, agent_message::Message as Say,
        server_message::Message,
    },
    v1::{
        ComponentHealth, CreateConfigRequest, DeleteNodeRequest, GetConfigRequest, GetNodeRequest, RunChecksRequest,
        applied_config::Status as Applied, config_rollout::State as RolloutState,
        config_service_client::ConfigServiceClient, node::State as NodeState, node_service_client::NodeServiceClient,
        system_service_client::SystemServiceClient,
    },
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{
    agent::{Agent, facts},
    world::{World, reason},
};

async fn roster(agent: &mut Agent) -> RosterUpdate {
    agent
        .hear("roster", |message| match message {
            Message::Roster(roster) => Some(roster.clone()),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn tells_all_that_an_agent_needs_when_it_connects() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut agent = Agent::connect(&world, &a).await;
    let welcome = agent.welcome().await;
    assert_eq!((welcome.name.as_str(), welcome.observed_address.as_str()), ("a", "127.0.0.1:50000"));
    assert!(welcome.heartbeat_seconds > 0 && welcome.time.is_some());
    let bundle = welcome.trust_bundle.unwrap();

    let key = ed25519_dalek::VerifyingKey::try_from(bundle.roster_key.as_slice()).unwrap();
    let (mut members, mut head) = (Vec::new(), None);
    // The newest members may come with the next bell.
    while members.len() < 2 {
        let update = roster(&mut agent).await;
        assert_eq!(update.full, members.is_empty());
        let entries = update.entries.into_iter().map(|entry| entry.try_into().unwrap());
        members.extend(entries.map(|entry| proto_wire::roster::open_entry(&key, &entry).unwrap()));
        head = Some(proto_wire::roster::open_head(&key, &update.head.unwrap().try_into().unwrap()).unwrap());
    }
    let head = head.unwrap();
    assert_eq!(members.iter().map(|entry| entry.uid.to_string()).collect::<Vec<_>>(), [a.uid.clone(), b.uid]);
    assert_eq!((head.members, head.sequence), (2, members[1].sequence));

    let desired = agent.desired(0).await;
    assert!(desired.layers.is_empty() && desired.digest.len() == 32);
    let full = |message: &Message| match message {
        Message::TransferJobs(jobs) => Some(jobs.full),
        _ => None,
    };
    assert!(agent.hear("jobs", full).await);
    let checkpoint = |message: &Message| match message {
        Message::AuditCheckpoint(checkpoint) => Some(checkpoint.checkpoint.clone()),
        _ => None,
    };
    let checkpoint = agent.hear("checkpoint", checkpoint).await;
    let key: VerifierKey = bundle.audit_verifier_key.parse().unwrap();
    assert!(Checkpoint::parse_and_verify(&checkpoint, &key).unwrap().size > 0);

    // Of what an agent holds already nothing is sent again but what is newer.
    drop(agent);
    world.node("c").await;
    let hello = Hello { roster_epoch: 1, roster_sequence: head.sequence.value(), ..Hello::default() };
    let trust = proto_model::TrustBundle::try_from(bundle).unwrap().digest();
    let hello = Hello { audit_checkpoint: checkpoint, trust_bundle_digest: trust.into(), ..hello };
    let mut agent = Agent::connect_with(&world, &a, Hello { facts: Some(facts()), ..hello }).await;
    assert_eq!(agent.welcome().await.trust_bundle, None);
    let update = roster(&mut agent).await;
    assert_eq!((update.full, update.entries.len()), (false, 1));
}

#[tokio::test]
async fn what_is_written_is_pushed_and_its_answers_are_the_rollout() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (mut a, mut b) = (Agent::connect(&world, &a).await, Agent::connect(&world, &b).await);
    a.welcome().await;
    b.welcome().await;
    let mut configs = ConfigServiceClient::new(world.admin());
    let document = "transport: {max_streams: 64}\n".to_owned();
    let request = CreateConfigRequest { config_id: "fleet".to_owned(), document, ..CreateConfigRequest::default() };
    let made = configs.create_config(request).await.unwrap().into_inner();
    let rollout = made.rollout.unwrap();
    assert_eq!(rollout.state(), RolloutState::Running);
    assert_eq!(rollout.pending_nodes, ["nodes/a", "nodes/b"]);

    let desired = a.desired(1).await;
    assert_eq!((desired.layers.len(), desired.layers[0].name.as_str()), (1, "configs/fleet"));
    // An answer to what a newer one has replaced is none.
    let stale = proto_rpc::agent::DesiredConfig { nonce: desired.nonce + 7, ..desired.clone() };
    a.answer(&stale, Applied::Rejected, &["stale"]).await;
    a.answer(&desired, Applied::Applied, &[]).await;
    let desired = b.desired(1).await;
    b.answer(&desired, Applied::Rejected, &["transport.max_streams: this host can do 32"]).await;

    let get = GetConfigRequest { name: "configs/fleet".to_owned() };
    let rollout = until(&world, async || {
        let rollout =
            ConfigServiceClient::new(world.admin()).get_config(get.clone()).await.unwrap().into_inner().rollout;
        rollout.filter(|rollout| rollout.end_time.is_some())
    })
    .await;
    assert_eq!(rollout.state(), RolloutState::Failed);
    assert_eq!(rollout.applied_nodes, ["nodes/a"]);
    assert_eq!(rollout.rejections[0].node, "nodes/b");
    assert_eq!(rollout.rejections[0].errors, ["transport.max_streams: this host can do 32"]);

    // A write for one node is not news to the other.
    let document = "enabled: false\n".to_owned();
    let request = CreateConfigRequest { config_id: "node.b".to_owned(), document, ..CreateConfigRequest::default() };
    configs.create_config(request).await.unwrap();
    let desired = b.desired(2).await;
    assert_eq!(
        desired.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(),
        ["configs/fleet", "configs/node.b"]
    );
}

/// Asks again with every bell, until there is an answer.
async fn until<T>(world: &World, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut bell = world.state.db.bell();
    let asked = async {
        loop {
            bell.mark_unchanged();
            if let Some(answer) = ask().await {
                return answer;
            }
            bell.changed().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), asked).await.expect("it should come to this")
}

#[tokio::test]
async fn an_agent_is_not_sent_again_what_it_holds() {
    let world = World::new().await;
    let a = world.node("a").await;
    let mut agent = Agent::connect(&world, &a).await;
    let create = |config: &str, document: &str| CreateConfigRequest {
        config_id: config.to_owned(),
        document: document.to_owned(),
        ..CreateConfigRequest::default()
    };
    let mut configs = ConfigServiceClient::new(world.admin());
    configs.create_config(create("fleet", "transport: {max_streams: 64}\n")).await.unwrap();
    let whole = agent.desired(1).await;
    assert!(!whole.unchanged && !whole.layers.is_empty());
    drop(agent);

    let held = HeldConfig { epoch: whole.epoch, generation: whole.generation, digest: whole.digest.clone() };
    let hello = |held| Hello { facts: Some(facts()), held_config: Some(held), ..Hello::default() };
    let mut agent = Agent::connect_with(&world, &a, hello(held.clone())).await;
    let said = agent.desired(1).await;
    assert!(said.unchanged && said.layers.is_empty() && said.nonce > 0);
    assert_eq!((said.generation, &said.digest), (whole.generation, &whole.digest));
    agent.answer(&said, Applied::Applied, &[]).await;
    // What is newer comes whole, and so does what is held otherwise.
    configs.create_config(create("node.a", "enabled: false\n")).await.unwrap();
    let newer = agent.desired(2).await;
    assert_eq!((newer.unchanged, newer.layers.len()), (false, 2));
    drop(agent);
    let mut agent = Agent::connect_with(&world, &a, hello(HeldConfig { generation: 2, ..held })).await;
    assert!(!agent.desired(2).await.unchanged);
}

#[tokio::test]
async fn what_an_agent_observes_is_the_nodes_state() {
    let world = World::new().await;
    let a = world.node("a").await;
    let agent = Agent::connect(&world, &a).await;
    let ill =
        ComponentHealth { component: "dht".to_owned(), status: "degraded".to_owned(), message: "no ring".to_owned() };
    agent.say(Say::Observed(Observed { components: vec![ill], ..Observed::default() })).await;
    let get = GetNodeRequest { name: "nodes/a".to_owned() };
    let state = async |wanted: NodeState| {
        until(&world, async || {
            let node = NodeServiceClient::new(world.admin()).get_node(get.clone()).await.unwrap().into_inner();
            (node.state() == wanted).then_some(node)
        })
        .await
    };
    let node = state(NodeState::Degraded).await;
    assert_eq!(node.state_reason, "dht is degraded: no ring");
    assert_eq!(node.roots, ["data", "pub:ro"]);
    agent.say(Say::Observed(Observed::default())).await;
    world.hand.advance(std::time::Duration::from_secs(2));
    agent.say(Say::Observed(Observed::default())).await;
    state(NodeState::Ready).await;
    drop(agent);
    state(NodeState::Offline).await;
}

#[tokio::test]
async fn a_dht_that_says_less_than_an_agent_knows_is_found_by_the_check() {
    let world = World::new().await;
    let a = world.node("a").await;
    let agent = Agent::connect(&world, &a).await;
    let (component, message) = ("dht_records".to_owned(), "less is said of 2 nodes".to_owned());
    let ill = ComponentHealth { component, status: "degraded".to_owned(), message };
    agent.say(Say::Observed(Observed { components: vec![ill], ..Observed::default() })).await;
    let found = until(&world, async || {
        let mut client = SystemServiceClient::new(world.admin());
        let found = client.run_checks(RunChecksRequest {}).await.unwrap().into_inner();
        let dht = found.categories.into_iter().find(|category| category.category_name == "dht").unwrap();
        dht.checks.into_iter().find(|check| check.description.contains("known otherwise") && check.result == "warning")
    })
    .await;
    assert_eq!(found.error, "1 of 1 nodes say otherwise; a: less is said of 2 nodes");
    assert!(found.hint.contains("ring"), "{}", found.hint);
}

#[tokio::test]
async fn a_revoked_node_is_cut_at_once_and_not_let_in_again() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (mut agent, mut witness) = (Agent::connect(&world, &a).await, Agent::connect(&world, &b).await);
    agent.welcome().await;
    roster(&mut witness).await;
    let delete = DeleteNodeRequest { name: "nodes/a".to_owned(), ..DeleteNodeRequest::default() };
    NodeServiceClient::new(world.admin()).delete_node(delete).await.unwrap();
    let status = agent.end().await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "REVOKED"));
    let key = world.state.keys.roster().verifying_key();
    loop {
        let news = roster(&mut witness).await.entries.into_iter().map(|entry| entry.try_into().unwrap());
        let mut news = news.map(|entry| proto_wire::roster::open_entry(&key, &entry).unwrap());
        if news.any(|entry| entry.uid.to_string() == a.uid && entry.revoked) {
            break;
        }
    }
}

#[tokio::test]
async fn a_newer_session_takes_the_place_of_the_older() {
    let world = World::new().await;
    let a = world.node("a").await;
    let mut first = Agent::connect(&world, &a).await;
    first.welcome().await;
    let mut second = Agent::connect(&world, &a).await;
    second.welcome().await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    assert_eq!(world.state.fleet.connected(), 1);
    assert_eq!(world.sql("SELECT connected FROM nodes"), "t");
}

#[tokio::test]
async fn addresses_are_found_by_node_id_with_the_nodes_own_record() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (mut a, b_agent) = (Agent::connect(&world, &a).await, Agent::connect(&world, &b).await);
    let key = PublicKey::try_from(super::world::signing_key("b").verifying_key()).unwrap();
    let record = |seq: i64, signer: PublicKey| NodeRecord {
        node_id: signer.node_id().to_string(),
        public_key: signer.into(),
        seq,
        value: vec![0xa0],
        signature: vec![7; 64],
        observed_addresses: vec!["6.6.6.6:6".to_owned()],
    };
    let other = PublicKey::try_from(super::world::signing_key("mallory").verifying_key()).unwrap();
    for record in [record(7, key), record(3, key), record(9, other)] {
        b_agent.say(Say::NodeRecord(record)).await;
        // The newest of each kind counts, so each must be written before the next.
        world.state.fleet.lookup(&[key.node_id()]).await.unwrap();
    }
    let ids = vec![key.node_id().to_string(), "00".repeat(20)];
    let mut request_id = 0;
    let found = until(&world, async || {
        request_id += 1;
        a.say(Say::LookupNodes(LookupNodes { request_id, node_ids: ids.clone() })).await;
        let records = a.hear("records", |message| match message {
            Message::NodeRecords(records) if records.request_id == request_id => Some(records.records.clone()),
            _ => None,
        });
        records.await.into_iter().next().filter(|record| record.seq > 0 && !record.observed_addresses.is_empty())
    })
    .await;
    assert_eq!((found.node_id, found.public_key), (key.node_id().to_string(), Vec::from(key)));
    assert_eq!(found.observed_addresses, ["127.0.0.1:30906", "10.0.0.1:30906"]);
}

#[tokio::test]
async fn a_full_server_sends_agents_away_and_so_does_one_that_stops() {
    let world = World::new().await;
    let mut agents = Vec::new();
    for number in 0..world.state.server.max_sessions {
        let node = world.node(&format!("n{number}")).await;
        let mut agent = Agent::connect(&world, &node).await;
        agent.welcome().await;
        agents.push(agent);
    }
    let late = world.node("late").await;
    let mut late = Agent::connect(&world, &late).await;
    let end = late.end().await;
    assert_eq!((end.code(), reason(&end).as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert!(end.get_details_retry_info().unwrap().retry_delay.unwrap().as_secs() > 0);
    assert!(end.message().contains("limits.agent_sessions") && late.was_sent_away());
    world.state.tasks.cancel();
    for mut agent in agents {
        assert_eq!(agent.end().await.code(), Code::Unavailable);
        assert!(agent.was_sent_away());
    }
}

#[tokio::test]
async fn whoever_does_not_say_hello_first_is_shown_out() {
    let world = World::new().await;
    let a = world.node("a").await;
    let hello = Hello { facts: Some(facts()), ..Hello::default() };
    let mut agent = Agent::connect(&world, &a).await;
    agent.welcome().await;
    agent.say(Say::Hello(hello)).await;
    assert_eq!(agent.end().await.code(), Code::InvalidArgument);
}
