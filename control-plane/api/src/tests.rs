//! The services behind their auth layer, over a real PostgreSQL, called by the generated clients.

mod agents;
mod audit;
mod nodes;
mod rights;
pub(crate) mod world;
