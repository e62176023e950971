//! BenchService.

use proto_rpc::v1::{
    BenchSpec, RunBenchRequest, WatchNodesRequest, bench_service_client::BenchServiceClient,
    node_service_client::NodeServiceClient,
};
use tonic::Code;

use super::{agent::Agent, world::World};

#[tokio::test]
async fn nothing_is_measured_for_a_caller_who_has_no_place_to_watch_it() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (mut source, mut destination) = (Agent::connect(&world, &a).await, Agent::connect(&world, &b).await);
    source.welcome().await;
    destination.welcome().await;
    let mut watches = Vec::new();
    for _one in 0..world.state.server.max_watches {
        let mut client = NodeServiceClient::new(world.admin());
        watches.push(client.watch_nodes(WatchNodesRequest::default()).await.unwrap());
    }
    let spec =
        BenchSpec { source_node: "nodes/a".to_owned(), destination_node: "nodes/b".to_owned(), ..BenchSpec::default() };
    let request = RunBenchRequest { spec: Some(spec) };
    let mut client = BenchServiceClient::new(world.admin());
    let refused = client.run_bench(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(world.sql("SELECT count(*) FROM benches"), "0");
    drop(watches);
    let stream = client.run_bench(request).await.unwrap();
    assert_eq!(world.sql("SELECT count(*) FROM benches"), "1");
    drop(stream);
}
