//! What the receiver wants, kept on disk until it is its turn: whoever reads frames never waits for whoever sends files, so
//! that the two ends cannot wait for each other.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Answers, appended and taken in order.
#[derive(Debug)]
pub(super) struct Answers {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    end: u64,
    /// Where each answer that was not taken yet begins, and how long it is.
    waiting: VecDeque<(u64, usize)>,
}

impl Answers {
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Self { file: options.open(folder.join("wanted"))?, state: Mutex::default() })
    }

    pub(super) fn append(&self, frame: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_empty() {
            // All was taken: the room is used again.
            state.end = 0;
        }
        let at = state.end;
        self.file.write_all_at(frame, at)?;
        state.end += u64::try_from(frame.len()).unwrap_or_default();
        state.waiting.push_back((at, frame.len()));
        Ok(())
    }

    pub(super) fn take(&self) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, len)) = state.waiting.front().copied() else { return Ok(None) };
        let mut frame = vec![0; len];
        self.file.read_exact_at(&mut frame, at)?;
        state.waiting.pop_front();
        Ok(Some(frame))
    }
}
