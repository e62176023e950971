//! The least version of the program that may use the file (D29): a migration that contracts raises it in the file's own header,
//! by `PRAGMA user_version = 3000` for 0.3.0; of three numbers each has three digits.

use sqlx::SqlitePool;

use crate::store::StoreError;

const OWN: &str = env!("CARGO_PKG_VERSION");

/// Refuses a file that this program may not work with.
pub(crate) async fn require(pool: &SqlitePool) -> Result<(), StoreError> {
    let least: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await?;
    judge(OWN, least)
}

fn judge(own: &'static str, least: i64) -> Result<(), StoreError> {
    if number(own) >= least {
        return Ok(());
    }
    let least = format!("{}.{}.{}", least / 1_000_000, least / 1000 % 1000, least % 1000);
    Err(StoreError::TooOld { least, own })
}

/// What a version is as one number.
fn number(version: &str) -> i64 {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    let parts = release.split('.').map(|part| part.parse::<i64>().unwrap_or(0));
    parts.chain([0, 0, 0]).take(3).fold(0, |number, part| number * 1000 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_needs_a_newer_program_is_refused_by_its_number() {
        assert_eq!((number("0.1.0"), number("1.20.3-rc.1")), (1000, 1_020_003));
        judge("0.3.0", 0).unwrap();
        judge("0.3.0", 3000).unwrap();
        let refused = judge("0.2.9", 3000).unwrap_err().to_string();
        assert!(refused.contains("needs dwcp-agent 0.3.0 or newer; this is 0.2.9"), "{refused}");
    }

    #[test]
    fn a_migration_that_contracts_raises_the_bar() {
        for migration in &*sqlx::migrate!("../../migrations/agent").migrations {
            let sql = migration.sql.as_str().to_uppercase();
            let contracts = ["DROP ", "RENAME "].iter().any(|word| sql.contains(word));
            assert!(!contracts || sql.contains("PRAGMA USER_VERSION ="), "{}", migration.description);
        }
    }
}
