//! Tokens with which people and their scripts call the API. Of the secret only its hash is here.

use chrono::{DateTime, TimeDelta, Utc};
use control_plane_pki::{OperatorSecret, SecretError};
use proto_model::Role;
use sqlx::FromRow;
use uuid::Uuid;

use crate::{Db, Error, Event, Tx};

/// A right to call the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorToken {
    /// Its id.
    pub id: Uuid,
    /// Who or what holds it.
    pub display_name: String,
    /// What its holder may do.
    pub role: Role,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it ends; never where absent.
    pub expire_time: Option<DateTime<Utc>>,
    /// When it was revoked, if it was.
    pub revoke_time: Option<DateTime<Utc>>,
}

/// What a new token is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOperatorToken {
    /// Who or what will hold it.
    pub display_name: String,
    /// What its holder may do.
    pub role: Role,
    /// How long it lives; without end where absent.
    pub ttl: Option<TimeDelta>,
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

impl OperatorToken {
    /// `operatorTokens/{token}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        resource_name(self.id)
    }

    /// Whether it is good at this time.
    #[must_use]
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.revoke_time.is_none() && self.expire_time.is_none_or(|end| end > now)
    }
}

/// `operatorTokens/{token}`.
#[must_use]
pub fn resource_name(id: Uuid) -> String {
    format!("operatorTokens/{id}")
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    display_name: String,
    role: String,
    created_by: String,
    create_time: DateTime<Utc>,
    expire_time: Option<DateTime<Utc>>,
    revoke_time: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for OperatorToken {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.id,
            display_name: row.display_name,
            role: row.role.parse().map_err(|_unknown| Error::Damaged("role"))?,
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
pub async fn create(
    tx: &mut Tx,
    new: NewOperatorToken,
) -> Result<(OperatorToken, Option<OperatorSecret>), CreateError> {
    let id = Uuid::now_v7();
    if let Some(first) = tx.repeated(&resource_name(id)).await? {
        let id = first.strip_prefix("operatorTokens/").and_then(|id| id.parse().ok());
        let id = id.ok_or(Error::Damaged("request"))?;
        return Ok((by_id(tx, id).await?.ok_or(Error::Damaged("request"))?, None));
    }
    let secret = OperatorSecret::generate()?;
    let token = insert(tx, id, new, &secret).await?;
    Ok((token, Some(secret)))
}

async fn insert(tx: &mut Tx, id: Uuid, new: NewOperatorToken, secret: &OperatorSecret) -> Result<OperatorToken, Error> {
    let token = OperatorToken {
        id,
        display_name: new.display_name,
        role: new.role,
        created_by: tx.context().actor.to_string(),
        create_time: tx.now(),
        expire_time: new.ttl.map(|ttl| tx.now() + ttl),
        revoke_time: None,
    };
    sqlx::query(
        "INSERT INTO operator_tokens (id, secret_hash, display_name, role, created_by, create_time, expire_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id)
    .bind(secret.hash().as_slice())
    .bind(&token.display_name)
    .bind(token.role.as_str())
    .bind(&token.created_by)
    .bind(token.create_time)
    .bind(token.expire_time)
    .execute(tx.connection())
    .await?;
    tx.audit(
        Event::new("operator_token.create", token.resource_name())
            .with("display_name", token.display_name.as_str())
            .with("role", token.role.as_str())
            .with("expire_time", token.expire_time.map(|time| time.to_rfc3339())),
    );
    Ok(token)
}

/// Makes sure that a secret that this server holds in a file is a token: for `DIR/admin.token`.
///
/// # Errors
/// The database failed.
pub async fn ensure(tx: &mut Tx, new: NewOperatorToken, secret: &OperatorSecret) -> Result<OperatorToken, Error> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM operator_tokens WHERE secret_hash = $1")
        .bind(secret.hash().as_slice())
        .fetch_optional(tx.connection())
        .await?;
    match row {
        Some(row) => row.try_into(),
        None => insert(tx, Uuid::now_v7(), new, secret).await,
    }
}

/// Makes a token useless from now on; does nothing to one that is.
///
/// # Errors
/// There is none, or the database failed.
pub async fn revoke(tx: &mut Tx, id: Uuid) -> Result<OperatorToken, RevokeError> {
    tx.repeated(&resource_name(id)).await?;
    let now = tx.now();
    let row: Option<Row> =
        sqlx::query_as("UPDATE operator_tokens SET revoke_time = $2 WHERE id = $1 AND revoke_time IS NULL RETURNING *")
            .bind(id)
            .bind(now)
            .fetch_optional(tx.connection())
            .await
            .map_err(Error::from)?;
    let Some(row) = row else {
        tx.discard();
        return by_id(tx, id).await?.ok_or(RevokeError::NotFound);
    };
    let token = OperatorToken::try_from(row)?;
    let event =
        Event::new("operator_token.revoke", token.resource_name()).with("display_name", token.display_name.as_str());
    tx.audit(event);
    Ok(token)
}

async fn by_id(tx: &mut Tx, id: Uuid) -> Result<Option<OperatorToken>, Error> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM operator_tokens WHERE id = $1").bind(id).fetch_optional(tx.connection()).await?;
    row.map(OperatorToken::try_from).transpose()
}

/// The token of this secret, also when it is no longer good.
///
/// # Errors
/// The database failed.
pub async fn by_secret(db: &Db, secret: &OperatorSecret) -> Result<Option<OperatorToken>, Error> {
    let hash = secret.hash();
    db.read(move |connection| {
        Box::pin(async move {
            let row: Option<Row> = sqlx::query_as("SELECT * FROM operator_tokens WHERE secret_hash = $1")
                .bind(hash.as_slice())
                .fetch_optional(connection)
                .await?;
            row.map(OperatorToken::try_from).transpose()
        })
    })
    .await
}

/// One token.
///
/// # Errors
/// The database failed.
pub async fn get(db: &Db, id: Uuid) -> Result<Option<OperatorToken>, Error> {
    db.read(move |connection| {
        Box::pin(async move {
            let row: Option<Row> = sqlx::query_as("SELECT * FROM operator_tokens WHERE id = $1")
                .bind(id)
                .fetch_optional(connection)
                .await?;
            row.map(OperatorToken::try_from).transpose()
        })
    })
    .await
}

/// At most `limit` tokens, newest first, older than `before`.
///
/// # Errors
/// The database failed.
pub async fn list(db: &Db, before: Option<(DateTime<Utc>, Uuid)>, limit: u32) -> Result<Vec<OperatorToken>, Error> {
    let (time, id) = before.unzip();
    db.read(move |connection| {
        Box::pin(async move {
            let rows: Vec<Row> = sqlx::query_as(
                "SELECT * FROM operator_tokens WHERE $1::timestamptz IS NULL OR (create_time, id) < ($1, $2)
                 ORDER BY create_time DESC, id DESC LIMIT $3",
            )
            .bind(time)
            .bind(id)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await?;
            rows.into_iter().map(OperatorToken::try_from).collect()
        })
    })
    .await
}
