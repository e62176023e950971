//! What a path is like, in one direction.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::units;

/// Bits of IP packets a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rate(pub u64);

impl Rate {
    /// So many million bits a second.
    #[must_use]
    pub const fn megabits(count: u64) -> Self {
        Self(count * 1_000_000)
    }

    /// How long so many bytes take.
    #[must_use]
    pub(crate) fn wire_nanos(self, bytes: u64) -> u64 {
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.0.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// What goes through in so much time.
    #[must_use]
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0) * time.as_nanos() / 8_000_000_000).unwrap_or(u64::MAX)
    }
}

/// Where packets wait before the bottleneck; what does not fit is dropped (drop-tail).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Queue {
    /// A multiple of the rate times the round trip, as these are at each moment; at least ten packets of 1,500 bytes.
    Bdp(f64),
    /// What the rate takes in so much time.
    Time(Duration),
    /// So many bytes.
    Bytes(u64),
}

/// Losses that come together (Gilbert-Elliott): in the bad state every packet is lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bursts {
    /// The share of all packets that is lost so.
    pub share: f64,
    /// How many packets a burst takes on average.
    pub length: f64,
}

/// Packets that are overtaken by those behind them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reorder {
    /// The share that is held back.
    pub share: f64,
    /// How much longer these take.
    pub by: Duration,
}

/// The largest packet that some hop behind the first takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PathMtu {
    /// Of the IP packet.
    pub bytes: u16,
    /// Whether the hop answers by ICMP ("fragmentation needed") or, as many do, is silent.
    pub answers: bool,
}

/// One direction of a path, or both where they are alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    /// Of the bottleneck; without one nothing waits.
    pub rate: Option<Rate>,
    /// The round trip without any queue; each direction delays by half of it.
    pub rtt: Duration,
    /// Each direction's delay wanders by up to so much to either side; it keeps the order.
    pub jitter: Duration,
    /// The share of packets that are lost independently of each other, behind the bottleneck.
    pub loss: f64,
    /// Losses in bursts, besides.
    pub bursts: Option<Bursts>,
    /// Before the bottleneck.
    pub queue: Queue,
    /// Packets that come late, out of order.
    pub reorder: Option<Reorder>,
    /// Where it is smaller than the interfaces' own 1,500 bytes.
    pub mtu: Option<PathMtu>,
    /// Whether it is cut: what is on it and what is sent is lost.
    pub down: bool,
    /// What is lost, and when, follows from this number and the traffic.
    pub seed: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            rate: None,
            rtt: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            bursts: None,
            queue: Queue::Bdp(1.0),
            reorder: None,
            mtu: None,
            down: false,
            seed: 1,
        }
    }
}

/// Ten packets of 1,500 bytes: less, and no sender gets anything through.
const LEAST_QUEUE: u64 = 15_000;

impl Link {
    /// The queue in bytes; `None` where there is no bottleneck.
    #[must_use]
    pub fn queue_bytes(&self) -> Option<u64> {
        let rate = self.rate?;
        Some(match self.queue {
            Queue::Bdp(times) => rate.bytes_in(self.rtt.mul_f64(times)).max(LEAST_QUEUE),
            Queue::Time(time) => rate.bytes_in(time).max(LEAST_QUEUE),
            Queue::Bytes(bytes) => bytes,
        })
    }

    /// Rate times round trip, where there is a rate.
    #[must_use]
    pub fn bdp_bytes(&self) -> Option<u64> {
        Some(self.rate?.bytes_in(self.rtt))
    }

    /// Changes one setting, as it is written on the command line and on the control: `rate 50mbit`, `rtt 80ms`, `jitter 4ms`,
    /// `loss 0.1%`, `bursts 1%,8`, `queue 1bdp`, `reorder 1%,5ms`, `mtu 1280`, `mtu 1280,silent`, `down`, `up`; `off` takes back.
    ///
    /// # Errors
    /// It is none of these.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let off = value == "off";
        match key {
            "rate" => self.rate = if off { None } else { Some(units::rate(value)?) },
            "rtt" => self.rtt = units::duration(value)?,
            "jitter" => self.jitter = if off { Duration::ZERO } else { units::duration(value)? },
            "loss" => self.loss = if off { 0.0 } else { units::share(value)? },
            "bursts" => self.bursts = if off { None } else { Some(bursts(value)?) },
            "queue" => self.queue = queue(value)?,
            "reorder" => self.reorder = if off { None } else { Some(reorder(value)?) },
            "mtu" => self.mtu = if off { None } else { Some(mtu(value)?) },
            "down" => self.down = true,
            "up" => self.down = false,
            "seed" => self.seed = value.parse().with_context(|| format!("seed {value}"))?,
            _ => bail!(
                "{key}: no such setting; there are rate, rtt, jitter, loss, bursts, queue, reorder, mtu, down, up and seed"
            ),
        }
        Ok(())
    }
}

fn bursts(value: &str) -> Result<Bursts> {
    let (share, length) = value.split_once(',').with_context(|| format!("bursts {value}: SHARE,LENGTH as in 1%,8"))?;
    let bursts = Bursts { share: units::share(share)?, length: length.parse()? };
    ensure!(bursts.length >= 1.0 && bursts.share < 1.0, "bursts {value}: a length of at least 1, a share below 100%");
    Ok(bursts)
}

fn reorder(value: &str) -> Result<Reorder> {
    let (share, by) = value.split_once(',').unwrap_or((value, "5ms"));
    Ok(Reorder { share: units::share(share)?, by: units::duration(by)? })
}

fn mtu(value: &str) -> Result<PathMtu> {
    let (bytes, answers) = match value.split_once(',') {
        Some((bytes, "silent")) => (bytes, false),
        Some((_, other)) => bail!("mtu {other}: only `silent` may follow"),
        None => (value, true),
    };
    Ok(PathMtu { bytes: bytes.parse().with_context(|| format!("mtu {bytes}"))?, answers })
}

fn queue(value: &str) -> Result<Queue> {
    if let Some(times) = value.strip_suffix("bdp") {
        let times: f64 = times.parse().with_context(|| format!("queue {value}"))?;
        ensure!(times.is_finite() && times >= 0.0, "queue {value}: not below 0");
        return Ok(Queue::Bdp(times));
    }
    if value.ends_with('s') {
        return Ok(Queue::Time(units::duration(value)?));
    }
    Ok(Queue::Bytes(units::size(value)?))
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the first end to the second.
    There,
    /// From the second to the first.
    Back,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::There, Self::Back];
}
