//! What a decoder reads besides the encoded segment.

use std::{io, sync::Arc};

use crate::{read_at::ReadAt, views::Views};

/// What a decoder may read.
pub trait Sources {
    /// Fills `room` with the bytes of the basis from `offset` on.
    ///
    /// # Errors
    /// Where there are none, or they cannot be read.
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()>;

    /// The same of the object that is decoded: only of segments numbered at most `number - LAG`.
    ///
    /// # Errors
    /// Where there are none, or they cannot be read.
    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()>;
}

/// Neither a basis nor a history.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSources;

impl Sources for NoSources {
    fn basis(&mut self, _offset: u64, _room: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn history(&mut self, _offset: u64, _room: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A basis that is at hand, and what is decoded of the object so far; both read through small caches.
#[derive(Debug)]
pub struct HeldSources {
    basis: Option<Arc<dyn ReadAt>>,
    history: Option<Arc<dyn ReadAt>>,
    basis_views: Views,
    history_views: Views,
}

impl HeldSources {
    /// These; the history is readable as far as it has been decoded, and what was read of it once does not change.
    #[must_use]
    pub const fn new(basis: Option<Arc<dyn ReadAt>>, history: Option<Arc<dyn ReadAt>>) -> Self {
        Self { basis, history, basis_views: Views::of_copies(), history_views: Views::of_copies() }
    }
}

impl Sources for HeldSources {
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        match &self.basis {
            Some(basis) => self.basis_views.read(basis.as_ref(), offset, room),
            None => NoSources.basis(offset, room),
        }
    }

    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        match &self.history {
            Some(history) => self.history_views.read(history.as_ref(), offset, room),
            None => NoSources.history(offset, room),
        }
    }
}
