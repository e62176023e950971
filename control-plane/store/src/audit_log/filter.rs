//! Which events are listed.

use chrono::{DateTime, Utc};
use proto_model::{Filter, FilterTerm};

/// A filter cannot be applied to events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It names what events do not have.
    #[error("{0:?} cannot be filtered by; known are: actor, action, resource, outcome, since, until")]
    Key(String),
    /// A time is none.
    #[error("{key}: {value:?} is no time; write for example 2026-11-21T09:30:00Z")]
    Time {
        /// `since` or `until`.
        key: &'static str,
        /// What was given.
        value: String,
    },
    /// An outcome is none.
    #[error("outcome: {0:?} is none; known are: ok, refused")]
    Outcome(String),
    /// The same key twice: both could never hold, or one of them says nothing.
    #[error("{0} is given twice")]
    Twice(String),
}

/// Which events are listed; each that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub(super) actor: Option<String>,
    pub(super) action: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) outcome: Option<String>,
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) until: Option<DateTime<Utc>>,
}

impl EventFilter {
    /// Everything from a time on, with it.
    #[must_use]
    pub fn since(time: DateTime<Utc>) -> Self {
        Self { since: Some(time), ..Self::default() }
    }

    /// Everything that was done by this name, which has no wildcards of LIKE in it.
    #[must_use]
    pub fn action(action: &str) -> Self {
        Self { action: Some(action.to_owned()), ..Self::default() }
    }

    fn add(&mut self, term: &FilterTerm) -> Result<(), FilterError> {
        let place = match term.key.as_str() {
            "actor" => &mut self.actor,
            "action" => &mut self.action,
            "resource" => &mut self.resource,
            "outcome" => {
                if !term.prefix && !matches!(term.value.as_str(), "ok" | "refused") {
                    return Err(FilterError::Outcome(term.value.clone()));
                }
                &mut self.outcome
            }
            "since" => return set_time("since", &mut self.since, term),
            "until" => return set_time("until", &mut self.until, term),
            _ => return Err(FilterError::Key(term.key.clone())),
        };
        if place.is_some() {
            return Err(FilterError::Twice(term.key.clone()));
        }
        *place = Some(pattern(term));
        Ok(())
    }
}

/// The value as a pattern of LIKE that matches only it, or what begins with it.
fn pattern(term: &FilterTerm) -> String {
    let mut pattern = String::new();
    for c in term.value.chars() {
        if matches!(c, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    if term.prefix {
        pattern.push('%');
    }
    pattern
}

fn set_time(key: &'static str, place: &mut Option<DateTime<Utc>>, term: &FilterTerm) -> Result<(), FilterError> {
    if place.is_some() {
        return Err(FilterError::Twice(key.to_owned()));
    }
    let wrong = || FilterError::Time { key, value: term.value.clone() };
    if term.prefix {
        return Err(wrong());
    }
    let time = DateTime::parse_from_rfc3339(&term.value).map_err(|_form| wrong())?;
    *place = Some(time.to_utc());
    Ok(())
}

impl TryFrom<&Filter> for EventFilter {
    type Error = FilterError;

    fn try_from(filter: &Filter) -> Result<Self, FilterError> {
        let mut events = Self::default();
        filter.terms().iter().try_for_each(|term| events.add(term))?;
        Ok(events)
    }
}
