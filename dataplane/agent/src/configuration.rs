//! Desired against observed: which configuration is in force, and what is answered.
//!
//! The newest that the control plane said and the last one that could be applied lie on disk, so that a start without a
//! control plane brings back what was in force. A configuration that does not hold together, or that a part cannot take,
//! is answered with REJECTED and its reasons, and the last good one stays. Pure but for the two files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use dataplane_control_client::{Desired, DesiredLayer};
use foundation_runtime::{checked, durable};
use proto_model::{
    AppliedConfig, ApplyStatus, Epoch, Generation,
    config::{self, Diagnostic, Effective, Layer, Tree},
};
use serde::{Deserialize, Serialize};

use crate::layers::{HostLayers, lines};

/// The newest, good or not.
const NEWEST: &str = "config-newest.json";
/// The last one that was in force.
const GOOD: &str = "config-good.json";

/// The form on disk; people may read it.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    epoch: u64,
    generation: u64,
    digest: String,
    layers: Vec<StoredLayer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredLayer {
    name: String,
    revision: u64,
    document: String,
}

/// What is in force.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    /// What the layers come to.
    pub effective: Arc<Effective>,
    /// Of the control plane's part; none where it has said nothing yet.
    pub generation: Option<Generation>,
    /// The newest generation, and why it was refused.
    pub rejected: Option<(Generation, Vec<String>)>,
}

/// What is to be done about a desired configuration.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is in force already: answer.
    Unchanged,
    /// Apply this, then say how it went.
    Apply(Arc<Effective>),
    /// It does not hold together, or is older than what is known; already noted.
    Rejected,
}

/// The state of the loop.
#[derive(Debug)]
pub(crate) struct Configuration {
    dir: PathBuf,
    host: HostLayers,
    good: Option<Desired>,
    newest: Option<Desired>,
    in_force: InForce,
    /// What was found damaged on disk: there is no log yet when that is read.
    damaged: Vec<String>,
}

impl Configuration {
    /// What an earlier run left, under the host's own layers: the newest, else the last good one, else the host's alone.
    ///
    /// # Errors
    /// The host's own layers are wrong by themselves.
    pub(crate) fn restore(dir: &Path, host: HostLayers) -> Result<Self, Vec<Diagnostic>> {
        let alone = config::resolve(&host.trees)?;
        let mut damaged = Vec::new();
        let mut load = |file: &str| {
            load(&dir.join(file)).unwrap_or_else(|sentence| {
                damaged.push(sentence);
                None
            })
        };
        let (newest, good) = (load(NEWEST), load(GOOD));
        let mut rejected = None;
        let mut found = None;
        for candidate in [&newest, &good].into_iter().flatten() {
            match judge(&candidate.layers, &host.trees) {
                Ok(effective) => {
                    found = Some((candidate.clone(), effective));
                    break;
                }
                Err(errors) => {
                    if rejected.is_none() {
                        rejected = Some((candidate.generation, errors));
                    }
                }
            }
        }
        let (good, effective) = match found {
            Some((desired, effective)) => (Some(desired), effective),
            None => (None, alone),
        };
        let generation = good.as_ref().map(|desired| desired.generation);
        let in_force = InForce { effective: Arc::new(effective), generation, rejected };
        Ok(Self { dir: dir.to_path_buf(), host, good, newest, in_force, damaged })
    }

    /// What was found damaged on disk, a sentence each.
    pub(crate) fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// What is in force.
    pub(crate) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// The host's own layers.
    pub(crate) fn host(&self) -> &HostLayers {
        &self.host
    }

    /// The control plane says what should be in force.
    pub(crate) fn desired(&mut self, desired: &Desired) -> Verdict {
        if let Some(known) = self.newest_generation().filter(|known| *known > desired.generation) {
            // R12: nobody goes back silently. A restore opens a new epoch, and is newer than all of the one before.
            let why = format!(
                "generation {} is older than {known}, which this host has seen: the control plane's database was put back without a new \
                 epoch (`dwcp-control-plane open-epoch`)",
                desired.generation
            );
            self.in_force.rejected = Some((desired.generation, vec![why]));
            return Verdict::Rejected;
        }
        let same = |known: &Desired| says_the_same(known, desired);
        let answered = self.in_force.rejected.is_none() && self.good.as_ref().is_some_and(same);
        self.newest = Some(desired.clone());
        if answered {
            self.in_force.generation = Some(desired.generation);
            self.good = Some(desired.clone());
            return Verdict::Unchanged;
        }
        match judge(&desired.layers, &self.host.trees) {
            Ok(effective) if self.good.as_ref().is_some_and(same) => {
                // The last good one again, after one that was refused: it never ceased to be in force.
                self.in_force =
                    InForce { effective: Arc::new(effective), generation: Some(desired.generation), rejected: None };
                self.good = Some(desired.clone());
                Verdict::Unchanged
            }
            Ok(effective) => Verdict::Apply(Arc::new(effective)),
            Err(errors) => {
                self.in_force.rejected = Some((desired.generation, errors));
                Verdict::Rejected
            }
        }
    }

    /// The newest generation that the control plane has said.
    fn newest_generation(&self) -> Option<Generation> {
        [&self.newest, &self.good].into_iter().flatten().map(|desired| desired.generation).max()
    }

    /// It was applied.
    pub(crate) fn applied(&mut self, desired: &Desired, effective: Arc<Effective>) {
        self.in_force = InForce { effective, generation: Some(desired.generation), rejected: None };
        self.good = Some(desired.clone());
    }

    /// A part could not take it; what was in force is to be applied again.
    pub(crate) fn refused(&mut self, desired: &Desired, errors: Vec<String>) {
        self.in_force.rejected = Some((desired.generation, errors));
    }

    /// The host's own layers changed: what is in force then, to be applied.
    ///
    /// # Errors
    /// They do not hold together with what the control plane said last; everything stays as it was.
    pub(crate) fn host_changed(&mut self, host: HostLayers) -> Result<Arc<Effective>, Vec<String>> {
        let newest = self.newest.clone().map(|newest| (judge(&newest.layers, &host.trees), newest));
        let (effective, desired) = match newest {
            Some((Ok(effective), newest)) => (effective, Some(newest)),
            _refused_or_none => {
                let layers = self.good.as_ref().map_or(&[][..], |good| &good.layers);
                (judge(layers, &host.trees)?, self.good.clone())
            }
        };
        let effective = Arc::new(effective);
        if desired.as_ref().map(|desired| desired.generation) != self.in_force.generation {
            self.in_force.rejected = None;
        }
        self.in_force.generation = desired.as_ref().map(|desired| desired.generation);
        self.in_force.effective = Arc::clone(&effective);
        self.good = desired;
        self.host = host;
        Ok(effective)
    }

    /// What is said of it.
    pub(crate) fn answer(&self) -> AppliedConfig {
        let digest = Some(self.in_force.effective.digest);
        match (&self.in_force.rejected, self.in_force.generation) {
            (Some((generation, errors)), _) => {
                let errors = errors.iter().take(AppliedConfig::MAX_ERRORS).cloned().collect();
                AppliedConfig { status: ApplyStatus::Rejected, generation: generation.number, digest, errors }
            }
            (None, Some(generation)) => AppliedConfig {
                status: ApplyStatus::Applied,
                generation: generation.number,
                digest,
                errors: Vec::new(),
            },
            (None, None) => AppliedConfig { status: ApplyStatus::Unknown, generation: 0, digest, errors: Vec::new() },
        }
    }

    /// What to write for the next start. Blocking; to be called after each change.
    pub(crate) fn keep(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let files: Vec<_> = [(NEWEST, &self.newest), (GOOD, &self.good)]
            .into_iter()
            .filter_map(|(file, desired)| Some((self.dir.join(file), to_bytes(desired.as_ref()?))))
            .collect();
        move || {
            for (path, bytes) in files {
                if fs::read(&path).is_ok_and(|present| present == bytes) {
                    continue;
                }
                durable::replace(&path, &bytes, 0o600)?;
            }
            Ok(())
        }
    }
}

/// Whether two come to the same, whatever their revisions.
fn says_the_same(one: &Desired, other: &Desired) -> bool {
    let texts = |desired: &Desired| -> Vec<_> {
        desired.layers.iter().map(|layer| (layer.name.clone(), layer.document.clone())).collect()
    };
    texts(one) == texts(other)
}

/// The control plane's layers under the host's.
fn judge(layers: &[DesiredLayer], host: &[Tree]) -> Result<Effective, Vec<String>> {
    let mut trees = Vec::new();
    let mut wrong = Vec::new();
    for layer in layers {
        let name = match layer.name.parse() {
            Ok(name) => name,
            Err(error) => {
                wrong.push(format!("{}: {error}", proto_model::escape(layer.name.as_bytes())));
                continue;
            }
        };
        match config::parse(Layer::config(name, layer.revision.into(), layer.document.as_str())) {
            Ok(tree) => trees.push(tree),
            Err(diagnostics) => wrong.extend(sentences(&diagnostics)),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    trees.extend(host.iter().cloned());
    config::resolve(&trees).map_err(|diagnostics| sentences(&diagnostics))
}

fn sentences(diagnostics: &[Diagnostic]) -> Vec<String> {
    lines(diagnostics).lines().map(str::to_owned).collect()
}

fn to_bytes(desired: &Desired) -> Vec<u8> {
    let stored = Stored {
        epoch: desired.generation.epoch.value(),
        generation: desired.generation.number,
        digest: hex::encode(&desired.digest),
        layers: desired
            .layers
            .iter()
            .map(|layer| StoredLayer {
                name: layer.name.clone(),
                revision: layer.revision,
                document: layer.document.clone(),
            })
            .collect(),
    };
    checked::seal_json(serde_json::to_value(&stored).expect("numbers and texts always make JSON"))
}

/// A damaged file counts as none, and is said: the control plane says its part again.
fn load(path: &Path) -> Result<Option<Desired>, String> {
    let said =
        |reason: String| format!("{} cannot be used ({reason}): the control plane says it again", path.display());
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(said(error.to_string())),
    };
    parse(&bytes).map(Some).map_err(said)
}

fn parse(bytes: &[u8]) -> Result<Desired, String> {
    let value = checked::open_json(bytes).map_err(|damage| damage.to_string())?;
    let stored: Stored = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let layer =
        |layer: StoredLayer| DesiredLayer { name: layer.name, revision: layer.revision, document: layer.document };
    Ok(Desired {
        generation: Generation { epoch: Epoch::new(stored.epoch), number: stored.generation },
        nonce: 0,
        digest: hex::decode(&stored.digest).map_err(|error| error.to_string())?,
        layers: stored.layers.into_iter().map(layer).collect(),
    })
}

#[cfg(test)]
mod tests;
