//! What a stretch of bytes is worth: bytes on the link against CPU.
//!
//! The cost of a way to carry bytes is the time that its output takes on the link plus the CPU time that it takes to make. `algorithm` and
//! `level` are constraints: no other algorithm than the configured one is used, but for lz4 and bytes as they are where a link is faster than the
//! configured one; and a segment never takes more CPU than it would as a whole at the configured level. So what is little may be compressed
//! harder: the literals of a delta, not the segment that is all literal.

use std::fmt;

use crate::options::{Algorithm, Level, Options};

/// How much is done to make bytes small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effort {
    /// Nothing.
    Store,
    /// lz4.
    Lz4,
    /// snappy.
    Snappy,
    /// zstd at this level: 1 to 22, or below 0 for its fast ones.
    Zstd(i8),
}

impl fmt::Display for Effort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => out.write_str("raw"),
            Self::Lz4 => out.write_str("lz4"),
            Self::Snappy => out.write_str("snappy"),
            Self::Zstd(level) => write!(out, "zstd {level}"),
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is what the configuration says.
    Configured,
    /// The link is so fast that less effort is cheaper.
    Link,
    /// It is so little that more effort costs no more than the configured one would on all.
    Little,
    /// Samples of it do not become smaller.
    Incompressible,
}

impl Reason {
    /// A word for reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Link => "link",
            Self::Little => "little",
            Self::Incompressible => "incompressible",
        }
    }
}

/// What is done, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What.
    pub effort: Effort,
    /// Why.
    pub reason: Reason,
}

/// How many thousandths of its size a sample keeps when it is compressed fast; 1000 and more: it does not become smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permille(pub u16);

impl Permille {
    /// So much, or more, is kept of what is not worth compressing: media and archives are above, text and numbers below. To save three
    /// hundredths by zstd at level 3 pays on links below 40 Mbit/s.
    const INCOMPRESSIBLE: Self = Self(970);
    /// The same where bytes count for more than CPU.
    const INCOMPRESSIBLE_FOR_STRONG: Self = Self(997);
}

/// What is known of an effort.
struct Known {
    effort: Effort,
    /// The output's share of the input is that of zstd at level 3 to this power (in hundredths).
    power: u8,
    /// CPU nanoseconds a KiB of input.
    cpu: u32,
}

/// Measured over tars of programs, text, images of disks and databases (zstd 1.5.7, lz4_flex), per CPU second of one shared core.
/// Machines differ, the order does not.
const KNOWN: [Known; 11] = [
    Known { effort: Effort::Store, power: 0, cpu: 100 },
    Known { effort: Effort::Lz4, power: 67, cpu: 2_000 },
    Known { effort: Effort::Zstd(-1), power: 85, cpu: 2_600 },
    Known { effort: Effort::Zstd(1), power: 95, cpu: 3_700 },
    Known { effort: Effort::Zstd(3), power: 100, cpu: 5_700 },
    Known { effort: Effort::Zstd(6), power: 106, cpu: 13_000 },
    Known { effort: Effort::Zstd(9), power: 110, cpu: 23_000 },
    Known { effort: Effort::Zstd(12), power: 112, cpu: 41_000 },
    Known { effort: Effort::Zstd(15), power: 115, cpu: 100_000 },
    Known { effort: Effort::Zstd(19), power: 125, cpu: 410_000 },
    Known { effort: Effort::Zstd(22), power: 127, cpu: 700_000 },
];

/// Literals of a delta may take a half of the CPU that the whole segment would take: the search has had its part.
const LITTLE_SHARE: u64 = 2;
/// What a sample keeps so much of hardly becomes smaller.
const HARD: Permille = Permille(900);
/// The hardest level for what is little: beyond it, contexts take 100 MB.
const LITTLE_MOST: i8 = 15;

/// The constraints under which efforts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    algorithm: Algorithm,
    level: Level,
    enabled: bool,
    /// Bytes a second.
    link: Option<u64>,
}

impl Costs {
    /// By configuration; `link` is what the path carries, in bytes a second and for one encoding thread, where it is known.
    #[must_use]
    pub const fn new(options: &Options, link: Option<u64>) -> Self {
        Self { algorithm: options.algorithm, level: options.level, enabled: options.enabled, link }
    }

    /// For a stretch of which a sample keeps `kept`.
    #[must_use]
    pub fn plain(&self, kept: Permille) -> Choice {
        let configured = self.configured();
        if configured == Effort::Store {
            return Choice { effort: configured, reason: Reason::Configured };
        }
        let strong = matches!(configured, Effort::Zstd(10..));
        if kept >= if strong { Permille::INCOMPRESSIBLE_FOR_STRONG } else { Permille::INCOMPRESSIBLE } {
            return Choice { effort: Effort::Store, reason: Reason::Incompressible };
        }
        let Some(link) = self.link else { return Choice { effort: configured, reason: Reason::Configured } };
        let allowed = KNOWN.iter().filter(|known| self.allows(known.effort));
        let cost = |known: &&Known| cost(known, kept, link);
        match allowed.min_by(|one, other| cost(one).total_cmp(&cost(other))) {
            // The nearest below the configured level stands for it.
            Some(known) if known.effort != self.nearest(configured) => {
                Choice { effort: known.effort, reason: Reason::Link }
            }
            Some(_) | None => Choice { effort: configured, reason: Reason::Configured },
        }
    }

    /// For the `literals` bytes that a delta of a segment of `segment` bytes leaves, whatever they are.
    #[must_use]
    pub fn little(&self, literals: usize, segment: usize) -> Choice {
        let configured = self.configured();
        let Effort::Zstd(level) = configured else {
            return Choice { effort: configured, reason: Reason::Configured };
        };
        let cpu = |effort| KNOWN.iter().find(|known| known.effort == effort).map_or(u64::MAX, |known| known.cpu.into());
        let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let budget = wide(segment).saturating_mul(cpu(self.nearest(configured))) / LITTLE_SHARE;
        let affordable = KNOWN.iter().rev().find_map(|known| match known.effort {
            Effort::Zstd(harder) if harder > level && harder <= LITTLE_MOST => {
                (wide(literals).saturating_mul(known.cpu.into()) <= budget).then_some(known.effort)
            }
            Effort::Zstd(_) | Effort::Store | Effort::Lz4 | Effort::Snappy => None,
        });
        match affordable {
            Some(effort) => Choice { effort, reason: Reason::Little },
            None => Choice { effort: configured, reason: Reason::Configured },
        }
    }

    /// The same for literals of which a sample keeps `kept`: of what hardly becomes smaller the fast levels find as much as the default
    /// one, but for half a hundredth, in two thirds of the time.
    #[must_use]
    pub fn hard(&self, choice: Choice, kept: Permille) -> Choice {
        let is_hard = kept >= HARD && matches!(choice.effort, Effort::Zstd(2..=4));
        if is_hard { Choice { effort: Effort::Zstd(1), reason: Reason::Incompressible } } else { choice }
    }

    /// What an effort is expected to take for so many bytes, in nanoseconds of the processor.
    #[must_use]
    pub fn nanoseconds(&self, effort: Effort, bytes: usize) -> u64 {
        let like = if effort == Effort::Snappy { Effort::Lz4 } else { self.nearest(effort) };
        let known = KNOWN.iter().find(|known| known.effort == like).map_or(0, |known| u64::from(known.cpu));
        u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(known) / 1024
    }

    /// What the configuration says.
    #[must_use]
    pub fn configured(&self) -> Effort {
        match self.algorithm {
            _ if !self.enabled => Effort::Store,
            Algorithm::Zstd => Effort::Zstd(self.level.number()),
            Algorithm::Lz4 => Effort::Lz4,
            Algorithm::Snappy => Effort::Snappy,
        }
    }

    fn allows(&self, effort: Effort) -> bool {
        match (effort, self.algorithm) {
            (Effort::Store | Effort::Lz4, Algorithm::Zstd) | (Effort::Lz4, Algorithm::Lz4) => true,
            (Effort::Store, Algorithm::Lz4) => true,
            (Effort::Zstd(level), Algorithm::Zstd) => level <= self.level.number(),
            (Effort::Store | Effort::Lz4 | Effort::Zstd(_) | Effort::Snappy, Algorithm::Snappy) => false,
            (Effort::Zstd(_) | Effort::Snappy, Algorithm::Lz4) | (Effort::Snappy, Algorithm::Zstd) => false,
        }
    }

    /// The known effort that stands for one.
    fn nearest(&self, effort: Effort) -> Effort {
        let Effort::Zstd(level) = effort else { return effort };
        let below = KNOWN.iter().rev().map(|known| known.effort).find(|known| match known {
            Effort::Zstd(known) => *known <= level,
            Effort::Store | Effort::Lz4 | Effort::Snappy => false,
        });
        below.unwrap_or(effort)
    }
}

/// Nanoseconds a KiB.
fn cost(known: &Known, kept: Permille, link: u64) -> f64 {
    // A sample is compressed by the fastest level.
    let third = f64::from(kept.0.clamp(1, 1000)) / 1000.0;
    let share = third.powf(f64::from(known.power) / 95.0);
    let link = f64::from(u32::try_from(link.max(1) / 1024).unwrap_or(u32::MAX).max(1));
    share * 1e9 / link + f64::from(known.cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Permille = Permille(250);
    const MBIT: u64 = 125_000;

    fn costs(algorithm: Algorithm, level: i64, link: Option<u64>) -> Costs {
        let level = Level::new(level).unwrap();
        Costs::new(&Options { algorithm, level, ..Options::default() }, link)
    }

    #[test]
    fn a_fast_link_wants_less_and_a_slow_one_what_is_configured() {
        let chosen = |link| costs(Algorithm::Zstd, 9, Some(link)).plain(TEXT).effort;
        let by_link = [1, 20, 100, 400, 2_000, 10_000, 100_000].map(|mbit| chosen(mbit * MBIT));
        let order = |effort| KNOWN.iter().position(|known| known.effort == effort).unwrap();
        assert!(by_link.is_sorted_by_key(|effort| std::cmp::Reverse(order(*effort))), "{by_link:?}");
        assert_eq!((by_link[0], by_link[6]), (Effort::Zstd(9), Effort::Store));
        assert!(by_link.contains(&Effort::Lz4), "{by_link:?}");
        assert_eq!(costs(Algorithm::Zstd, 9, Some(10_000 * MBIT)).plain(TEXT).reason, Reason::Link);
        // Between known levels the configured one is kept.
        assert_eq!(costs(Algorithm::Zstd, 8, Some(MBIT)).plain(TEXT).effort, Effort::Zstd(8));
        assert_eq!(costs(Algorithm::Zstd, 8, None).plain(TEXT).effort, Effort::Zstd(8));
    }

    #[test]
    fn the_configured_algorithm_is_a_constraint() {
        for link in [None, Some(MBIT), Some(100_000 * MBIT)] {
            assert_eq!(costs(Algorithm::Snappy, 3, link).plain(TEXT).effort, Effort::Snappy);
            assert_eq!(costs(Algorithm::Lz4, 3, link).little(10, 1000).effort, Effort::Lz4);
            let zstd = costs(Algorithm::Zstd, 1, link).plain(TEXT).effort;
            assert!(matches!(zstd, Effort::Store | Effort::Lz4 | Effort::Zstd(-1 | 1)), "{zstd:?}");
        }
        let off = Costs::new(&Options { enabled: false, ..Options::default() }, Some(MBIT));
        assert_eq!((off.plain(TEXT).effort, off.little(1, 1000).effort), (Effort::Store, Effort::Store));
    }

    #[test]
    fn what_is_little_is_worth_more_and_what_does_not_compress_nothing() {
        let by_share =
            [1000, 400, 100, 10, 1].map(|literals| costs(Algorithm::Zstd, 3, None).little(literals, 1000).effort);
        assert_eq!(by_share[0], Effort::Zstd(3));
        assert_eq!(by_share[4], Effort::Zstd(15));
        assert!(
            by_share.is_sorted_by_key(|effort| if let Effort::Zstd(level) = effort { *level } else { 0 }),
            "{by_share:?}"
        );
        let media = costs(Algorithm::Zstd, 3, None).plain(Permille(990));
        assert_eq!(media, Choice { effort: Effort::Store, reason: Reason::Incompressible });
        assert_eq!(costs(Algorithm::Zstd, 19, None).plain(Permille(990)).effort, Effort::Zstd(19));
    }
}
