//! [`RequestId`].

use crate::newtype::uuid_id;

/// A caller's name for a request (AIP-155): a repeat with the same id has no further effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(uuid::Uuid);

uuid_id!(RequestId, ParseRequestIdError, "a request id");
