//! What a decoder reads besides the encoded segment.

use std::{io, sync::Arc};

use crate::read_at::ReadAt;

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

/// A basis that is at hand, and what is decoded of the object so far.
#[derive(Clone, Debug, Default)]
pub struct HeldSources {
    /// The basis.
    pub basis: Option<Arc<dyn ReadAt>>,
    /// The object, readable as far as it has been decoded.
    pub history: Option<Arc<dyn ReadAt>>,
}

impl Sources for HeldSources {
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        match &self.basis {
            Some(basis) => basis.read_at(offset, room),
            None => NoSources.basis(offset, room),
        }
    }

    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        match &self.history {
            Some(history) => history.read_at(offset, room),
            None => NoSources.history(offset, room),
        }
    }
}
