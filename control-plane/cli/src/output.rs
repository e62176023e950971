//! Where results go: tables for people, the API's JSON for scripts.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::LazyLock,
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use proto_model::printable;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// Every message of the API, for JSON.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(proto_rpc::DESCRIPTOR_SET).expect("the descriptor set was made by our own build")
});

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The API's message in proto3 JSON.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// The API's message as YAML.
    Yaml,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The two streams and how they are written.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) color: bool,
}

impl Output {
    pub(crate) fn new(format: Format, color: Color) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        Self { format, color }
    }

    /// Whether a person reads the results.
    pub(crate) fn for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Whether progress may be drawn.
    pub(crate) fn may_draw(&self) -> bool {
        self.for_people() && io::stderr().is_terminal()
    }

    /// Prints one message: for people as `table` says, else as JSON or YAML.
    pub(crate) fn message<M: Message + Name>(
        &self,
        message: &M,
        table: impl FnOnce(&M) -> String,
    ) -> Result<(), Failure> {
        if self.for_people() {
            return self.text(&table(message));
        }
        self.value(&json(message)?)
    }

    /// Prints a list: the list response itself as JSON, or an item a line as JSON lines.
    pub(crate) fn list<L: Message + Name, I: Message + Name>(
        &self,
        response: &L,
        items: &[I],
        table: impl FnOnce(&[I]) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&table(items)),
            Format::Jsonl => items.iter().try_for_each(|item| self.value(&json(item)?)),
            Format::Json | Format::Yaml => self.value(&json(response)?),
        }
    }

    /// Prints a value that is no message of the API.
    pub(crate) fn plain<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.for_people() {
            return self.text(&table(value));
        }
        let value = serde_json::to_value(value).map_err(|error| Failure::chain("cannot print the result", &error))?;
        self.value(&value)
    }

    /// One event of a stream: always one line, but for YAML documents.
    pub(crate) fn event<M: Message + Name>(&self, message: &M, line: impl FnOnce(&M) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&line(message)),
            Format::Json | Format::Jsonl => write_out(&format!("{}\n", json(message)?)),
            Format::Yaml => self.value(&json(message)?).and_then(|()| write_out("---\n")),
        }
    }

    /// Text for people, on standard output.
    #[allow(clippy::unused_self, reason = "what is printed goes through here, whatever the format")]
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write_out(&format!("{text}{end}"))
    }

    /// Talk for people, on standard error; nothing where a script listens.
    pub(crate) fn talk(&self, text: &str) {
        if self.for_people() {
            // Talk that cannot be delivered is no failure of the work.
            drop(writeln!(io::stderr(), "{text}"));
        }
    }

    /// The last word: what went wrong, and the exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> ExitCode {
        let exit = failure.exit as u8;
        let text = if self.for_people() {
            let hint = failure.hint.as_deref().map(|hint| format!("\nhint: {}", printable(hint))).unwrap_or_default();
            format!("{} {}{hint}", self.paint("31", "error:"), printable(&failure.message))
        } else {
            serde_json::json!({
                "messageType": "exit_error",
                "code": exit,
                "message": failure.message,
                "reason": failure.reason,
                "hint": failure.hint,
            })
            .to_string()
        };
        // There is nowhere else to say it.
        drop(writeln!(io::stderr(), "{text}"));
        ExitCode::from(exit)
    }

    /// Text in an ANSI colour, where colours are wanted.
    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn value(&self, value: &Value) -> Result<(), Failure> {
        let text = match self.format {
            Format::Jsonl => value.to_string(),
            Format::Yaml => {
                yaml_serde::to_string(value).map_err(|error| Failure::chain("cannot print the result", &error))?
            }
            Format::Json | Format::Table => serde_json::to_string_pretty(value)
                .map_err(|error| Failure::chain("cannot print the result", &error))?,
        };
        self.text(&text)
    }
}

/// A message of the API in proto3 JSON, fields with default values included.
pub(crate) fn json<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    let name = M::full_name();
    let descriptor =
        POOL.get_message_by_name(&name).ok_or_else(|| Failure::failed(format!("no description of {name}")))?;
    let fail = |error: &dyn std::error::Error| Failure::chain(format!("cannot show {name} as JSON"), error);
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|e| fail(&e))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| fail(&e))
}

/// Columns under a heading, without lines, as wide as they need.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows.into_iter().map(|row| row.map(|cell| printable(&cell)).to_vec()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `key: value` lines, the values in one column.
pub(crate) fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let shown: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (key, value) in shown {
        let key = format!("{key}:");
        let value = printable(&value);
        let mut lines = value.lines();
        text.push_str(&format!("{key:width$} {}\n", lines.next().unwrap_or_default()));
        for line in lines {
            text.push_str(&format!("{:width$} {line}\n", ""));
        }
    }
    text
}

/// A reader that went away (`dwcp … | head`) is no failure.
fn write_out(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::chain("cannot write to standard output", &error)),
    }
}

#[cfg(test)]
mod tests {
    use proto_rpc::v1::{ListNodesResponse, Node};

    use super::*;

    #[test]
    fn json_is_proto3_json_with_default_fields() {
        let list = ListNodesResponse {
            nodes: vec![Node { name: "nodes/a".into(), state: 1, ..Node::default() }],
            next_page_token: String::new(),
        };
        let value = json(&list).unwrap();
        assert_eq!(value["nodes"][0]["name"], "nodes/a");
        assert_eq!(value["nodes"][0]["state"], "READY");
        assert_eq!(value["nodes"][0]["relay"], false);
        assert_eq!(value["nextPageToken"], "");
    }

    #[test]
    fn fields_leave_out_what_is_empty() {
        assert_eq!(fields([("name", "a".into()), ("note", String::new()), ("id", "b".into())]), "name: a\nid:   b\n");
    }
}
