//! A whole older version that both ends hold.

use std::sync::{Arc, OnceLock};

use crate::read_at::ReadAt;

/// Where contents stand in a baseline.
#[derive(Clone, Debug)]
pub struct AnchorIndex {}

/// A whole older version that both ends hold.
#[derive(Debug)]
pub struct Baseline {
    bytes: Arc<dyn ReadAt>,
    index: OnceLock<AnchorIndex>,
}

impl Baseline {
    /// The baseline; its index is made when it is first needed, unless it is given.
    #[must_use]
    pub fn new(bytes: Arc<dyn ReadAt>, index: Option<AnchorIndex>) -> Self {
        Self { bytes, index: index.map_or_else(OnceLock::new, OnceLock::from) }
    }

    /// Where its contents stand, if that is known yet.
    #[must_use]
    pub fn index(&self) -> Option<&AnchorIndex> {
        self.index.get()
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Arc<dyn ReadAt> {
        &self.bytes
    }
}
