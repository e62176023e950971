//! When a version is kept, when a whole one travels, when a baseline is not indexed any more: pure.
//!
//! * `compression.baseline_interval`: a version is *copied* into the store at most so often for each place. Sharing blocks costs
//!   nothing, so where the file system can do that, every version is kept: what the receiver holds is always the newest.
//!   Of standing syncs a version that is not copied takes the place of the one before in its copy, by what differs (`follow.rs`).
//! * `compression.max_delta_chain`: after so many versions that referred to the one before, one goes whole, or as its receiver says what it holds.
//! * `compression.adaptive_threshold`: when two versions running gained less than this from their baseline, indexes of this
//!   object are not kept, and the next version is taken whatever the interval. It never decides about bytes: each segment does.

use std::time::Duration;

/// So many versions running that gain too little are no accident.
pub const POOR_VERSIONS: u32 = 2;

/// Whether versions are copied where blocks cannot be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// Those of standing syncs, and those that replaced an older one at the receiver: where a next one is likely.
    Auto,
    /// All.
    Always,
    /// None.
    Never,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Where blocks cannot be shared.
    pub copying: Copying,
    /// `compression.baseline_interval`.
    pub interval: Duration,
    /// `compression.max_delta_chain`.
    pub max_chain: u32,
    /// `compression.adaptive_threshold`.
    pub threshold: f64,
}

impl Default for Policy {
    /// The built-in configuration's.
    fn default() -> Self {
        Self { copying: Copying::Auto, interval: Duration::from_secs(300), max_chain: 10, threshold: 3.0 }
    }
}

/// What is known of a version that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Versions since one that went whole.
    pub chain: u32,
    /// Versions running, this the last, that gained too little.
    pub poor: u32,
    /// When the receiver had it, in milliseconds since the Unix epoch.
    pub acknowledged_ms: i64,
}

/// How a version travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// Without a baseline.
    Whole,
    /// By what the receiver said of the version that it really holds.
    Described,
    /// By reference to the version before.
    Delta {
        /// Bytes that it would have taken without.
        plain: u64,
        /// Bytes that it took.
        encoded: u64,
    },
}

/// Why a next version of a place is likely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prospect {
    /// It is sent again and again: a standing sync.
    pub is_standing: bool,
    /// It replaced an older version at the receiver.
    pub replaced: bool,
}

impl Policy {
    /// What to note of a version that the receiver has now.
    #[must_use]
    pub fn next(&self, before: Option<&Version>, went: Went, now_ms: i64) -> Version {
        // A clock that was set back, or two within a millisecond: the newest is still the last.
        let acknowledged_ms = before.map_or(now_ms, |before| now_ms.max(before.acknowledged_ms.saturating_add(1)));
        let before = before.copied().unwrap_or(Version { chain: 0, poor: 0, acknowledged_ms });
        match went {
            Went::Whole | Went::Described => Version { chain: 0, poor: 0, acknowledged_ms },
            Went::Delta { plain, encoded } => {
                let poor = if self.is_poor(plain, encoded) { before.poor.saturating_add(1) } else { 0 };
                Version { chain: before.chain.saturating_add(1), poor, acknowledged_ms }
            }
        }
    }

    /// Whether the next version may refer to this one; else it goes whole.
    #[must_use]
    pub fn may_refer(&self, version: &Version) -> bool {
        version.chain < self.max_chain
    }

    /// Whether an index of this version is worth keeping.
    #[must_use]
    pub fn indexes(&self, version: &Version) -> bool {
        version.poor < POOR_VERSIONS
    }

    /// Whether a version is copied into the store, where its blocks cannot be shared.
    #[must_use]
    pub fn copies(&self, before: Option<&Version>, new: &Version, prospect: Prospect, now_ms: i64) -> bool {
        let wanted = match self.copying {
            Copying::Always => true,
            Copying::Auto => prospect.is_standing || prospect.replaced,
            Copying::Never => false,
        };
        wanted && (new.poor >= POOR_VERSIONS || before.is_none_or(|before| self.is_over(before, now_ms)))
    }

    /// Whether a version that is not copied takes the place of the one that was kept before it: of a standing sync the next one is due soon, and the
    /// receiver has that one no more.
    #[must_use]
    pub fn follows(&self, prospect: Prospect) -> bool {
        self.copying != Copying::Never && prospect.is_standing
    }

    /// Whether the interval since a version is over. A clock that was set back never holds it for longer.
    fn is_over(&self, before: &Version, now_ms: i64) -> bool {
        let since = now_ms.saturating_sub(before.acknowledged_ms);
        u64::try_from(since).map_or(true, |since| u128::from(since) >= self.interval.as_millis())
    }

    #[allow(clippy::cast_precision_loss, reason = "a ratio of sizes, compared with a threshold of one decimal")]
    fn is_poor(&self, plain: u64, encoded: u64) -> bool {
        (plain as f64) < self.threshold * encoded as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOR: Went = Went::Delta { plain: 200, encoded: 100 };
    const RICH: Went = Went::Delta { plain: 300, encoded: 100 };
    const SYNC: Prospect = Prospect { is_standing: true, replaced: false };

    #[test]
    fn a_chain_is_cut_after_so_many_deltas_and_begins_anew_with_a_whole_version() {
        let policy = Policy { max_chain: 3, ..Policy::default() };
        let mut version = policy.next(None, Went::Whole, 0);
        let mut deltas = 0;
        while policy.may_refer(&version) {
            version = policy.next(Some(&version), RICH, 0);
            deltas += 1;
        }
        assert_eq!(deltas, 3);
        assert!(policy.may_refer(&policy.next(Some(&version), Went::Whole, 0)));
    }

    #[test]
    fn two_poor_versions_running_end_indexing_and_one_good_one_begins_it_again() {
        let policy = Policy::default();
        let one = policy.next(None, POOR, 0);
        assert!(policy.indexes(&one));
        let good = policy.next(Some(&one), RICH, 1);
        assert!(policy.indexes(&policy.next(Some(&good), POOR, 2)));
        let two = policy.next(Some(&one), POOR, 1);
        assert!(!policy.indexes(&two));
        assert!(policy.indexes(&policy.next(Some(&two), RICH, 2)));
    }

    #[test]
    fn a_version_is_copied_once_in_an_interval_but_for_one_after_which_indexing_ends() {
        let policy = Policy::default();
        let first = policy.next(None, Went::Whole, 1_000_000);
        assert!(policy.copies(None, &first, SYNC, 1_000_000));
        let soon = policy.next(Some(&first), RICH, 1_299_999);
        assert!(!policy.copies(Some(&first), &soon, SYNC, 1_299_999));
        let later = policy.next(Some(&first), RICH, 1_300_000);
        assert!(policy.copies(Some(&first), &later, SYNC, 1_300_000));
        let poor = policy.next(Some(&Version { poor: 1, ..first }), POOR, 1_000_001);
        assert!(policy.copies(Some(&first), &poor, SYNC, 1_000_001));
        let set_back = policy.next(Some(&first), RICH, 5);
        assert!(policy.copies(Some(&first), &set_back, SYNC, 5), "a clock that was set back");
        assert!(set_back.acknowledged_ms > first.acknowledged_ms, "the newest is still the last");
    }

    #[test]
    fn what_is_copied_follows_the_configuration() {
        let copies = |copying, is_standing, replaced| {
            let policy = Policy { copying, ..Policy::default() };
            policy.copies(None, &policy.next(None, Went::Whole, 0), Prospect { is_standing, replaced }, 0)
        };
        assert!(!copies(Copying::Auto, false, false));
        assert!(copies(Copying::Auto, true, false) && copies(Copying::Auto, false, true));
        assert!(copies(Copying::Always, false, false));
        assert!(!copies(Copying::Never, true, true));
    }
}
