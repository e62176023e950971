//! [`Epoch`].

use crate::newtype::number;

/// Counts restores of the control plane's database (D12). Sequences and generations start anew in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

number!(Epoch);
