//! The lowest layer.

/// The built-in configuration: the document that every other layer is put over. What it does not name is not a key.
pub const DEFAULTS: &str = include_str!("defaults.yaml");

/// What a root has that nobody said anything of.
pub(super) const ROOT_DEFAULTS: &str = "path: null\nread_only: false\naccept: []\n";

/// What a sync has that nobody said anything of.
pub(super) const SYNC_DEFAULTS: &str =
    "source: null\ndestination: null\nevery: 5m\nexclude: []\nchecksum: false\nadopt: false\n";
