//! One connection: RFC 9002's loss detection at the sending end, acknowledgments at the other.

use std::collections::VecDeque;

use crate::link::{MS, Nanos};

/// RFC 9002 6.1.1: packets that overtake one another by less are not lost.
const PACKET_THRESHOLD: u64 = 3;

/// RFC 9002 6.2.2.
const INITIAL_RTT: Nanos = 333 * MS;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Acked,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Nanos,
    state: State,
}

/// How the receiver acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckPolicy {
    /// Packets for an acknowledgment.
    pub every: usize,
    /// The longest it waits.
    pub delay: Nanos,
}

/// What one acknowledgment, or a timer, told the sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// Packets that arrived, oldest first: when they left.
    pub acked: Vec<Nanos>,
    /// Packets that were lost, and when the newest left.
    pub lost: u64,
    /// When the newest lost packet left.
    pub lost_sent: Nanos,
    /// RFC 9002 7.6.
    pub persistent: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    mtu: u64,
    acks: AckPolicy,
    sent: VecDeque<Sent>,
    /// The number of the first of `sent`.
    first: u64,
    largest_acked: Option<u64>,
    /// Packets under way.
    pub under_way: u64,
    smoothed: Option<Nanos>,
    latest: Nanos,
    variance: Nanos,
    least: Nanos,
    probes: u32,
    last_sent: Nanos,
    loss_time: Option<Nanos>,
    /// What arrived and was not yet acknowledged.
    arrived: Vec<u64>,
    largest_arrived: Option<u64>,
    /// Packets sent, lost, and lost that arrived nevertheless.
    pub totals: (u64, u64, u64),
}

impl Connection {
    /// A connection that sends packets of this size.
    #[must_use]
    pub(crate) fn new(mtu: u64, acks: AckPolicy) -> Self {
        Self {
            mtu,
            acks,
            sent: VecDeque::new(),
            first: 0,
            largest_acked: None,
            under_way: 0,
            smoothed: None,
            latest: INITIAL_RTT,
            variance: INITIAL_RTT / 2,
            least: INITIAL_RTT,
            probes: 0,
            last_sent: 0,
            loss_time: None,
            arrived: Vec::new(),
            largest_arrived: None,
            totals: (0, 0, 0),
        }
    }

    /// Bytes under way.
    #[must_use]
    pub(crate) fn in_flight(&self) -> u64 {
        self.under_way * self.mtu
    }

    /// The smoothed round trip.
    #[must_use]
    pub(crate) fn rtt(&self) -> Nanos {
        self.smoothed.unwrap_or(self.latest)
    }

    /// A packet leaves; its number.
    pub(crate) fn send(&mut self, now: Nanos) -> u64 {
        self.sent.push_back(Sent { at: now, state: State::UnderWay });
        self.under_way += 1;
        self.last_sent = now;
        self.totals.0 += 1;
        self.first + self.sent.len() as u64 - 1
    }

    /// A packet arrives at the other end: whether it was news to it, and the acknowledgment that it sends at once, if any.
    pub(crate) fn arrive(&mut self, number: u64) -> (bool, Option<Vec<u64>>) {
        let fresh = self.get(number).is_some_and(|sent| sent.state == State::UnderWay);
        if !fresh {
            self.totals.2 += 1;
        }
        let in_order = self.largest_arrived.is_none_or(|largest| number == largest + 1);
        self.largest_arrived = Some(self.largest_arrived.map_or(number, |largest| largest.max(number)));
        self.arrived.push(number);
        let acknowledge = !in_order || self.arrived.len() >= self.acks.every;
        (fresh, acknowledge.then(|| std::mem::take(&mut self.arrived)))
    }

    /// How long the receiver waits before it acknowledges what has just arrived, if it was the first to wait.
    #[must_use]
    pub(crate) fn ack_delay(&self) -> Option<Nanos> {
        (self.arrived.len() == 1).then_some(self.acks.delay)
    }

    /// The receiver's timer: what is still to be acknowledged, if it is what it was set for.
    pub(crate) fn acknowledge(&mut self, number: u64) -> Option<Vec<u64>> {
        (self.arrived.first() == Some(&number)).then(|| std::mem::take(&mut self.arrived))
    }

    /// The number that the receiver's timer is for.
    #[must_use]
    pub(crate) fn oldest_waiting(&self) -> u64 {
        self.arrived.first().copied().unwrap_or(0)
    }

    fn get(&self, number: u64) -> Option<Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get(index).copied()
    }

    /// An acknowledgment arrives: what is new in it. Losses are for [`Self::detect`], after the controller heard of this.
    pub(crate) fn acked(&mut self, now: Nanos, numbers: &mut [u64]) -> News {
        numbers.sort_unstable();
        let mut news = News::default();
        let mut newest = None;
        for &number in numbers.iter() {
            let Some(index) = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
                continue;
            };
            let Some(sent) = self.sent.get_mut(index) else { continue };
            if sent.state == State::UnderWay {
                self.under_way -= 1;
                news.acked.push(sent.at);
                newest = Some((number, sent.at));
            }
            sent.state = State::Acked;
        }
        if let Some((number, at)) = newest {
            self.probes = 0;
            if self.largest_acked.is_none_or(|largest| number > largest) {
                self.largest_acked = Some(number);
                self.sample(now.saturating_sub(at));
            }
        }
        news
    }

    fn sample(&mut self, rtt: Nanos) {
        self.latest = rtt;
        if let Some(smoothed) = self.smoothed {
            self.least = self.least.min(rtt);
            self.variance = (3 * self.variance + smoothed.abs_diff(rtt)) / 4;
            self.smoothed = Some((7 * smoothed + rtt) / 8);
        } else {
            (self.smoothed, self.variance, self.least) = (Some(rtt), rtt / 2, rtt);
        }
    }

    /// Finds packets that are lost (RFC 9002 6.1, A.10).
    pub(crate) fn detect(&mut self, now: Nanos) -> News {
        let mut news = News::default();
        self.loss_time = None;
        let Some(largest) = self.largest_acked else { return news };
        let delay = (self.rtt().max(self.latest) / 8 * 9).max(MS);
        let period = 3 * self.timeout();
        let mut run: Option<Nanos> = None;
        for (index, sent) in self.sent.iter_mut().enumerate() {
            let number = self.first + index as u64;
            if number >= largest {
                break;
            }
            if sent.state == State::Acked {
                run = None;
            }
            if sent.state != State::UnderWay {
                continue;
            }
            if largest < number + PACKET_THRESHOLD && now < sent.at + delay {
                self.loss_time = Some(sent.at + delay);
                break;
            }
            sent.state = State::Lost;
            self.under_way -= 1;
            self.totals.1 += 1;
            (news.lost, news.lost_sent) = (news.lost + 1, sent.at);
            news.persistent |= sent.at - *run.get_or_insert(sent.at) > period;
        }
        // What is over, but for what might still arrive and show that it was not lost after all.
        while self.sent.len() > 1
            && self.sent[0].state != State::UnderWay
            && now > self.sent[0].at + 2 * self.rtt().max(self.latest)
        {
            self.sent.pop_front();
            self.first += 1;
        }
        news
    }

    fn timeout(&self) -> Nanos {
        self.rtt() + (4 * self.variance).max(MS) + 25 * MS
    }

    /// When to look again without an acknowledgment.
    #[must_use]
    pub(crate) fn timer(&self) -> Option<Nanos> {
        self.loss_time
            .or_else(|| (self.under_way > 0).then(|| self.last_sent + (self.timeout() << self.probes.min(10))))
    }

    /// The timer fired: whether a probe is to be sent (RFC 9002 6.2.4); otherwise [`Self::detect`] has to be asked.
    pub(crate) fn timed_out(&mut self, now: Nanos) -> bool {
        let probe = self.loss_time.is_none_or(|at| at > now);
        if probe {
            self.probes += 1;
        }
        probe
    }
}
