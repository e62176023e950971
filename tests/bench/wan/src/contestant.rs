//! Who moves the bytes.

use std::{fmt, str::FromStr};

use anyhow::{Result, bail};

/// A way of moving bytes from one host to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// File to file, two agents and a control plane.
    Dwcp,
    /// Memory to memory: iperf3's congestion control and number of flows.
    Tcp(&'static str, u32),
    /// File to file, a daemon.
    Rsync,
    /// Memory to memory: quinn's congestion control and number of connections.
    Quinn(&'static str, u32),
    /// File to file, iroh's blobs.
    Sendme,
}

/// Each by its name.
pub(crate) const ALL: [(&str, Contestant); 11] = [
    ("dwcp", Contestant::Dwcp),
    ("tcp-bbr-1", Contestant::Tcp("bbr", 1)),
    ("tcp-bbr-8", Contestant::Tcp("bbr", 8)),
    ("tcp-cubic-1", Contestant::Tcp("cubic", 1)),
    ("tcp-cubic-8", Contestant::Tcp("cubic", 8)),
    ("rsync", Contestant::Rsync),
    ("quinn-cubic-1", Contestant::Quinn("cubic", 1)),
    ("quinn-cubic-8", Contestant::Quinn("cubic", 8)),
    ("quinn-bbr-1", Contestant::Quinn("bbr", 1)),
    ("quinn-bbr-8", Contestant::Quinn("bbr", 8)),
    ("sendme", Contestant::Sendme),
];

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALL.iter().find(|(_, one)| one == self).map_or("?", |(name, _)| name))
    }
}

impl FromStr for Contestant {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match ALL.iter().find(|(name, _)| *name == text) {
            Some((_, contestant)) => Ok(*contestant),
            None => bail!("{text}: one of {}", ALL.map(|(name, _)| name).join(", ")),
        }
    }
}
