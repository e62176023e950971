//! Memory for what receivers say of their old versions. It only saves what would travel otherwise, so where it is used up, the
//! next file does without.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::service::Shared;

/// What a block of an old version costs: its digest, said and kept, and its place in the index.
const BLOCK_COST: usize = 2 * 32 + 24;

/// What one file has of it; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct BasisMemory {
    bytes: usize,
    all: Option<Arc<AtomicUsize>>,
}

impl BasisMemory {
    /// Memory for so many blocks, if there is any.
    pub(super) fn take(shared: &Shared, blocks: u64) -> Option<Self> {
        let budget = usize::try_from(shared.settings.load().basis_budget.bytes()).unwrap_or(usize::MAX);
        let bytes = usize::try_from(blocks).ok()?.checked_mul(BLOCK_COST)?;
        let all = Arc::clone(&shared.bases);
        if all.fetch_add(bytes, Relaxed).saturating_add(bytes) > budget {
            all.fetch_sub(bytes, Relaxed);
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.basis_budget").increment(1);
            return None;
        }
        Some(Self { bytes, all: Some(all) })
    }
}

impl Drop for BasisMemory {
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            all.fetch_sub(self.bytes, Relaxed);
        }
    }
}
