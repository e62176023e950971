//! Quantities and times for people; what they typed, for the API.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// Bytes in binary units, three digits.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("EiB");
    if value < 9.995 {
        format!("{value:.2} {name}")
    } else if value < 99.95 {
        format!("{value:.1} {name}")
    } else {
        format!("{value:.0} {name}")
    }
}

/// `1 entry`, `2 entries`.
pub(crate) fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// A whole number of bytes from a rate.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped first; a rate for people needs no fraction"
    )]
    let whole = bytes_per_second.clamp(0.0, 1e18) as u64;
    format!("{}/s", bytes(whole))
}

/// `1h02m`, `3m05s`, `7.2s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A point in time, to the second, in UTC; empty where there is none.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    time.and_then(utc).map(|time| time.format("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default()
}

/// How long ago, or how long still, as people say it.
pub(crate) fn relative(time: Option<&Timestamp>, now: DateTime<Utc>) -> String {
    let Some(time) = time.and_then(utc) else { return String::new() };
    let between = (now - time).abs().to_std().unwrap_or_default();
    let between = duration(Duration::from_secs(between.as_secs()));
    if time <= now { format!("{between} ago") } else { format!("in {between}") }
}

/// A timestamp of the API as a point in time.
pub(crate) fn utc(time: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}

/// How long something took.
pub(crate) fn between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Option<Duration> {
    (utc(end?)? - utc(start?)?).to_std().ok()
}

/// A duration as people type it: `90s`, `5m`, `1h`, `7d`, `1h30m`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let wrong = || format!("`{text}` is no duration; write for example 90s, 5m, 1h30m or 7d");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next().ok_or_else(wrong)?;
        let seconds: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds)).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_secs(part)).ok_or_else(wrong)?;
        rest = tail.get(unit.len_utf8()..).unwrap_or_default();
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

/// When something is to be over: a time from now on, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// So long from now.
    In(Duration),
    /// Then.
    At(DateTime<Utc>),
}

impl Deadline {
    /// `2h`, or `2026-11-22T06:00:00Z`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('T') || text.contains('-') {
            let wrong = |error| format!("`{text}` is no time ({error}); write for example 2026-11-22T06:00:00Z, or 2h");
            return DateTime::parse_from_rfc3339(text).map(|time| Self::At(time.to_utc())).map_err(wrong);
        }
        match parse_duration(text)? {
            Duration::ZERO => Err("a deadline lies after now".to_owned()),
            from_now => Ok(Self::In(from_now)),
        }
    }
}

/// A duration for the API.
pub(crate) fn to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(1_048_575), "1.00 MiB");
        assert_eq!(bytes(412 * 1024 * 1024), "412 MiB");
    }

    #[test]
    fn durations_are_understood_as_typed() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("45"), Ok(Duration::from_secs(45)));
        assert!(parse_duration("").is_err());
        assert!(parse_duration("5x").is_err());
        assert!(parse_duration("99999999999999999999d").is_err());
    }

    #[test]
    fn a_deadline_is_a_duration_or_a_time() {
        assert_eq!(Deadline::parse("2h"), Ok(Deadline::In(Duration::from_secs(7200))));
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(Deadline::parse("2023-11-14T23:13:20+01:00"), Ok(Deadline::At(at)));
        for wrong in ["", "0", "tomorrow", "2023-11-14", "2023-11-14T23:13:20"] {
            assert!(Deadline::parse(wrong).is_err(), "{wrong}");
        }
    }
}
