//! Whose signature is believed, and which heads the log must continue.

use std::{fs, path::Path, path::PathBuf};

use control_plane_audit::{Anchor, epoch_of};
use foundation_merkle::{Checkpoint, VerifierKey};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::anchors::Anchors;
use crate::failure::{Exit, Failure};

/// By what the key is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Given,
    Remembered,
    ByCa,
    /// The server said it, just now.
    AtFirstSight,
}

impl Known {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Given => "the key that was given",
            Self::Remembered => "the key of the verification before",
            Self::ByCa => "the key that the CA signed",
            Self::AtFirstSight => "the key that the server named, now for the first time",
        }
    }
}

/// The key to believe, where one is known without the word of who offers this one.
///
/// # Errors
/// What was given is no key, or the offered key is another than the known one: a finding.
pub(super) fn known_key(
    offered: &VerifierKey,
    anchors: &Anchors,
    given: Option<&str>,
    ca: Option<&Path>,
    ca_signature: &[u8],
) -> Result<Result<Option<Known>, String>, Failure> {
    let (text, known) = match (given, anchors.of(offered.name())) {
        (Some(given), _) => (given, Known::Given),
        (None, Some(kept)) => (kept.verifier_key.as_str(), Known::Remembered),
        (None, None) => return by_ca(offered, ca, ca_signature).map(Ok),
    };
    let key: VerifierKey =
        text.parse().map_err(|error| Failure::usage(format!("{} is no key: {error}", known.words())))?;
    if key == *offered {
        return Ok(Ok(Some(known)));
    }
    Ok(Err(format!("the log is signed by another key ({offered}) than {} ({key})", known.words())))
}

fn by_ca(offered: &VerifierKey, ca: Option<&Path>, signature: &[u8]) -> Result<Option<Known>, Failure> {
    let Some(path) = ca.filter(|_| !signature.is_empty()) else { return Ok(None) };
    let pem = CertificateDer::from_pem_file(path)
        .map_err(|error| Failure::chain(format!("cannot read the CA's certificate {}", path.display()), &error))?;
    control_plane_pki::verify_audit_key(&pem, &offered.to_string(), signature).map(|()| Some(Known::ByCa)).map_err(
        |error| {
            Failure::new(Exit::AuditFailed, format!("the CA of {} did not sign the log's key: {error}", path.display()))
        },
    )
}

/// Heads that were seen before.
#[derive(Debug, Default)]
pub(super) struct KeptHeads {
    /// Of this epoch: the log must continue them.
    pub(super) heads: Vec<Anchor>,
    /// Of earlier epochs: up to what was restored, the log must continue them.
    pub(super) older: Vec<(u64, Anchor)>,
    /// What already their names contradict.
    pub(super) findings: Vec<String>,
}

/// Heads that were seen before and that the log must continue, and what already their names contradict.
pub(super) fn kept_heads(
    key: &VerifierKey,
    present: &Checkpoint,
    anchors: &Anchors,
    files: &[PathBuf],
) -> Result<KeptHeads, Failure> {
    let KeptHeads { mut heads, mut older, mut findings } = KeptHeads::default();
    let mut add = |note: &str, source: String| {
        let head = Checkpoint::parse_and_verify(note, key)
            .map_err(|error| Failure::chain(format!("{source} is no checkpoint of this log"), &error))?;
        if head.origin == present.origin {
            heads.push(Anchor { source, size: head.size, root: head.root });
            return Ok::<_, Failure>(());
        }
        // A restore opens a log of another origin, of a higher epoch; its first record names the head it was restored from.
        let epoch = |origin: &str| epoch_of(origin, key.name());
        if epoch(&head.origin) >= epoch(&present.origin) {
            findings.push(format!(
                "the log is `{}`, but {source} is of `{}`: an older log was put in its place",
                present.origin, head.origin
            ));
        } else if let Some(epoch) = epoch(&head.origin) {
            older.push((epoch, Anchor { source, size: head.size, root: head.root }));
        }
        Ok(())
    };
    if let Some(kept) = anchors.of(key.name()) {
        add(&kept.checkpoint, "the head verified here before".to_owned())?;
    }
    for file in files {
        add(&read_head(file)?, format!("the head in {}", file.display()))?;
    }
    Ok(KeptHeads { heads, older, findings })
}

/// A checkpoint as a note (a server's `audit.checkpoint`), or in an agent's `audit-witness.json`.
fn read_head(file: &Path) -> Result<String, Failure> {
    let text =
        fs::read_to_string(file).map_err(|error| Failure::chain(format!("cannot read {}", file.display()), &error))?;
    let witnessed = serde_json::from_str::<serde_json::Value>(&text).ok();
    let checkpoint = witnessed.as_ref().and_then(|witnessed| witnessed["checkpoint"].as_str());
    Ok(checkpoint.map_or(text.clone(), str::to_owned))
}
