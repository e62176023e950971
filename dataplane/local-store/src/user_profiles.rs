//! People and bots of the messaging part.

use proto_model::PublicKey;
use sqlx::Row;

use crate::store::{LocalStore, StoreError};

/// A person or a bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserProfile {
    /// Who.
    pub user_id: String,
    /// What others call them by.
    pub username: String,
    /// What is shown.
    pub display_name: String,
    /// The key that signs their messages.
    pub public_key: PublicKey,
}

impl LocalStore {
    /// Keeps a profile.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_user_profile(&self, profile: UserProfile) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("keep profile", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO user_profiles (user_id, username, display_name, public_key, created_at, updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5)
                     ON CONFLICT (user_id) DO UPDATE SET username = ?2, display_name = ?3, public_key = ?4, updated_at = ?5",
                )
                .bind(profile.user_id)
                .bind(profile.username)
                .bind(profile.display_name)
                .bind(profile.public_key.to_string())
                .bind(now)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// Profiles by name, at most `limit`.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn user_profiles(&self, limit: u32) -> Result<Vec<UserProfile>, StoreError> {
        let rows = sqlx::query(
            "SELECT user_id, username, display_name, public_key FROM user_profiles ORDER BY username LIMIT ?1",
        )
        .bind(limit)
        .fetch_all(&self.pool().await?)
        .await?;
        rows.iter()
            .map(|row| {
                let key: &str = row.try_get(3)?;
                Ok(UserProfile {
                    user_id: row.try_get(0)?,
                    username: row.try_get(1)?,
                    display_name: row.try_get(2)?,
                    public_key: key.parse().map_err(|_bad| StoreError::Row("user_profiles.public_key"))?,
                })
            })
            .collect()
    }
}
