//! How to encode.

use std::{fmt, str::FromStr};

use crate::anchors::Density;

/// From this level on bytes count for more than CPU and memory.
const STRONG: i8 = 16;

/// The compressor of literals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// zstd at a [`Level`].
    #[default]
    Zstd,
    /// lz4: about three times as fast as zstd at level 3, and larger.
    Lz4,
    /// snappy: like lz4.
    Snappy,
}

/// Not the name of an algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of zstd, lz4, snappy")]
pub struct UnknownAlgorithm(String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "zstd" => Ok(Self::Zstd),
            "lz4" => Ok(Self::Lz4),
            "snappy" => Ok(Self::Snappy),
            other => Err(UnknownAlgorithm(other.to_owned())),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
        })
    }
}

/// A level of zstd, 1 to 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// The level, where it is one.
    #[must_use]
    pub fn new(level: i64) -> Option<Self> {
        u8::try_from(level).ok().filter(|level| (1..=22).contains(level)).map(Self)
    }

    /// As zstd takes it.
    #[must_use]
    pub fn number(self) -> i8 {
        i8::try_from(self.0).expect("at most 22")
    }
}

impl Default for Level {
    /// zstd's own default.
    fn default() -> Self {
        Self(3)
    }
}

/// How to encode; the default compresses by zstd and refers to what the receiver holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Off: every segment travels as it is (DW-7).
    pub enabled: bool,
    /// The compressor of literals.
    pub algorithm: Algorithm,
    /// Of zstd; the others have none.
    pub level: Level,
    /// Whether references to what the receiver holds are used.
    pub references: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { enabled: true, algorithm: Algorithm::default(), level: Level::default(), references: true }
    }
}

impl Options {
    /// How dense the anchors of a baseline are.
    #[must_use]
    pub fn density(&self) -> Density {
        let strong = self.algorithm == Algorithm::Zstd && self.level.number() >= STRONG;
        if strong { Density::Fine } else { Density::Usual }
    }
}
