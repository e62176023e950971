//! Quantities as people write them; a unit is required wherever one could be meant.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::link::Rate;

/// The number and the unit behind it.
fn split(text: &str) -> Result<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().with_context(|| format!("{text}: a number with a unit"))?;
    Ok((number, unit))
}

/// `80ms`, `1.5s`, `200us`.
///
/// # Errors
/// It is no duration.
pub fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        _ if number == 0.0 => 0.0,
        _ => anyhow::bail!("{text}: a duration has a unit: us, ms or s"),
    };
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text}: too long"))
}

/// `200mbit`, `1gbit`, `64kbit`.
///
/// # Errors
/// It is no rate above nothing.
pub fn rate(text: &str) -> Result<Rate> {
    let (number, unit) = split(text)?;
    let times = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => anyhow::bail!("{text}: a rate has a unit: kbit, mbit or gbit"),
    };
    Ok(Rate(whole(number * times).with_context(|| text.to_owned())?))
}

/// `0.1%`, or the same as `0.001`.
///
/// # Errors
/// It is not between nothing and all.
pub fn share(text: &str) -> Result<f64> {
    let (number, unit) = split(text)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => anyhow::bail!("{text}: a share is written 0.1% or 0.001"),
    };
    ensure!((0.0..=1.0).contains(&share), "{text}: not between nothing and all");
    Ok(share)
}

/// `64000`, `256k`, `2m`: bytes.
///
/// # Errors
/// It is no size above nothing.
pub fn size(text: &str) -> Result<u64> {
    let (number, unit) = split(text)?;
    let times = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        _ => anyhow::bail!("{text}: bytes, or with k or m"),
    };
    whole(number * times).with_context(|| text.to_owned())
}

fn whole(number: f64) -> Result<u64> {
    /// A terabit, a terabyte: what is above was not meant.
    const MOST: f64 = 1e12;
    ensure!((1.0..=MOST).contains(&number), "between 1 and a million million");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds above")]
    Ok(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_they_are_written() {
        assert_eq!(duration("80ms").unwrap(), Duration::from_millis(80));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert_eq!(rate("1.5gbit").unwrap(), Rate(1_500_000_000));
        assert_eq!(share("0.1%").unwrap(), 0.001);
        assert_eq!(size("256k").unwrap(), 256_000);
        for wrong in ["80", "ms", "-1ms", "1h", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(rate("200").is_err() && rate("0mbit").is_err() && share("101%").is_err() && size("1x").is_err());
    }
}
