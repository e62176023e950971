//! The tower layer before all services: finds out who calls, applies the method's rule.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use control_plane_pki::{OperatorSecret, node_uid_of, public_key_of};
use control_plane_store::{Actor, Db, Refusal, Refusals, nodes, operator_tokens};
use http::{Request, Response, header::AUTHORIZATION};
use proto_model::{NodeRef, NodeUid, Role};
use tonic::Status;
use tower::{Layer, Service};

use super::{Caller, CallerKind, ConnectInfo, Remote, Rule};
use crate::error::{self, Reason};

/// When to come again to a server that is full.
const COME_BACK: Duration = Duration::from_secs(10);

/// The call that ends by itself for a node that is not in the fleet.
const SESSION: &str = "/dwcp.agent.v1.AgentService/Session";

/// Finds out who calls.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    db: Db,
    refusals: Refusals,
    /// Besides root, who may use `admin.sock`.
    own_user: u32,
}

/// Puts an [`Authenticator`] before a service.
#[derive(Clone, Debug)]
pub struct AuthLayer(Authenticator);

/// A service behind an [`Authenticator`].
#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
    authenticator: Authenticator,
}

impl Authenticator {
    /// Tokens and nodes are those of `db`; refusals are recorded by `refusals`; `own_user` is the server's user.
    #[must_use]
    pub fn new(db: Db, refusals: Refusals, own_user: u32) -> Self {
        Self(Arc::new(Inner { db, refusals, own_user }))
    }

    /// The caller, if it may call `path`; absent where the path is open to all.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn admit(
        &self,
        path: &str,
        info: Option<&ConnectInfo>,
        authorization: Option<&str>,
    ) -> Result<Option<Caller>, Status> {
        match Rule::of(path) {
            Rule::Open => Ok(None),
            Rule::Node => self.node(path, info).await.map(Some),
            Rule::Role(needed) => {
                let from = address(info);
                let caller = self.operator(path, info, authorization).await?;
                self.require(path, from, &caller, needed)?;
                Ok(Some(caller))
            }
        }
    }

    /// The holder of a token, given as `Bearer dwcpo1.…`; for the HTTP side too.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn bearer(&self, path: &str, from: Option<IpAddr>, authorization: &str) -> Result<Caller, Status> {
        let refused = || error::unauthenticated(Reason::CredentialsRefused, "the token is unknown, expired or revoked");
        let secret = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .and_then(|(_, token)| OperatorSecret::parse(token.trim()).ok());
        let Some(secret) = secret else {
            self.note(Actor::Anonymous, path, from, "not an operator token");
            return Err(refused());
        };
        let token = operator_tokens::by_secret(&self.0.db, &secret).await.map_err(error::store)?;
        let Some(token) = token else {
            self.note(Actor::Anonymous, path, from, "an unknown token");
            return Err(refused());
        };
        let kind = CallerKind::Operator(token.id);
        let is_active = token.is_active(self.0.db.clock().utc());
        let caller = Caller { name: token.display_name, role: Some(token.role), kind };
        if !is_active {
            self.note(caller.actor(), path, from, "an expired or revoked token");
            return Err(refused());
        }
        Ok(caller)
    }

    async fn operator(
        &self,
        path: &str,
        info: Option<&ConnectInfo>,
        authorization: Option<&str>,
    ) -> Result<Caller, Status> {
        // A token that is given counts, also on the socket: so that a script can try what its token may.
        if let Some(authorization) = authorization {
            return self.bearer(path, address(info), authorization).await;
        }
        let uid = info.and_then(|info| info.peer_uid);
        if let Some(uid) = uid {
            return self.socket(path, uid);
        }
        if info.is_some_and(|info| info.peer_certificate.is_some()) {
            // The connection proved to have a node's key; which node is nobody's business here.
            self.note(Actor::Anonymous, path, address(info), "a node's certificate in place of a token");
            return Err(error::permission_denied(
                Reason::WrongKindOfCaller,
                "a node's certificate opens the agents' service only; an operator token is needed here",
                &[],
            ));
        }
        Err(error::unauthenticated(
            Reason::CredentialsMissing,
            "an operator token is needed: metadata `authorization: Bearer dwcpo1.…`",
        ))
    }

    fn socket(&self, path: &str, uid: u32) -> Result<Caller, Status> {
        let caller = Caller { name: uid.to_string(), role: Some(Role::Admin), kind: CallerKind::Socket(uid) };
        if uid == 0 || uid == self.0.own_user {
            return Ok(caller);
        }
        self.note(caller.actor(), path, None, "neither root nor the server's own user");
        Err(error::permission_denied(
            Reason::CredentialsRefused,
            "admin.sock is for root and the server's own user",
            &[("uid", &uid.to_string())],
        ))
    }

    async fn node(&self, path: &str, info: Option<&ConnectInfo>) -> Result<Caller, Status> {
        let Some(certificate) = info.and_then(|info| info.peer_certificate.as_ref()) else {
            return Err(error::unauthenticated(
                Reason::CredentialsMissing,
                "only a node may call this, with its certificate",
            ));
        };
        let refused = || error::unauthenticated(Reason::CredentialsRefused, "the certificate is not a present node's");
        let from = address(info);
        let (Ok(uid), Ok(key)) = (node_uid_of(certificate), public_key_of(certificate)) else {
            self.note(Actor::Anonymous, path, from, "not a node's certificate");
            return Err(refused());
        };
        let node = NodeRef::Uid(NodeUid::new(uid));
        let Some(node) = nodes::get(&self.0.db, node).await.map_err(error::store)? else {
            // The certificate is the fleet's: the host joined after the backup that was restored. A session tells it so, and no more.
            if path == SESSION {
                return Ok(Caller { name: uid.to_string(), role: None, kind: CallerKind::Node(NodeUid::new(uid)) });
            }
            self.note(Actor::Anonymous, path, from, "the certificate of an unknown node");
            return Err(refused());
        };
        let caller = Caller { name: node.name.to_string(), role: None, kind: CallerKind::Node(node.uid) };
        // D2: whole keys are compared, so the certificate of a key that was replaced opens nothing.
        if node.revoke_time.is_some() || *node.public_key.as_bytes() != key {
            self.note(caller.actor(), path, from, "a deleted node, or one whose key was replaced");
            return Err(refused());
        }
        Ok(caller)
    }

    fn require(&self, path: &str, from: Option<IpAddr>, caller: &Caller, needed: Role) -> Result<(), Status> {
        if caller.role.is_some_and(|role| role.covers(needed)) {
            return Ok(());
        }
        let has = caller.role.map_or("none", Role::as_str);
        self.note(caller.actor(), path, from, "the role is too low");
        Err(error::permission_denied(
            Reason::RoleTooLow,
            format!("this needs the role {needed}; yours is {has}"),
            &[("needed", needed.as_str()), ("has", has)],
        ))
    }

    fn note(&self, actor: Actor, path: &str, from: Option<IpAddr>, reason: &'static str) {
        // A stranger chooses the path: only the names of methods that there are go into the log.
        let resource = Rule::known(path).unwrap_or("unknown method");
        self.0.refusals.note(Refusal { actor, action: "call", resource, reason, from }, &crate::request::trace_id());
    }
}

fn address(info: Option<&ConnectInfo>) -> Option<IpAddr> {
    match info?.remote {
        Remote::Tcp(address) => Some(address.ip()),
        Remote::Unix => None,
    }
}

/// The server holds as many connections as it may.
fn full() -> Status {
    error::exhausted(
        Reason::RateLimited,
        "limits.grpc_connections: the server is full; try another, or later",
        COME_BACK,
    )
}

impl AuthLayer {
    /// A layer with this authenticator.
    #[must_use]
    pub fn new(authenticator: Authenticator) -> Self {
        Self(authenticator)
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner, authenticator: self.0.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Auth<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The service that was polled ready is the one to call; its clone waits for the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            let info = request.extensions().get::<ConnectInfo>().cloned();
            let path = request.uri().path().to_owned();
            let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let authorization = authorization.map(ToOwned::to_owned);
            match authenticator.admit(&path, info.as_ref(), authorization.as_deref()).await {
                Ok(Some(caller)) => {
                    // From now on the connection gives way to no stranger.
                    let admission = info.as_ref().and_then(|info| info.admission.as_ref());
                    if admission.is_some_and(|admission| !admission.admit()) {
                        return Ok(full().into_http());
                    }
                    request.extensions_mut().insert(caller);
                }
                Ok(None) => {}
                Err(status) => return Ok(status.into_http()),
            }
            inner.call(request).await
        })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}
