//! TransferService, with both agents in their sessions.

use proto_rpc::{
    agent::{EnrollResponse, TransferRole},
    v1::{
        CancelTransferRequest, CreateTransferRequest, GetTransferRequest, ListTransfersRequest, PauseTransferRequest,
        ResumeTransferRequest, Transfer, TransferSpec, WatchTransferRequest, WatchTransferResponse,
        WatchTransfersRequest, WatchType, transfer::State, transfer_service_client::TransferServiceClient,
    },
};
use tonic::{Code, Streaming};

use super::{
    agent::Agent,
    world::{Connection, World, fields, reason},
};

type Client = TransferServiceClient<Connection>;

fn request() -> CreateTransferRequest {
    let spec = TransferSpec {
        source_node: "nodes/a".to_owned(),
        source_paths: vec!["data:/set".to_owned()],
        destination_node: "nodes/b".to_owned(),
        destination_path: "data:/in/".to_owned(),
        ..TransferSpec::default()
    };
    CreateTransferRequest { spec: Some(spec), ..CreateTransferRequest::default() }
}

fn seconds(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

fn days(days: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: days * 86_400, nanos: 0 }
}

struct Pair {
    world: World,
    client: Client,
    a: EnrollResponse,
    sender: Agent,
    receiver: Agent,
}

async fn pair() -> Pair {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (mut sender, mut receiver) = (Agent::connect(&world, &a).await, Agent::connect(&world, &b).await);
    sender.welcome().await;
    receiver.welcome().await;
    let client = TransferServiceClient::new(world.admin());
    Pair { world, client, a, sender, receiver }
}

async fn create(client: &mut Client) -> Transfer {
    client.create_transfer(request()).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<WatchTransferResponse>) -> Option<WatchTransferResponse> {
    let next = tokio::time::timeout(std::time::Duration::from_secs(20), watch.message());
    next.await.expect("the watch should say something").unwrap()
}

#[tokio::test]
async fn a_transfer_goes_from_the_request_to_both_agents_and_back() {
    let mut pair = pair().await;
    let mut traced = tonic::Request::new(request());
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    traced.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let made = pair.client.create_transfer(traced).await.unwrap().into_inner();
    assert_eq!((made.state(), made.created_by.as_str()), (State::Pending, "socket:0"));
    assert_eq!(made.trace_id, "0af7651916cd43dd8448eb211c80319c");
    let name = made.name.clone();

    let job = pair.sender.job(&name).await;
    assert_eq!((job.role(), job.cancel, job.traceparent.as_str()), (TransferRole::Sender, false, traceparent));
    let signed = job.grant.unwrap().try_into().unwrap();
    let grant = proto_wire::grant::open(&pair.world.state.keys.grant().verifying_key(), &signed).unwrap();
    assert_eq!(grant.source.uid.to_string(), pair.a.uid);
    assert_eq!(pair.receiver.job(&name).await.role(), TransferRole::Receiver);

    let watch = WatchTransferRequest { name: name.clone(), ..WatchTransferRequest::default() };
    let mut watch = pair.client.watch_transfer(watch).await.unwrap().into_inner();
    let first = next(&mut watch).await.unwrap();
    assert_eq!((first.r#type(), first.transfer.unwrap().state()), (WatchType::Added, State::Pending));
    assert_eq!(next(&mut watch).await.unwrap().r#type(), WatchType::Synced);
    pair.sender.report(&name, TransferRole::Sender, State::Running).await;
    let running = next(&mut watch).await.unwrap();
    assert_eq!((running.r#type(), running.transfer.unwrap().state()), (WatchType::Modified, State::Running));
    pair.sender.report(&name, TransferRole::Sender, State::Succeeded).await;
    assert_eq!(pair.sender.ack(&name).await, TransferRole::Sender);
    let ended = next(&mut watch).await.unwrap().transfer.unwrap();
    assert_eq!(ended.state(), State::Succeeded);
    assert!(ended.start_time.is_some() && ended.end_time.is_some());
    assert_eq!(next(&mut watch).await, None);

    // The receiver was away meanwhile and reports late; an end of another's role is not taken.
    pair.receiver.report(&name, TransferRole::Sender, State::Failed).await;
    pair.receiver.report(&name, TransferRole::Receiver, State::Succeeded).await;
    assert_eq!(pair.receiver.ack(&name).await, TransferRole::Receiver);
    let read = pair.client.get_transfer(GetTransferRequest { name }).await.unwrap().into_inner();
    assert!(read.state() == State::Succeeded && read.receiver_progress.is_some());
    let refused = "SELECT count(*) FROM audit_events WHERE outcome = 'refused' AND action = 'transfer.report'";
    let mut bell = pair.world.state.db.bell();
    while pair.world.sql(refused) != "1" {
        bell.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_cancel_reaches_both_ends_once() {
    let mut pair = pair().await;
    let name = create(&mut pair.client).await.name;
    assert!(!pair.sender.job(&name).await.cancel && !pair.receiver.job(&name).await.cancel);
    let cancel = CancelTransferRequest { name: name.clone(), ..CancelTransferRequest::default() };
    for _ in 0..2 {
        let cancelled = pair.client.cancel_transfer(cancel.clone()).await.unwrap().into_inner();
        assert_eq!(cancelled.state(), State::Cancelled);
    }
    pair.sender.cancelled(&name).await;
    pair.receiver.cancelled(&name).await;
    pair.sender.report(&name, TransferRole::Sender, State::Cancelled).await;
    pair.sender.ack(&name).await;
    // Who ended differently cannot be cancelled.
    let done = create(&mut pair.client).await.name;
    pair.sender.report(&done, TransferRole::Sender, State::Succeeded).await;
    pair.sender.ack(&done).await;
    let late = pair.client.cancel_transfer(CancelTransferRequest { name: done, ..cancel }).await.unwrap_err();
    assert_eq!((late.code(), reason(&late).as_str()), (Code::FailedPrecondition, "WRONG_STATE"));
}

#[tokio::test]
async fn a_pause_reaches_both_agents_and_again_one_that_comes_back_until_it_is_resumed() {
    let mut pair = pair().await;
    let limited = CreateTransferRequest { time_limit: Some(days(1)), ..request() };
    let made = pair.client.create_transfer(limited).await.unwrap().into_inner();
    let name = made.name.clone();
    let deadline = made.spec.unwrap().deadline.unwrap();
    assert_eq!(deadline.seconds - made.create_time.unwrap().seconds, 86_400);
    assert!(!pair.sender.job(&name).await.pause && !pair.receiver.job(&name).await.pause);

    let why = "the line is needed\u{1b}[2J".to_owned();
    let pause = PauseTransferRequest { name: name.clone(), reason: why, ..PauseTransferRequest::default() };
    let paused = pair.client.pause_transfer(pause.clone()).await.unwrap().into_inner();
    let held = paused.pause.clone().unwrap();
    assert_eq!((paused.state(), held.paused_by.as_str(), held.at_rest), (State::Paused, "socket:0", false));
    assert_eq!(held.reason, "the line is needed\\x1b[2J");
    let again = pair.client.pause_transfer(PauseTransferRequest { reason: String::new(), ..pause.clone() }).await;
    assert_eq!(again.unwrap().into_inner(), paused);
    let orders = [pair.sender.held(&name).await, pair.receiver.held(&name).await];
    assert!(orders.iter().all(|job| !job.cancel && job.order == orders[0].order), "{orders:?}");
    let mut back = Agent::connect(&pair.world, &pair.a).await;
    back.welcome().await;
    assert!(back.job(&name).await.pause);

    let resume = ResumeTransferRequest { name: name.clone(), ..ResumeTransferRequest::default() };
    let resumed = pair.client.resume_transfer(resume.clone()).await.unwrap().into_inner();
    assert_eq!((resumed.state(), resumed.pause), (State::Pending, None));
    let job = back.job(&name).await;
    assert!(!job.pause && job.order > orders[0].order);
    // Neither brings back what has ended, nor what there is not.
    back.report(&name, TransferRole::Sender, State::Succeeded).await;
    back.ack(&name).await;
    for late in [pair.client.pause_transfer(pause).await, pair.client.resume_transfer(resume).await] {
        let late = late.unwrap_err();
        assert_eq!((late.code(), reason(&late).as_str()), (Code::FailedPrecondition, "WRONG_STATE"));
    }
    let unknown = "transfers/0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".to_owned();
    let unknown = ResumeTransferRequest { name: unknown, ..ResumeTransferRequest::default() };
    assert_eq!(pair.client.resume_transfer(unknown).await.unwrap_err().code(), Code::NotFound);
    let long = PauseTransferRequest { name, reason: "x".repeat(501), ..PauseTransferRequest::default() };
    assert_eq!(fields(&pair.client.pause_transfer(long).await.unwrap_err()), ["reason"]);
}

#[tokio::test]
async fn a_request_that_cannot_be_is_refused_by_its_field() {
    let mut pair = pair().await;
    let changed = |change: &dyn Fn(&mut TransferSpec)| {
        let mut request = request();
        change(request.spec.as_mut().unwrap());
        request
    };
    for (request, field) in [
        (CreateTransferRequest::default(), "spec"),
        (changed(&|spec| spec.source_node = "nodes/nobody".to_owned()), "spec.source_node"),
        (changed(&|spec| spec.destination_node = "b".to_owned()), "spec.destination_node"),
        (changed(&|spec| spec.source_paths.push("data:/../x".to_owned())), "spec.source_paths[1]"),
        (changed(&|spec| spec.source_paths[0] = "home:/x".to_owned()), "spec.source_paths[0]"),
        (changed(&|spec| spec.destination_path = "pub:/".to_owned()), "spec.destination_path"),
        (CreateTransferRequest { request_id: "x".to_owned(), ..request() }, "request_id"),
        (
            CreateTransferRequest { grant_ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..request() },
            "grant_ttl",
        ),
        (changed(&|spec| spec.deadline = Some(seconds(1))), "spec.deadline"),
        (changed(&|spec| spec.deadline = Some(seconds(253_000_000_000))), "spec.deadline"),
        (CreateTransferRequest { time_limit: Some(days(8)), ..request() }, "time_limit"),
        (CreateTransferRequest { time_limit: Some(days(0)), ..request() }, "time_limit"),
        (
            CreateTransferRequest {
                time_limit: Some(days(1)),
                ..changed(&|spec| spec.deadline = Some(seconds(253_000_000_000)))
            },
            "time_limit",
        ),
    ] {
        let refused = pair.client.create_transfer(request).await.unwrap_err();
        assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec![field.to_owned()]), "{refused}");
    }
    let unknown = GetTransferRequest { name: "transfers/0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".to_owned() };
    assert_eq!(pair.client.get_transfer(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_repeat_returns_the_same_transfer_and_a_check_makes_none() {
    let mut pair = pair().await;
    let id = "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".to_owned();
    let once = CreateTransferRequest { request_id: id, ..request() };
    let first = pair.client.create_transfer(once.clone()).await.unwrap().into_inner();
    assert_eq!(pair.client.create_transfer(once).await.unwrap().into_inner().name, first.name);
    let check = CreateTransferRequest { validate_only: true, ..request() };
    assert_eq!(pair.client.create_transfer(check.clone()).await.unwrap().into_inner().name, "");
    assert_eq!(pair.world.sql("SELECT count(*) FROM transfers"), "1");
    drop(pair.receiver);
    let get = proto_rpc::v1::GetNodeRequest { name: "nodes/b".to_owned() };
    let mut nodes = proto_rpc::v1::node_service_client::NodeServiceClient::new(pair.world.admin());
    let mut bell = pair.world.state.db.bell();
    while nodes.get_node(get.clone()).await.unwrap().into_inner().state() != proto_rpc::v1::node::State::Offline {
        bell.changed().await.unwrap();
    }
    let offline = pair.client.create_transfer(check).await.unwrap_err();
    assert_eq!((offline.code(), reason(&offline).as_str()), (Code::Unavailable, "NODE_OFFLINE"));
}

#[tokio::test]
async fn lists_and_watches_are_filtered_and_resume() {
    let mut pair = pair().await;
    let first = create(&mut pair.client).await.name;
    pair.world.hand.advance(std::time::Duration::from_secs(1));
    let second = create(&mut pair.client).await.name;
    let list = ListTransfersRequest { page_size: 1, ..ListTransfersRequest::default() };
    let page = pair.client.list_transfers(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.transfers[0].name, second);
    let rest = ListTransfersRequest { page_token: page.next_page_token, ..list.clone() };
    let rest = pair.client.list_transfers(rest).await.unwrap().into_inner();
    assert_eq!((rest.transfers[0].name.as_str(), rest.next_page_token.as_str()), (first.as_str(), ""));
    let filtered = ListTransfersRequest { filter: "state=RUNNING,node=a".to_owned(), ..list.clone() };
    assert!(pair.client.list_transfers(filtered).await.unwrap().into_inner().transfers.is_empty());
    let wrong = ListTransfersRequest { filter: "colour=red".to_owned(), ..list };
    assert_eq!(fields(&pair.client.list_transfers(wrong).await.unwrap_err()), ["filter"]);

    let mut watch = pair.client.watch_transfers(WatchTransfersRequest::default()).await.unwrap().into_inner();
    let seen = [next(&mut watch).await.unwrap(), next(&mut watch).await.unwrap()];
    assert_eq!(seen.map(|seen| seen.transfer.unwrap().name), [first.clone(), second]);
    let synced = next(&mut watch).await.unwrap();
    assert_eq!(synced.r#type(), WatchType::Synced);
    drop(watch);
    pair.sender.report(&first, TransferRole::Sender, State::Failed).await;
    pair.sender.ack(&first).await;
    let resume = WatchTransfersRequest { resume_token: synced.resume_token, ..WatchTransfersRequest::default() };
    let mut watch = pair.client.watch_transfers(resume).await.unwrap().into_inner();
    let changed = next(&mut watch).await.unwrap();
    assert_eq!((changed.r#type(), changed.transfer.unwrap().name), (WatchType::Modified, first));
}
