//! [`BitRate`].

use std::{fmt, str::FromStr};

use crate::escape::shortened;

/// Bits a second. Written with the largest decimal unit that loses nothing: `20mbit`, `1500kbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(u64);

/// The text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a rate: a whole number of bit, kbit, mbit or gbit a second from 64kbit to 1000gbit is expected, for example 20mbit"
)]
pub struct ParseBitRateError(String);

const UNITS: [(&str, u64); 3] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)];

impl BitRate {
    /// The slowest that still moves anything in the time that peers wait.
    pub const MIN: Self = Self(64_000);
    /// Faster than any link.
    pub const MAX: Self = Self(1_000_000_000_000);

    /// Bits a second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromStr for BitRate {
    type Err = ParseBitRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseBitRateError(shortened(text));
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_no_number| wrong())?;
        let unit = unit.trim_start().to_ascii_lowercase();
        let factor = match unit.as_str() {
            "" | "bit" => 1,
            other => UNITS.iter().find(|(name, _)| *name == other).ok_or_else(wrong)?.1,
        };
        let rate = number.checked_mul(factor).map(Self).filter(|rate| (Self::MIN..=Self::MAX).contains(rate));
        rate.ok_or_else(wrong)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => f.pad(&format!("{}{unit}", self.0 / factor)),
            None => f.pad(&format!("{}bit", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for (text, bits, shown) in [
            ("20mbit", 20_000_000, "20mbit"),
            ("1500 kbit", 1_500_000, "1500kbit"),
            ("1000GBIT", 1_000_000_000_000, "1000gbit"),
            ("64001", 64_001, "64001bit"),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.bits(), rate.to_string().as_str()), (bits, shown));
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for text in ["", "mbit", "20mb", "1.5gbit", "0", "63kbit", "1001gbit", "99999999999999999999gbit", "-1mbit"] {
            text.parse::<BitRate>().unwrap_err();
        }
    }
}
