//! The services behind their auth layer, over a real PostgreSQL, called by the generated clients.

mod agent;
mod agents;
mod audit;
mod bench;
mod configs;
mod configured_syncs;
mod nodes;
mod rights;
mod sessions;
mod syncs;
mod system;
mod transfers;
pub(crate) mod world;
