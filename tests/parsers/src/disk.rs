//! Files of our own that somebody may have damaged.

/// Read as a journal, as a fate, and as each of the small notes.
pub(crate) fn disk(bytes: &[u8]) {
    dataplane_transfer::parsers::files(bytes);
}
