//! [`Layer`]: a document, and whose it is.

use std::{fmt, str::FromStr};

use proto_rpc::agent as rpc;

use crate::{ConfigName, InvalidField, Revision, escape::shortened};

/// A document that is put over others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Whose it is.
    pub name: LayerName,
    /// Its revision, where the control plane keeps it; else 0.
    pub revision: Revision,
    /// YAML.
    pub text: String,
}

/// Whose a document is. What a host allows on itself is only taken from its own layers (D3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerName {
    /// Built in.
    Default,
    /// The control plane's.
    Config(ConfigName),
    /// A file of the host, by its path.
    Host(String),
    /// Variables of the host's process.
    Environment,
    /// Flags of the host's process.
    Flag,
}

/// The text names no layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no layer: default, configs/…, host:FILE, environment or flag is expected")]
pub struct ParseLayerNameError(String);

impl Layer {
    /// A document of the control plane, or one that is about to be.
    #[must_use]
    pub fn config(name: ConfigName, revision: Revision, text: impl Into<String>) -> Self {
        Self { name: LayerName::Config(name), revision, text: text.into() }
    }

    /// A host's own document.
    #[must_use]
    pub fn host(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: LayerName::Host(file.into()), revision: Revision::default(), text: text.into() }
    }
}

impl LayerName {
    /// Whether it is the host's own word.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        match self {
            Self::Default | Self::Host(_) | Self::Environment | Self::Flag => true,
            Self::Config(_) => false,
        }
    }

    /// How a diagnostic names the document: a file by its path.
    #[must_use]
    pub fn file(&self) -> String {
        match self {
            Self::Host(file) => file.clone(),
            Self::Default | Self::Config(_) | Self::Environment | Self::Flag => self.to_string(),
        }
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Config(name) => name.fmt(f),
            Self::Host(file) => write!(f, "host:{file}"),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

impl FromStr for LayerName {
    type Err = ParseLayerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self::Default),
            "environment" => Ok(Self::Environment),
            "flag" => Ok(Self::Flag),
            _ => match text.strip_prefix("host:") {
                Some(file) => Ok(Self::Host(file.to_owned())),
                None => text.parse().map(Self::Config).map_err(|_refused| ParseLayerNameError(shortened(text))),
            },
        }
    }
}

impl TryFrom<rpc::ConfigLayer> for Layer {
    type Error = InvalidField;

    /// Only configurations of the control plane travel to agents.
    fn try_from(layer: rpc::ConfigLayer) -> Result<Self, Self::Error> {
        let name: ConfigName = layer.name.parse().map_err(crate::invalid_field::at("name"))?;
        Ok(Self::config(name, layer.revision.into(), layer.document))
    }
}

impl From<Layer> for rpc::ConfigLayer {
    fn from(layer: Layer) -> Self {
        Self { name: layer.name.to_string(), revision: layer.revision.into(), document: layer.text }
    }
}
