//! `dwcp.v1.BenchService`: a bench is accepted with its grant, shown while it runs, and ended when its caller goes away.

use control_plane_store::{
    Error,
    benches::{self, Bench, CreateBench},
};
use foundation_runtime::OnEnd;
use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use proto_model::{BenchId, BenchReport, BenchSpec, BenchState, Revision};
use proto_rpc::v1::{self as rpc, bench_service_server::BenchService};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    State,
    auth::caller,
    error,
    request::{context, traceparent},
    time::timestamp,
    transfers::{granter, refusal},
    watch::{self, Batch, Follow},
};

/// The service.
#[derive(Clone, Debug)]
pub struct Benches(State);

impl Benches {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }

    fn next_id(&self) -> BenchId {
        let random = Uuid::new_v4().into_bytes();
        let now = u64::try_from(self.0.clock.unix_ms()).unwrap_or_default();
        BenchId::from_parts(now, random.first_chunk().expect("16 bytes hold 10"))
    }
}

#[tonic::async_trait]
impl BenchService for Benches {
    type RunBenchStream = BoxStream<'static, Result<rpc::RunBenchResponse, Status>>;

    async fn run_bench(
        &self,
        request: Request<rpc::RunBenchRequest>,
    ) -> Result<Response<Self::RunBenchStream>, Status> {
        let context = context(&request, "dwcp.v1.BenchService/RunBench", "")?;
        let (caller, traceparent) = (caller(&request)?.clone(), traceparent(&request));
        let spec = parse_spec(request.into_inner().spec)?;
        // Before anything is signed: nothing is measured for a caller who may not watch it.
        let place = watch::place(&self.0, &caller)?;
        let (id, granter) = (self.next_id(), granter(&self.0));
        let create = CreateBench { id, spec: spec.clone(), traceparent };
        let state = self.0.clone();
        // In a task of its own: a caller who goes away meanwhile ends what was created.
        let created = self.0.tasks.run("create a bench", async move {
            let created = state.db.write("bench.create", context, move |tx| {
                async move { benches::create(tx, create, &granter).await }.boxed()
            });
            created.await.map(|_created| EndsWithCaller { state, id })
        });
        let created = created.await.map_err(|_cancelled| error::store(Error::Stopping))?;
        let guard = created.map_err(|refused| refusal(refused, "spec"))?;
        let follow = FollowBench { state: self.0.clone(), id, spec, cursor: Revision::default(), over: false };
        let stream = watch::follow_from(self.0.clone(), caller, follow, Ok(place)).map(move |item| {
            let _held = &guard;
            item
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn parse_spec(spec: Option<rpc::BenchSpec>) -> Result<BenchSpec, Status> {
    let spec = spec.ok_or_else(|| error::invalid("spec", "is required"))?;
    let spec = BenchSpec::try_from(spec).map_err(|field| error::invalid_field(field.within("spec")))?;
    if spec.source_node == spec.destination_node {
        return Err(error::invalid("spec.destination_node", "is the source itself: a path has two ends"));
    }
    Ok(spec)
}

/// Ends the bench when the stream is dropped: its caller went away, or lost his right. One that has ended is left alone.
struct EndsWithCaller {
    state: State,
    id: BenchId,
}

impl Drop for EndsWithCaller {
    fn drop(&mut self) {
        let (db, id) = (self.state.db.clone(), self.id);
        self.state.tasks.spawn("end a bench", OnEnd::Expected, async move {
            if let Err(error) = benches::finish(&db, id, BenchState::Cancelled, None).await {
                // The sweep ends it when its time is over, and so do the agents.
                error.log(id, "A bench whose caller went away could not be ended");
            }
        });
    }
}

/// One bench, until it has ended.
struct FollowBench {
    state: State,
    id: BenchId,
    spec: BenchSpec,
    cursor: Revision,
    over: bool,
}

impl Follow for FollowBench {
    type Item = rpc::RunBenchResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let found = benches::find(&self.state.db, self.id).await.map_err(error::store)?;
        let Some(bench) = found else {
            self.over = true;
            return Ok(Batch { items: Vec::new(), more: false });
        };
        if !bench.report.state.is_end() && self.state.clock.utc() >= bench.end_before {
            let silent = Some(benches::silence());
            benches::finish(&self.state.db, self.id, BenchState::Failed, silent).await.map_err(error::store)?;
            return Ok(Batch { items: Vec::new(), more: true });
        }
        if bench.revision <= self.cursor {
            return Ok(Batch { items: Vec::new(), more: false });
        }
        self.cursor = bench.revision;
        self.over = bench.report.state.is_end();
        let item = rpc::RunBenchResponse { bench: Some(translate(bench, &self.spec)) };
        Ok(Batch { items: vec![item], more: false })
    }

    fn synced(&self) -> Option<Self::Item> {
        None
    }

    fn bookmark(&self) -> Option<Self::Item> {
        None
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

fn translate(bench: Bench, spec: &BenchSpec) -> rpc::Bench {
    let [source, destination] = bench.names;
    let spec = BenchSpec { source_node: source.into(), destination_node: destination.into(), plan: spec.plan };
    let report: BenchReport = bench.report;
    rpc::Bench { spec: Some(spec.into()), create_time: timestamp(bench.create_time), ..report.into() }
}
