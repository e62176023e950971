//! Configurations and their rollouts.

use proto_model::{AppliedConfig, ApplyStatus, ConfigName, Etag, Generation, HostFacts, NodeUid, Revision};
use uuid::Uuid;

use super::world::World;
use crate::{
    Context,
    configs::{self, Change, Expected, WriteError, Written},
    layers, observation,
    rollouts::{Answer, Rollout, RolloutState},
    servers::{self, Server, Tidy},
    sessions::{self, Opened, Opening, Place},
};

pub(crate) struct Connected {
    pub(crate) node: NodeUid,
    pub(crate) session: Uuid,
}

impl World {
    pub(crate) async fn server(&self) -> Uuid {
        let server = Server { id: Uuid::now_v7(), version: "0.0.0".to_owned(), ring_address: None };
        let id = server.id;
        servers::beat(&self.db, server, Vec::new(), Tidy::Yes).await.unwrap();
        id
    }

    pub(crate) async fn connect(&self, server: Uuid, node: NodeUid, facts: HostFacts) -> Connected {
        let session = Uuid::now_v7();
        let opening = Opening {
            node,
            session,
            server,
            remote_address: "192.0.2.7:50000".to_owned(),
            facts,
            host_layer: "transport: {min_streams: 2}\n".to_owned(),
            host_layer_origin: "/etc/dwcp.yaml".to_owned(),
            applied: AppliedConfig::default(),
            clock_skew_ms: Some(12),
        };
        assert!(matches!(sessions::open(&self.db, opening).await.unwrap(), Opened::Member(_)));
        Connected { node, session }
    }

    async fn set(&self, name: &str, document: Option<&str>, expected: Expected) -> Result<Written, WriteError> {
        let name: ConfigName = name.parse().unwrap();
        let checked_at = layers::read(&self.db, &name).await?.generation;
        self.set_checked_at(checked_at, name, document, expected).await
    }

    async fn set_checked_at(
        &self,
        checked_at: Generation,
        name: ConfigName,
        document: Option<&str>,
        expected: Expected,
    ) -> Result<Written, WriteError> {
        let change = Change {
            name,
            document: document.map(str::to_owned),
            message: "because".to_owned(),
            expected,
            checked_at,
            action: "config.update",
            validate_only: false,
        };
        let write = self
            .db
            .write("test", Context::system(), move |tx| Box::pin(async move { configs::write(tx, &change).await }));
        write.await
    }

    async fn rollout(&self, name: &str) -> Rollout {
        configs::find(&self.db, &name.parse().unwrap()).await.unwrap().unwrap().1.unwrap()
    }

    async fn answer(&self, of: &Connected, generation: Generation, status: ApplyStatus, errors: &[&str]) {
        let errors = errors.iter().map(|error| (*error).to_owned()).collect();
        let applied = AppliedConfig { status, generation: generation.number, digest: None, errors };
        let place = sessions::answer(&self.db, of.node, of.session, generation, applied, Vec::new()).await.unwrap();
        assert_eq!(place, Place::Held);
    }
}

#[tokio::test]
async fn a_write_makes_a_revision_a_generation_a_rollout_and_an_event() {
    let world = World::new().await;
    world.node("edge").await;
    let written = world.set("configs/fleet", Some("enabled: true\n"), Expected::Absent).await.unwrap();
    assert_eq!((written.config.revision, written.config.generation.number), (Revision::new(1), 1));
    let rollout = written.rollout.unwrap();
    // Nobody is connected, so nobody is waited for.
    assert_eq!(rollout.state, RolloutState::Succeeded);
    assert_eq!((rollout.targets.len(), rollout.targets[0].answer), (1, Answer::Offline));
    let etag = written.config.etag();
    let second = world.set("configs/fleet", Some("enabled: false\n"), Expected::Etag(etag)).await.unwrap();
    assert_eq!((second.config.revision, second.config.generation.number), (Revision::new(2), 2));
    let revisions = configs::revisions(&world.db, &ConfigName::Fleet, None, 10).await.unwrap();
    assert_eq!(revisions.iter().map(|revision| revision.revision.value()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((revisions[1].document.as_str(), revisions[1].author.as_str()), ("enabled: true\n", "system"));
    let actions = world.sql("SELECT string_agg(action, ' ' ORDER BY sequence) FROM audit_events WHERE sequence > 1");
    assert!(actions.ends_with("config.update rollout.end config.update rollout.end"), "{actions}");
}

#[tokio::test]
async fn a_stale_etag_a_second_create_and_an_overtaken_check_change_nothing() {
    let world = World::new().await;
    world.set("configs/fleet", Some("enabled: true\n"), Expected::Absent).await.unwrap();
    let stale = world.set("configs/fleet", Some("x"), Expected::Etag(Etag::of_number(7))).await;
    assert!(matches!(stale, Err(WriteError::Stale { current, .. }) if current == Etag::of_number(1)));
    let again = world.set("configs/fleet", Some("x"), Expected::Absent).await;
    assert!(matches!(again, Err(WriteError::Exists(_))));
    let missing = world.set("configs/node.edge", None, Expected::Present).await;
    assert!(matches!(missing, Err(WriteError::NotFound(_))));
    let overtaken = world.set_checked_at(Generation::default(), ConfigName::Fleet, Some("x"), Expected::Present).await;
    assert!(matches!(overtaken, Err(WriteError::Overtaken)));
    assert_eq!(configs::newest_generation(&world.db).await.unwrap().number, 1);
}

#[tokio::test]
async fn a_deleted_configuration_keeps_its_revisions_and_their_numbers() {
    let world = World::new().await;
    world.set("configs/node.edge", Some("enabled: true\n"), Expected::Absent).await.unwrap();
    world.set("configs/node.edge", None, Expected::Present).await.unwrap();
    let name: ConfigName = "configs/node.edge".parse().unwrap();
    assert!(configs::find(&world.db, &name).await.unwrap().is_none());
    let again = world.set("configs/node.edge", Some("enabled: false\n"), Expected::Absent).await.unwrap();
    assert_eq!(again.config.revision, Revision::new(2));
    assert_eq!(
        configs::revision(&world.db, &name, Some(Revision::new(1))).await.unwrap().unwrap().document,
        "enabled: true\n"
    );
    assert_eq!(configs::revision(&world.db, &name, None).await.unwrap().unwrap().revision, Revision::new(2));
    assert!(configs::revision(&world.db, &name, Some(Revision::new(3))).await.unwrap().is_none());
}

#[tokio::test]
async fn a_rollout_ends_when_the_connected_nodes_have_answered() {
    let world = World::new().await;
    let server = world.server().await;
    let (a, b) = (world.node("a").await.node.uid, world.node("b").await.node.uid);
    world.node("away").await;
    let (a, b) =
        (world.connect(server, a, HostFacts::default()).await, world.connect(server, b, HostFacts::default()).await);
    let written = world.set("configs/fleet", Some("enabled: true\n"), Expected::Absent).await.unwrap();
    assert_eq!(written.rollout.unwrap().state, RolloutState::Running);
    world.answer(&a, written.config.generation, ApplyStatus::Applied, &[]).await;
    assert_eq!(world.rollout("configs/fleet").await.state, RolloutState::Running);
    world.answer(&b, written.config.generation, ApplyStatus::Rejected, &["transport: no"]).await;
    let rollout = world.rollout("configs/fleet").await;
    assert_eq!(rollout.state, RolloutState::Failed);
    let answers: Vec<_> = rollout.targets.iter().map(|target| (target.node.as_str(), target.answer)).collect();
    assert_eq!(answers, [("a", Answer::Applied), ("away", Answer::Offline), ("b", Answer::Rejected)]);
    assert_eq!(rollout.targets[2].errors, ["transport: no"]);
    assert_eq!(
        world.sql("SELECT state || ': ' || state_reason FROM nodes WHERE name = 'b'"),
        "degraded: the configuration was rejected: transport: no"
    );
    assert_eq!(
        world.sql("SELECT outcome || (detail ->> 'state') FROM audit_events WHERE action = 'rollout.end'"),
        "okfailed"
    );
}

#[tokio::test]
async fn a_node_that_goes_away_holds_nothing_up_and_a_newer_write_supersedes() {
    let world = World::new().await;
    let server = world.server().await;
    let a = world.node("a").await.node.uid;
    let a = world.connect(server, a, HostFacts::default()).await;
    let first = world.set("configs/fleet", Some("enabled: true\n"), Expected::Absent).await.unwrap();
    let second = world.set("configs/fleet", Some("enabled: false\n"), Expected::Present).await.unwrap();
    let revisions = configs::revisions(&world.db, &ConfigName::Fleet, None, 10).await.unwrap();
    let states: Vec<_> = revisions.iter().map(|revision| revision.rollout.as_ref().unwrap().state).collect();
    assert_eq!(states, [RolloutState::Running, RolloutState::Superseded]);
    // An answer to the first is no answer to the second.
    world.answer(&a, first.config.generation, ApplyStatus::Applied, &[]).await;
    assert_eq!(world.rollout("configs/fleet").await.state, RolloutState::Running);
    sessions::close(&world.db, a.node, a.session).await.unwrap();
    let rollout = world.rollout("configs/fleet").await;
    assert_eq!((rollout.state, rollout.targets[0].answer), (RolloutState::Succeeded, Answer::Offline));
    // It catches up when it returns, and the record shows that.
    let a = world.connect(server, a.node, HostFacts::default()).await;
    world.answer(&a, second.config.generation, ApplyStatus::Applied, &[]).await;
    assert_eq!(world.rollout("configs/fleet").await.targets[0].answer, Answer::Applied);
}

#[tokio::test]
async fn sessions_of_a_server_that_is_gone_are_tidied_up_by_another() {
    let world = World::new().await;
    let (gone, alive) = (world.server().await, world.server().await);
    let a = world.node("a").await.node.uid;
    let a = world.connect(gone, a, HostFacts::default()).await;
    world.sql(&format!("UPDATE servers SET heartbeat_time = now() - interval '1 hour' WHERE id = '{gone}'"));
    let server = Server { id: alive, version: "0.0.0".to_owned(), ring_address: None };
    // One that stood still itself says nothing of others.
    servers::beat(&world.db, server.clone(), Vec::new(), Tidy::NotYet).await.unwrap();
    assert_eq!(world.sql("SELECT connected FROM nodes WHERE name = 'a'"), "t");
    servers::beat(&world.db, server.clone(), Vec::new(), Tidy::Yes).await.unwrap();
    assert_eq!(world.sql("SELECT state, connected FROM nodes WHERE name = 'a'"), "offline|f");
    assert_eq!(world.sql("SELECT count(*) FROM servers"), "1");
    // The one that was taken for gone has its session's place again, as long as no other has it.
    let held = servers::Held {
        node: a.node,
        session: a.session,
        remote_address: "192.0.2.7:50000".to_owned(),
        heard: world.clock.utc(),
    };
    let thawed = Server { id: gone, ..server };
    let observed = || observation::Observed { clock_skew_ms: Some(1), ..observation::Observed::default() };
    assert_eq!(sessions::observe(&world.db, a.node, a.session, observed()).await.unwrap(), Place::Lost);
    let beat = servers::beat(&world.db, thawed.clone(), vec![held.clone()], Tidy::NotYet).await.unwrap();
    assert_eq!((beat.taken, beat.entered_again), (vec![], vec![(a.node, a.session)]));
    assert_eq!(world.sql("SELECT connected FROM nodes WHERE name = 'a'"), "t");
    assert_eq!(sessions::observe(&world.db, a.node, a.session, observed()).await.unwrap(), Place::Held);
    let newer = world.connect(alive, a.node, HostFacts::default()).await;
    let beat = servers::beat(&world.db, thawed, vec![held], Tidy::NotYet).await.unwrap();
    assert_eq!((beat.taken, beat.entered_again), (vec![a.session], vec![]));
    assert_eq!(sessions::observe(&world.db, a.node, newer.session, observed()).await.unwrap(), Place::Held);
}

/// R10: what a server that stood still writes late does not replace what the node has said since, to another.
#[tokio::test]
async fn a_session_whose_place_is_taken_writes_nothing() {
    let world = World::new().await;
    let (frozen, alive) = (world.server().await, world.server().await);
    let a = world.node("a").await.node.uid;
    let old = world.connect(frozen, a, HostFacts::default()).await;
    let written = world.set("configs/fleet", Some("enabled: true\n"), Expected::Absent).await.unwrap();
    let new = world.connect(alive, a, HostFacts::default()).await;
    world.answer(&new, written.config.generation, ApplyStatus::Applied, &[]).await;
    let stale = AppliedConfig {
        status: ApplyStatus::Rejected,
        generation: written.config.generation.number,
        digest: None,
        errors: vec!["of yesterday".to_owned()],
    };
    let answered =
        sessions::answer(&world.db, a, old.session, written.config.generation, stale.clone(), Vec::new()).await;
    assert_eq!(answered.unwrap(), Place::Taken);
    let observed = observation::Observed { applied: Some(stale), ..observation::Observed::default() };
    assert_eq!(sessions::observe(&world.db, a, old.session, observed).await.unwrap(), Place::Taken);
    sessions::close(&world.db, a, old.session).await.unwrap();
    assert_eq!(world.sql("SELECT state FROM nodes WHERE name = 'a'"), "ready");
    assert_eq!(world.rollout("configs/fleet").await.targets[0].answer, Answer::Applied);
}
