//! Tokens with which hosts join. What authorises comes from here, never from the host (D3).

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use control_plane_pki::{JoinSecret, SecretError};
use proto_model::{Labels, NodeName};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use crate::{Db, Error, Event, Tx};

/// A right to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Its id.
    pub id: Uuid,
    /// How many hosts may join with it.
    pub max_uses: i32,
    /// How many did.
    pub used_count: i32,
    /// Labels that every host gets that joins with it.
    pub node_labels: Labels,
    /// Whether these hosts may relay.
    pub relay: bool,
    /// The name that the host gets, also when a deleted node reserved it or a host is rebuilt.
    pub node_name: Option<NodeName>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it ends.
    pub expire_time: DateTime<Utc>,
    /// When it was revoked, if it was.
    pub revoke_time: Option<DateTime<Utc>>,
}

/// Whether a host could still join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinTokenState {
    /// Yes.
    Active,
    /// Its uses are spent.
    Used,
    /// Its time is over.
    Expired,
    /// An operator revoked it.
    Revoked,
}

/// What a new token is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJoinToken {
    /// How long it lives.
    pub ttl: TimeDelta,
    /// How many hosts may join with it; exactly one where a name is given.
    pub max_uses: i32,
    /// Labels for these hosts.
    pub node_labels: Labels,
    /// Whether they may relay.
    pub relay: bool,
    /// The name that the host gets.
    pub node_name: Option<NodeName>,
}

/// A token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
    /// There is no randomness.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// A token cannot be revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
    /// There is none.
    #[error("there is no such token")]
    NotFound,
}

impl JoinToken {
    /// `joinTokens/{token}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        resource_name(self.id)
    }

    /// Whether a host could join with it at this time.
    #[must_use]
    pub fn state(&self, now: DateTime<Utc>) -> JoinTokenState {
        if self.revoke_time.is_some() {
            JoinTokenState::Revoked
        } else if self.used_count >= self.max_uses {
            JoinTokenState::Used
        } else if self.expire_time <= now {
            JoinTokenState::Expired
        } else {
            JoinTokenState::Active
        }
    }
}

/// `joinTokens/{token}`.
#[must_use]
pub fn resource_name(id: Uuid) -> String {
    format!("joinTokens/{id}")
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    max_uses: i32,
    used_count: i32,
    node_labels: Json<BTreeMap<String, String>>,
    relay: bool,
    node_name: Option<String>,
    created_by: String,
    create_time: DateTime<Utc>,
    expire_time: DateTime<Utc>,
    revoke_time: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for JoinToken {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let name = row.node_name.map(|name| name.parse()).transpose();
        Ok(Self {
            id: row.id,
            max_uses: row.max_uses,
            used_count: row.used_count,
            node_labels: row.node_labels.0.try_into().map_err(|_form| Error::Damaged("label"))?,
            relay: row.relay,
            node_name: name.map_err(|_form| Error::Damaged("node name"))?,
            created_by: row.created_by,
            create_time: row.create_time,
            expire_time: row.expire_time,
            revoke_time: row.revoke_time,
        })
    }
}

/// Makes a token. Its secret is absent for a repeat of a request.
///
/// # Errors
/// The database failed, or there is no randomness.
pub async fn create(tx: &mut Tx, new: NewJoinToken) -> Result<(JoinToken, Option<JoinSecret>), CreateError> {
    let id = Uuid::now_v7();
    if let Some(first) = tx.repeated(&resource_name(id)).await? {
        let id = first.strip_prefix("joinTokens/").and_then(|id| id.parse().ok());
        let id = id.ok_or(Error::Damaged("request"))?;
        return Ok((by_id(tx, id).await?.ok_or(Error::Damaged("request"))?, None));
    }
    let secret = JoinSecret::generate()?;
    let token = JoinToken {
        id,
        max_uses: new.max_uses,
        used_count: 0,
        node_labels: new.node_labels,
        relay: new.relay,
        node_name: new.node_name,
        created_by: tx.context().actor.to_string(),
        create_time: tx.now(),
        expire_time: tx.now() + new.ttl,
        revoke_time: None,
    };
    sqlx::query(
        "INSERT INTO join_tokens
             (id, secret_hash, max_uses, node_labels, relay, node_name, created_by, create_time, expire_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(id)
    .bind(secret.hash().as_slice())
    .bind(token.max_uses)
    .bind(Json(BTreeMap::from(token.node_labels.clone())))
    .bind(token.relay)
    .bind(token.node_name.as_ref().map(NodeName::as_str))
    .bind(&token.created_by)
    .bind(token.create_time)
    .bind(token.expire_time)
    .execute(tx.connection())
    .await
    .map_err(Error::from)?;
    tx.audit(
        Event::new("join_token.create", token.resource_name())
            .with("max_uses", token.max_uses)
            .with("labels", token.node_labels.to_string())
            .with("relay", token.relay)
            .with("node_name", token.node_name.as_ref().map(ToString::to_string))
            .with("expire_time", token.expire_time.to_rfc3339()),
    );
    Ok((token, Some(secret)))
}

/// Makes a token useless from now on; does nothing to one that is revoked.
///
/// # Errors
/// There is none, or the database failed.
pub async fn revoke(tx: &mut Tx, id: Uuid) -> Result<JoinToken, RevokeError> {
    tx.repeated(&resource_name(id)).await?;
    let now = tx.now();
    let row: Option<Row> =
        sqlx::query_as("UPDATE join_tokens SET revoke_time = $2 WHERE id = $1 AND revoke_time IS NULL RETURNING *")
            .bind(id)
            .bind(now)
            .fetch_optional(tx.connection())
            .await
            .map_err(Error::from)?;
    let Some(row) = row else {
        tx.discard();
        return by_id(tx, id).await?.ok_or(RevokeError::NotFound);
    };
    let token = JoinToken::try_from(row)?;
    tx.audit(Event::new("join_token.revoke", token.resource_name()));
    Ok(token)
}

/// Spends one use, in one statement: of any number of joiners at most `max_uses` succeed. Absent where the secret is not good.
pub(crate) async fn redeem(tx: &mut Tx, secret: &JoinSecret) -> Result<Option<JoinToken>, Error> {
    let now = tx.now();
    let row: Option<Row> = sqlx::query_as(
        "UPDATE join_tokens SET used_count = used_count + 1
         WHERE secret_hash = $1 AND revoke_time IS NULL AND expire_time > $2 AND used_count < max_uses RETURNING *",
    )
    .bind(secret.hash().as_slice())
    .bind(now)
    .fetch_optional(tx.connection())
    .await?;
    row.map(JoinToken::try_from).transpose()
}

/// The token of this secret, whether it is good or not.
pub(crate) async fn by_secret(tx: &mut Tx, secret: &JoinSecret) -> Result<Option<JoinToken>, Error> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM join_tokens WHERE secret_hash = $1")
        .bind(secret.hash().as_slice())
        .fetch_optional(tx.connection())
        .await?;
    row.map(JoinToken::try_from).transpose()
}

async fn by_id(tx: &mut Tx, id: Uuid) -> Result<Option<JoinToken>, Error> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM join_tokens WHERE id = $1").bind(id).fetch_optional(tx.connection()).await?;
    row.map(JoinToken::try_from).transpose()
}

/// One token.
///
/// # Errors
/// The database failed.
pub async fn get(db: &Db, id: Uuid) -> Result<Option<JoinToken>, Error> {
    db.read(move |connection| {
        Box::pin(async move {
            let row: Option<Row> =
                sqlx::query_as("SELECT * FROM join_tokens WHERE id = $1").bind(id).fetch_optional(connection).await?;
            row.map(JoinToken::try_from).transpose()
        })
    })
    .await
}

/// At most `limit` tokens, newest first, older than `before`.
///
/// # Errors
/// The database failed.
pub async fn list(db: &Db, before: Option<(DateTime<Utc>, Uuid)>, limit: u32) -> Result<Vec<JoinToken>, Error> {
    let (time, id) = before.unzip();
    db.read(move |connection| {
        Box::pin(async move {
            let rows: Vec<Row> = sqlx::query_as(
                "SELECT * FROM join_tokens WHERE $1::timestamptz IS NULL OR (create_time, id) < ($1, $2)
                 ORDER BY create_time DESC, id DESC LIMIT $3",
            )
            .bind(time)
            .bind(id)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await?;
            rows.into_iter().map(JoinToken::try_from).collect()
        })
    })
    .await
}
