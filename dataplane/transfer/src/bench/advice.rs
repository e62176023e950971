//! What would make the path faster, in a sentence. Pure.

use proto_model::{BenchPlan, BenchResult, BitRate, Bottleneck};

/// From this part of a bound on, the bound is what holds it down.
const NEAR: f64 = 0.9;
/// So much larger is what a link carries than payload, at least.
const HEADS: f64 = 1.03;
/// From here on a thread is busy all the time.
const BUSY: f64 = 0.9;
/// A round trip that grows by more than this share of itself, and by so many milliseconds, has a queue in it.
const BLOATED: f64 = 1.0;
const BLOATED_MS: f64 = 20.0;

/// What the ends know beside the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) plan: &'a BenchPlan,
    /// `transport.max_streams` at the source.
    pub(super) max_streams: u32,
    /// What the sender's and the receiver's hosts say of themselves.
    pub(super) hosts: [&'a str; 2],
}

/// One sentence: the first thing that applies.
pub(super) fn advice(result: &BenchResult, known: Known<'_>) -> String {
    let shares = result.time_spent.shares();
    let first = shares.first().map(|(cause, _)| *cause);
    if let Some((bits, key)) = &result.limit
        && result.steady * HEADS >= NEAR * bits_of(*bits)
    {
        return format!("limited by {key} ({}) at the sender: raise it where the path may carry more", shown(*bits));
    }
    if result.sender_cpu > BUSY {
        return "the sender's processor is at its end with packets: more transport.lanes and transport.sockets use more of its cores"
            .to_owned();
    }
    if result.receiver_cpu > BUSY {
        return "the receiver's processor is at its end with packets: more transport.lanes and transport.sockets use more of its cores"
            .to_owned();
    }
    if let Some(host) = known.hosts.into_iter().find(|host| !host.is_empty()) {
        return host.to_owned();
    }
    if first == Some(Bottleneck::ReceiverWindow) {
        return "the receiver grants too little: a larger limits.receive_budget there would let more be under way"
            .to_owned();
    }
    if let Some(streams) = known
        .plan
        .streams
        .filter(|_| first != Some(Bottleneck::CongestionWindow) && first != Some(Bottleneck::PathLoss))
    {
        return format!(
            "{streams} pieces at once do not fill the path: without --streams the scaler finds how many do"
        );
    }
    if known.plan.streams.is_none()
        && known.max_streams == result.streams
        && known.max_streams < BenchPlan::MAX_STREAMS
        && first.is_none()
    {
        return format!("all {} streams of transport.max_streams are in use: more may carry more", result.streams);
    }
    let grown = result.loaded_rtt_ms - result.base_rtt_ms;
    if grown > BLOATED_MS && grown > BLOATED * result.base_rtt_ms {
        return format!(
            "the path carries no more, and its queue adds {grown:.0} ms under load: a bound by bandwidth.total a little below the rate keeps \
             it short for others"
        );
    }
    match first {
        Some(Bottleneck::PathLoss) => {
            "the path carries no more at its losses, and no setting of ours holds it back".to_owned()
        }
        _ => "the path carries no more, and no setting of ours holds it back".to_owned(),
    }
}

/// A rate as the configuration writes it.
fn shown(bits: u64) -> String {
    let rate = format!("{bits}bit");
    rate.parse().map_or(rate, |rate: BitRate| rate.to_string())
}

#[allow(clippy::cast_precision_loss, reason = "compared only")]
fn bits_of(bits: u64) -> f64 {
    bits as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto_model::{BenchDirection, BenchFlow, TimeSpent};

    use super::*;

    fn result(cause: Bottleneck) -> BenchResult {
        let mut time_spent = TimeSpent::default();
        time_spent.add(cause, Duration::from_secs(10));
        BenchResult {
            flow: BenchFlow::Forward,
            seconds: 10.0,
            bytes: 62_500_000,
            mean: 47e6,
            steady: 48e6,
            to_90_percent: Some(0.5),
            base_rtt_ms: 20.0,
            loaded_rtt_ms: 22.0,
            loss: 0.0,
            bytes_on_the_wire: 64_000_000,
            overhead: 0.03,
            bytes_sent_again: 0,
            time_spent,
            sender_cpu: 0.1,
            receiver_cpu: 0.1,
            streams: 16,
            lanes: 1,
            congestion_algorithm: "auto".into(),
            bandwidth_delay_product: 120_000,
            limit: None,
            advice: String::new(),
        }
    }

    #[test]
    fn the_first_thing_that_holds_it_back_is_named() {
        let plan = BenchPlan { seconds: 10, streams: None, direction: BenchDirection::Forward };
        let known = Known { plan: &plan, max_streams: 256, hosts: ["", ""] };
        let window = result(Bottleneck::CongestionWindow);
        assert!(advice(&window, known).contains("no setting of ours"));
        let bound = |bits| BenchResult { limit: Some((bits, "bandwidth.total".into())), ..window.clone() };
        assert!(
            advice(&bound(50_000_000), known).starts_with("limited by bandwidth.total (50mbit)"),
            "{}",
            advice(&bound(50_000_000), known)
        );
        assert!(advice(&bound(500_000_000), known).contains("no setting of ours"), "a bound far above is none");
        let said = Known { hosts: ["", "sysctl"], ..known };
        assert_eq!(advice(&window, said), "sysctl");
        assert!(advice(&BenchResult { sender_cpu: 0.97, ..window.clone() }, said).contains("transport.sockets"));
        assert!(advice(&result(Bottleneck::ReceiverWindow), known).contains("limits.receive_budget"));
        let few = BenchPlan { streams: Some(1), ..plan };
        assert!(advice(&result(Bottleneck::Application), Known { plan: &few, ..known }).contains("--streams"));
        assert!(advice(&BenchResult { loaded_rtt_ms: 220.0, ..window }, known).contains("adds 200 ms"));
    }
}
