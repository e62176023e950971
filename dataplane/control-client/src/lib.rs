//! The agent's side of the control plane: enrol, renew, try the way in, and one session for everything else.
//!
//! Nothing here makes the agent wait for the control plane. What should be in force arrives as a watch of which only the
//! newest value counts; what is to be said is kept, the newest of each kind, until a session stands; ends of transfers are
//! kept on disk until they are acknowledged. Every bound has a name in the module that keeps it.

mod client;
pub mod dial;
pub mod endpoint;
pub mod enrol;
pub mod enrolment;
mod handle;
mod incoming;
mod outbox;
mod outgoing;
pub mod probe;
pub mod renew;
mod session;
pub mod visit;
mod witness;

pub use client::{Options, StartError, start};
pub use endpoint::{Endpoint, Rotation};
pub use enrolment::Enrolment;
pub use handle::{Connection, Handle, Introduction, LookupError, ReportError, Standing};
pub use incoming::{BenchJob, Desired, DesiredLayer, Job, Jobs, MAX_SYNCS, PeerRecord, SyncJob};
pub use session::{BROKE, FORGOTTEN, REVOKED};
pub use witness::WitnessError;
