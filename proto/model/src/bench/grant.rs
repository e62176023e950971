//! [`BenchGrant`]: who may measure the path to whom, how, until when.

use chrono::{DateTime, TimeDelta, Utc};
use proto_rpc::{agent as rpc, v1::bench_spec::Direction};

use super::{BenchId, BenchPlan};
use crate::{Epoch, FleetId, GrantParty, InvalidField, from_unix_ms, invalid_field::at};

/// A right that the control plane gave. The other end takes part by it alone, so that a stolen agent's key makes nobody send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchGrant {
    /// The trust domain.
    pub fleet: FleetId,
    /// Counts restores.
    pub epoch: Epoch,
    /// For this bench and no other.
    pub bench: BenchId,
    /// Who runs it.
    pub source: GrantParty,
    /// The other end.
    pub destination: GrantParty,
    /// How.
    pub plan: BenchPlan,
    /// Not before this.
    pub not_before: DateTime<Utc>,
    /// Until when it may begin.
    pub not_after: DateTime<Utc>,
}

impl BenchGrant {
    /// Whether it is valid at this time, give or take `skew` of the clocks.
    #[must_use]
    pub fn is_valid_at(&self, now: DateTime<Utc>, skew: TimeDelta) -> bool {
        self.not_before - skew <= now && now < self.not_after + skew
    }
}

impl TryFrom<&rpc::BenchGrant> for BenchPlan {
    type Error = InvalidField;

    fn try_from(grant: &rpc::BenchGrant) -> Result<Self, Self::Error> {
        Self::parse(grant.seconds, grant.streams, grant.direction)
    }
}

impl From<BenchPlan> for rpc::BenchGrant {
    /// What a direct bench asks for; it proves nothing.
    fn from(plan: BenchPlan) -> Self {
        Self {
            seconds: plan.seconds,
            streams: plan.streams.unwrap_or_default(),
            direction: Direction::from(plan.direction).into(),
            ..Self::default()
        }
    }
}

impl TryFrom<rpc::BenchGrant> for BenchGrant {
    type Error = InvalidField;

    fn try_from(grant: rpc::BenchGrant) -> Result<Self, Self::Error> {
        let plan = BenchPlan::try_from(&grant)?;
        let not_before = from_unix_ms(grant.not_before_ms).map_err(at("not_before_ms"))?;
        let not_after = from_unix_ms(grant.not_after_ms).map_err(at("not_after_ms"))?;
        if not_after <= not_before {
            return Err(InvalidField::new("not_after_ms", "is not after not_before_ms"));
        }
        Ok(Self {
            fleet: grant.fleet_id.parse().map_err(at("fleet_id"))?,
            epoch: grant.epoch.into(),
            bench: grant.bench_id.parse().map_err(at("bench_id"))?,
            source: GrantParty::parse(&grant.source_uid, &grant.source_key, "source_uid", "source_key")?,
            destination: GrantParty::parse(
                &grant.destination_uid,
                &grant.destination_key,
                "destination_uid",
                "destination_key",
            )?,
            plan,
            not_before,
            not_after,
        })
    }
}

impl From<BenchGrant> for rpc::BenchGrant {
    fn from(grant: BenchGrant) -> Self {
        Self {
            fleet_id: grant.fleet.to_string(),
            epoch: grant.epoch.into(),
            bench_id: grant.bench.to_string(),
            source_uid: grant.source.uid.to_string(),
            source_key: grant.source.key.into(),
            destination_uid: grant.destination.uid.to_string(),
            destination_key: grant.destination.key.into(),
            not_before_ms: grant.not_before.timestamp_millis(),
            not_after_ms: grant.not_after.timestamp_millis(),
            ..grant.plan.into()
        }
    }
}
