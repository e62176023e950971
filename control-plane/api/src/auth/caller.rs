//! Who a request comes from.

use control_plane_store::{Actor, operator_tokens};
use proto_model::{NodeUid, Role};
use tonic::{Request, Status};
use uuid::Uuid;

use crate::{
    State,
    error::{self, Reason},
};

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name: of the token's holder, of the node, or the number of the user.
    pub name: String,
    /// What it may do in the operators' API; nodes have none there.
    pub role: Option<Role>,
    /// By what it is known.
    pub kind: CallerKind,
}

/// By what a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerKind {
    /// An operator token.
    Operator(Uuid),
    /// A node's certificate.
    Node(NodeUid),
    /// The user at the other end of `admin.sock`.
    Socket(u32),
}

impl Caller {
    /// As the audit log names it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self.kind {
            CallerKind::Operator(token) => Actor::Operator { token, name: self.name.clone() },
            CallerKind::Node(_) => Actor::Node(self.name.clone()),
            CallerKind::Socket(uid) => Actor::Socket(uid),
        }
    }

    /// Whether the caller's right still stands: for streams that outlive their first check.
    ///
    /// # Errors
    /// It was revoked or has expired, or the database failed.
    pub async fn require_still_good(&self, state: &State) -> Result<(), Status> {
        let CallerKind::Operator(id) = self.kind else { return Ok(()) };
        let token = operator_tokens::get(&state.db, id).await.map_err(error::store)?;
        if token.is_some_and(|token| token.is_active(state.clock.utc())) {
            return Ok(());
        }
        Err(error::unauthenticated(Reason::CredentialsRefused, "the token has expired or was revoked"))
    }

    /// The node that calls.
    ///
    /// # Errors
    /// The caller is none.
    pub fn node(&self) -> Result<NodeUid, Status> {
        match self.kind {
            CallerKind::Node(uid) => Ok(uid),
            CallerKind::Operator(_) | CallerKind::Socket(_) => Err(error::permission_denied(
                Reason::WrongKindOfCaller,
                "only a node may call this, by its certificate",
                &[],
            )),
        }
    }
}

/// Who a request comes from, as the auth layer found.
///
/// # Errors
/// There is no auth layer before this service, or the method is open to all.
pub fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| error::unauthenticated(Reason::CredentialsMissing, "the caller is not known"))
}
