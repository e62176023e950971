//! Times, between their forms on the wire and `chrono`'s.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// The number is no time that a calendar has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time between the years 1 and 9999")]
pub struct TimestampError;

/// The range of `google.protobuf.Timestamp`.
const RANGE_S: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Parses a protobuf time.
///
/// # Errors
/// Where it is outside of its range.
pub fn from_timestamp(time: Timestamp) -> Result<DateTime<Utc>, TimestampError> {
    let nanos = u32::try_from(time.nanos).map_err(|_negative| TimestampError)?;
    let in_range = RANGE_S.contains(&time.seconds) && nanos < 1_000_000_000;
    DateTime::from_timestamp(time.seconds, nanos).filter(|_| in_range).ok_or(TimestampError)
}

/// The protobuf form.
#[must_use]
pub fn to_timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = time.timestamp_subsec_nanos().min(999_999_999);
    Timestamp { seconds: time.timestamp(), nanos: i32::try_from(nanos).expect("below a billion") }
}

/// Parses Unix milliseconds.
///
/// # Errors
/// Where they are outside of the range of protobuf times.
pub fn from_unix_ms(ms: i64) -> Result<DateTime<Utc>, TimestampError> {
    DateTime::from_timestamp_millis(ms).filter(|time| RANGE_S.contains(&time.timestamp())).ok_or(TimestampError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_survive_the_wire(seconds in RANGE_S, nanos in 0..1_000_000_000) {
            let time = Timestamp { seconds, nanos };
            prop_assert_eq!(to_timestamp(from_timestamp(time).expect("in range")), time);
        }

        #[test]
        fn no_number_panics(seconds in any::<i64>(), nanos in any::<i32>()) {
            let _time = from_timestamp(Timestamp { seconds, nanos });
            let _time = from_unix_ms(seconds);
        }
    }
}
