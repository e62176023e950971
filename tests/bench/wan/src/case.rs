//! A path to measure over.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context, Result};
use tests_wan::{Link, Rate};

/// RTT, rate and loss; the queue is given apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) rtt: Duration,
    pub(crate) rate: Rate,
    pub(crate) loss: f64,
    text: String,
}

/// Those that the transport's goals are set for; the last stands for 1 Gbit/s where four cores are idle.
pub(crate) const CASES: [&str; 6] = [
    "20ms,200mbit,0",
    "80ms,200mbit,0",
    "80ms,200mbit,0.1%",
    "80ms,200mbit,1%",
    "150ms,100mbit,0.5%",
    "100ms,300mbit,0.5%",
];

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let mut next = || parts.next().with_context(|| format!("{text}: RTT,RATE,LOSS as in 80ms,200mbit,0.1%"));
        let (rtt, rate, loss) = (next()?, next()?, next()?);
        Ok(Self {
            rtt: tests_wan::duration(rtt)?,
            rate: tests_wan::rate(rate)?,
            loss: tests_wan::share(loss)?,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Case {
    /// The path, with a queue as it is written and what is lost by a seed.
    pub(crate) fn link(&self, queue: &str, seed: u64) -> Result<Link> {
        let mut link = Link { rate: Some(self.rate), rtt: self.rtt, loss: self.loss, seed, ..Link::default() };
        link.set("queue", queue)?;
        Ok(link)
    }
}
