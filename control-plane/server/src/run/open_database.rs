//! The database of a server, for as long as it runs.

use control_plane_store::Db;
use foundation_runtime::{Clock, TaskGroup};

use super::RunError;
use crate::{
    data_dir::DataDir,
    options::{Database, Options},
    postgres::{self, Postgres},
};

/// The database, and PostgreSQL where it is our own.
pub(super) struct OpenDatabase {
    pub(super) postgres: Option<Postgres>,
    pub(super) db: Db,
}

impl OpenDatabase {
    pub(super) async fn open(
        options: &Options,
        dir: &DataDir,
        clock: &Clock,
        tasks: &TaskGroup,
    ) -> Result<Self, RunError> {
        let (postgres, url) = match &options.database {
            Database::Embedded { binaries } => {
                let options = postgres::Options { data_dir: dir.path().to_path_buf(), binaries: binaries.clone() };
                let postgres = Postgres::start(options, clock.clone()).await?;
                let url = postgres.url();
                (Some(postgres), url)
            }
            Database::External { url } => (None, url.clone()),
        };
        let max_connections = options.limits.database_connections;
        let store = control_plane_store::Options { max_connections, ..control_plane_store::Options::new(url) };
        let db = Db::connect(store, clock.clone(), tasks).await?;
        db.migrate().await?;
        Ok(Self { postgres, db })
    }

    pub(super) async fn close(self) {
        self.db.close().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}
