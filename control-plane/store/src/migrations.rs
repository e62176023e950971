//! The schema, forward only. Several servers may start at once: sqlx's migrator holds an advisory lock.
//!
//! A program one minor version older starts on a newer schema: migrations that it does not know are tolerated. The row in `program`
//! names the least version that may, and the newest one that has migrated; one that is more than a minor version behind it is refused
//! (D29, migrations/README.md).

use std::{sync::LazyLock, time::Duration};

use sqlx::{Connection as _, PgConnection, migrate::Migrator, postgres::PgConnectOptions};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/control-plane");

/// How long all migrations together may take, with the wait for another server that runs them.
const TIMEOUT: Duration = Duration::from_mins(10);

/// A program's version: major, minor, patch.
type Version = Vec<i32>;

/// This program's.
const OWN: &str = env!("CARGO_PKG_VERSION");
static OWN_VERSION: LazyLock<Version> = LazyLock::new(|| parse(OWN));

/// Why the schema could not be brought to this program's version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database failed.
    #[error("the database's schema cannot be read")]
    Database(#[from] crate::Error),
    /// A migration failed; it was rolled back.
    #[error("the database's schema cannot be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The schema says which program it needs, and this one is older.
    #[error("the database needs dwcp-control-plane {least} or newer; this is {own}")]
    TooOld {
        /// The least version.
        least: String,
        /// This one.
        own: &'static str,
    },
    /// The database was migrated by a program that is more than one version newer.
    #[error(
        "the database was brought up to date by dwcp-control-plane {newest}; this is {own}, and may be one minor version older at most: \
         install {newest}, or the version before it"
    )]
    TooFarBehind {
        /// The program that migrated last.
        newest: String,
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
        run_on(&mut connection).await?;
        connection.close().await.map_err(crate::Error::from)?;
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, work).await.map_err(|_elapsed| crate::Error::TimedOut)?
}

/// All of this program's migrations, and its mark. Inside of a transaction all of it is rolled back with that.
pub(crate) async fn run_on(connection: &mut PgConnection) -> Result<(), MigrateError> {
    require_version(connection).await?;
    migrator(i64::MAX).run(&mut *connection).await?;
    require_version(connection).await?;
    // Only where it says something new, so that a start changes nothing.
    sqlx::query("UPDATE program SET newest_version = $1 WHERE newest_version IS NULL OR newest_version < $1")
        .bind(&*OWN_VERSION)
        .execute(connection)
        .await
        .map_err(crate::Error::from)?;
    Ok(())
}

/// The migrations up to `last`: the schema that a backup was made of.
pub(crate) async fn run_until(connection: &mut PgConnection, last: i64) -> Result<(), MigrateError> {
    Ok(migrator(last).run(connection).await?)
}

fn migrator(last: i64) -> Migrator {
    let known = MIGRATOR.migrations.iter().filter(|migration| migration.version <= last).cloned();
    Migrator { migrations: known.collect::<Vec<_>>().into(), ignore_missing: true, ..Migrator::DEFAULT }
}

/// Refuses a schema that this program may not work with.
pub(crate) async fn require_version(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('program') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(crate::Error::from)?;
    if !exists {
        return Ok(());
    }
    // As JSON, since an older schema does not have the second column.
    let (least, newest): (Version, Option<sqlx::types::Json<Option<Version>>>) =
        sqlx::query_as("SELECT least_version, to_jsonb(program) -> 'newest_version' FROM program")
            .fetch_one(connection)
            .await
            .map_err(crate::Error::from)?;
    judge(&OWN_VERSION, &least, newest.and_then(|newest| newest.0).as_ref())
}

fn judge(own: &Version, least: &Version, newest: Option<&Version>) -> Result<(), MigrateError> {
    if own < least {
        return Err(MigrateError::TooOld { least: text(least), own: OWN });
    }
    match newest {
        Some(newest) if !reaches(own, newest) => Err(MigrateError::TooFarBehind { newest: text(newest), own: OWN }),
        Some(_) | None => Ok(()),
    }
}

/// Whether a program is at most one minor version behind another; the first version of a major one follows whatever came before it.
fn reaches(own: &Version, newest: &Version) -> bool {
    let part = |version: &Version, at: usize| version.get(at).copied().unwrap_or(0);
    let (own, newest) = ((part(own, 0), part(own, 1)), (part(newest, 0), part(newest, 1)));
    own >= newest || newest == (own.0, own.1 + 1) || newest == (own.0 + 1, 0)
}

fn parse(text: &str) -> Version {
    let release = text.split(['-', '+']).next().unwrap_or(text);
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

fn text(version: &Version) -> String {
    version.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_works_on_the_schema_of_the_next_minor_version_and_no_later_one() {
        let may = |own: &str, newest: &str| reaches(&parse(own), &parse(newest));
        for (own, newest) in
            [("0.1.0", "0.1.9"), ("0.1.0", "0.2.3"), ("0.3.0", "0.1.0"), ("0.9.1", "1.0.4"), ("1.0.0", "0.9.0")]
        {
            assert!(may(own, newest), "{own} on {newest}");
        }
        for (own, newest) in [("0.1.0", "0.3.0"), ("0.9.0", "1.1.0"), ("1.2.0", "3.0.0")] {
            assert!(!may(own, newest), "{own} on {newest}");
        }
        assert_eq!(parse("1.2.3-rc.1+x"), [1, 2, 3]);
    }
}
