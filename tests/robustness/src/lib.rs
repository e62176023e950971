//! What a real fleet does when it is killed, paused and lied to by its disk, at moments that a printed seed chooses.
//!
//! Operators write and files move all the time ([`Operators`], [`Movers`]), a [`Nemesis`] kills, and between its phases all must come
//! together again in a bounded time. Every call is kept with what became of it (acknowledged, failed, unknown, repeated), and at
//! the end each acknowledged one must be there once, and each unknown one at most once. A [`Watcher`] reads what stands under final
//! names all along: each file carries its own digest.

mod campaign;
mod check;
mod distance;
mod files;
mod gate;
mod history;
mod movers;
mod nemesis;
mod operators;
mod postgres;
mod power;
mod probe;
mod rig;
mod rounds;
mod starts;
mod strace;
mod syscalls;
mod watcher;
mod writes;

pub use campaign::{Options, Summary, run};
pub use distance::{Killed, kill_far_apart};
pub use files::{change_tree, file_is_whole, write_file};
pub use history::History;
pub use movers::{Moved, Movers};
pub use nemesis::{Counts, Nemesis};
pub use operators::{Operators, Outcome, Write, WriteKind};
pub use postgres::Postgres;
pub use power::{Cuts, SyncCuts, can_cut_power, cut_power, cut_power_of_syncs};
pub use probe::{agent_digest, http_get};
pub use rig::{Mode, Rig};
pub use rounds::{Cut, Resent, resend, revoke};
pub use starts::{Started, start_often};
pub use strace::{Call, Injection, Order, Strace, check_order};
pub use syscalls::{fail_agents, fail_server};
pub use watcher::Watcher;
pub use writes::{Failure, Written, fail_while_writing};
