//! A line out of a record.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use tracing::Level;

use crate::record::Record;

/// What every line has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) time: DateTime<Utc>,
    pub(crate) level: Level,
    pub(crate) component: &'a str,
    pub(crate) trace_id: Option<&'a str>,
}

/// One JSON object, with flat fields, in the order of the manual's example; the first of two fields of one name stays.
pub(crate) fn json(head: Head<'_>, record: &Record) -> String {
    let mut out = String::from("{");
    let time = timestamp(head.time);
    let mut put = |name: &str, value: &Value| {
        let comma = if out.len() > 1 { "," } else { "" };
        write!(out, "{comma}{}:{value}", Value::from(name)).expect("a String takes whatever is written");
    };
    put("timestamp", &time.into());
    put("level", &level(head.level).into());
    put("component", &head.component.into());
    put("message", &record.message.as_str().into());
    if let Some(trace_id) = head.trace_id {
        put("trace_id", &trace_id.into());
    }
    for (i, (name, value)) in record.fields.iter().enumerate() {
        if !record.fields[..i].iter().any(|(before, _)| before == name) {
            put(name, value);
        }
    }
    out.push_str("}\n");
    out
}

/// A line for people.
pub(crate) fn human(head: Head<'_>, record: &Record, colour: Colour) -> String {
    let mut out = String::new();
    let (on, off) = colour.of(head.level);
    let level = level(head.level).to_uppercase();
    write!(out, "{} {on}{level:>5}{off} {}: {}", timestamp(head.time), head.component, record.message)
        .expect("a String takes whatever is written");
    for (name, value) in &record.fields {
        match value {
            Value::String(text) if is_word(text) => write!(out, " {name}={text}"),
            Value::String(text) => write!(out, " {name}={text:?}"),
            other => write!(out, " {name}={other}"),
        }
        .expect("a String takes whatever is written");
    }
    out.push('\n');
    out
}

/// Whether levels are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Yes,
    No,
}

impl Colour {
    fn of(self, level: Level) -> (&'static str, &'static str) {
        let code = match level {
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            Level::DEBUG => "\x1b[34m",
            Level::TRACE => "\x1b[35m",
        };
        match self {
            Self::Yes => (code, "\x1b[0m"),
            Self::No => ("", ""),
        }
    }
}

fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains([' ', '"', '='])
}
