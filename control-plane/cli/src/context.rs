//! Named control planes, so that nobody types five flags twice: one JSON file in the user's configuration folder.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// The file: contexts by name, and the one that is used where none is named.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Contexts {
    pub(crate) selected: Option<String>,
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// How one control plane is reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl Contexts {
    /// Reads the file; without one there are no contexts.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = file.map(Path::to_path_buf).or_else(path) else { return Ok(Self::default()) };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Failure::chain(format!("{} is damaged", path.display()), &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::chain(format!("cannot read {}", path.display()), &error)),
        }
    }

    /// Writes the file.
    pub(crate) fn save(&self, file: Option<&Path>) -> Result<(), Failure> {
        let path = file
            .map(Path::to_path_buf)
            .or_else(path)
            .ok_or_else(|| Failure::failed("neither XDG_CONFIG_HOME nor HOME is set"))?;
        let fail = |error: io::Error| Failure::chain(format!("cannot write {}", path.display()), &error);
        if let Some(folder) = path.parent() {
            durable::create_dir(folder, 0o700).map_err(fail)?;
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Failure::chain("cannot write contexts", &error))?;
        durable::replace(&path, &bytes, 0o600).map_err(fail)
    }

    /// The context of a name, or the selected one where no name is given.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Option<&Context>, Failure> {
        let Some(name) = name.or(self.selected.as_deref()) else { return Ok(None) };
        self.contexts.get(name).map(Some).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no context `{name}`")).hint("dwcp context list")
        })
    }
}

fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("dwcp").join("contexts.json"))
}
