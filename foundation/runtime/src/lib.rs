//! What every program of DWCP needs and no domain word belongs to: tasks with an owner, time as an argument, retries with
//! jitter, files that are replaced whole, a folder held by one process.

mod backoff;
pub mod checked;
mod clock;
mod dir_lock;
pub mod durable;
mod local_socket;
mod port_holder;
mod ports;
pub mod service_manager;
mod signals;
mod task_group;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock};
pub use dir_lock::{DirLock, DirLockError};
pub use local_socket::{LocalSocket, SocketAccess};
pub use port_holder::{PortHolder, Protocol};
pub use ports::{PortsError, RememberedPorts};
pub use signals::{Hangups, Stop, Stops, stop_signal};
pub use task_group::{Cancelled, OnEnd, TaskGroup, Unfinished};
