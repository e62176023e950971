//! Times and durations on the wire.

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::{Duration, Timestamp};
use tonic::Status;

use crate::error;

pub(crate) fn timestamp(time: DateTime<Utc>) -> Option<Timestamp> {
    Some(proto_model::to_timestamp(time))
}

/// A lifetime that must be positive and at most `max`; absent where it was not given.
pub(crate) fn lifetime(
    field: &'static str,
    given: Option<Duration>,
    max: TimeDelta,
) -> Result<Option<TimeDelta>, Status> {
    let Some(given) = given else { return Ok(None) };
    let range = || error::invalid(field, format!("must be above 0 and at most {} days", max.num_days()));
    let nanos = u32::try_from(given.nanos).map_err(|_negative| range())?;
    let delta = TimeDelta::new(given.seconds, nanos).ok_or_else(range)?;
    if delta > TimeDelta::zero() && delta <= max { Ok(Some(delta)) } else { Err(range()) }
}

/// A place in a list that is ordered by time, newest first: the time in milliseconds and an id.
pub(crate) fn time_cursor(time: DateTime<Utc>, id: uuid::Uuid) -> String {
    format!("{}/{id}", time.timestamp_millis())
}

pub(crate) fn parse_time_cursor(cursor: &str) -> Result<(DateTime<Utc>, uuid::Uuid), Status> {
    let parsed = cursor
        .split_once('/')
        .and_then(|(ms, id)| Some((DateTime::from_timestamp_millis(ms.parse().ok()?)?, id.parse().ok()?)));
    parsed.ok_or_else(|| error::invalid("page_token", "is damaged"))
}
