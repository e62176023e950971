//! Senders, the bottleneck and receivers, in virtual time.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use dataplane_amst::congestion::{Acked, Core, LaneId, Lost};
use proto_model::config::CongestionAlgorithm;

use crate::{
    connection::{AckPolicy, Connection, News},
    link::{Fate, Link, MS, Nanos, Path, SECOND},
    measure::Measured,
    pacer::Pacer,
    random::Random,
    tcp::Tcp,
};

/// Bytes on the wire, of UDP, and of what the packet carries.
const WIRE: u64 = 1500;
const DATAGRAM: u64 = 1472;

/// Datagrams of one send.
const GSO: u64 = 10;

/// Who sends.
#[derive(Clone, Debug)]
pub enum Sender {
    /// A session of ours, with so many lanes.
    Session(CongestionAlgorithm, usize),
    /// A TCP connection with CUBIC.
    TcpCubic,
    /// A TCP connection with BBR.
    TcpBbr,
}

/// A flow: who, from when, until when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who.
    pub sender: Sender,
    /// From.
    pub from: Nanos,
    /// Until.
    pub until: Nanos,
}

/// How well the hosts of sessions keep time.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// A task that becomes ready runs within this.
    pub wake: Nanos,
    /// Share of wakings that take `late` instead.
    pub late: (f64, Nanos),
    /// Packets for an acknowledgment.
    pub ack_every: usize,
}

impl Default for Host {
    fn default() -> Self {
        Self { wake: 100_000, late: (0.0, 0), ack_every: 2 }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Start(usize),
    /// A packet of a connection arrives.
    Arrival(usize, u64),
    /// The receiver's timer, for what waits since that packet.
    AckTimer(usize, u64),
    /// An acknowledgment arrives.
    Ack(usize, Vec<u64>),
    /// The sender's task runs.
    Run(usize),
    /// A loss or probe timer may be due.
    Timer(usize),
    Observe,
}

#[derive(Debug)]
enum Governor {
    Core(Box<Core>),
    Tcp(Tcp),
}

#[derive(Debug)]
struct Flow {
    plan: Plan,
    governor: Governor,
    started: bool,
}

#[derive(Debug)]
struct Lane {
    flow: usize,
    connection: Connection,
    id: Option<LaneId>,
    pacer: Option<Pacer>,
    next_paced: Nanos,
    inbox: Vec<Vec<u64>>,
    run_at: Nanos,
    timer_at: Nanos,
}

/// A run.
#[derive(Debug)]
pub struct Simulation {
    now: Nanos,
    order: u64,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    link: Link,
    path: Path,
    host: Host,
    random: Random,
    epoch: Instant,
    flows: Vec<Flow>,
    lanes: Vec<Lane>,
    measured: Measured,
    trace: bool,
}

/// When nothing is set.
const NEVER: Nanos = Nanos::MAX;

impl Simulation {
    /// Sets the flows on the path.
    #[must_use]
    pub fn new(path: &Path, host: Host, plans: &[Plan], seed: u64) -> Self {
        let epoch = foundation_runtime::Clock::system().now();
        let mut simulation = Self {
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            link: Link::new(path),
            path: path.clone(),
            host,
            random: Random::new(seed),
            epoch,
            flows: Vec::new(),
            lanes: Vec::new(),
            measured: Measured::new(plans.len()),
            trace: std::env::var_os("TRACE").is_some(),
        };
        for (flow, plan) in plans.iter().enumerate() {
            simulation.add(flow, plan);
        }
        simulation.schedule(0, Event::Observe);
        simulation
    }

    fn add(&mut self, flow: usize, plan: &Plan) {
        let (lanes, every) = match plan.sender {
            Sender::Session(_, lanes) => (lanes, self.host.ack_every),
            Sender::TcpCubic | Sender::TcpBbr => (1, 2),
        };
        let policy = AckPolicy { every, delay: if every == 2 && lanes == 0 { 40 * MS } else { 25 * MS } };
        let mut governor = match plan.sender {
            Sender::Session(algorithm, _) => {
                Governor::Core(Box::new(Core::new(algorithm, self.epoch, u16::try_from(DATAGRAM).unwrap_or(1472))))
            }
            Sender::TcpCubic => Governor::Tcp(Tcp::cubic()),
            Sender::TcpBbr => Governor::Tcp(Tcp::bbr()),
        };
        for _ in 0..lanes {
            let id = match &mut governor {
                Governor::Core(core) => Some(core.join()),
                Governor::Tcp(_) => None,
            };
            self.lanes.push(Lane {
                flow,
                connection: Connection::new(DATAGRAM, policy),
                id,
                pacer: None,
                next_paced: 0,
                inbox: Vec::new(),
                run_at: NEVER,
                timer_at: NEVER,
            });
        }
        self.flows.push(Flow { plan: plan.clone(), governor, started: false });
        let offset = self.random.below(self.path.rtt);
        self.schedule(plan.from + offset, Event::Start(flow));
    }

    /// Runs until then; what was measured.
    #[must_use]
    pub fn run(mut self, until: Nanos) -> Measured {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > until {
                break;
            }
            self.now = at;
            self.handle(event);
        }
        for lane in &self.lanes {
            let (sent, lost, spurious) = lane.connection.totals;
            self.measured.count(lane.flow, sent, lost, spurious);
        }
        self.measured.overflows = self.link.overflows;
        self.measured
    }

    fn schedule(&mut self, at: Nanos, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.now)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(flow) => {
                self.flows[flow].started = true;
                for lane in (0..self.lanes.len()).filter(|lane| self.lanes[*lane].flow == flow).collect::<Vec<_>>() {
                    self.wake(lane, self.now);
                }
            }
            Event::Arrival(lane, number) => self.arrival(lane, number),
            Event::AckTimer(lane, number) => {
                if let Some(numbers) = self.lanes[lane].connection.acknowledge(number) {
                    self.schedule(self.now + self.path.rtt / 2, Event::Ack(lane, numbers));
                }
            }
            Event::Ack(lane, numbers) => {
                self.lanes[lane].inbox.push(numbers);
                let delay = self.wake_delay(lane);
                self.wake(lane, self.now + delay);
            }
            Event::Run(lane) => {
                if self.lanes[lane].run_at == self.now {
                    self.lanes[lane].run_at = NEVER;
                    self.run_lane(lane);
                }
            }
            Event::Timer(lane) => {
                if self.lanes[lane].timer_at == self.now {
                    self.lanes[lane].timer_at = NEVER;
                    self.timer(lane);
                }
            }
            Event::Observe => self.observe(),
        }
    }

    fn observe(&mut self) {
        self.measured.observe(self.now, self.link.backlog(self.now));
        if self.trace && self.now.is_multiple_of(200 * MS) {
            let mut line = format!("{:6.2} q {:7}", seconds(self.now), self.link.backlog(self.now) / WIRE);
            for flow in &self.flows {
                line.push_str(&match &flow.governor {
                    Governor::Core(core) => {
                        let s = core.snapshot();
                        format!(
                            " | W {:6} {:9} bw {:6.1} base {:6.1} q {:6.1}",
                            s.window / DATAGRAM,
                            s.mode.as_str(),
                            seconds(s.bandwidth * 8 * 1000),
                            s.min_rtt.as_secs_f64() * 1e3,
                            s.queueing_delay.as_secs_f64() * 1e3
                        )
                    }
                    Governor::Tcp(tcp) => format!(" | tcp {:6.0}", tcp.window()),
                });
            }
            eprintln!("{line}");
        }
        self.schedule(self.now + 10 * MS, Event::Observe);
    }

    /// How long a session's task waits for the processor; the kernel does not wait.
    fn wake_delay(&mut self, lane: usize) -> Nanos {
        if self.lanes[lane].id.is_none() {
            return 0;
        }
        if self.random.chance(self.host.late.0) {
            return self.random.below(self.host.late.1 + 1);
        }
        self.random.below(self.host.wake + 1)
    }

    fn wake(&mut self, lane: usize, at: Nanos) {
        if at < self.lanes[lane].run_at {
            self.lanes[lane].run_at = at;
            self.schedule(at, Event::Run(lane));
        }
    }

    fn arrival(&mut self, lane: usize, number: u64) {
        let (fresh, acknowledged) = self.lanes[lane].connection.arrive(number);
        if fresh {
            self.measured.arrived(self.lanes[lane].flow, self.now);
        }
        if let Some(numbers) = acknowledged {
            self.schedule(self.now + self.path.rtt / 2, Event::Ack(lane, numbers));
        } else if let Some(delay) = self.lanes[lane].connection.ack_delay() {
            let number = self.lanes[lane].connection.oldest_waiting();
            self.schedule(self.now + delay, Event::AckTimer(lane, number));
        }
    }

    /// All that came while the task waited is taken with one time.
    fn run_lane(&mut self, lane: usize) {
        for mut numbers in std::mem::take(&mut self.lanes[lane].inbox) {
            let news = self.lanes[lane].connection.acked(self.now, &mut numbers);
            if !news.acked.is_empty() {
                self.tell_acked(lane, &news);
            }
            let news = self.lanes[lane].connection.detect(self.now);
            self.tell_lost(lane, &news);
        }
        self.transmit(lane);
        self.set_timer(lane);
    }

    fn tell_acked(&mut self, lane: usize, news: &News) {
        let now = self.instant();
        let epoch = self.epoch;
        let (flow, in_flight) = (self.lanes[lane].flow, self.lanes[lane].connection.in_flight());
        match (&mut self.flows[flow].governor, self.lanes[lane].id) {
            (Governor::Core(core), Some(id)) => {
                let mut packets: Vec<Acked> = Vec::new();
                for &at in &news.acked {
                    let sent = epoch + Duration::from_nanos(at);
                    match packets.last_mut().filter(|last| last.sent == sent) {
                        Some(last) => last.bytes += DATAGRAM,
                        None => packets.push(Acked { sent, bytes: DATAGRAM }),
                    }
                }
                core.acked(id, now, &packets, in_flight, false);
            }
            (Governor::Tcp(tcp), _) => {
                let newest = news.acked.last().copied().unwrap_or(0);
                tcp.acked(self.now, newest, float(news.acked.len() as u64), float(in_flight / DATAGRAM));
            }
            (Governor::Core(_), None) => {}
        }
    }

    fn tell_lost(&mut self, lane: usize, news: &News) {
        if news.lost == 0 {
            return;
        }
        let now = self.instant();
        let sent = self.epoch + Duration::from_nanos(news.lost_sent);
        match (&mut self.flows[self.lanes[lane].flow].governor, self.lanes[lane].id) {
            (Governor::Core(core), Some(id)) => {
                core.lost(id, now, &Lost { sent, bytes: news.lost * DATAGRAM, persistent: news.persistent });
            }
            (Governor::Tcp(tcp), _) => tcp.lost(self.now, news.lost_sent, news.persistent),
            (Governor::Core(_), None) => {}
        }
    }

    fn timer(&mut self, lane: usize) {
        let now = self.now;
        if self.lanes[lane].connection.timer().is_some_and(|at| at <= now) {
            if self.lanes[lane].connection.timed_out(now) {
                self.put_on_link(lane, 1);
            } else {
                let news = self.lanes[lane].connection.detect(now);
                self.tell_lost(lane, &news);
                self.transmit(lane);
            }
        }
        self.set_timer(lane);
    }

    fn set_timer(&mut self, lane: usize) {
        let Some(at) = self.lanes[lane].connection.timer() else { return };
        let at = at.max(self.now + MS);
        // A later one is set when the earlier one fires.
        if self.lanes[lane].timer_at == NEVER || at < self.lanes[lane].timer_at {
            self.lanes[lane].timer_at = at;
            self.schedule(at, Event::Timer(lane));
        }
    }

    fn transmit(&mut self, lane: usize) {
        let flow = &self.flows[self.lanes[lane].flow];
        if !flow.started || self.now >= flow.plan.until {
            return;
        }
        match &flow.governor {
            Governor::Core(core) => {
                let window = core.share(self.instant());
                self.transmit_quic(lane, window);
            }
            Governor::Tcp(tcp) => {
                let (window, pace) = (tcp.window(), tcp.pace());
                self.transmit_tcp(lane, window, pace);
            }
        }
    }

    /// quinn's `poll_transmit`: batches of up to ten, while the window and the pacer let it.
    fn transmit_quic(&mut self, lane: usize, window: u64) {
        let now = self.now;
        loop {
            let (mut batch, mut blocked) = (0, true);
            while batch < GSO {
                let state = &mut self.lanes[lane];
                let rtt = state.connection.rtt();
                let in_flight = state.connection.in_flight() + batch * DATAGRAM;
                if in_flight + DATAGRAM >= window {
                    break;
                }
                let pacer = state.pacer.get_or_insert_with(|| Pacer::new(rtt, window, DATAGRAM, now));
                if let Some(at) = pacer.delay(rtt, DATAGRAM, DATAGRAM, window, now) {
                    // The runtime's timers tick once a millisecond.
                    let tick = at.div_ceil(MS) * MS;
                    let at = tick + self.wake_delay(lane);
                    self.wake(lane, at.max(now + 1));
                    break;
                }
                pacer.sent(DATAGRAM);
                batch += 1;
                blocked = batch < GSO;
            }
            if batch > 0 {
                self.put_on_link(lane, batch);
            }
            if blocked {
                return;
            }
        }
    }

    fn transmit_tcp(&mut self, lane: usize, window: f64, pace: Option<f64>) {
        while float(self.lanes[lane].connection.under_way + 1) <= window.max(1.0) {
            if let Some(pace) = pace {
                if self.lanes[lane].next_paced > self.now {
                    let at = self.lanes[lane].next_paced;
                    self.wake(lane, at);
                    return;
                }
                let gap = crate::link::scaled(SECOND, 1.0 / pace.max(1.0));
                self.lanes[lane].next_paced = self.lanes[lane].next_paced.max(self.now.saturating_sub(MS)) + gap;
            }
            self.put_on_link(lane, 1);
        }
    }

    /// So many packets leave at once.
    fn put_on_link(&mut self, lane: usize, packets: u64) {
        let now = self.instant();
        for _ in 0..packets {
            let number = self.lanes[lane].connection.send(self.now);
            match self.link.send(self.now, WIRE, &mut self.random) {
                Fate::Arrives(at) => self.schedule(at, Event::Arrival(lane, number)),
                Fate::Lost => {}
            }
        }
        if let (Governor::Core(core), Some(id)) = (&mut self.flows[self.lanes[lane].flow].governor, self.lanes[lane].id)
        {
            core.sent(id, now, packets * DATAGRAM);
        }
        self.set_timer(lane);
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a simulation are small")]
fn float(count: u64) -> f64 {
    count as f64
}

fn seconds(time: Nanos) -> f64 {
    float(time) / float(SECOND)
}
