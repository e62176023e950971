//! [`Generation`].

use std::fmt;

use crate::Epoch;

/// A state of what is desired. Ordered by epoch first, so that what was restored is never older than what it replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Counts restores.
    pub epoch: Epoch,
    /// Grows with every change of any configuration.
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}
