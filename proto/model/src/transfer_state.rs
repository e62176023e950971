//! [`TransferState`].

use std::{fmt, str::FromStr};

use proto_rpc::v1::transfer::State;

use crate::InvalidField;

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferState {
    /// Accepted; the sender has not begun.
    Pending,
    /// The sender works on it.
    Running,
    /// The receiver is away or broke off; the sender tries again by itself.
    Waiting,
    /// Every file is verified and in place.
    Succeeded,
    /// Ended, and some entries were left out.
    SucceededInPart,
    /// Ended without success.
    Failed,
    /// An operator stopped it.
    Cancelled,
    /// An operator holds it.
    Paused,
}

impl TransferState {
    /// The name that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        State::from(self).as_str_name()
    }

    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_end(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Waiting | Self::Paused => false,
            Self::Succeeded | Self::SucceededInPart | Self::Failed | Self::Cancelled => true,
        }
    }

    /// Parses the number of a field.
    ///
    /// # Errors
    /// Where it says nothing.
    pub fn from_number(number: i32) -> Result<Self, InvalidField> {
        let state = State::try_from(number).unwrap_or(State::Unspecified);
        Self::known(state).ok_or_else(|| InvalidField::new("state", "says nothing"))
    }

    const fn known(state: State) -> Option<Self> {
        match state {
            State::Unspecified => None,
            State::Pending => Some(Self::Pending),
            State::Running => Some(Self::Running),
            State::Waiting => Some(Self::Waiting),
            State::Succeeded => Some(Self::Succeeded),
            State::SucceededInPart => Some(Self::SucceededInPart),
            State::Failed => Some(Self::Failed),
            State::Cancelled => Some(Self::Cancelled),
            State::Paused => Some(Self::Paused),
        }
    }
}

impl From<TransferState> for State {
    fn from(state: TransferState) -> Self {
        match state {
            TransferState::Pending => Self::Pending,
            TransferState::Running => Self::Running,
            TransferState::Waiting => Self::Waiting,
            TransferState::Succeeded => Self::Succeeded,
            TransferState::SucceededInPart => Self::SucceededInPart,
            TransferState::Failed => Self::Failed,
            TransferState::Cancelled => Self::Cancelled,
            TransferState::Paused => Self::Paused,
        }
    }
}

impl FromStr for TransferState {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let state = State::from_str_name(&text.to_ascii_uppercase()).and_then(Self::known);
        state.ok_or_else(|| {
            InvalidField::new(
                "state",
                "is none of PENDING, RUNNING, WAITING, PAUSED, SUCCEEDED, SUCCEEDED_IN_PART, FAILED, CANCELLED",
            )
        })
    }
}

impl fmt::Display for TransferState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
