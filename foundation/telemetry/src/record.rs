//! An event's fields, as they will be written.

use std::{borrow::Cow, error::Error, fmt};

use serde_json::Value;
use tracing::field::{Field, Visit};

use crate::escape::{MAX_FIELD_BYTES, escaped};

/// Names that every line has: a field with one of them gets a prefix.
const RESERVED: [&str; 3] = ["timestamp", "level", "trace_id"];

/// What an event says.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) message: String,
    pub(crate) component: Option<String>,
    pub(crate) fields: Vec<(Cow<'static, str>, Value)>,
}

impl Record {
    /// That lines were left out which begin as this one.
    pub(crate) fn of_left_out(like: &str, count: u64) -> Self {
        let fields = vec![(Cow::Borrowed("like"), text(like)), (Cow::Borrowed("count"), count.into())];
        Self { message: "Lines of one kind were left out".to_owned(), component: None, fields }
    }

    fn push(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => {
                self.message = text_of(value);
                return;
            }
            "component" => {
                self.component = Some(text_of(value));
                return;
            }
            // Of the bridge from the `log` crate.
            name if name.starts_with("log.") => return,
            name if RESERVED.contains(&name) => Cow::Owned(format!("field_{name}")),
            name => Cow::Borrowed(name.strip_prefix("r#").unwrap_or(name)),
        };
        self.fields.push((name, value));
    }
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn text(text: &str) -> Value {
    Value::String(escaped(text).into_owned())
}

impl Visit for Record {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, serde_json::Number::from_f64(value).map_or_else(|| text(&value.to_string()), Value::Number));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, text(value));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.push(field, text(&chain(error)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, text(&format!("{value:?}")));
    }
}

/// An error with all its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source.filter(|_| out.len() < MAX_FIELD_BYTES) {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}
