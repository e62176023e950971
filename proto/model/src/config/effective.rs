//! [`Effective`]: what the layers come to.

use proto_rpc::v1 as rpc;

use crate::{
    Digest,
    config::{AgentConfig, Diagnostic},
};

/// What layers come to, with the origin of each value.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The values, as the agent takes them.
    pub config: AgentConfig,
    /// The values, as YAML, in the order of [`super::DEFAULTS`]; secrets are redacted.
    pub values: Vec<Value>,
    /// Keys that some layer sets and that have no effect.
    pub not_in_force: Vec<String>,
    /// SHA-256 over all paths and values but secrets.
    pub digest: Digest,
    /// What is accepted and yet worth knowing; the reasons of `not_in_force` among it.
    pub warnings: Vec<Diagnostic>,
    /// All values as one YAML document; secrets are redacted.
    pub document: String,
}

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The field, for example `transport.max_streams`.
    pub path: String,
    /// As YAML, on one line.
    pub yaml: String,
    /// The layer it comes from.
    pub origin: String,
    /// The line in that layer's document; 0 where it has none.
    pub line: u32,
    /// The column in that layer's document; 0 where it has none.
    pub column: u32,
}

impl Effective {
    /// The value at a path.
    #[must_use]
    pub fn value(&self, path: &str) -> Option<&Value> {
        self.values.iter().find(|value| value.path == path)
    }

    /// Whether nothing but the built-in default says what a value is.
    #[must_use]
    pub fn is_default(&self, path: &str) -> bool {
        self.value(path).is_none_or(|value| value.origin == "default")
    }
}

impl From<Value> for rpc::EffectiveValue {
    fn from(value: Value) -> Self {
        Self { path: value.path, value: value.yaml, origin: value.origin, line: value.line, column: value.column }
    }
}
