//! Memory for what receivers say of their old versions. It only saves what would travel otherwise, so where it is used up, the
//! next file does without.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::service::Shared;

/// What a byte of a signature costs: itself, and its part of an entry in the index (27 bytes for each 8).
const COST: usize = 5;

/// What one file has of it; given back when it is dropped.
#[derive(Debug)]
pub(super) struct BasisMemory {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl BasisMemory {
    /// Nothing yet.
    pub(super) fn none(shared: &Shared) -> Self {
        Self { bytes: 0, all: Arc::clone(&shared.bases) }
    }

    /// Memory for so many bytes more of a signature, if there is any.
    pub(super) fn grow(&mut self, shared: &Shared, signature_bytes: usize) -> bool {
        let budget = usize::try_from(shared.settings.load().basis_budget.bytes()).unwrap_or(usize::MAX);
        let bytes = signature_bytes.saturating_mul(COST);
        if self.all.fetch_add(bytes, Relaxed).saturating_add(bytes) > budget {
            self.all.fetch_sub(bytes, Relaxed);
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.basis_budget").increment(1);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for BasisMemory {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}
