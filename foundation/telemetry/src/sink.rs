//! Where lines go: standard error, and a file that can be changed and opened anew.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use metrics::counter;

use crate::{
    Format,
    format::{Colour, Head, human, json},
    record::Record,
};

/// Where lines go.
#[derive(Debug)]
pub(crate) struct Sink {
    format: Format,
    terminal: bool,
    colour: Colour,
    file: Mutex<Option<LogFile>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    /// The last line did not fit, and may stand there in part.
    torn: bool,
}

impl Sink {
    pub(crate) fn new(format: Format, path: Option<PathBuf>) -> io::Result<Self> {
        let terminal = io::stderr().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = if terminal && !no_colour { Colour::Yes } else { Colour::No };
        let file = path.map(LogFile::open).transpose()?;
        Ok(Self { format, terminal, colour, file: Mutex::new(file) })
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
            held.write(&line);
        }
    }

    pub(crate) fn set_file(&self, path: Option<PathBuf>) -> io::Result<()> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().map(|held| &held.path) != path.as_ref() {
            *held = path.map(LogFile::open).transpose()?;
        }
        Ok(())
    }

    pub(crate) fn reopen(&self) -> io::Result<()> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            // The old one stays in use where the new one cannot be opened.
            held.file = LogFile::open(held.path.clone())?.file;
        }
        Ok(())
    }
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&path)?;
        Ok(Self { path, file, torn: false })
    }

    /// A full disk must not stop the program: the line is lost here, and standard error has it. What comes after begins on a line of
    /// its own.
    fn write(&mut self, line: &str) {
        if self.torn && self.file.write_all(b"\n").is_err() {
            counter!("dwcp_log_lines_lost_total").increment(1);
            return;
        }
        self.torn = self.file.write_all(line.as_bytes()).is_err();
        if self.torn {
            counter!("dwcp_log_lines_lost_total").increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_for_a_while_costs_lines_and_garbles_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.write("one\n");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut log.file, full);
        log.write("two\n");
        log.write("three\n");
        log.file = file;
        log.write("four\n");
        log.write("five\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\n\nfour\nfive\n");
    }
}
