//! [`TimeSpent`]: what held a transfer up, and what would make it faster.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use proto_rpc::v1 as rpc;

/// What a peer may say: far more causes than there are, and longer than any transfer goes on.
const MAX_SAID: usize = 32;
const MAX_SECONDS: f64 = 10.0 * 366.0 * 86_400.0;
/// Below this share the time is that of nobody in particular.
const WORTH_ADVICE: f64 = 0.25;
/// Before so long nothing is known.
const LEAST_TIME: Duration = Duration::from_millis(500);

/// What holds a transfer up at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bottleneck {
    /// Reading at the source.
    SourceDisk,
    /// Hashing and encoding at the source.
    Encode,
    /// Encrypting and sending packets.
    SenderCpu,
    /// The path carries no more.
    CongestionWindow,
    /// The path loses packets.
    PathLoss,
    /// What an operator allows.
    BandwidthLimit,
    /// The receiver grants no more, for whatever reason of its own.
    ReceiverWindow,
    /// Writing at the destination.
    ReceiverDisk,
    /// Decoding and verifying at the destination.
    ReceiverCpu,
    /// Trees are walked and compared, answers are waited for.
    Application,
    /// The other end: only it knows.
    Peer,
}

impl Bottleneck {
    const ALL: [Self; 11] = [
        Self::SourceDisk,
        Self::Encode,
        Self::SenderCpu,
        Self::CongestionWindow,
        Self::PathLoss,
        Self::BandwidthLimit,
        Self::ReceiverWindow,
        Self::ReceiverDisk,
        Self::ReceiverCpu,
        Self::Application,
        Self::Peer,
    ];

    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceDisk => "source_disk",
            Self::Encode => "encode",
            Self::SenderCpu => "sender_cpu",
            Self::CongestionWindow => "congestion_window",
            Self::PathLoss => "path_loss",
            Self::BandwidthLimit => "bandwidth_limit",
            Self::ReceiverWindow => "receiver_window",
            Self::ReceiverDisk => "receiver_disk",
            Self::ReceiverCpu => "receiver_cpu",
            Self::Application => "application",
            Self::Peer => "peer",
        }
    }

    /// What would make a transfer faster that is held up by this.
    const fn advice(self) -> &'static str {
        match self {
            Self::SourceDisk => {
                "reading at the source holds it up: faster storage there, or fewer other readers, would make it faster"
            }
            Self::Encode => {
                "encoding at the source holds it up: a lower compression.level, or compression.algorithm lz4, would make it faster"
            }
            Self::SenderCpu => {
                "the sender's processor is at its end with packets: more transport.sockets, and transport.lanes: 0, use more of its cores"
            }
            Self::CongestionWindow => {
                "the path carries no more: a higher compression.level would send less; no other setting makes it faster"
            }
            Self::PathLoss => {
                "the path loses packets: transport.congestion_algorithm auto keeps its rate where losses are not from a queue"
            }
            Self::BandwidthLimit => "a bound of the sender holds it up: see bandwidth and transport.pacing_rate there",
            Self::ReceiverWindow => {
                "the receiver takes no more: see limits.receive_budget and transfer.receive_window there, and what else it receives"
            }
            Self::ReceiverDisk => "writing at the destination holds it up: faster storage there would make it faster",
            Self::ReceiverCpu => {
                "decoding at the destination holds it up: its processor is busy; compression.algorithm lz4 at the source costs it less"
            }
            Self::Application | Self::Peer => {
                "comparing both trees and waiting for answers takes most of it: fewer, larger sets need fewer round trips"
            }
        }
    }
}

/// For how long what held one end of a transfer up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeSpent(BTreeMap<Bottleneck, Duration>);

impl TimeSpent {
    /// Adds some time.
    pub fn add(&mut self, cause: Bottleneck, time: Duration) {
        let sum = self.0.entry(cause).or_default();
        *sum = sum.saturating_add(time);
    }

    /// The time of one cause.
    #[must_use]
    pub fn of(&self, cause: Bottleneck) -> Duration {
        self.0.get(&cause).copied().unwrap_or_default()
    }

    /// What held the transfer up, by what both ends say: where the sender waited for the receiver, the receiver knows why.
    #[must_use]
    pub fn of_both(sender: &Self, receiver: &Self) -> Self {
        let mut both = sender.clone();
        let Some(waited) = both.0.remove(&Bottleneck::ReceiverWindow) else { return both };
        let mut left = waited;
        for cause in [Bottleneck::ReceiverDisk, Bottleneck::ReceiverCpu] {
            let part = receiver.of(cause).min(left);
            if part > Duration::ZERO {
                both.add(cause, part);
                left -= part;
            }
        }
        if left > Duration::ZERO {
            both.add(Bottleneck::ReceiverWindow, left);
        }
        both
    }

    /// Causes with their shares of all time, the longest first.
    #[must_use]
    pub fn shares(&self) -> Vec<(Bottleneck, f64)> {
        let all: f64 = self.0.values().map(Duration::as_secs_f64).sum();
        let mut times: Vec<_> = self.0.iter().map(|(cause, time)| (*cause, *time)).collect();
        times.sort_by_key(|(_, time)| Reverse(*time));
        times.into_iter().filter(|_| all > 0.0).map(|(cause, time)| (cause, time.as_secs_f64() / all)).collect()
    }

    /// What would make it faster, in a sentence; none where nothing is known, or nothing stands out.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let all: Duration = self.0.values().sum();
        let (cause, share) = *self.shares().first()?;
        if all < LEAST_TIME || share < WORTH_ADVICE {
            return None;
        }
        Some(format!("{:.0} % of the time {}", share * 100.0, cause.advice()))
    }
}

impl From<Vec<rpc::TimeSpent>> for TimeSpent {
    /// What is not known here, of a later version, and what is no time is left out.
    fn from(said: Vec<rpc::TimeSpent>) -> Self {
        let mut times = Self::default();
        for said in said.into_iter().take(MAX_SAID) {
            let cause = Bottleneck::ALL.into_iter().find(|cause| cause.as_str() == said.cause);
            let time = Some(said.seconds).filter(|seconds| (0.0..MAX_SECONDS).contains(seconds));
            if let (Some(cause), Some(seconds)) = (cause, time) {
                times.add(cause, Duration::from_secs_f64(seconds));
            }
        }
        times
    }
}

impl From<&TimeSpent> for Vec<rpc::TimeSpent> {
    fn from(times: &TimeSpent) -> Self {
        let mut times: Vec<_> = times.0.iter().collect();
        times.sort_by_key(|(_, time)| Reverse(**time));
        let said = |(cause, time): (&Bottleneck, &Duration)| rpc::TimeSpent {
            cause: cause.as_str().to_owned(),
            seconds: time.as_secs_f64(),
        };
        times.into_iter().map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(of: &[(Bottleneck, u64)]) -> TimeSpent {
        let mut times = TimeSpent::default();
        of.iter().for_each(|(cause, seconds)| times.add(*cause, Duration::from_secs(*seconds)));
        times
    }

    #[test]
    fn where_the_sender_waits_for_the_receiver_the_receiver_knows_why() {
        let sender = times(&[(Bottleneck::ReceiverWindow, 10), (Bottleneck::SourceDisk, 2)]);
        let receiver = times(&[(Bottleneck::ReceiverDisk, 7), (Bottleneck::ReceiverCpu, 1), (Bottleneck::Peer, 3)]);
        let both = TimeSpent::of_both(&sender, &receiver);
        let expected = [
            (Bottleneck::SourceDisk, 2),
            (Bottleneck::ReceiverDisk, 7),
            (Bottleneck::ReceiverCpu, 1),
            (Bottleneck::ReceiverWindow, 2),
        ];
        assert_eq!(both, times(&expected));
        assert_eq!(
            TimeSpent::of_both(&times(&[(Bottleneck::Encode, 1)]), &receiver),
            times(&[(Bottleneck::Encode, 1)])
        );
    }

    #[test]
    fn advice_names_the_longest_and_is_silent_where_nothing_is_known() {
        assert_eq!(TimeSpent::default().advice(), None);
        let advice = times(&[(Bottleneck::PathLoss, 3), (Bottleneck::Encode, 1)]).advice().unwrap();
        assert!(advice.starts_with("75 % of the time the path loses packets: "), "{advice}");
        let mut short = TimeSpent::default();
        short.add(Bottleneck::Encode, Duration::from_millis(1));
        assert_eq!(short.advice(), None);
    }

    #[test]
    fn what_comes_over_the_wire_is_bounded() {
        let said = |cause: &str, seconds| rpc::TimeSpent { cause: cause.to_owned(), seconds };
        let mut list = vec![said("encode", 1.5), said("encode", f64::NAN), said("encode", -1.0), said("encode", 1e300)];
        list.push(said("of a later version", 1.0));
        list.extend((0..1000).map(|_| said("encode", 1.0)));
        let times = TimeSpent::from(list);
        assert_eq!(times.of(Bottleneck::Encode), Duration::from_millis(1500 + 27_000));
        assert_eq!(TimeSpent::from(Vec::<rpc::TimeSpent>::from(&times)), times);
    }
}
