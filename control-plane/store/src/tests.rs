//! The store's promises on a real PostgreSQL.

mod audit;
mod database;
mod membership;
mod refusals;
pub(crate) mod world;
