//! [`FleetId`].

use crate::newtype::uuid_id;

/// A fleet: the trust domain. Chosen at random when the control plane makes its CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetId(uuid::Uuid);

uuid_id!(FleetId, ParseFleetIdError, "a fleet's id");
