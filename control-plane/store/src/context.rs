//! Who changes something, by which request: what every write carries into the audit log.

use std::fmt;

use proto_model::{RequestId, escape_str};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Who.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The holder of an operator token.
    Operator {
        /// The token: two tokens may bear one name.
        token: Uuid,
        /// Its display name.
        name: String,
    },
    /// A node, by name.
    Node(String),
    /// A user of the server's machine, through `admin.sock`, by number.
    Socket(u32),
    /// The control plane itself.
    System,
    /// Somebody whose name is not known (refusals only).
    Anonymous,
}

impl Actor {
    /// What sets this caller's request ids apart from those of others.
    pub(crate) fn request_scope(&self) -> String {
        match self {
            Self::Operator { token, .. } => format!("operatorTokens/{token}"),
            Self::Node(_) | Self::Socket(_) | Self::System | Self::Anonymous => self.to_string(),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { name, .. } => write!(f, "operator:{name}"),
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Socket(uid) => write!(f, "socket:{uid}"),
            Self::System => f.write_str("system"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// A request that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The method, for example `dwcp.v1.NodeService/UpdateNode`.
    pub method: &'static str,
    /// The caller's id for it.
    pub id: RequestId,
    /// SHA-256 of the request without its id: the same id with another request is an error.
    pub fingerprint: [u8; 32],
}

/// Who changes something, and by which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Who.
    pub actor: Actor,
    /// The trace in hexadecimal, empty where there is none.
    pub trace_id: String,
    /// For [`crate::Tx::repeated`]: absent where the caller gave no request id.
    pub request: Option<RequestKey>,
}

impl Context {
    /// The control plane itself, without a request.
    #[must_use]
    pub fn system() -> Self {
        Self { actor: Actor::System, trace_id: String::new(), request: None }
    }
}

/// What is to be recorded of a change; sequence, time and actor come with the append.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub(crate) action: &'static str,
    pub(crate) resource: String,
    pub(crate) refused: bool,
    pub(crate) detail: Map<String, Value>,
    /// In the place of the context's.
    pub(crate) trace_id: Option<String>,
}

impl Event {
    /// A change that is made: `config.update` of `configs/fleet`.
    #[must_use]
    pub fn new(action: &'static str, resource: impl Into<String>) -> Self {
        Self { action, resource: resource.into(), refused: false, detail: Map::new(), trace_id: None }
    }

    /// Something that was refused.
    #[must_use]
    pub fn refused(action: &'static str, resource: impl Into<String>) -> Self {
        Self { refused: true, ..Self::new(action, resource) }
    }

    /// It belongs to this trace, and not to that of whoever found it out.
    #[must_use]
    pub fn in_trace(mut self, trace_id: &str) -> Self {
        self.trace_id = Some(trace_id.to_owned());
        self
    }

    /// Adds what else is known of it: never a secret, and numbers beyond 2^53 as text. Control characters are escaped.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), printable(value.into()));
        self
    }
}

/// PostgreSQL's jsonb takes no zero characters, and a log's reader no control characters.
fn printable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(escape_str(&text)),
        Value::Array(values) => Value::Array(values.into_iter().map(printable).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (escape_str(&name), printable(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_has_no_control_characters() {
        let event = Event::new("a.b", "c").with("list", vec!["x\0y\u{1b}[1m"]);
        assert_eq!(Value::Object(event.detail).to_string(), r#"{"list":["x\\x00y\\x1b[1m"]}"#);
    }
}
