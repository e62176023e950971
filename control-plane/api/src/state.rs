//! What the services work with.

use std::{fmt, sync::Arc};

use control_plane_fleet::Fleet;
use control_plane_store::{Db, Keys, Refusals};
use foundation_runtime::{Clock, TaskGroup};

use crate::{system::ServerFacts, watch::Watches};

/// What the services work with. Clones are the same.
#[derive(Clone)]
pub struct State {
    /// The database.
    pub db: Db,
    /// The fleet's keys.
    pub keys: Arc<Keys>,
    /// The clock.
    pub clock: Clock,
    /// Where tasks belong that outlive a request.
    pub tasks: TaskGroup,
    /// Records what was refused.
    pub refusals: Refusals,
    /// Addresses that hosts should use, `HOST:PORT`, the best one first.
    pub advertised: Arc<[String]>,
    /// The agents that are connected here.
    pub fleet: Fleet,
    /// What this server is.
    pub server: Arc<ServerFacts>,
    /// How many watches each caller has.
    pub watches: Watches,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("advertised", &self.advertised).finish_non_exhaustive()
    }
}
