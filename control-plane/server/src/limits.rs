//! What bounds the server, by name: section `limits:` of its file of options, `--limit NAME=VALUE` on its command line. In force from
//! the start on; `dwcp config effective --control-plane` shows them, `docs/limits.md` says why each number.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use control_plane_api::ServerLimit;
use serde::Deserialize;

/// Names, defaults and ranges in one place.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal in $range:expr;)*) => {
        /// What bounds the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: u32,)*
        }

        /// Limits that were set, in one place.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct SetLimits {
            $($name: Option<u32>,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Those that were set, and the defaults of the others.
            ///
            /// # Errors
            /// The name of one that is out of its range, and the range.
            pub(crate) fn new(set: SetLimits) -> Result<Self, LimitError> {
                let limits = Self { $($name: set.$name.unwrap_or($default),)* };
                $(check(stringify!($name), limits.$name, $range)?;)*
                Ok(limits)
            }

            /// All of them, for people.
            #[must_use]
            pub fn rows(&self) -> Vec<ServerLimit> {
                vec![$(ServerLimit {
                    name: concat!("limits.", stringify!($name)),
                    value: self.$name.to_string(),
                    default: $default.to_string(),
                    meaning: concat!($($doc),+).trim(),
                },)*]
            }
        }

        impl SetLimits {
            /// What is not set here is as there.
            pub(crate) fn over(self, file: Self) -> Self {
                Self { $($name: self.$name.or(file.$name),)* }
            }

            fn set(&mut self, name: &str, value: u32) -> Result<(), LimitError> {
                match name.strip_prefix("limits.").unwrap_or(name) {
                    $(stringify!($name) => self.$name = Some(value),)*
                    _ => return Err(LimitError::Unknown(name.to_owned())),
                }
                Ok(())
            }
        }
    };
}

limits! {
    /// Connections of nodes and operators to the gRPC port: a fleet of 10,000 agents, and as many again that are just reconnecting.
    grpc_connections = 20_000 in 8..=1_000_000;
    /// Connections to the gRPC port that have shown no credential; one more ends the oldest of the address that has most.
    grpc_strangers = 1024 in 1..=1_000_000;
    /// Seconds that such a connection is kept.
    grpc_stranger_seconds = 60 in 1..=86_400;
    /// Connections of one node to the gRPC port; one more ends the oldest.
    node_connections = 8 in 1..=1024;
    /// Connections to admin.sock; more have to wait.
    local_connections = 64 in 1..=65_536;
    /// Calls at once over one connection.
    grpc_streams = 256 in 1..=65_536;
    /// Bytes of the header fields of a call.
    grpc_header_bytes = 16_384 in 1024..=1_048_576;
    /// Bytes of a message to the API.
    request_bytes = 2_097_152 in 65_536..=67_108_864;
    /// Watches of one caller at once.
    watches_per_caller = 64 in 1..=65_536;
    /// Standing syncs of the fleet.
    syncs = 10_000 in 1..=1_000_000;
    /// Standing syncs of which one node is an end.
    syncs_of_a_node = 256 in 1..=10_000;
    /// Sessions of agents with this server.
    agent_sessions = 10_000 in 1..=1_000_000;
    /// Sessions of agents that begin in a second; others are told when to come back.
    new_sessions_per_second = 250 in 1..=100_000;
    /// Joins and renewals from one address in a minute: a whole fleet may sit behind one.
    entries_per_minute = 1200 in 1..=1_000_000;
    /// Connections to the HTTP port, and to the metrics port; one more ends the oldest of the address that has most.
    http_connections = 1024 in 1..=65_536;
    /// Seconds for a TLS handshake, on every port.
    handshake_seconds = 5 in 1..=300;
    /// Seconds for the first bytes, for the head of a request, and between two requests of HTTP/1.
    head_seconds = 5 in 1..=300;
    /// Seconds in which a caller reads nothing of its answer.
    stalled_seconds = 30 in 1..=3600;
    /// Connections to PostgreSQL, besides the few that listen and look after it.
    database_connections = 16 in 2..=1000;
    /// Records that the DHT node keeps.
    dht_records = 100_000 in 100..=10_000_000;
    /// DHT requests of one address that are answered in a second; five times as many of the address of a connected agent.
    dht_requests_per_second = 50 in 1..=1_000_000;
    /// Log lines of one kind in a second, over ten seconds; more are counted and left out.
    log_lines_per_second = 10 in 1..=1_000_000;
}

/// A limit that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// There is none of this name.
    #[error("limits.{0}: there is no such limit; `dwcp config effective --control-plane` lists them")]
    Unknown(String),
    /// Too small or too large.
    #[error("limits.{name}: {value} is not within {least} to {most}")]
    Range {
        /// Its name.
        name: &'static str,
        /// As it was set.
        value: u32,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
}

fn check(name: &'static str, value: u32, range: RangeInclusive<u32>) -> Result<(), LimitError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(LimitError::Range { name, value, least: *range.start(), most: *range.end() })
}

/// `NAME=VALUE` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OneLimit(SetLimits);

impl FromStr for OneLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
        let value = value.parse().map_err(|_number| format!("{value:?} is not a number"))?;
        let mut set = SetLimits::default();
        set.set(name, value).map_err(|error| error.to_string())?;
        Ok(Self(set))
    }
}

/// All that were set on the command line; of two of one name the last counts.
pub(crate) fn together(set: &[OneLimit]) -> SetLimits {
    set.iter().fold(SetLimits::default(), |before, one| one.0.over(before))
}

/// As a number of things.
pub(crate) fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// As a time.
pub(crate) fn seconds(limit: u32) -> Duration {
    Duration::from_secs(limit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_counts_within_its_range() {
        let set = together(&["grpc_streams=8".parse().unwrap(), "limits.grpc_streams=9".parse().unwrap()]);
        let limits = Limits::new(set).unwrap();
        assert_eq!((limits.grpc_streams, limits.agent_sessions), (9, 10_000));
        let row = &limits.rows().into_iter().find(|row| row.name == "limits.grpc_streams").unwrap();
        assert_eq!((row.value.as_str(), row.default.as_str()), ("9", "256"));
        assert!(row.meaning.starts_with("Calls at once"));
        let wrong = Limits::new(together(&["grpc_streams=0".parse().unwrap()])).unwrap_err();
        assert_eq!(wrong.to_string(), "limits.grpc_streams: 0 is not within 1 to 65536");
        assert!("grpc_stream=1".parse::<OneLimit>().unwrap_err().contains("no such limit"));
        assert!("grpc_streams".parse::<OneLimit>().is_err() && "grpc_streams=x".parse::<OneLimit>().is_err());
    }
}
