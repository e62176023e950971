//! Section `bandwidth`: how much of its links a host gives to transfers.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike, Timelike, Utc};

use super::section::Reader;
use crate::{BitRate, NodeName, escape::shortened};

/// Lines of a schedule, and peers with rates of their own.
const MAX_LINES: usize = 64;
const MAX_PEERS: usize = 256;
const MINUTES_OF_DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Bounds of what a host sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To all peers together, where no line of the schedule says otherwise.
    pub total: Option<BitRate>,
    /// To single peers.
    pub peers: Vec<PeerRate>,
    /// By the time of day; the first line that covers a time holds.
    pub schedule: Vec<ScheduledRate>,
}

/// What may be sent to one peer: `site-b 20mbit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRate {
    /// The peer.
    pub node: NodeName,
    /// What it may be sent.
    pub rate: BitRate,
}

/// What may be sent at some times: `mon-fri 08:00-18:00 20mbit`, in UTC. Past midnight where the end is not after the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledRate {
    /// Days on which it begins, from Monday.
    days: [bool; 7],
    /// Minutes of the day.
    from: u16,
    until: u16,
    /// None for no bound.
    rate: Option<BitRate>,
}

/// The text is no such line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRateError {
    /// Of a peer.
    #[error("\"{0}\" is not a node and a rate, for example \"site-b 20mbit\"")]
    Peer(String),
    /// Of a schedule.
    #[error(
        "\"{0}\" is not days, times in UTC and a rate, for example \"mon-fri 08:00-18:00 20mbit\"; days may be \"daily\", the rate \"unlimited\""
    )]
    Line(String),
}

impl Bandwidth {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("bandwidth");
        Self {
            total: section.optional("total", str::parse::<BitRate>),
            peers: section.list("peers", MAX_PEERS, str::parse::<PeerRate>),
            schedule: section.list("schedule", MAX_LINES, str::parse::<ScheduledRate>),
        }
    }

    /// What may be sent to all peers together at a time.
    #[must_use]
    pub fn total_at(&self, now: DateTime<Utc>) -> Option<BitRate> {
        self.schedule.iter().find(|line| line.covers(now)).map_or(self.total, |line| line.rate)
    }
}

impl FromStr for PeerRate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseRateError::Peer(shortened(text));
        let (node, rate) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        let node = node.parse().map_err(|_no_name| wrong())?;
        Ok(Self { node, rate: rate.trim_start().parse().map_err(|_no_rate| wrong())? })
    }
}

impl FromStr for ScheduledRate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (days, rest) = text.trim().split_once(char::is_whitespace)?;
            let (times, rate) = rest.trim_start().split_once(char::is_whitespace)?;
            let (from, until) = times.split_once('-')?;
            let rate = match rate.trim() {
                "unlimited" => None,
                rate => Some(rate.parse().ok()?),
            };
            let (from, until) = (minute(from)?, minute(until)?);
            (from < MINUTES_OF_DAY && from != until).then_some(Self { days: of_days(days)?, from, until, rate })
        };
        parsed().ok_or_else(|| ParseRateError::Line(shortened(text)))
    }
}

/// `08:30`, up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two =
        |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?;
    let (hours, minutes): (u16, u16) = (two(hours)?, two(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= MINUTES_OF_DAY).then_some(minute)
}

/// `daily`, or days and spans of them with commas: `mon-fri,sun`.
fn of_days(text: &str) -> Option<[bool; 7]> {
    if text == "daily" {
        return Some([true; 7]);
    }
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `sat-mon` goes over the end of the week.
        let span = if first <= last { last - first } else { last + 7 - first };
        (first..=first + span).for_each(|day| days[day % 7] = true);
    }
    Some(days)
}

impl ScheduledRate {
    fn covers(&self, now: DateTime<Utc>) -> bool {
        let minute = u16::try_from(now.hour() * 60 + now.minute()).unwrap_or_default();
        let today = usize::try_from(now.weekday().num_days_from_monday()).unwrap_or_default() % 7;
        let on = |day: usize| self.days[day % 7];
        if self.from < self.until {
            on(today) && (self.from..self.until).contains(&minute)
        } else {
            on(today) && minute >= self.from || on(today + 6) && minute < self.until
        }
    }
}

impl fmt::Display for PeerRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_line_that_covers_a_time_holds() {
        let lines = ["sat-mon 22:00-06:00 unlimited", "mon-fri 08:00-18:00 20mbit", "daily 00:00-24:00 1gbit"];
        let bandwidth = Bandwidth {
            total: None,
            peers: Vec::new(),
            schedule: lines.iter().map(|line| line.parse().unwrap()).collect(),
        };
        let bits = |time: &str| bandwidth.total_at(at(time)).map(BitRate::bits);
        // 2026-11-21 is a Saturday.
        assert_eq!(bits("2026-11-21T21:59:00Z"), Some(1_000_000_000));
        assert_eq!(bits("2026-11-21T22:00:00Z"), None);
        assert_eq!(bits("2026-11-24T05:59:59Z"), None, "what began on Monday lasts past midnight");
        assert_eq!(bits("2026-11-24T06:00:00Z"), Some(1_000_000_000));
        assert_eq!(bits("2026-11-25T01:00:00Z"), Some(1_000_000_000), "Tuesday began none");
        assert_eq!(bits("2026-11-24T08:00:00Z"), Some(20_000_000));
        assert_eq!(bits("2026-11-24T18:00:00Z"), Some(1_000_000_000));
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in [
            "",
            "mon",
            "mon 08:00-09:00",
            "mon 8:00-09:00 1mbit",
            "mon 08:00-08:00 1mbit",
            "mon 24:00-25:00 1mbit",
            "noday 08:00-09:00 1mbit",
            "mon-fry 08:00-09:00 1mbit",
            "mon 08:60-09:00 1mbit",
            "mon 08:00-09:00 fast",
        ] {
            line.parse::<ScheduledRate>().unwrap_err();
        }
        for line in ["site-b", "site-b fast", "20mbit", "a b 20mbit", "UPPER_ 1mbit"] {
            line.parse::<PeerRate>().unwrap_err();
        }
        assert_eq!("site-b  20 mbit".parse::<PeerRate>().unwrap().to_string(), "site-b 20mbit");
    }
}
