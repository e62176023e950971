//! One new version of one object, on its way.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    baseline::Baseline, cost::Costs, history::History, options::Options, read_at::ReadAt, signature::SignatureIndex,
};

/// What the other end holds of the object, or of one like it.
#[derive(Clone, Debug, Default)]
pub enum Basis {
    /// Nothing that is known.
    #[default]
    Nothing,
    /// Something that only the other end can read.
    Signature(Arc<SignatureIndex>),
    /// A whole version that is at hand here as well.
    Baseline(Arc<Baseline>),
}

/// Whether earlier parts of the same version are referred to.
#[derive(Clone, Debug, Default)]
pub enum HistoryUse {
    /// No: segments are encoded and decoded in any order.
    #[default]
    None,
    /// Yes, and read again from here. Every segment must be encoded, or given up by [`Version::skip`]: a segment waits for those
    /// that are [`LAG`](proto_wire::hde::LAG) before it.
    Whole(Arc<dyn ReadAt>),
}

/// One new version of one object: shared by the encoders of all threads. What they make is the same at any number of threads.
#[derive(Debug)]
pub struct Version {
    options: Options,
    basis: Basis,
    size: u64,
    segment_bytes: u32,
    history: Option<History>,
    source: Option<Arc<dyn ReadAt>>,
    link: Option<u64>,
    id: u64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Version {
    /// A version of `size` bytes, in segments of `segment_bytes`.
    #[must_use]
    pub fn new(options: Options, basis: Basis, size: u64, segment_bytes: u32, history: HistoryUse) -> Self {
        let source = match &history {
            HistoryUse::Whole(source) => Some(Arc::clone(source)),
            HistoryUse::None => None,
        };
        let history = match history {
            HistoryUse::Whole(source) if options.enabled => {
                let held = match &basis {
                    Basis::Baseline(baseline) if options.references => baseline.bytes().size(),
                    Basis::Baseline(_) | Basis::Signature(_) | Basis::Nothing => 0,
                };
                Some(History::new(source, segment_bytes, held))
            }
            HistoryUse::Whole(_) | HistoryUse::None => None,
        };
        Self { options, basis, size, segment_bytes, history, source, link: None, id: NEXT_ID.fetch_add(1, Relaxed) }
    }

    /// The same, where what stands before and behind a segment can be read, too.
    #[must_use]
    pub fn read_from(self, source: Arc<dyn ReadAt>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Where it can be read.
    pub(crate) fn source(&self) -> Option<&Arc<dyn ReadAt>> {
        self.source.as_ref()
    }

    /// What stands alone: neither a basis nor a history.
    #[must_use]
    pub fn plain(options: Options) -> Self {
        Self::new(options, Basis::Nothing, 0, crate::MAX_SEGMENT_BYTES, HistoryUse::None)
    }

    /// The same over a path that carries so many bytes a second for each encoding thread.
    #[must_use]
    pub const fn linked(mut self, bytes_per_second: Option<u64>) -> Self {
        self.link = bytes_per_second;
        self
    }

    pub(crate) const fn costs(&self) -> Costs {
        Costs::new(&self.options, self.link)
    }

    /// How it is encoded.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// What the other end holds.
    #[must_use]
    pub const fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Bytes of the whole.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of each segment but the last.
    #[must_use]
    pub const fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Whether earlier parts of the same version are referred to.
    #[must_use]
    pub const fn has_history(&self) -> bool {
        self.history.is_some()
    }

    pub(crate) const fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// No other version of this process has it.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Segment `number` will not be encoded: no other waits for it.
    pub fn skip(&self, number: u64) {
        if let Some(history) = &self.history {
            history.add(number, Vec::new());
        }
    }
}
