//! A discrete-event simulator of a bottleneck, for the congestion control that ships.
//!
//! Virtual time; the same seed gives the same run. What is modelled: a drop-tail queue, losses alone and in bursts, jitter,
//! reordering, a changing rate; QUIC senders with RFC 9002's loss detection, quinn's pacer and batches, tasks that run late and take
//! many acknowledgments with one time; TCP CUBIC as Linux has it, and a BBR. What is not: lost acknowledgments, the handshake,
//! flow control, a processor that is too slow.

pub mod cells;
mod connection;
pub mod link;
pub mod measure;
mod pacer;
mod random;
pub mod simulation;
mod tcp;
