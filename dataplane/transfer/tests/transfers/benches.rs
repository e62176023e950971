//! Benches over real QUIC on loopback: who may run one, and what it says.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use dataplane_amst::{Endpoint, Session, TransportSettings};
use dataplane_transfer::{BenchRight, Benches, opens_bench};
use foundation_runtime::{Clock, OnEnd};
use proto_model::{
    BenchDirection, BenchFlow, BenchGrant, BenchId, BenchPlan, BenchReport, BenchState, GrantParty, TransferError,
};
use proto_wire::{Signed, bench};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    bed::{Bed, PATIENCE},
    over_amst::endpoint,
};

struct Pair {
    bed: Bed,
    a: Benches,
    session: Session,
    _endpoints: (Endpoint, Endpoint),
}

impl Pair {
    async fn new() -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let bed = Bed::new();
        let quic = || TransportSettings::default();
        let ours = endpoint(&bed.a.identity, &bed.a.tasks, 1, quic()).await;
        let theirs = endpoint(&bed.b.identity, &bed.b.tasks, 1, quic()).await;
        let benches = |transfers| Benches::new(transfers, 1, Arc::new(|_rate| String::new()));
        let (a, b) = (benches(&bed.a.transfers), benches(&bed.b.transfers));
        let (served, endpoint, group) = (b, theirs.clone(), bed.b.tasks.clone());
        bed.b.tasks.spawn("serve", OnEnd::Expected, async move {
            while let Some(incoming) = endpoint.next_channel().await {
                let (served, endpoint) = (served.clone(), endpoint.clone());
                group.spawn("bench", OnEnd::Expected, async move {
                    let mut channel = incoming.channel;
                    let first = channel.control_rx.recv().await.unwrap().unwrap();
                    let session = endpoint.present_session(&channel.peer).unwrap();
                    drop(served.serve(channel, session, opens_bench(&first).unwrap()).await);
                });
            }
        });
        let session = ours.session(bed.b.identity.public_key(), &[theirs.local_addr()]).await.unwrap();
        Self { bed, a, session, _endpoints: (ours, theirs) }
    }

    fn grant(&self, plan: BenchPlan, change: impl FnOnce(&mut BenchGrant)) -> Signed {
        let now = Clock::system().utc();
        let party =
            |identity: &dataplane_identity::Identity| GrantParty { uid: identity.uid(), key: identity.public_key() };
        let mut grant = BenchGrant {
            fleet: self.bed.fleet.bundle().fleet,
            epoch: self.bed.fleet.bundle().epoch,
            bench: BenchId::new(uuid::Uuid::now_v7()),
            source: party(&self.bed.a.identity),
            destination: party(&self.bed.b.identity),
            plan,
            not_before: now,
            not_after: now + TimeDelta::minutes(2),
        };
        change(&mut grant);
        bench::sign(self.bed.fleet.grant_key(), &grant)
    }

    async fn run(&self, right: BenchRight) -> Result<BenchReport, TransferError> {
        let checked = self.a.check(right, None)?;
        let (reports, watched) = watch::channel(BenchReport::new(BenchId::new(uuid::Uuid::now_v7())));
        let cancel = CancellationToken::new();
        let run = self.a.run(checked, self.session.clone(), &reports, 256, &cancel);
        tokio::time::timeout(PATIENCE, Box::pin(run)).await.unwrap();
        let report = watched.borrow().clone();
        Ok(report)
    }

    async fn refused(&self, right: BenchRight) -> String {
        match self.run(right).await {
            Ok(report) => report.error.unwrap().reason,
            Err(error) => error.reason,
        }
    }
}

fn plan(seconds: u32, direction: BenchDirection) -> BenchPlan {
    BenchPlan { seconds, streams: Some(4), direction }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_are_measured_and_a_right_is_good_for_once() {
    let pair = Pair::new().await;
    let right = BenchRight::Grant(pair.grant(plan(2, BenchDirection::Both), |_grant| {}));
    let report = pair.run(right.clone()).await.unwrap();
    assert_eq!((report.state, &report.error), (BenchState::Succeeded, &None), "{report:?}");
    let flows: Vec<_> = report.results.iter().map(|result| result.flow).collect();
    assert_eq!(flows, [BenchFlow::Forward, BenchFlow::Reverse]);
    for result in &report.results {
        assert!(result.bytes > 1 << 20 && result.steady > 0.0 && result.base_rtt_ms > 0.0, "{result:?}");
        assert!(result.bytes_on_the_wire >= result.bytes && !result.advice.is_empty(), "{result:?}");
        assert!(result.streams <= 4 && result.lanes >= 1 && !result.congestion_algorithm.is_empty(), "{result:?}");
        let intervals: Vec<_> = report.intervals.iter().filter(|interval| interval.flow == result.flow).collect();
        assert_eq!(intervals.len(), 2, "{intervals:?}");
        let sum: u64 = intervals.iter().map(|interval| interval.bytes).sum();
        assert!(sum <= result.bytes && sum > result.bytes / 2, "{sum} of {}", result.bytes);
    }
    assert_eq!(pair.refused(right).await, "ALREADY_FINISHED");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_right_makes_a_host_take_part() {
    let pair = Pair::new().await;
    let short = plan(1, BenchDirection::Reverse);
    let direct = || BenchRight::Direct { plan: short, peer: pair.bed.b.identity.public_key() };
    assert_eq!(pair.refused(direct()).await, "NOT_ACCEPTED");
    let third = GrantParty { key: pair.bed.third(), uid: pair.bed.b.identity.uid() };
    let of_third = |grant: &mut BenchGrant| grant.source = third;
    assert_eq!(pair.refused(BenchRight::Grant(pair.grant(short, of_third))).await, "GRANT_INVALID");
    let for_third = |grant: &mut BenchGrant| grant.destination = third;
    let grant = pair.grant(short, for_third);
    let checked = pair.a.check(BenchRight::Grant(grant), None).unwrap();
    assert_eq!(checked.peer, third.key, "whom the grant names is asked");
    let late = |grant: &mut BenchGrant| {
        grant.not_before -= TimeDelta::hours(1);
        grant.not_after -= TimeDelta::hours(1);
    };
    assert_eq!(pair.refused(BenchRight::Grant(pair.grant(short, late))).await, "GRANT_EXPIRED");
    let restored = |grant: &mut BenchGrant| grant.epoch = 7.into();
    assert_eq!(pair.refused(BenchRight::Grant(pair.grant(short, restored))).await, "GRANT_OF_OTHER_EPOCH");

    pair.bed.b.set_roots(false, &["a"]);
    let report = pair.run(direct()).await.unwrap();
    assert_eq!(report.state, BenchState::Succeeded, "{report:?}");
    assert!(report.results[0].flow == BenchFlow::Reverse && report.results[0].bytes > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_and_who_goes_away_ends_it_at_both_ends() {
    let pair = Pair::new().await;
    let long = || BenchRight::Grant(pair.grant(plan(60, BenchDirection::Forward), |_grant| {}));
    let checked = pair.a.check(long(), None).unwrap();
    let (reports, mut watched) = watch::channel(BenchReport::new(BenchId::new(uuid::Uuid::now_v7())));
    let cancel = CancellationToken::new();
    let run = pair.a.run(checked, pair.session.clone(), &reports, 256, &cancel);
    let look = async {
        watched.wait_for(|report| !report.intervals.is_empty()).await.unwrap();
        let busy = pair.run(long()).await.unwrap().error.unwrap();
        assert!(busy.reason == "BUSY" && busy.message.contains("limits.benches"), "{busy:?}");
        cancel.cancel();
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(Box::pin(run), look) }).await.unwrap();
    assert_eq!(watched.borrow().state, BenchState::Cancelled);
    // The other end is free again at once, and not when its time would be over.
    let short = || BenchRight::Grant(pair.grant(plan(1, BenchDirection::Forward), |_grant| {}));
    let free = async {
        while pair.run(short()).await.unwrap().state != BenchState::Succeeded {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
}
