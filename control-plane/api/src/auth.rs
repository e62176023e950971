//! Who calls, and whether this caller may call this method.
//!
//! * [`ConnectInfo`] is what the acceptor knows of a connection.
//! * [`Caller`] is who a request comes from; [`AuthLayer`] finds out and puts it into the request's extensions, or refuses.
//! * [`Rule`] is what a method demands.

mod caller;
mod connect_info;
mod layer;
mod rule;

pub use caller::{Caller, CallerKind, caller};
pub use connect_info::{ConnectInfo, Remote, connect_info};
pub use layer::{Auth, AuthLayer, Authenticator};
pub use rule::Rule;
