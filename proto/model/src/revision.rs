//! [`Revision`].

use crate::newtype::number;

/// The number of an immutable revision of a configuration, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

number!(Revision);
