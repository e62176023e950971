//! Why a segment was encoded as it was.

use std::fmt;

use crate::cost::{Choice, Effort, Reason};

/// What was found of a segment elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Found {
    /// Nothing was looked for: compression is off.
    #[default]
    Disabled,
    /// Nothing was looked for: `enable_delta_encoding` is off.
    DeltaDisabled,
    /// Samples of it look random: only long repetitions of earlier segments were looked for.
    Random,
    /// It was looked for, and is not there.
    Nothing,
    /// What stands at the same place of the baseline explains it.
    InPlace,
    /// Parts of it stand elsewhere in the baseline, or in earlier segments.
    Elsewhere,
    /// The receiver has described parts of it.
    Described,
    /// It looks like numbers of fixed width that changed.
    Numbers,
}

impl Found {
    /// Words for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "not looked for",
            Self::DeltaDisabled => "delta encoding is off",
            Self::Random => "looks random",
            Self::Nothing => "found nowhere",
            Self::InPlace => "found in place",
            Self::Elsewhere => "found elsewhere",
            Self::Described => "described by the receiver",
            Self::Numbers => "changed numbers",
        }
    }
}

/// A form that a segment may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Raw,
    /// Compressed as a whole.
    Whole,
    /// Operations, changes, literals.
    Delta,
    /// Differences of numbers.
    Numbers,
    /// Compressed behind all of the baseline.
    Leaning,
}

impl Form {
    /// A word for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Whole => "whole",
            Self::Delta => "delta",
            Self::Numbers => "numbers",
            Self::Leaning => "behind the baseline",
        }
    }
}

/// What a form was found to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// Which.
    pub form: Form,
    /// How its bytes, or literals, are compressed, and why like this.
    pub choice: Choice,
    /// The bytes that it came to; none where it was not tried, or did not become shorter than what there was.
    pub bytes: Option<u64>,
    /// What it was expected to take of the processor.
    pub cpu_nanoseconds: u64,
}

/// What decided between the forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decided {
    /// Compression is off.
    #[default]
    Disabled,
    /// The bytes of what was tried; what was not could not have been smaller for its price.
    Bytes,
    /// Samples do not become smaller.
    Incompressible,
    /// The link is faster than more effort.
    Link,
    /// `algorithm` leaves no other.
    Algorithm,
    /// `level`.
    Level,
}

impl Decided {
    /// A word for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "compression.enabled",
            Self::Bytes => "bytes",
            Self::Incompressible => "incompressible",
            Self::Link => "link",
            Self::Algorithm => "algorithm",
            Self::Level => "level",
        }
    }
}

/// Forms that are weighed at most.
const FORMS: usize = 6;

/// Why a segment was encoded as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// What was found of it.
    pub found: Found,
    /// What decided.
    pub decided: Decided,
    weighed: [Option<Weighed>; FORMS],
}

impl Why {
    /// The forms that were weighed, in their order.
    pub fn weighed(&self) -> impl Iterator<Item = &Weighed> {
        self.weighed.iter().flatten()
    }

    /// Notes a form.
    pub(crate) fn weigh(&mut self, weighed: Weighed) {
        if let Some(free) = self.weighed.iter_mut().find(|known| known.is_none()) {
            *free = Some(weighed);
        }
    }

    /// Says what decided for `form`.
    pub(crate) fn decide(&mut self, form: Form) {
        let others = |weighed: &&Weighed| weighed.bytes.is_some() && weighed.form != Form::Raw;
        let tried = self.weighed().filter(others).count();
        let reason = |wanted: Reason| self.weighed().any(|weighed| weighed.choice.reason == wanted);
        let foreign = self.weighed().any(|known| matches!(known.choice.effort, Effort::Lz4 | Effort::Snappy));
        if self.found == Found::Disabled {
            return;
        }
        self.decided = if form == Form::Raw && reason(Reason::Incompressible) {
            Decided::Incompressible
        } else if reason(Reason::Link) {
            Decided::Link
        } else if tried > 1 || form == Form::Delta || form == Form::Raw {
            Decided::Bytes
        } else if foreign {
            Decided::Algorithm
        } else {
            Decided::Level
        };
    }
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; {} decided", self.found.name(), self.decided.name())?;
        for (number, weighed) in self.weighed().enumerate() {
            let before = if number == 0 { ": " } else { ", " };
            write!(out, "{before}{} ", weighed.form.name())?;
            match weighed.bytes {
                Some(bytes) => write!(out, "{bytes} B")?,
                None => write!(out, "not tried or no shorter")?,
            }
            let Choice { effort, reason } = weighed.choice;
            write!(out, " ({effort}, {}, {} us)", reason.name(), weighed.cpu_nanoseconds / 1000)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Algorithm, Baseline, Basis, Encoder, HistoryUse, Level, Options, Version};

    fn text(length: usize, step: u64) -> Vec<u8> {
        (0..).flat_map(|n: u64| format!("{n:06} the fox {}\n", n * step).into_bytes()).take(length).collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Why a segment becomes what it does against `old`.
    fn why(new: &[u8], old: Option<&[u8]>, options: Options, link: Option<u64>) -> Why {
        let basis =
            old.map_or(Basis::Nothing, |old| Basis::Baseline(Arc::new(Baseline::new(Arc::new(old.to_vec()), None))));
        let size = u64::try_from(new.len()).unwrap();
        let version = Version::new(options, basis, size, 4 << 20, HistoryUse::None).linked(link);
        Encoder::new().encode(&version, 0, new, &mut Vec::new()).unwrap().why
    }

    #[test]
    fn each_reason_is_told() {
        let (old, usual) = (text(600_000, 7919), Options::default());
        let mut edited = old.clone();
        edited[1000..1200].fill(b'!');
        let found = |new: &[u8], old, options, link| {
            let why = why(new, old, options, link);
            (why.found, why.decided)
        };
        let moved = [&noise(20_000)[..], &old[100_000..]].concat();
        let lz4 = Options { algorithm: Algorithm::Lz4, ..usual };
        let off = Options { enabled: false, ..usual };
        let alone = Options { references: false, ..usual };
        let strong = Options { level: Level::new(9).unwrap(), ..usual };
        assert_eq!(found(&edited, Some(&old), usual, None), (Found::InPlace, Decided::Bytes));
        assert_eq!(found(&moved, Some(&old), usual, None), (Found::Elsewhere, Decided::Bytes));
        assert_eq!(found(&noise(600_000), Some(&old), usual, None), (Found::Nothing, Decided::Incompressible));
        assert_eq!(found(&edited, Some(&old), alone, None), (Found::DeltaDisabled, Decided::Level));
        assert_eq!(found(&edited, None, strong, Some(1 << 40)), (Found::Nothing, Decided::Link));
        assert_eq!(found(&edited, None, lz4, None), (Found::Nothing, Decided::Algorithm));
        assert_eq!(found(&edited, Some(&old), off, None), (Found::Disabled, Decided::Disabled));

        let why = why(&edited, Some(&old), usual, None);
        let forms: Vec<_> = why.weighed().map(|weighed| (weighed.form, weighed.bytes.is_some())).collect();
        assert_eq!(forms, [(Form::Delta, true), (Form::Raw, true)]);
        let told = why.to_string();
        assert!(
            told.starts_with("found in place; bytes decided: delta ") && told.contains("(zstd 15, little, "),
            "{told}"
        );
    }
}
