//! Transfers between two hosts: over links in memory that cut, reorder and spoil, and over AMST on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

mod bed;
mod benches;
mod changing;
mod confinement;
mod dictionaries;
mod history;
mod holding;
mod large;
mod liars;
mod lying_receivers;
mod lying_senders;
mod mangled;
mod over_amst;
mod refusals;
mod resuming;
mod same_bytes;
mod similar;
mod trees;
mod versions;
