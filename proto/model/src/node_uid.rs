//! [`NodeUid`].

use crate::newtype::uuid_id;

/// A node: the identity that survives a change of key, name or host (D2). The control plane chooses it at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeUid(uuid::Uuid);

uuid_id!(NodeUid, ParseNodeUidError, "a node's uid");
