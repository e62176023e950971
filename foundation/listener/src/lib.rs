//! What every port that strangers can reach needs: how many connections it holds and who has to go for a newcomer ([`Gate`]),
//! accepting that outlives a want of files ([`accept`]), connections that can be cut and have to get on ([`Guarded`]), HTTP with
//! plain and TLS on one port ([`http_server`]), how much of a UDP port is for addresses that nobody knows ([`Allowance`]), and whether a request is this machine's own or a web page's ([`origin`]).
//!
//! A connection of a stranger never holds a place against a newcomer: where a port is full, one of the address that holds most
//! gives way. So a flood from one address costs that address alone, and one from many costs each of them its oldest connection.

pub mod accept;
mod allowance;
mod files;
mod gate;
mod guarded;
pub mod http_server;
pub mod limit_hits;
pub mod origin;

pub use allowance::Allowance;
pub use files::{open_files, raise_open_files};
pub use gate::{Admission, Gate, Place};
pub use guarded::{Guarded, Patience};
