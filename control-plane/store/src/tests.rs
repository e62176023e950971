//! The store's promises on a real PostgreSQL.

mod audit;
mod backup;
mod configs;
mod database;
mod faults;
mod holding;
mod membership;
mod migrations;
mod refusals;
mod syncs;
mod transfers;
pub(crate) mod world;
