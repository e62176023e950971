//! [`ComponentHealth`].

use std::{fmt, str::FromStr};

use proto_rpc::v1 as rpc;

use crate::{InvalidField, transfer_error::bounded_text};

/// One component's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentHealth {
    /// For example `amst_transport`.
    pub component: String,
    /// How it is.
    pub status: HealthStatus,
    /// Why, where it is not healthy.
    pub message: String,
}

/// How something is; the worse ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthStatus {
    /// It does what it should.
    Healthy,
    /// It works, but not as it should.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl ComponentHealth {
    /// How many a node may report.
    pub const MAX_REPORTED: usize = 64;

    /// Nothing to say of it.
    #[must_use]
    pub fn healthy(component: impl Into<String>) -> Self {
        Self { component: component.into(), status: HealthStatus::Healthy, message: String::new() }
    }
}

impl HealthStatus {
    /// The name that the API uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl FromStr for HealthStatus {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "healthy" => Ok(Self::Healthy),
            "degraded" => Ok(Self::Degraded),
            "unhealthy" => Ok(Self::Unhealthy),
            _ => Err(InvalidField::new("status", "is none of healthy, degraded, unhealthy")),
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<rpc::ComponentHealth> for ComponentHealth {
    type Error = InvalidField;

    fn try_from(health: rpc::ComponentHealth) -> Result<Self, Self::Error> {
        let component = bounded_text(&health.component);
        if component.is_empty() {
            return Err(InvalidField::missing("component"));
        }
        Ok(Self { component, status: health.status.parse()?, message: bounded_text(&health.message) })
    }
}

impl From<ComponentHealth> for rpc::ComponentHealth {
    fn from(health: ComponentHealth) -> Self {
        Self { component: health.component, status: health.status.as_str().to_owned(), message: health.message }
    }
}
