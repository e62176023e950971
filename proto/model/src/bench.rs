//! A bench: what is asked for, by what right, and what was measured.

mod grant;
mod report;

use proto_rpc::v1::{self as rpc, bench_spec::Direction as RpcDirection};
use uuid::Uuid;

use crate::{InvalidField, NodeRef, invalid_field::at, newtype::uuid_id};

pub use grant::BenchGrant;
pub use report::{BenchInterval, BenchReport, BenchResult, BenchState};

/// A bench. A version 7 UUID, so that ids sort by the time they were made at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BenchId(Uuid);

uuid_id!(BenchId, ParseBenchIdError, "a bench's id");

impl BenchId {
    /// An id for this time, in Unix milliseconds, and these random bytes.
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
    }

    /// `benches/{bench}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        format!("benches/{self}")
    }
}

/// Which way data flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BenchDirection {
    /// From the source to the destination.
    #[default]
    Forward,
    /// From the destination to the source.
    Reverse,
    /// Both at once.
    Both,
}

/// One flow of a bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BenchFlow {
    /// From the source to the destination.
    Forward,
    /// From the destination to the source.
    Reverse,
}

impl BenchDirection {
    /// Whether data flows this way.
    #[must_use]
    pub const fn has(self, flow: BenchFlow) -> bool {
        match (self, flow) {
            (Self::Both, _) | (Self::Forward, BenchFlow::Forward) | (Self::Reverse, BenchFlow::Reverse) => true,
            (Self::Forward, BenchFlow::Reverse) | (Self::Reverse, BenchFlow::Forward) => false,
        }
    }

    /// Parses the number of a field; what says nothing is forward.
    ///
    /// # Errors
    /// Where it says something unknown.
    pub fn from_number(number: i32) -> Result<Self, InvalidField> {
        match RpcDirection::try_from(number) {
            Ok(RpcDirection::Unspecified | RpcDirection::Forward) => Ok(Self::Forward),
            Ok(RpcDirection::Reverse) => Ok(Self::Reverse),
            Ok(RpcDirection::Both) => Ok(Self::Both),
            Err(_unknown) => Err(InvalidField::new("direction", "is none of FORWARD, REVERSE and BOTH")),
        }
    }
}

impl From<BenchDirection> for RpcDirection {
    fn from(direction: BenchDirection) -> Self {
        match direction {
            BenchDirection::Forward => Self::Forward,
            BenchDirection::Reverse => Self::Reverse,
            BenchDirection::Both => Self::Both,
        }
    }
}

impl From<BenchFlow> for RpcDirection {
    fn from(flow: BenchFlow) -> Self {
        match flow {
            BenchFlow::Forward => Self::Forward,
            BenchFlow::Reverse => Self::Reverse,
        }
    }
}

/// How it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchPlan {
    /// For how long data flows: 1 to [`BenchPlan::MAX_SECONDS`].
    pub seconds: u32,
    /// Pieces under way at once, at most; none for what the scaler comes to.
    pub streams: Option<u32>,
    /// Which way.
    pub direction: BenchDirection,
}

impl BenchPlan {
    /// A path says in a minute all that it says; longer is a load test.
    pub const MAX_SECONDS: u32 = 60;
    /// Where nothing is said: long enough that the second half is steady on paths of half a second.
    pub const DEFAULT_SECONDS: u32 = 10;
    /// As many as a session has at most.
    pub const MAX_STREAMS: u32 = 1024;

    fn parse(seconds: u32, streams: u32, direction: i32) -> Result<Self, InvalidField> {
        let seconds = if seconds == 0 { Self::DEFAULT_SECONDS } else { seconds };
        if seconds > Self::MAX_SECONDS {
            return Err(InvalidField::new("seconds", format!("is over {}", Self::MAX_SECONDS)));
        }
        if streams > Self::MAX_STREAMS {
            return Err(InvalidField::new("streams", format!("is over {}", Self::MAX_STREAMS)));
        }
        let streams = Some(streams).filter(|streams| *streams > 0);
        Ok(Self { seconds, streams, direction: BenchDirection::from_number(direction)? })
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchSpec {
    /// Whose agent measures.
    pub source_node: NodeRef,
    /// The other end.
    pub destination_node: NodeRef,
    /// How.
    pub plan: BenchPlan,
}

impl TryFrom<rpc::BenchSpec> for BenchSpec {
    type Error = InvalidField;

    fn try_from(spec: rpc::BenchSpec) -> Result<Self, Self::Error> {
        Ok(Self {
            source_node: NodeRef::from_resource_name(&spec.source_node).map_err(at("source_node"))?,
            destination_node: NodeRef::from_resource_name(&spec.destination_node).map_err(at("destination_node"))?,
            plan: BenchPlan::try_from(&spec)?,
        })
    }
}

impl TryFrom<&rpc::BenchSpec> for BenchPlan {
    type Error = InvalidField;

    fn try_from(spec: &rpc::BenchSpec) -> Result<Self, Self::Error> {
        Self::parse(spec.seconds, spec.streams, spec.direction)
    }
}

impl From<BenchSpec> for rpc::BenchSpec {
    fn from(spec: BenchSpec) -> Self {
        Self {
            source_node: spec.source_node.resource_name(),
            destination_node: spec.destination_node.resource_name(),
            seconds: spec.plan.seconds,
            streams: spec.plan.streams.unwrap_or_default(),
            direction: RpcDirection::from(spec.plan.direction).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded() {
        let spec = |seconds, streams| rpc::BenchSpec {
            source_node: "nodes/a".into(),
            destination_node: "nodes/b".into(),
            seconds,
            streams,
            direction: 0,
        };
        let plan = BenchSpec::try_from(spec(0, 0)).expect("defaults").plan;
        assert_eq!(plan, BenchPlan { seconds: 10, streams: None, direction: BenchDirection::Forward });
        assert_eq!(BenchSpec::try_from(spec(61, 0)).expect_err("refused").field, "seconds");
        assert_eq!(BenchSpec::try_from(spec(60, 1025)).expect_err("refused").field, "streams");
        assert_eq!(
            BenchSpec::try_from(rpc::BenchSpec { direction: 9, ..spec(1, 1) }).expect_err("no").field,
            "direction"
        );
    }
}
