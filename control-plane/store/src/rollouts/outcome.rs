//! How a one-stage rollout stands, as a pure function of what its targets answered.

use std::fmt;

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutState {
    /// Connected nodes have not answered yet.
    Running,
    /// Every connected node applied it.
    Succeeded,
    /// A node rejected it.
    Failed,
    /// A newer write took its place before it was finished.
    Superseded,
}

/// What one target answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The node is away; it gets the newest when it returns.
    Offline,
    /// The node is connected and has not answered yet.
    Pending,
    /// In force.
    Applied,
    /// Refused.
    Rejected,
}

/// How many targets gave which answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connected, not answered yet.
    pub pending: u64,
    /// Refused it.
    pub rejected: u64,
}

impl RolloutState {
    /// Whether it moves no more.
    #[must_use]
    pub fn is_ended(self) -> bool {
        self != Self::Running
    }

    /// What a tally makes of it. Nodes that are away hold nothing up (D11); what has ended stays as it ended.
    #[must_use]
    pub fn on_tally(self, tally: Tally) -> Self {
        match self {
            Self::Running if tally.pending > 0 => Self::Running,
            Self::Running if tally.rejected > 0 => Self::Failed,
            Self::Running => Self::Succeeded,
            Self::Succeeded | Self::Failed | Self::Superseded => self,
        }
    }

    /// The word in the table and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }

    /// From the word in the table.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Running, Self::Succeeded, Self::Failed, Self::Superseded]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

impl fmt::Display for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Answer {
    /// The word in the table and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Rejected => "rejected",
        }
    }

    /// From the word in the table.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Offline, Self::Pending, Self::Applied, Self::Rejected].into_iter().find(|answer| answer.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_until_every_connected_node_has_answered() {
        let running = RolloutState::Running;
        assert_eq!(running.on_tally(Tally { pending: 1, rejected: 0 }), RolloutState::Running);
        assert_eq!(running.on_tally(Tally { pending: 1, rejected: 1 }), RolloutState::Running);
        assert_eq!(running.on_tally(Tally { pending: 0, rejected: 1 }), RolloutState::Failed);
        assert_eq!(running.on_tally(Tally::default()), RolloutState::Succeeded);
    }

    #[test]
    fn a_late_rejection_does_not_rewrite_an_end() {
        assert_eq!(RolloutState::Succeeded.on_tally(Tally { pending: 0, rejected: 1 }), RolloutState::Succeeded);
        assert_eq!(RolloutState::Superseded.on_tally(Tally { pending: 3, rejected: 0 }), RolloutState::Superseded);
    }
}
