//! Reasons of issues and ends, as programs see them. `docs/` lists them for people.

/// What keeps one entry from being moved.
pub(crate) mod issue {
    /// It cannot be opened or read.
    pub(crate) const UNREADABLE: &str = "UNREADABLE";
    /// It changed while it was read, twice.
    pub(crate) const CHANGED_WHILE_READ: &str = "CHANGED_WHILE_READ";
    /// A device, socket or pipe.
    pub(crate) const SPECIAL_FILE: &str = "SPECIAL_FILE";
    /// A folder stands where a file should, or the other way.
    pub(crate) const TYPE_CONFLICT: &str = "TYPE_CONFLICT";
    /// It lies on another file system than the granted folder.
    pub(crate) const OTHER_FILE_SYSTEM: &str = "OTHER_FILE_SYSTEM";
    /// Too deep, or its path too long.
    pub(crate) const PATH_TOO_LONG: &str = "PATH_TOO_LONG";
    /// Two sources have an entry of this path.
    pub(crate) const SAME_NAME: &str = "SAME_NAME";
    /// It cannot be written.
    pub(crate) const UNWRITABLE: &str = "UNWRITABLE";
    /// It could not be deleted.
    pub(crate) const NOT_DELETED: &str = "NOT_DELETED";
    /// Of a sync: others made or changed it at the destination.
    pub(crate) const DESTINATION_CHANGED: &str = "DESTINATION_CHANGED";
}

/// What ends a transfer.
pub(crate) mod end {
    /// The grant is not signed by this fleet, or not for these two nodes.
    pub(crate) const GRANT_INVALID: &str = "GRANT_INVALID";
    /// The grant is for later.
    pub(crate) const GRANT_NOT_YET_VALID: &str = "GRANT_NOT_YET_VALID";
    /// The grant is over.
    pub(crate) const GRANT_EXPIRED: &str = "GRANT_EXPIRED";
    /// The grant is of before the control plane was restored, or of after it and this host has not heard of that.
    pub(crate) const GRANT_OF_OTHER_EPOCH: &str = "GRANT_OF_OTHER_EPOCH";
    /// The transfer has ended here before.
    pub(crate) const ALREADY_FINISHED: &str = "ALREADY_FINISHED";
    /// The root's owner accepts no direct send of this node.
    pub(crate) const NOT_ACCEPTED: &str = "NOT_ACCEPTED";
    /// This host has no such root.
    pub(crate) const NO_SUCH_ROOT: &str = "NO_SUCH_ROOT";
    /// The root is read-only.
    pub(crate) const READ_ONLY_ROOT: &str = "READ_ONLY_ROOT";
    /// A source does not exist, or cannot be opened.
    pub(crate) const SOURCE_UNAVAILABLE: &str = "SOURCE_UNAVAILABLE";
    /// Of a sync: the file system that its source lay on is not mounted.
    pub(crate) const SOURCE_NOT_MOUNTED: &str = "SOURCE_NOT_MOUNTED";
    /// The destination cannot be opened or made.
    pub(crate) const DESTINATION_UNAVAILABLE: &str = "DESTINATION_UNAVAILABLE";
    /// The file system has no room.
    pub(crate) const NO_SPACE: &str = "NO_SPACE";
    /// More than the grant allows.
    pub(crate) const TOO_MANY_BYTES: &str = "TOO_MANY_BYTES";
    /// The tree has more entries than this host takes down.
    pub(crate) const MANIFEST_TOO_LARGE: &str = "MANIFEST_TOO_LARGE";
    /// The peer does not keep to the protocol.
    pub(crate) const PROTOCOL_VIOLATION: &str = "PROTOCOL_VIOLATION";
    /// What arrives does not verify.
    pub(crate) const CORRUPTED: &str = "CORRUPTED";
    /// The trees differ at the end.
    pub(crate) const TREE_MISMATCH: &str = "TREE_MISMATCH";
    /// The link broke.
    pub(crate) const PEER_UNREACHABLE: &str = "PEER_UNREACHABLE";
    /// Nothing came for too long.
    pub(crate) const STALLED: &str = "STALLED";
    /// This host cannot go on: its disk or its own folder fails.
    pub(crate) const LOCAL_FAILURE: &str = "LOCAL_FAILURE";
    /// Somebody stopped it.
    pub(crate) const CANCELLED: &str = "CANCELLED";
    /// It had not ended by its deadline.
    pub(crate) const DEADLINE_EXCEEDED: &str = proto_model::TransferError::DEADLINE_EXCEEDED;
    /// An operator holds it.
    pub(crate) const PAUSED: &str = proto_model::TransferError::PAUSED;
    /// The transfer is running already.
    pub(crate) const BUSY: &str = "BUSY";
    /// This program stops; the transfer goes on later.
    pub(crate) const SHUTDOWN: &str = "SHUTDOWN";
    /// A newer grant of the sync is known here.
    pub(crate) const GRANT_SUPERSEDED: &str = "GRANT_SUPERSEDED";
    /// The sync was deleted.
    pub(crate) const SYNC_DELETED: &str = "SYNC_DELETED";
    /// Something stands where the first run of a sync would write.
    pub(crate) const DESTINATION_NOT_EMPTY: &str = "DESTINATION_NOT_EMPTY";
    /// A pattern to exclude is not valid.
    pub(crate) const BAD_PATTERN: &str = "BAD_PATTERN";
}
