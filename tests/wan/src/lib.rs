//! A wide-area network on one machine: two network namespaces joined by a path with a rate, a delay, losses, a queue and what
//! else a real one does, all of it changeable while traffic runs. For machines whose kernel has no netem; needs root and
//! `/dev/net/tun`.
//!
//! Each end is a TUN device. For each direction one thread takes packets in and one hands them out; between them stands a
//! [`Line`](line), which owns no clock and no socket. Sizes count IP packets, without the headers of a link below.
//!
//! It promises 0.5 ms and 0.1 % of loss up to 1 Gbit/s, and measures how well it held that: a run whose [`Report::verdict`] is
//! not [`Verdict::Good`] says nothing about what ran over it.

mod chance;
mod device;
mod lateness;
mod line;
mod link;
mod namespace;
mod packet;
mod pump;
mod report;
mod tally;
mod units;
mod wan;

pub use lateness::Lateness;
pub use link::{Bursts, Direction, Link, PathMtu, Queue, Rate, Reorder};
pub use namespace::{Namespace, Place};
pub use report::{DirectionReport, Report, Verdict};
pub use tally::{BIN, Counts, Flow, FlowBytes, Tally};
pub use units::{duration, rate, share, size};
pub use wan::Wan;
