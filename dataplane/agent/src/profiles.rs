//! What AMST remembers of peers, kept over restarts of the agent: losing it costs seconds, so a damaged file counts as none.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use dataplane_amst::{Endpoint, MAX_PROFILES, PeerProfile};
use foundation_runtime::{OnEnd, TaskGroup, checked, durable};
use metrics::counter;
use proto_model::PublicKey;
use serde_json::{Value, json};

const FILE: &str = "peer-profiles.json";
/// The file is written at most so often while profiles change.
const PAUSE: Duration = Duration::from_secs(10);
const DAMAGED: &str = "dwcp_amst_damaged_profiles_total";

/// Gives an endpoint what was kept, and keeps what changes from then on.
pub(crate) fn keep(endpoint: &Endpoint, dir: &Path, tasks: &TaskGroup) {
    metrics::describe_counter!(DAMAGED, "Files of peers' profiles that were damaged and not used");
    counter!(DAMAGED).increment(0);
    let path = dir.join(FILE);
    endpoint.recall(&load(&path));
    let (endpoint, group) = (endpoint.clone(), tasks.clone());
    tasks.spawn("keep profiles", OnEnd::Expected, async move {
        let mut changes = endpoint.profile_changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = group.cancelled() => return,
            }
            write(&endpoint, path.clone()).await;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = group.cancelled() => return,
            }
        }
    });
}

/// Keeps what the last sessions came to.
pub(crate) async fn keep_last(endpoint: &Endpoint, dir: &Path) {
    write(endpoint, dir.join(FILE)).await;
}

async fn write(endpoint: &Endpoint, path: PathBuf) {
    let peers: Vec<_> = endpoint.profiles().iter().map(to_json).collect();
    if peers.is_empty() {
        return;
    }
    let bytes = checked::seal_json(json!({ "peers": peers }));
    let written = tokio::task::spawn_blocking(move || durable::replace(&path, &bytes, 0o600)).await;
    if let Err(error) = written.unwrap_or_else(|ended| Err(std::io::Error::other(ended))) {
        tracing::warn!(component = "amst", %error, "What is remembered of peers is not kept over a restart");
    }
}

fn load(path: &Path) -> Vec<PeerProfile> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => return damaged(path, &error.to_string()),
    };
    let opened = checked::open_json(&bytes).map_err(|damage| damage.to_string());
    let profiles = opened.and_then(|value| {
        let peers = value["peers"].as_array().ok_or("there is no list of peers in it")?;
        let profiles: Option<Vec<_>> = peers.iter().take(MAX_PROFILES).map(from_json).collect();
        profiles.ok_or_else(|| "a peer in it cannot be read".to_owned())
    });
    profiles.unwrap_or_else(|reason| damaged(path, &reason))
}

fn damaged(path: &Path, reason: &str) -> Vec<PeerProfile> {
    counter!(DAMAGED).increment(1);
    tracing::warn!(component = "amst", path = %path.display(), reason, "What was kept of peers is damaged and not used; sessions find it out again");
    Vec::new()
}

fn to_json(profile: &PeerProfile) -> Value {
    json!({"peer": profile.peer.to_string(), "streams": profile.streams, "lanes": profile.lanes, "bytes_per_second": profile.rate})
}

fn from_json(value: &Value) -> Option<PeerProfile> {
    let peer: PublicKey = value["peer"].as_str()?.parse().ok()?;
    let streams = u32::try_from(value["streams"].as_u64()?).ok()?;
    let lanes = u32::try_from(value["lanes"].as_u64()?).ok()?;
    Some(PeerProfile { peer, streams, lanes, rate: value["bytes_per_second"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_none_and_a_whole_one_says_what_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(load(&path), []);
        let peer = (0..=u8::MAX).find_map(|byte| PublicKey::from_bytes(&[byte; 32]).ok()).unwrap();
        let kept = PeerProfile { peer, streams: 48, lanes: 2, rate: 1_000_000 };
        let whole = checked::seal_json(json!({ "peers": [to_json(&kept)] }));
        fs::write(&path, &whole).unwrap();
        assert_eq!(load(&path), [kept]);
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let strange = checked::seal_json(json!({ "peers": [{"peer": "?"}] }));
        for bytes in [&flipped, &whole[..40], b"".as_slice(), &checked::seal_json(json!({})), &strange] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(load(&path), []);
        }
    }
}
