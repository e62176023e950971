//! What a fleet hub is told at start.

/// Sessions that one server holds: each costs about 60 KB with its connection, so this bound keeps a server below 1 GB for them.
pub const MAX_SESSIONS: usize = 10_000;

/// What a fleet hub is told at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program's version.
    pub version: String,
    /// Where hosts reach the control plane, `HOST:PORT` each.
    pub endpoints: Vec<String>,
    /// This server's own nodes in the ring that stores DHT records, `IP:PORT`.
    pub ring_address: Option<String>,
    /// Above so many sessions, agents are sent away: [`MAX_SESSIONS`] unless there is a reason.
    pub max_sessions: usize,
    /// In any second at most so many sessions begin; agents that come beside these are sent away.
    pub max_new_sessions: u32,
}
