//! The schema, forward only. Several servers may start at once: sqlx's migrator holds an advisory lock.
//!
//! A program one version older starts on a newer schema: migrations that it does not know are tolerated, and the row in `program`
//! names the least version that may (D29).

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, migrate::Migrator, postgres::PgConnectOptions};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/control-plane");

/// How long all migrations together may take, with the wait for another server that runs them.
const TIMEOUT: Duration = Duration::from_mins(10);

/// Why the schema could not be brought to this program's version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database failed.
    #[error("the database's schema cannot be read")]
    Database(#[from] crate::Error),
    /// A migration failed; it was rolled back.
    #[error("the database's schema cannot be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database was migrated by a program that is too new.
    #[error("the database needs dwcp-control-plane {least} or newer; this is {own}")]
    TooOld {
        /// The least version.
        least: String,
        /// This one.
        own: &'static str,
    },
}

/// The versions of this program's migrations.
pub(crate) fn versions() -> Vec<i64> {
    MIGRATOR.iter().map(|migration| migration.version).collect()
}

pub(crate) async fn run(connect: &PgConnectOptions) -> Result<(), MigrateError> {
    let work = async {
        // A connection of its own, without the time-outs of the pool: one server may wait for another's migrations.
        let timeout = "10min";
        let options = connect.clone().options([("statement_timeout", timeout), ("lock_timeout", timeout)]);
        let mut connection = PgConnection::connect_with(&options).await.map_err(crate::Error::from)?;
        require_version(&mut connection).await?;
        migrator().run(&mut connection).await?;
        require_version(&mut connection).await?;
        connection.close().await.map_err(crate::Error::from)?;
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, work).await.map_err(|_elapsed| crate::Error::TimedOut)?
}

fn migrator() -> Migrator {
    Migrator { migrations: MIGRATOR.migrations.clone(), ignore_missing: true, ..Migrator::DEFAULT }
}

async fn require_version(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('program') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(crate::Error::from)?;
    if !exists {
        return Ok(());
    }
    let least: Vec<i32> = sqlx::query_scalar("SELECT least_version FROM program")
        .fetch_one(connection)
        .await
        .map_err(crate::Error::from)?;
    let own = env!("CARGO_PKG_VERSION");
    if version(own) < least {
        let least: Vec<String> = least.iter().map(ToString::to_string).collect();
        return Err(MigrateError::TooOld { least: least.join("."), own });
    }
    Ok(())
}

fn version(text: &str) -> Vec<i32> {
    let release = text.split(['-', '+']).next().unwrap_or(text);
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}
