//! Requests that were answered: a repeat with the same caller, method and id finds what the first one made, and changes nothing.

use chrono::Duration;

use crate::{Error, Tx};

/// How long an answered request is remembered: longer than anybody repeats one.
const KEPT: Duration = Duration::days(7);

impl Tx {
    /// Enters this request as answered by `resource`. For a repeat it names the resource of the first one instead, and nothing of this
    /// transaction will be kept. A caller that gave no request id is always the first.
    ///
    /// # Errors
    /// The id was used for another request, or the database failed.
    pub async fn repeated(&mut self, resource: &str) -> Result<Option<String>, Error> {
        let Some(request) = self.context().request.clone() else { return Ok(None) };
        let caller = self.context().actor.request_scope();
        let now = self.now();
        // Waits for a transaction with the same id that is still open.
        let entered = sqlx::query(
            "INSERT INTO requests (caller, method, request_id, fingerprint, resource, create_time)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(&caller)
        .bind(request.method)
        .bind(request.id.uuid())
        .bind(request.fingerprint.as_slice())
        .bind(resource)
        .bind(now)
        .execute(self.connection())
        .await?;
        if entered.rows_affected() == 1 {
            sqlx::query("DELETE FROM requests WHERE create_time < $1")
                .bind(now - KEPT)
                .execute(self.connection())
                .await?;
            return Ok(None);
        }
        let (fingerprint, resource): (Vec<u8>, String) = sqlx::query_as(
            "SELECT fingerprint, resource FROM requests WHERE caller = $1 AND method = $2 AND request_id = $3",
        )
        .bind(&caller)
        .bind(request.method)
        .bind(request.id.uuid())
        .fetch_one(self.connection())
        .await?;
        if fingerprint != request.fingerprint {
            return Err(Error::RequestIdReused);
        }
        self.discard();
        Ok(Some(resource))
    }
}
