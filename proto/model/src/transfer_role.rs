//! [`TransferRole`].

use std::fmt;

use proto_rpc::agent as rpc;

use crate::InvalidField;

/// What a node does in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransferRole {
    /// It sends.
    Sender,
    /// It receives.
    Receiver,
}

impl TransferRole {
    /// The text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }

    /// Parses the number of a field.
    ///
    /// # Errors
    /// Where it says neither.
    pub fn from_number(number: i32) -> Result<Self, InvalidField> {
        match rpc::TransferRole::try_from(number) {
            Ok(rpc::TransferRole::Sender) => Ok(Self::Sender),
            Ok(rpc::TransferRole::Receiver) => Ok(Self::Receiver),
            Ok(rpc::TransferRole::Unspecified) | Err(_) => {
                Err(InvalidField::new("role", "is neither SENDER nor RECEIVER"))
            }
        }
    }
}

impl From<TransferRole> for rpc::TransferRole {
    fn from(role: TransferRole) -> Self {
        match role {
            TransferRole::Sender => Self::Sender,
            TransferRole::Receiver => Self::Receiver,
        }
    }
}

impl fmt::Display for TransferRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
