//! One trace over a gRPC call, out by OTLP: client span, server span below it, and the export not tracing itself.

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use foundation_telemetry::{Format, Options, TraceLayer, init, propagation};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tracing::Instrument as _;

struct Collector(Mutex<mpsc::Sender<ExportTraceServiceRequest>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let sender = self.0.lock().expect("not poisoned").clone();
        sender.send(request.into_inner()).await.expect("the test listens");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn listen() -> (SocketAddr, TcpListenerStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    (listener.local_addr().expect("an address"), TcpListenerStream::new(listener))
}

async fn one_call(server: SocketAddr) {
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{server}")).expect("an address").connect_lazy();
    let channel = tower::ServiceBuilder::new().layer(TraceLayer::client()).service(channel);
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.expect("healthy");
}

async fn spans(received: &mut mpsc::Receiver<ExportTraceServiceRequest>, want: usize) -> Vec<Span> {
    let mut spans = Vec::new();
    while spans.len() < want {
        let request =
            tokio::time::timeout(Duration::from_secs(20), received.recv()).await.expect("in time").expect("open");
        for resource in request.resource_spans {
            let attributes = resource.resource.expect("a resource").attributes;
            assert!(attributes.iter().any(|attribute| attribute.key == "service.name"), "{attributes:?}");
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_one_trace_and_the_export_is_none() {
    let (collector_at, collector_incoming) = listen().await;
    let (sender, mut received) = mpsc::channel(64);
    let collector = TraceServiceServer::new(Collector(Mutex::new(sender)));
    let collector = Server::builder().add_service(collector).serve_with_incoming(collector_incoming);
    let options = Options { format: Format::Json, level: "warn".to_owned(), ..Options::new("dwcp-test", "0.0.0") };
    let telemetry = init(options).expect("set up");
    // What begins before there is an endpoint is dropped, and does no harm.
    telemetry.set_otlp_endpoint(Some(&format!("http://{collector_at}")));

    let (server_at, server_incoming) = listen().await;
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server =
        Server::builder().layer(TraceLayer::server("api")).add_service(health).serve_with_incoming(server_incoming);

    let test = async {
        let root = tracing::info_span!("operator");
        assert!(propagation::set_parent(&root, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        one_call(server_at).instrument(root.clone()).await;
        assert!(propagation::traceparent(&root).expect("recorded").starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        drop(root);

        let spans = spans(&mut received, 3).await;
        let find = |kind: SpanKind| spans.iter().find(|span| span.kind() == kind).expect("a span of each kind");
        let (root, client, server) = (find(SpanKind::Internal), find(SpanKind::Client), find(SpanKind::Server));
        let trace = hex("0af7651916cd43dd8448eb211c80319c");
        assert!(spans.iter().all(|span| span.trace_id == trace));
        assert_eq!(root.parent_span_id, hex("b7ad6b7169203331"));
        assert_eq!(client.parent_span_id, root.span_id);
        assert_eq!(server.parent_span_id, client.span_id);
        assert_eq!(server.name, "grpc.health.v1.Health/Check");
        assert!(server.attributes.iter().any(|attribute| attribute.key == "rpc.response.status_code"));
        let metrics = telemetry.metrics().render();
        assert!(metrics.lines().any(|line| line == "dwcp_requests_total 1"), "{metrics}");

        // A trace that begins here at rate 0 is not kept; what a caller decided to keep is.
        telemetry.set_sample_rate(0.0);
        one_call(server_at).instrument(tracing::info_span!("dropped")).await;
        let kept = tracing::info_span!("kept");
        propagation::set_parent(&kept, "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-01");
        drop(kept.entered());
        telemetry.shutdown().await;
        let last = self::spans(&mut received, 1).await;
        assert_eq!(last.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["kept"]);
        assert!(received.try_recv().is_err(), "the export makes no spans of its own");
    };
    tokio::select! {
        () = test => {}
        ended = collector => ended.expect("the collector goes on"),
        ended = server => ended.expect("the server goes on"),
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal")).collect()
}
