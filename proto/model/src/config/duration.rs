//! Durations as people write them: `5m`, `30s`, `250ms`, `1h30m`; a bare whole number is seconds, as the DHT's manual has it.

use std::{fmt::Write as _, time::Duration};

/// The text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration such as 30s, 5m, 250ms or 1h30m")]
pub struct ParseDurationError;

/// By how many nanoseconds a unit counts; in the order in which they are written.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// What fits a number of nanoseconds: 584 years.
const MAX_SECONDS: u64 = u64::MAX / 1_000_000_000;

/// Parses a duration.
///
/// # Errors
/// Where it is none, or longer than 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    if !text.is_empty() && digits(text) == text.len() {
        let seconds = text.parse().ok().filter(|seconds| *seconds <= MAX_SECONDS);
        return seconds.map(Duration::from_secs).ok_or(ParseDurationError);
    }
    let mut rest = text;
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(ParseDurationError)?;
        let part = part_nanos(whole, fraction, *factor).ok_or(ParseDurationError)?;
        nanos = nanos.checked_add(part).ok_or(ParseDurationError)?;
        rest = after;
    }
    if text.is_empty() { Err(ParseDurationError) } else { Ok(Duration::from_nanos(nanos)) }
}

fn part_nanos(whole: &str, fraction: &str, factor: u64) -> Option<u64> {
    let whole: u64 = whole.parse().ok()?;
    // Nine digits name a nanosecond of any unit that is written with a fraction.
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok().filter(|&n| n <= 9)?)?;
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let part = u128::from(part) * u128::from(factor) / u128::from(scale);
    whole.checked_mul(factor)?.checked_add(u64::try_from(part).ok()?)
}

/// Writes a duration as [`parse_duration`] reads it, without loss below 584 years.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut out = String::new();
    for (unit, factor) in UNITS.iter().filter(|(unit, _)| *unit != "d") {
        let count = nanos / u128::from(*factor);
        if count > 0 {
            write!(out, "{count}{unit}").expect("a String takes whatever is written");
            nanos %= u128::from(*factor);
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in
            [("5m", 300_000), ("30s", 30_000), ("250ms", 250), ("1h30m", 5_400_000), ("1.5s", 1500), ("300", 300_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in
            ["", "5", "m", "-5s", "5 m", "5x", "1.s5", "1..5s", "99999999999999d", "5m3"].iter().filter(|t| **t != "5")
        {
            assert_eq!(parse_duration(bad), Err(ParseDurationError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(nanos in any::<u64>()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}|[0-9.smhnd]{0,12}") {
            let _parsed = parse_duration(&text);
        }
    }
}
