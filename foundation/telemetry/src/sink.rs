//! Where lines go: standard error, and a file that can be changed and opened anew.
//!
//! A file that cannot be opened or written stops nobody: it is said once on standard error, held for whoever asks after it
//! (health), and tried again; what could not be written stands on standard error.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use tokio::sync::watch;

use crate::{
    Format,
    format::{Colour, Head, human, json},
    record::Record,
};

/// How often a file that cannot be opened is tried again.
const TRY_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// Where lines go.
#[derive(Debug)]
pub(crate) struct Sink {
    format: Format,
    terminal: bool,
    colour: Colour,
    file: Mutex<Option<LogFile>>,
    trouble: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// Nothing where it could not be opened.
    file: Option<File>,
    /// When it was tried last.
    tried: DateTime<Utc>,
    /// A line ended in its middle.
    torn: bool,
}

impl Sink {
    pub(crate) fn new(format: Format, path: Option<PathBuf>) -> Self {
        let terminal = io::stderr().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = if terminal && !no_colour { Colour::Yes } else { Colour::No };
        let file = path.map(|path| LogFile { path, file: None, tried: DateTime::<Utc>::MIN_UTC, torn: false });
        Self { format, terminal, colour, file: Mutex::new(file), trouble: watch::Sender::new(None) }
    }

    /// Why lines do not reach the file, while they do not.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    pub(crate) fn write(&self, head: Head<'_>, record: &Record) {
        let people = match self.format {
            Format::Auto => self.terminal,
            Format::Human => true,
            Format::Json => false,
        };
        let line = if people { human(head, record, self.colour) } else { json(head, record) };
        // There is nobody left to tell where standard error is gone.
        let _ignored = io::stderr().lock().write_all(line.as_bytes());
        self.write_file(head, record);
    }

    fn write_file(&self, head: Head<'_>, record: &Record) {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            let line = if self.format == Format::Human { human(head, record, Colour::No) } else { json(head, record) };
            match held.write(&line, head.time) {
                Written::Whole => self.tell(&held.path, None),
                Written::Not(error) => {
                    counter!("dwcp_log_lines_lost_total").increment(1);
                    self.tell(&held.path, Some(error));
                }
                Written::NotTried => counter!("dwcp_log_lines_lost_total").increment(1),
            }
        }
    }

    /// Says a change for the better or the worse, once.
    fn tell(&self, path: &Path, error: Option<io::Error>) {
        let was = self.trouble.borrow().is_some();
        match error {
            None if was => {
                self.trouble.send_replace(None);
                let said = format!("{}: the log is written there again\n", path.display());
                let _ignored = io::stderr().lock().write_all(said.as_bytes());
            }
            Some(error) if !was => {
                let why = format!("{}: the log cannot be written there: {error}", path.display());
                let said = format!("{why}; lines go to standard error alone, until it can\n");
                let _ignored = io::stderr().lock().write_all(said.as_bytes());
                self.trouble.send_replace(Some(why));
            }
            _as_it_was => {}
        }
    }

    pub(crate) fn set_file(&self, path: Option<PathBuf>) -> io::Result<()> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().map(|held| &held.path) != path.as_ref() {
            *held = path.map(LogFile::open).transpose()?;
            self.trouble.send_replace(None);
        }
        Ok(())
    }

    pub(crate) fn reopen(&self) -> io::Result<()> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            // The old one stays in use where the new one cannot be opened.
            held.file = Some(open(&held.path)?);
            held.torn = false;
        }
        Ok(())
    }
}

/// What became of a line.
enum Written {
    Whole,
    Not(io::Error),
    /// The file is not open, and was tried a moment ago.
    NotTried,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = Some(open(&path)?);
        Ok(Self { path, file, tried: DateTime::<Utc>::MIN_UTC, torn: false })
    }

    fn write(&mut self, line: &str, now: DateTime<Utc>) -> Written {
        if self.file.is_none() {
            if now.signed_duration_since(self.tried).abs() < TRY_AGAIN {
                return Written::NotTried;
            }
            self.tried = now;
            match open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) => return Written::Not(error),
            }
        }
        let Some(file) = &mut self.file else { return Written::NotTried };
        // What follows a line that ended in its middle is a line of its own.
        let text = if self.torn { format!("\n{line}") } else { line.to_owned() };
        match file.write(text.as_bytes()) {
            Ok(written) if written == text.len() => {
                self.torn = false;
                Written::Whole
            }
            Ok(written) => {
                let rest = text.as_bytes().get(written..).unwrap_or_default();
                let ended = file.write_all(rest);
                self.torn = ended.is_err();
                ended.map_or_else(Written::Not, |()| Written::Whole)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                let ended = file.write_all(text.as_bytes());
                self.torn |= ended.is_err();
                ended.map_or_else(Written::Not, |()| Written::Whole)
            }
            Err(error) => Written::Not(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_for_a_while_costs_lines_and_garbles_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(path.clone()).unwrap();
        let now = DateTime::<Utc>::UNIX_EPOCH;
        assert!(matches!(log.write("one\n", now), Written::Whole));
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = log.file.replace(full);
        assert!(matches!(log.write("two\n", now), Written::Not(_)));
        // As if a part of it had found room.
        log.torn = true;
        assert!(matches!(log.write("three\n", now), Written::Not(_)));
        log.file = file;
        log.write("four\n", now);
        log.write("five\n", now);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\n\nfour\nfive\n");
    }
}
