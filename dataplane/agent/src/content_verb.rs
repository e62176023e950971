//! `dwcp-agent content stats|verify|collect`: the content store of this host, for whoever keeps the host.
//!
//! `stats` and `verify` may be asked while the agent runs; `collect` is for one that does not: a running agent collects by
//! itself.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use dataplane_content::{ContentError, ContentStore, Limits, References, ReferencesError};
use dataplane_local_store::{LocalStore, StoreError};
use foundation_runtime::{Clock, DirLock, DirLockError, TaskGroup};
use proto_model::ByteCount;
use serde_json::{Value, json};

use crate::{
    command::{ContentArgs, ContentVerb, Output},
    data_dir,
};

/// So many damaged objects are named at most.
const MAX_NAMED: usize = 1000;

/// Why the store cannot be looked at; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum ContentVerbError {
    /// There is none.
    #[error("{0} has no content store: is it the data directory (--data-dir) of an agent that has run?")]
    NoStore(String),
    /// This process cannot become the directory's owner.
    #[error("cannot act as the owner of the data directory")]
    Owner(#[source] io::Error),
    /// The agent runs.
    #[error("a running agent collects by itself, every ten minutes")]
    Lock(#[from] DirLockError),
    /// The objects.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The rows that say who needs what.
    #[error(transparent)]
    Rows(#[from] StoreError),
    /// Either.
    #[error(transparent)]
    References(#[from] ReferencesError),
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Answer(#[source] io::Error),
    /// Not all is as it should be.
    #[error("{0} objects were damaged, and are set aside or removed: look at the disk. What needs them travels anew")]
    Damaged(usize),
}

/// Where root asks, it does so as the owner of the data directory, so that the agent can read what is made. To be called
/// before there are other threads.
///
/// # Errors
/// There is no store, or the system refuses.
pub fn content_as_owner(args: &mut ContentArgs) -> Result<(), ContentVerbError> {
    let dir = args.data_dir.get_or_insert_with(data_dir::default_dir).clone();
    if !dir.join("content").is_dir() {
        return Err(ContentVerbError::NoStore(dir.display().to_string()));
    }
    data_dir::become_owner(&dir).map_err(ContentVerbError::Owner)
}

/// Does what is asked, and says what came of it.
///
/// # Errors
/// The store cannot be used, or something in it is damaged.
pub async fn content(args: ContentArgs, clock: Clock, out: &mut impl Write) -> Result<(), ContentVerbError> {
    let dir = args.data_dir.unwrap_or_else(data_dir::default_dir);
    let tasks = TaskGroup::new("content");
    let answer = match args.verb {
        ContentVerb::Stats => stats(&dir)?,
        ContentVerb::Verify => verify(&dir)?,
        ContentVerb::Collect => collect(&dir, clock, &tasks).await?,
    };
    let text = match args.output {
        Output::Json => format!("{:#}\n", answer),
        Output::Human => human(&answer),
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ContentVerbError::Answer)?;
    match answer["damaged"].as_array().map(Vec::len) {
        Some(damaged @ 1..) => Err(ContentVerbError::Damaged(damaged)),
        Some(0) | None => Ok(()),
    }
}

fn stats(dir: &Path) -> Result<Value, ContentVerbError> {
    let stats = ContentStore::beside(dir, Limits::default())?.stats()?;
    Ok(json!({"objects": stats.objects, "bytes": stats.bytes, "set_aside": stats.damaged}))
}

fn verify(dir: &Path) -> Result<Value, ContentVerbError> {
    let verified = ContentStore::beside(dir, Limits::default())?.verify_all()?;
    let damaged: Vec<_> = verified.damaged.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    Ok(json!({"whole": verified.whole, "bytes": verified.bytes, "damaged": damaged}))
}

async fn collect(dir: &Path, clock: Clock, tasks: &TaskGroup) -> Result<Value, ContentVerbError> {
    let _lock = DirLock::acquire(dir, Duration::ZERO, &clock, |_holder| {})?;
    let rows = LocalStore::open(dir, clock, tasks).await?;
    let content = ContentStore::open(dir, Limits::default())?;
    let collected = References::new(content, rows.clone(), tasks.clone()).collect().await?;
    rows.close().await;
    Ok(json!({"removed": collected.objects, "bytes": collected.bytes}))
}

/// A line for each figure.
fn human(answer: &Value) -> String {
    let mut text = String::new();
    for (name, value) in answer.as_object().into_iter().flatten() {
        let value = match (name.as_str(), value) {
            ("bytes", value) => ByteCount::new(value.as_u64().unwrap_or(0)).to_string(),
            (_, Value::Array(many)) => many.len().to_string(),
            (_, value) => value.to_string(),
        };
        text.push_str(&format!("{:<10} {value}\n", name.replace('_', " ")));
    }
    for digest in answer["damaged"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str(&format!("damaged    {digest}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(dir: &Path, verb: ContentVerb, output: Output) -> (String, Result<(), ContentVerbError>) {
        let mut out = Vec::new();
        let args = ContentArgs { verb, data_dir: Some(dir.to_path_buf()), output };
        let done = content(args, Clock::system(), &mut out).await;
        (String::from_utf8(out).unwrap(), done)
    }

    #[tokio::test]
    async fn a_store_is_counted_read_and_collected() {
        let dir = tempfile::tempdir().unwrap();
        let none = ContentArgs { verb: ContentVerb::Stats, data_dir: Some(dir.path().into()), output: Output::Json };
        assert!(content_as_owner(&mut none.clone()).unwrap_err().to_string().contains("has no content store"));
        let limits = Limits { reserve: ByteCount::new(0), ..Limits::default() };
        let store = ContentStore::open(dir.path(), limits).unwrap();
        let mut batch = store.batch().unwrap();
        let digest = batch.add_reader(b"one".as_slice()).unwrap();
        batch.add_reader(b"two".as_slice()).unwrap();
        drop(batch.commit().unwrap());
        let (text, done) = asked(dir.path(), ContentVerb::Stats, Output::Json).await;
        done.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["objects"], 2);
        let name = digest.to_string();
        std::fs::write(dir.path().join("content/objects").join(&name[..2]).join(&name[2..]), b"bad").unwrap();
        let (text, done) = asked(dir.path(), ContentVerb::Verify, Output::Human).await;
        assert!(text.contains(&format!("damaged    {name}")), "{text}");
        assert!(matches!(done, Err(ContentVerbError::Damaged(1))));
        let clock = Clock::system();
        let held = DirLock::acquire(dir.path(), Duration::ZERO, &clock, |_holder| {}).unwrap();
        assert!(matches!(
            asked(dir.path(), ContentVerb::Collect, Output::Json).await.1,
            Err(ContentVerbError::Lock(_))
        ));
        drop(held);
        let (text, done) = asked(dir.path(), ContentVerb::Collect, Output::Json).await;
        done.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["removed"], 1);
    }
}
