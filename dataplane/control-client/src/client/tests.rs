mod control_plane;

use dataplane_identity::{
    CaFingerprint,
    testing::{TestFleet, Validity},
};
use proto_model::{
    AppliedConfig, ApplyStatus, HostFacts, NodeId, RosterSequence, TransferReport, TransferRole, TransferState,
};
use proto_rpc::{
    agent::{agent_message::Message as Said, server_message::Message},
    v1::applied_config::Status as WireStatus,
};
use tempfile::TempDir;

use self::control_plane::ControlPlane;
use super::*;
use crate::{
    LookupError,
    enrol::{EnrolError, EnrolRequest, enrol},
    probe,
};

struct Agent {
    handle: Handle,
    jobs: mpsc::Receiver<Jobs>,
    identity: Identity,
    introduction: watch::Sender<Introduction>,
    tasks: TaskGroup,
    dir: TempDir,
}

impl Agent {
    fn start(fleet: &TestFleet, endpoints: &[&Endpoint]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = fleet.node(dir.path(), "edge-a");
        Self::start_in(fleet, endpoints, dir, identity)
    }

    fn start_in(fleet: &TestFleet, endpoints: &[&Endpoint], dir: TempDir, identity: Identity) -> Self {
        let bundle = fleet.bundle();
        let enrolment = Enrolment {
            name: "edge-a".parse().unwrap(),
            uid: identity.uid(),
            fleet: bundle.fleet,
            ca_fingerprint: CaFingerprint::of(&bundle.ca_certificate),
            endpoints: endpoints.iter().map(|endpoint| (*endpoint).clone()).collect(),
        };
        let introduction = watch::Sender::new(Introduction::default());
        let tasks = TaskGroup::new("agent");
        let options = Options {
            dir: dir.path().to_path_buf(),
            enrolment,
            identity: identity.clone(),
            introduction: introduction.subscribe(),
        };
        let (handle, jobs) = start(options, Clock::system(), &tasks).unwrap();
        Self { handle, jobs, identity, introduction, tasks, dir }
    }

    async fn connected(&self) {
        self.handle.connection().wait_for(|connection| connection.standing.is_some()).await.unwrap();
    }
}

fn desired(generation: u64, document: &str) -> Message {
    Message::DesiredConfig(rpc::DesiredConfig {
        epoch: 1,
        generation,
        nonce: generation * 10,
        digest: vec![0; 32],
        layers: vec![rpc::ConfigLayer {
            name: "configs/fleet".to_owned(),
            revision: generation,
            document: document.to_owned(),
        }],
        unchanged: false,
    })
}

fn rejected(generation: u64) -> AppliedConfig {
    AppliedConfig {
        status: ApplyStatus::Rejected,
        generation,
        digest: None,
        errors: vec!["transport.max_streams: 8 is below min_streams (16)".to_owned()],
    }
}

#[tokio::test]
async fn the_newest_desired_configuration_wins_and_its_answer_is_said_again_in_the_next_hello() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let agent = Agent::start(&fleet, &[&control.endpoint]);
    let mut session = control.welcomed().await;
    assert_eq!(session.hello.applied, None);
    session.say(desired(1, "enabled: true")).await;
    session.say(desired(2, "enabled: false")).await;
    let mut watch = agent.handle.desired();
    let newest = watch.wait_for(|desired| desired.as_ref().is_some_and(|d| d.generation.number == 2)).await;
    assert_eq!(newest.unwrap().as_ref().unwrap().layers[0].document, "enabled: false");

    agent.handle.answer(20, rejected(2), vec!["transport.enable_rdma".to_owned()]);
    let status = session.until(|said| if let Said::ConfigStatus(status) = said { Some(status) } else { None }).await;
    assert_eq!((status.nonce, status.applied.unwrap().status), (20, i32::from(WireStatus::Rejected)));
    assert_eq!(status.not_in_force, ["transport.enable_rdma"]);

    drop(session);
    let session = control.opened().await;
    assert_eq!(session.hello.applied.unwrap().generation, 2);
    agent.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_roster_is_verified_kept_and_asked_for_from_where_it_ends() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let agent = Agent::start(&fleet, &[&control.endpoint]);
    let session = control.welcomed().await;
    assert_eq!(session.hello.roster_sequence, 0);
    let mut changes = agent.identity.membership().changes();
    session.say(Message::Roster(fleet.roster_after(RosterSequence::default()).into())).await;
    changes.changed().await.unwrap();
    assert!(agent.identity.membership().by_name(&"edge-a".parse().unwrap()).is_some());

    // A stranger's signature ends the session; the next one asks for everything, and what was held stays.
    let forged = TestFleet::new();
    let peer = tempfile::tempdir().unwrap();
    let _mallory = forged.node(peer.path(), "mallory");
    session.say(Message::Roster(forged.roster_after(RosterSequence::default()).into())).await;
    let session = control.opened().await;
    assert_eq!(session.hello.roster_sequence, 0);
    assert_eq!(agent.identity.membership().len(), 1);
    assert!(agent.dir.path().join("roster.bin").exists());
}

#[tokio::test]
async fn an_end_is_reported_until_it_is_acknowledged_over_restarts_of_both_sides() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let endpoint = control.endpoint.clone();
    let agent = Agent::start(&fleet, &[&endpoint]);
    let transfer: proto_model::TransferId = "0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".parse().unwrap();
    let end = TransferReport { state: TransferState::Succeeded, ..TransferReport::new(transfer, TransferRole::Sender) };
    agent.handle.end(end).await.unwrap();
    let report = |said| if let Said::TransferReport(report) = said { Some(report) } else { None };

    let mut session = control.welcomed().await;
    session.until(report).await;
    // The control plane dies before it stored it, and so does the agent.
    control.stop().await;
    let (dir, identity) = (agent.dir, agent.identity);
    agent.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    let mut control = ControlPlane::start_on(&fleet, &endpoint.to_string()).await;
    let agent = Agent::start_in(&fleet, &[&endpoint], dir, identity);
    let mut session = control.welcomed().await;
    let said_again = session.until(report).await;
    assert_eq!(said_again.transfer_id, transfer.to_string());

    let ack = rpc::TransferAck { transfer_id: said_again.transfer_id, role: said_again.role };
    session.say(Message::TransferAck(ack)).await;
    // Messages are taken in order, so that the acknowledgement is through when the next one is.
    session.say(desired(1, "")).await;
    agent.handle.desired().wait_for(Option::is_some).await.unwrap();
    assert_eq!(std::fs::read_dir(agent.dir.path().join("reports")).unwrap().count(), 0);
}

#[tokio::test]
async fn jobs_arrive_and_lookups_are_answered_or_time_out() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let mut agent = Agent::start(&fleet, &[&control.endpoint]);
    let who = [agent.identity.node_id()];
    assert_eq!(agent.handle.lookup(&who, Duration::from_secs(5)).await, Err(LookupError::Disconnected));
    let mut session = control.welcomed().await;
    agent.connected().await;

    let job = rpc::TransferJob {
        transfer_id: "0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".to_owned(),
        role: rpc::TransferRole::Sender.into(),
        grant: Some(rpc::SignedBytes { payload: vec![1], signature: vec![0; 64] }),
        ..rpc::TransferJob::default()
    };
    session.say(Message::TransferJobs(rpc::TransferJobs { full: true, jobs: vec![job] })).await;
    let jobs = agent.jobs.recv().await.unwrap();
    assert!(jobs.full && jobs.jobs[0].role == TransferRole::Sender);

    let answer = async {
        let question = session.until(|said| if let Said::LookupNodes(q) = said { Some(q) } else { None }).await;
        let record = rpc::NodeRecord {
            node_id: question.node_ids[0].clone(),
            public_key: agent.identity.public_key().into(),
            seq: 7,
            observed_addresses: vec!["192.0.2.1:30906".to_owned()],
            ..rpc::NodeRecord::default()
        };
        let records = rpc::NodeRecords { request_id: question.request_id, records: vec![record] };
        session.say(Message::NodeRecords(records)).await;
    };
    let (records, ()) = tokio::join!(agent.handle.lookup(&who, Duration::from_secs(5)), answer);
    assert_eq!(records.unwrap()[0].observed, ["192.0.2.1:30906".parse().unwrap()]);
    let nobody = [NodeId::from_bytes([0; 20])];
    assert_eq!(agent.handle.lookup(&nobody, Duration::from_millis(50)).await, Err(LookupError::TimedOut));
    assert!(agent.handle.0.questions().is_empty());
}

#[tokio::test]
async fn goes_on_with_another_endpoint_and_comes_back_when_asked_to() {
    let fleet = TestFleet::new();
    let mut first = ControlPlane::start(&fleet).await;
    let mut second = ControlPlane::start(&fleet).await;
    let agent = Agent::start(&fleet, &[&first.endpoint, &second.endpoint]);
    let session = first.welcomed().await;
    agent.connected().await;
    first.stop().await;
    drop(session);
    let session = second.welcomed().await;
    agent.connected().await;
    session.say(Message::ComeBack(rpc::ComeBack { after_seconds: 0, reason: "busy".to_owned() })).await;
    second.welcomed().await;
}

#[tokio::test]
async fn what_is_held_is_not_sent_again() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let agent = Agent::start(&fleet, &[&control.endpoint]);
    let session = control.welcomed().await;
    assert_eq!(session.hello.held_config, None);
    session.say(desired(3, "enabled: false")).await;
    let mut watch = agent.handle.desired();
    watch.wait_for(Option::is_some).await.unwrap();
    drop(session);

    let session = control.welcomed().await;
    let held = session.hello.held_config.clone().unwrap();
    assert_eq!((held.epoch, held.generation, &held.digest), (1, 3, &vec![0; 32]));
    let unchanged = |generation| {
        let held = rpc::DesiredConfig { epoch: 1, generation, nonce: 70, digest: vec![0; 32], ..Default::default() };
        Message::DesiredConfig(rpc::DesiredConfig { unchanged: true, ..held })
    };
    session.say(unchanged(3)).await;
    let newest = watch.wait_for(|desired| desired.as_ref().is_some_and(|desired| desired.nonce == 70)).await.unwrap();
    assert_eq!(newest.as_ref().unwrap().layers[0].document, "enabled: false");
    drop(newest);
    // What is not held cannot be guessed: the next session asks for all.
    session.say(unchanged(4)).await;
    assert_eq!(control.opened().await.hello.held_config, None);
}

#[tokio::test]
async fn waits_as_long_as_it_is_told() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let agent = Agent::start(&fleet, &[&control.endpoint]);
    let clock = Clock::system();
    for told in ["a message", "a status"] {
        let session = control.opened().await;
        let sent_away = clock.now();
        if told == "a message" {
            session.say(Message::ComeBack(rpc::ComeBack { after_seconds: 2, reason: "busy".to_owned() })).await;
        } else {
            session.refuse(Duration::from_secs(2)).await;
        }
        control.opened().await;
        assert!(clock.now() - sent_away >= Duration::from_secs(2), "{told}");
        let trouble = agent.handle.connection().borrow().trouble.clone().unwrap();
        assert!(trouble.starts_with("the control plane asked to come back later"), "{trouble}");
    }
}

#[tokio::test]
async fn a_new_host_layer_opens_the_session_anew_and_new_facts_do_not() {
    let fleet = TestFleet::new();
    let mut control = ControlPlane::start(&fleet).await;
    let agent = Agent::start(&fleet, &[&control.endpoint]);
    let mut session = control.welcomed().await;
    agent.connected().await;
    let facts = HostFacts { hostname: "a".to_owned(), ..HostFacts::default() };
    agent.introduction.send_modify(|said| said.facts = facts);
    let observed = session.until(|said| if let Said::Observed(observed) = said { Some(observed) } else { None }).await;
    assert_eq!(observed.facts.unwrap().hostname, "a");
    agent.introduction.send_modify(|said| said.host_layer = "enabled: false".to_owned());
    assert_eq!(control.opened().await.hello.host_layer, "enabled: false");
}

#[tokio::test]
async fn a_wrong_ca_is_refused_in_one_sentence_before_the_token_is_sent() {
    let (fleet, other) = (TestFleet::new(), TestFleet::new());
    let control = ControlPlane::start(&fleet).await;
    let request = || EnrolRequest {
        token: "dwcp1.bad".to_owned(),
        csr: Vec::new(),
        name: "edge-a".to_owned(),
        facts: HostFacts::default(),
    };
    let wrong = CaFingerprint::of(&other.bundle().ca_certificate);
    let error = enrol(&control.endpoint, wrong, request()).await.unwrap_err();
    assert!(matches!(error, EnrolError::WrongCa { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("refusing to go on with 127.0.0.1:") && text.contains(&wrong.to_string()), "{text}");
    let right = CaFingerprint::of(&fleet.bundle().ca_certificate);
    let error = enrol(&control.endpoint, right, request()).await.unwrap_err();
    assert!(matches!(error, EnrolError::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn the_way_in_is_tried_with_a_datagram() {
    let fleet = TestFleet::new();
    let control = ControlPlane::start(&fleet).await;
    let dir = tempfile::tempdir().unwrap();
    let identity = fleet.node(dir.path(), "edge-a");
    let tls = dataplane_identity::tls::grpc_client_config(&identity).unwrap();
    let channel = crate::dial::dial(&control.endpoint, &tls).await.unwrap();
    let way = probe::way_in(channel, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert!(matches!(way, probe::WayIn::Open { observed: Some(_) }), "{way:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_before_the_session() {
    let fleet = TestFleet::new();
    let dir = tempfile::tempdir().unwrap();
    let identity = fleet.node(dir.path(), "edge-a");
    let day = Duration::from_secs(24 * 3600);
    let certificate = |since| fleet.certificate(identity.key(), identity.uid(), Validity { since, life: 90 * day });
    identity.renewed(certificate(100 * day)).unwrap();
    let fresh = certificate(Duration::from_secs(3600));
    let renewal = Some((identity.public_key(), fresh.der().to_vec()));
    let mut control = ControlPlane::start_with(&fleet, "127.0.0.1:0", renewal).await;
    let agent = Agent::start_in(&fleet, &[&control.endpoint], dir, identity.clone());
    control.welcomed().await;
    assert_eq!(identity.certificate(), fresh);
    let kept = Identity::open(agent.dir.path()).unwrap().unwrap();
    assert_eq!(kept.certificate(), fresh);
}
