//! The fleet's own keys, for tests that sign what the control plane never would.

use std::sync::Arc;

use anyhow::{Context, Result};
use control_plane_pki::SealKey;
use control_plane_store::{Db, Keys, Options};
use foundation_runtime::{Clock, TaskGroup};

use crate::ControlPlane;

/// Opens the keys as a server does: from the database, with the seal key.
///
/// # Errors
/// Either cannot be had.
pub async fn fleet_keys(control_plane: &ControlPlane) -> Result<Arc<Keys>> {
    let tasks = TaskGroup::new("fleet keys");
    let seal = Arc::new(SealKey::load(&control_plane.dir().join("seal.key"))?);
    let db = Db::connect(Options::new(control_plane.database_url()), Clock::system(), &tasks).await?;
    Keys::load_or_create(&db, &seal).await.context("open the fleet's keys")
}
