//! A transfer that is held stands still until it is not held any more; one that has a deadline ends by it.

use std::{fs, sync::Arc, time::Duration};

use chrono::TimeDelta;
use dataplane_transfer::{Connector, Order, Received, SendAuthority, SendJob, Sent, Settings};
use foundation_runtime::Clock;
use proto_model::{DirectRequest, Grant, TransferOptions, TransferReport, TransferRole, TransferState};
use tokio::{sync::watch, task::JoinHandle};

use crate::bed::{Bed, Faults, PATIENCE, Wires, noise, tree};

const BYTES: usize = 16 << 20;

/// A transfer on its way.
struct Going {
    sending: JoinHandle<Sent>,
    reports: watch::Receiver<TransferReport>,
    wires: Arc<Wires>,
}

impl Going {
    fn begin(bed: &Bed, job: SendJob, faults: Vec<Faults>) -> Self {
        let wires = Arc::new(Wires::new(&bed.b, bed.a.identity.public_key(), faults));
        let id = job.transfer().unwrap();
        let (said, reports) = watch::channel(TransferReport::new(id, TransferRole::Sender));
        let (sender, connector) = (bed.a.transfers.clone(), Arc::clone(&wires) as Arc<dyn Connector>);
        #[allow(clippy::disallowed_methods, reason = "the test waits for it")]
        let sending = tokio::spawn(async move { Box::pin(sender.send(job, connector, said)).await });
        Self { sending, reports, wires }
    }

    /// Waits until the sender says that it waits for this reason.
    async fn waits(&mut self, reason: &str) -> TransferReport {
        let waits = |report: &TransferReport| {
            report.state == TransferState::Waiting && report.error.as_ref().is_some_and(|error| error.reason == reason)
        };
        let seen = tokio::time::timeout(PATIENCE, self.reports.wait_for(waits)).await;
        seen.expect("in time").expect("it goes on").clone()
    }

    async fn end(self) -> (TransferReport, Arc<Wires>) {
        match tokio::time::timeout(PATIENCE, self.sending).await.expect("in time").unwrap() {
            Sent::Ended(report) => (report, self.wires),
            Sent::Interrupted(report) => panic!("interrupted: {report:?}"),
        }
    }
}

fn file(options: TransferOptions) -> (Bed, Grant) {
    let bed = Bed::new();
    fs::write(bed.a.root.join("file"), noise(21, BYTES)).unwrap();
    let grant = bed.grant(&["data:/file"], "data:/", options);
    (bed, grant)
}

fn order(number: u64, pause: bool) -> Order {
    Order { number, pause }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stands_still_over_a_restart_and_goes_on_where_it_was() {
    let (mut bed, grant) = file(TransferOptions::default());
    let id = grant.transfer;
    let transfers = bed.a.transfers.clone();
    let hold = move || transfers.order(id, TransferRole::Sender, order(1, true));
    let during = Faults { on_piece: Some((100, Arc::new(hold))), ..Faults::default() };
    let mut going = Going::begin(&bed, bed.job(&grant), vec![during]);
    let report = going.waits("PAUSED").await;
    assert!(report.progress.bytes_done.bytes() < BYTES.try_into().unwrap(), "{report:?}");
    let received = going.wires.received().await;
    assert!(
        matches!(&received[..], [Received::Interrupted(report)] if report.error.as_ref().unwrap().reason == "PAUSED")
    );
    let first = going.wires.bytes()[0];
    bed.a.restart().await;
    let Sent::Interrupted(_) = going.sending.await.unwrap() else { panic!("it should be interrupted") };

    let job = bed.a.transfers.unfinished().unwrap().remove(0);
    let mut going = Going::begin(&bed, job, Vec::new());
    going.waits("PAUSED").await;
    assert!(going.wires.bytes().is_empty(), "nobody was dialled");
    bed.a.transfers.order(id, TransferRole::Sender, order(2, false));
    let (report, wires) = going.end().await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    let sent = first + wires.bytes().iter().sum::<u64>();
    assert!(sent < u64::try_from(BYTES).unwrap() + 2_500_000, "{sent}");
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_told_alone_holds_it_until_either_end_knows_better() {
    let (bed, grant) = file(TransferOptions::default());
    let id = grant.transfer;
    let transfers = bed.b.transfers.clone();
    let hold = move || transfers.order(id, TransferRole::Receiver, order(7, true));
    let during = Faults { on_piece: Some((60, Arc::new(hold))), ..Faults::default() };
    let mut going = Going::begin(&bed, bed.job(&grant), vec![during]);
    going.waits("PAUSED").await;
    // What it tried again meanwhile was refused.
    bed.a.transfers.order(id, TransferRole::Sender, order(6, false));
    going.waits("PAUSED").await;
    assert!(bed.b.leftovers().len() == 1, "what came is kept");
    bed.a.transfers.order(id, TransferRole::Sender, order(8, false));
    let (report, _) = going.end().await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_alone_knows_of_a_pause_is_asked_with_growing_pauses() {
    let (bed, grant) = file(TransferOptions::default());
    let id = grant.transfer;
    let settings = bed.a.transfers.settings();
    bed.a.transfers.set_settings(Settings { retry_interval: PATIENCE, ..settings });
    bed.b.transfers.order(id, TransferRole::Receiver, order(7, true));
    let (clock, begun) = (Clock::system(), Clock::system().now());
    let mut going = Going::begin(&bed, bed.job(&grant), Vec::new());
    going.waits("PAUSED").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let attempts = u32::try_from(going.wires.bytes().len()).unwrap();
    let took = clock.now() - begun;
    // The shortest pauses there can be: an eighth of 250 ms, and twice as much after each.
    let least = Duration::from_micros(31_250) * (2_u32.saturating_pow(attempts - 1) - 1);
    assert!(least <= took, "{attempts} attempts in {took:?}");
    bed.a.transfers.order(id, TransferRole::Sender, order(8, false));
    let (report, _) = going.end().await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_by_the_clock_of_the_control_plane() {
    let minutes = |n| Some(Clock::system().utc() + TimeDelta::minutes(n));
    // By how much this host is ahead, if that is known; when the deadline is by its own clock; and whether it is over.
    for (ahead, deadline, over) in [
        (Some(4), -3, false),
        (Some(4), -5, true),
        (Some(-4), 3, true),
        (Some(0), -1, true),
        (None, -4, false),
        (None, -6, true),
    ] {
        let mut bed = Bed::new();
        fs::write(bed.a.root.join("file"), "contents").unwrap();
        match ahead {
            Some(ahead) => bed.a.transfers.is_ahead_of_control_plane(TimeDelta::minutes(ahead)),
            None => bed.a.restart_alone().await,
        }
        let options = TransferOptions { deadline: minutes(deadline), ..TransferOptions::default() };
        let (report, _) = bed.send(&["data:/file"], "data:/", options).await;
        let ended = report.error.map(|error| error.reason.as_str().to_owned());
        assert_eq!(ended.as_deref(), over.then_some("DEADLINE_EXCEEDED"), "{ahead:?} {deadline}");
        assert_eq!(report.state == TransferState::Succeeded, !over);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_can_be_cancelled_and_ends_by_its_deadline() {
    let soon =
        || TransferOptions { deadline: Some(Clock::system().utc() + TimeDelta::seconds(1)), ..Default::default() };
    for (options, outcome) in [
        (TransferOptions::default(), (TransferState::Cancelled, "CANCELLED")),
        (soon(), (TransferState::Failed, "DEADLINE_EXCEEDED")),
    ] {
        let (bed, grant) = file(options);
        bed.a.transfers.order(grant.transfer, TransferRole::Sender, order(1, true));
        let mut going = Going::begin(&bed, bed.job(&grant), Vec::new());
        going.waits("PAUSED").await;
        if outcome.0 == TransferState::Cancelled {
            assert!(bed.a.transfers.cancel(grant.transfer, TransferRole::Sender));
        }
        let (report, wires) = going.end().await;
        assert_eq!((report.state, report.error.unwrap().reason.as_str()), outcome);
        assert!(wires.bytes().is_empty() && bed.a.leftovers().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_both_ends_and_nothing_is_left_of_it() {
    let deadline = Clock::system().utc() + TimeDelta::seconds(4);
    let (bed, grant) = file(TransferOptions { deadline: Some(deadline), ..TransferOptions::default() });
    let stuck = Faults { hold_from: Some(100), ..Faults::default() };
    let (report, wires) = Going::begin(&bed, bed.job(&grant), vec![stuck]).end().await;
    let error = report.error.unwrap();
    assert_eq!((report.state, error.reason.as_str()), (TransferState::Failed, "DEADLINE_EXCEEDED"));
    // A host that was too slow to begin by then has nothing to say of it.
    let received = wires.received().await;
    let told = |report: &TransferReport| report.error.as_ref().unwrap().reason == "DEADLINE_EXCEEDED";
    assert!(received.iter().all(|end| matches!(end, Received::Ended(report) if told(report))), "{received:?}");
    assert!(tree(&bed.b.root).is_empty() && bed.b.leftovers().is_empty() && bed.a.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_send_has_a_deadline_too() {
    let (bed, grant) = file(TransferOptions::default());
    bed.b.set_roots(false, &["a"]);
    // Its deadline is by the clock of the host that was asked.
    bed.a.transfers.is_ahead_of_control_plane(TimeDelta::hours(1));
    let deadline = Some(Clock::system().utc() + TimeDelta::seconds(2));
    let request = DirectRequest {
        transfer: grant.transfer,
        source_paths: grant.source_paths.clone(),
        destination_path: grant.destination_path.clone(),
        options: TransferOptions { deadline, ..TransferOptions::default() },
    };
    let authority = SendAuthority::Direct { request: Box::new(request), peer: bed.b.identity.public_key() };
    let stuck = Faults { hold_from: Some(50), ..Faults::default() };
    let (report, _) = Going::begin(&bed, SendJob { authority, traceparent: None }, vec![stuck]).end().await;
    assert_eq!((report.state, report.error.unwrap().reason.as_str()), (TransferState::Failed, "DEADLINE_EXCEEDED"));
}
