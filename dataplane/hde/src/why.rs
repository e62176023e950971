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
        let tried = self.weighed().filter(|weighed| weighed.bytes.is_some()).count();
        let reason = |wanted: Reason| self.weighed().any(|weighed| weighed.choice.reason == wanted);
        let foreign = self.weighed().any(|known| matches!(known.choice.effort, Effort::Lz4 | Effort::Snappy));
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
