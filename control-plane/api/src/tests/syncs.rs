//! SyncService, with both agents in their sessions.

use proto_rpc::{
    agent::{SyncJobs, SyncReport, agent_message, server_message::Message},
    v1::{
        CreateSyncRequest, DeleteSyncRequest, GetSyncRequest, ListSyncsRequest, PauseSyncRequest, RunSyncRequest,
        SyncRun, SyncSpec, SyncStatus, WatchSyncsRequest, WatchType, sync::State,
        sync_service_client::SyncServiceClient,
    },
};
use tonic::Code;
use uuid::Uuid;

use super::{
    agent::Agent,
    world::{World, fields, reason},
};

fn request() -> CreateSyncRequest {
    let spec = SyncSpec {
        source_node: "nodes/a".to_owned(),
        source_path: "data:/set".to_owned(),
        destination_node: "nodes/b".to_owned(),
        destination_path: "data:/in".to_owned(),
        every: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        ..SyncSpec::default()
    };
    CreateSyncRequest { sync_id: "photos".to_owned(), spec: Some(spec), ..CreateSyncRequest::default() }
}

/// The next list of syncs that an agent is told, where it is the one that is waited for.
async fn told(agent: &mut Agent, wanted: impl Fn(&SyncJobs) -> bool) -> SyncJobs {
    let pick = |message: &Message| match message {
        Message::SyncJobs(jobs) if wanted(jobs) => Some(jobs.clone()),
        _ => None,
    };
    agent.hear("syncs", pick).await
}

#[tokio::test]
async fn a_sync_is_made_once_told_to_both_ends_shown_as_its_sender_says_and_ended() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (mut sender, mut receiver) = (Agent::connect(&world, &a).await, Agent::connect(&world, &b).await);
    sender.welcome().await;
    receiver.welcome().await;
    told(&mut sender, |jobs| jobs.jobs.is_empty()).await;
    let mut client = SyncServiceClient::new(world.admin());

    let mut checked = client.create_sync(CreateSyncRequest { validate_only: true, ..request() }).await.unwrap();
    assert_eq!(checked.get_mut().state(), State::Pending);
    assert_eq!(world.sql("SELECT count(*) FROM syncs"), "0");
    let id = Uuid::new_v4().to_string();
    let create = CreateSyncRequest { request_id: id, ..request() };
    let made = client.create_sync(create.clone()).await.unwrap().into_inner();
    let again = client.create_sync(create).await.unwrap().into_inner();
    assert_eq!((made.name.as_str(), &made.uid), ("syncs/photos", &again.uid));
    let taken = client.create_sync(request()).await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "ALREADY_EXISTS"));
    for agent in [&mut sender, &mut receiver] {
        let jobs = told(agent, |jobs| !jobs.jobs.is_empty()).await.jobs;
        assert_eq!((jobs.len(), &jobs[0].sync_id, jobs[0].every_ms), (1, &made.uid, 300_000));
    }

    // What the sender says is shown; what anybody else says is not.
    let run = SyncRun {
        number: 1,
        result: 2,
        start_time: made.create_time,
        end_time: made.create_time,
        issue_count: 7,
        transfer: "transfers/0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".to_owned(),
        ..SyncRun::default()
    };
    let status = SyncStatus { run: 1, last_run: Some(run.clone()), runs: vec![run], ..SyncStatus::default() };
    let report = |status| agent_message::Message::SyncReport(SyncReport { sync_id: made.uid.clone(), status });
    receiver.say(report(Some(SyncStatus { run: 99, ..SyncStatus::default() }))).await;
    sender.say(report(Some(status))).await;
    let mut watch = client.watch_syncs(WatchSyncsRequest::default()).await.unwrap().into_inner();
    let shown = loop {
        let event = watch.message().await.unwrap().unwrap();
        if let Some(sync) = event.sync.filter(|sync| sync.state() == State::WithIssues) {
            break sync;
        }
    };
    assert_eq!(shown.status.unwrap().last_run.unwrap().issue_count, 7);
    let filter = "state=with_issues,node=a".to_owned();
    let list =
        client.list_syncs(ListSyncsRequest { filter, ..ListSyncsRequest::default() }).await.unwrap().into_inner();
    assert_eq!((list.syncs.len(), list.syncs[0].status.as_ref().unwrap().runs.len()), (1, 0));

    // Changes ask for the state that was read, where it is given.
    let name = made.name.clone();
    let pause = PauseSyncRequest { name: name.clone(), etag: made.etag.clone(), ..PauseSyncRequest::default() };
    let paused = client.pause_sync(pause.clone()).await.unwrap().into_inner();
    assert_eq!((paused.state(), paused.etag != made.etag), (State::Paused, true));
    assert_eq!(reason(&client.pause_sync(pause).await.unwrap_err()), "STALE_ETAG");
    assert!(told(&mut receiver, |jobs| jobs.jobs.iter().any(|job| job.pause)).await.jobs[0].pause);
    let run = RunSyncRequest { name: name.clone(), ..RunSyncRequest::default() };
    assert_eq!(reason(&client.run_sync(run).await.unwrap_err()), "WRONG_STATE");
    let delete = DeleteSyncRequest { name: name.clone(), etag: paused.etag, ..DeleteSyncRequest::default() };
    client.delete_sync(delete).await.unwrap();
    told(&mut sender, |jobs| jobs.jobs.is_empty()).await;
    while watch.message().await.unwrap().unwrap().r#type() != WatchType::Deleted {}
    assert_eq!(client.get_sync(GetSyncRequest { name }).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_no_sync_is_refused_at_its_field() {
    let world = World::new().await;
    world.node("a").await;
    world.node("b").await;
    let mut client = SyncServiceClient::new(world.admin());
    let spec = request().spec.unwrap();
    for (bad, field) in [
        (SyncSpec { every: None, ..spec.clone() }, "spec.every"),
        (SyncSpec { source_path: "data".to_owned(), ..spec.clone() }, "spec.source_path"),
        (SyncSpec { destination_node: "nodes/a".to_owned(), ..spec.clone() }, "spec.destination_node"),
        (SyncSpec { destination_node: "nodes/nobody".to_owned(), ..spec.clone() }, "spec.destination_node"),
    ] {
        let refused = client.create_sync(CreateSyncRequest { spec: Some(bad), ..request() }).await.unwrap_err();
        assert_eq!(fields(&refused), [field]);
    }
    let named = CreateSyncRequest { sync_id: "A b".to_owned(), ..request() };
    assert_eq!(fields(&client.create_sync(named).await.unwrap_err()), ["sync_id"]);
}
