//! The control plane's state in PostgreSQL: the only crate of this plane with SQL, one module per aggregate.
//!
//! [`Db::write`] is the one way to change what an operator decides, and it appends to the audit log in the same transaction or
//! does nothing. Revisions come from one locked counter; the bell ([`Db::bell`]) only says "read again".

pub mod audit_log;
pub mod backup;
mod bell;
pub mod benches;
pub mod configs;
mod context;
mod database_url;
mod db;
pub mod enrolment;
pub mod epoch;
mod error;
pub mod join_tokens;
mod keys;
pub mod layers;
mod migrations;
mod node;
pub mod node_records;
pub mod nodes;
pub mod observation;
pub mod operation;
pub mod operator_tokens;
mod pool;
mod pulse;
mod refusals;
pub mod replay;
mod requests;
pub mod rollouts;
pub mod roster;
pub mod servers;
pub mod sessions;
pub mod syncs;
pub mod transfers;
mod tx;

pub use audit_log::AuditKey;
pub use context::{Actor, Context, Event, RequestKey};
pub use db::{Db, Options};
pub use error::{Cause, Error};
pub use keys::{Keys, KeysError};
pub use migrations::MigrateError;
pub use refusals::{Refusal, Refusals};
pub use tx::{Tx, Unaudited};

#[cfg(test)]
mod tests;
