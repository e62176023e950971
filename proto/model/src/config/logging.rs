//! Section `logging`: where logs go.

use std::path::PathBuf;

use super::{
    roots::parse_absolute,
    section::{Reader, choice},
};

/// Where logs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Also there; opened anew on SIGHUP.
    pub file: Option<PathBuf>,
    /// In which form.
    pub format: LogFormat,
}

choice! {
    /// How a log line looks.
    LogFormat {
        /// For people on a terminal, JSON else.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

impl Logging {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("logging");
        Self { file: section.optional("file", parse_absolute), format: section.choice("format") }
    }
}
