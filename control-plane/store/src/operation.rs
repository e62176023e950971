//! What a server's own checks ask of its database.

use futures::FutureExt as _;

use crate::{Db, Error, migrations};

/// How the schema stands to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrations {
    /// Migrations of this program that the database does not have.
    pub missing: usize,
    /// Migrations of the database that this program does not know: of a newer one.
    pub unknown: usize,
}

/// The database server's version, as it says it.
///
/// # Errors
/// The database failed.
pub async fn database_version(db: &Db) -> Result<String, Error> {
    let show = sqlx::query_scalar("SELECT current_setting('server_version')");
    db.read(move |connection| async move { Ok(show.fetch_one(connection).await?) }.boxed()).await
}

/// Which migrations the database has.
///
/// # Errors
/// The database failed.
pub async fn migrations(db: &Db) -> Result<Migrations, Error> {
    let select = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success");
    let done: Vec<i64> =
        db.read(move |connection| async move { Ok(select.fetch_all(connection).await?) }.boxed()).await?;
    let known = migrations::versions();
    Ok(Migrations {
        missing: known.iter().filter(|version| !done.contains(version)).count(),
        unknown: done.iter().filter(|version| !known.contains(version)).count(),
    })
}
