//! What needs an object of the content store: names of its own, and versions that peers acknowledged.

use std::collections::HashSet;

use proto_model::Digest;

use crate::{
    rows::{as_json, unsigned},
    store::{LocalStore, StoreError},
};

impl LocalStore {
    /// A name needs these objects, besides those that it needs already.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_references(&self, name: String, needed: Vec<Digest>) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("refer to content", move |db| {
            Box::pin(async move {
                for digest in needed {
                    sqlx::query(
                        "INSERT INTO content_references (name, digest, created_at) VALUES (?1, ?2, ?3)
                         ON CONFLICT (name, digest) DO NOTHING",
                    )
                    .bind(&name)
                    .bind(digest.to_string())
                    .bind(now)
                    .execute(&mut *db)
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// A name needs nothing any more. Gives what it needed.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn drop_references(&self, name: String) -> Result<Vec<Digest>, StoreError> {
        let dropped = self.write("release content", move |db| {
            Box::pin(async move {
                let delete = sqlx::query_scalar("DELETE FROM content_references WHERE name = ?1 RETURNING digest");
                delete.bind(name).fetch_all(db).await
            })
        });
        parsed(dropped.await?)
    }

    /// What a name needs.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn references(&self, name: &str) -> Result<Vec<Digest>, StoreError> {
        let found = sqlx::query_scalar("SELECT digest FROM content_references WHERE name = ?1 ORDER BY digest");
        parsed(found.bind(name).fetch_all(&self.pool().await?).await?)
    }

    /// How many names and versions need an object.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn count_references(&self, digest: Digest) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM content_references WHERE digest = ?1)
                  + (SELECT count(*) FROM peer_baselines WHERE digest = ?1)",
        )
        .bind(digest.to_string())
        .fetch_one(&self.pool().await?)
        .await?;
        Ok(unsigned(count))
    }

    /// Which of these objects something needs.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn needed_of(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        let found = sqlx::query_scalar(
            "SELECT value FROM json_each(?1) WHERE EXISTS (SELECT 1 FROM content_references WHERE digest = value)
                 OR EXISTS (SELECT 1 FROM peer_baselines WHERE digest = value)",
        )
        .bind(as_json(digests.iter().map(ToString::to_string)))
        .fetch_all(&self.pool().await?)
        .await?;
        Ok(parsed(found)?.into_iter().collect())
    }

    /// Objects that something needs, from one digest on in their order, at most so many.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn needed_after(&self, after: Option<Digest>, limit: u32) -> Result<Vec<Digest>, StoreError> {
        let found = sqlx::query_scalar(
            "SELECT digest FROM content_references WHERE digest > ?1
             UNION SELECT digest FROM peer_baselines WHERE digest > ?1 ORDER BY digest LIMIT ?2",
        )
        .bind(after.map(|digest| digest.to_string()).unwrap_or_default())
        .bind(limit)
        .fetch_all(&self.pool().await?)
        .await?;
        parsed(found)
    }

    /// Objects that are gone are needed by nobody any more.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn drop_references_to(&self, gone: Vec<Digest>) -> Result<(), StoreError> {
        self.write("forget content that is gone", move |db| {
            Box::pin(async move {
                for digest in gone {
                    let digest = digest.to_string();
                    for delete in [
                        "DELETE FROM content_references WHERE digest = ?1",
                        "DELETE FROM peer_baselines WHERE digest = ?1",
                    ] {
                        sqlx::query(delete).bind(&digest).execute(&mut *db).await?;
                    }
                }
                Ok(())
            })
        })
        .await
    }
}

fn parsed(texts: Vec<String>) -> Result<Vec<Digest>, StoreError> {
    let parse = |text: String| text.parse().map_err(|_bad| StoreError::Row("content_references.digest"));
    texts.into_iter().map(parse).collect()
}
