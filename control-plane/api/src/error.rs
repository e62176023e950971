//! What goes wrong, as a gRPC status with `google.rpc` details: always an `ErrorInfo`, and what the case needs besides.

use std::{collections::HashMap, time::Duration};

use control_plane_store as store;
use proto_model::{Etag, InvalidField};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// The domain of our `ErrorInfo`s.
pub const DOMAIN: &str = "dwcp.dev";

/// How long a caller should wait before it repeats a call that failed for a temporary reason.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Reasons of our `ErrorInfo`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field is not as it should be; `BadRequest` names it.
    InvalidArgument,
    /// There is no such resource.
    NotFound,
    /// The resource exists already.
    AlreadyExists,
    /// The resource changed since it was read.
    StaleEtag,
    /// The request id was used for another request.
    RequestIdReused,
    /// The resource was deleted.
    Revoked,
    /// Somebody else's change was in the way.
    Contended,
    /// No credentials came with the call.
    CredentialsMissing,
    /// The credentials are unknown, expired or revoked.
    CredentialsRefused,
    /// The caller's role does not allow the method.
    RoleTooLow,
    /// The method is for agents, or for operators, and the caller is not one.
    WrongKindOfCaller,
    /// The join token is not known.
    JoinTokenUnknown,
    /// The join token's time is over.
    JoinTokenExpired,
    /// The join token's uses are spent.
    JoinTokenUsed,
    /// The join token was revoked.
    JoinTokenRevoked,
    /// Another node has the name, or a deleted one reserves it.
    NameTaken,
    /// The key belongs or belonged to another node.
    KeyUsed,
    /// The clocks differ too much.
    ClockSkew,
    /// Too many calls.
    RateLimited,
    /// What a watch should resume from is no longer known: list again.
    ResumeTokenExpired,
    /// A node is not connected.
    NodeOffline,
    /// The resource's state does not allow this.
    WrongState,
    /// Somebody changed the audit log past the control plane: nothing is changed until a person has looked.
    AuditLogTampered,
    /// The database does not answer.
    DatabaseUnavailable,
    /// All connections to the database are in use.
    DatabaseBusy,
    /// The database did not say whether the change was made.
    OutcomeUnknown,
    /// The server is stopping.
    Stopping,
    /// A fault of the server; its log says more.
    Internal,
}

impl Reason {
    /// As it stands in an `ErrorInfo`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::StaleEtag => "STALE_ETAG",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::Revoked => "REVOKED",
            Self::Contended => "CONTENDED",
            Self::CredentialsMissing => "CREDENTIALS_MISSING",
            Self::CredentialsRefused => "CREDENTIALS_REFUSED",
            Self::RoleTooLow => "ROLE_TOO_LOW",
            Self::WrongKindOfCaller => "WRONG_KIND_OF_CALLER",
            Self::JoinTokenUnknown => "JOIN_TOKEN_UNKNOWN",
            Self::JoinTokenExpired => "JOIN_TOKEN_EXPIRED",
            Self::JoinTokenUsed => "JOIN_TOKEN_USED",
            Self::JoinTokenRevoked => "JOIN_TOKEN_REVOKED",
            Self::NameTaken => "NAME_TAKEN",
            Self::KeyUsed => "KEY_USED",
            Self::ClockSkew => "CLOCK_SKEW",
            Self::RateLimited => "RATE_LIMITED",
            Self::ResumeTokenExpired => "RESUME_TOKEN_EXPIRED",
            Self::NodeOffline => "NODE_OFFLINE",
            Self::WrongState => "WRONG_STATE",
            Self::AuditLogTampered => "AUDIT_LOG_TAMPERED",
            Self::DatabaseUnavailable => "DATABASE_UNAVAILABLE",
            Self::DatabaseBusy => "DATABASE_BUSY",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::Stopping => "STOPPING",
            Self::Internal => "INTERNAL",
        }
    }
}

/// A status of this code and reason; `metadata` holds what is variable in the message (AIP-193).
#[must_use]
pub fn status(code: Code, reason: Reason, message: impl Into<String>, metadata: &[(&str, &str)]) -> Status {
    with_details(code, reason, message, metadata, ErrorDetails::new())
}

fn with_details(
    code: Code,
    reason: Reason,
    message: impl Into<String>,
    metadata: &[(&str, &str)],
    mut details: ErrorDetails,
) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    details.set_error_info(reason.as_str(), DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// One field is not as it should be.
#[must_use]
pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Status {
    invalid_fields(vec![(field.into(), description.into())])
}

/// Several fields are not as they should be.
#[must_use]
pub fn invalid_fields(fields: Vec<(String, String)>) -> Status {
    let message = fields.first().map_or_else(String::new, |(field, description)| format!("{field}: {description}"));
    let violations: Vec<_> =
        fields.into_iter().map(|(field, description)| FieldViolation::new(field, description)).collect();
    with_details(
        Code::InvalidArgument,
        Reason::InvalidArgument,
        message,
        &[],
        ErrorDetails::with_bad_request(violations),
    )
}

/// A field that did not parse.
#[must_use]
pub fn invalid_field(field: InvalidField) -> Status {
    invalid(field.field, field.description)
}

/// For `map_err` on a field's parser.
pub fn at<E: std::fmt::Display>(field: &'static str) -> impl FnOnce(E) -> Status {
    move |error| invalid(field, error.to_string())
}

/// There is no resource of this name.
#[must_use]
pub fn not_found(name: &str) -> Status {
    let name = proto_model::escape_str(name);
    let details = ErrorDetails::with_resource_info(kind_of(&name), name.as_str(), "", "does not exist");
    with_details(Code::NotFound, Reason::NotFound, format!("{name} does not exist"), &[("name", &name)], details)
}

/// There is a resource of this name.
#[must_use]
pub fn already_exists(name: &str) -> Status {
    let details = ErrorDetails::with_resource_info(kind_of(name), name, "", "exists");
    with_details(
        Code::AlreadyExists,
        Reason::AlreadyExists,
        format!("{name} exists already"),
        &[("name", name)],
        details,
    )
}

/// The resource changed since it was read.
#[must_use]
pub fn stale(name: &str, current: &Etag) -> Status {
    let details = ErrorDetails::with_precondition_failure_violation("ETAG", name, "the etag is not the present one");
    with_details(
        Code::Aborted,
        Reason::StaleEtag,
        format!("{name} changed since it was read; read it again"),
        &[("name", name), ("currentEtag", current.as_str())],
        details,
    )
}

/// The resource's state does not allow this.
#[must_use]
pub fn failed_precondition(reason: Reason, name: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let details = ErrorDetails::with_precondition_failure_violation(reason.as_str(), name, message.as_str());
    with_details(Code::FailedPrecondition, reason, message, &[("name", name)], details)
}

/// The caller is not let in.
#[must_use]
pub fn unauthenticated(reason: Reason, message: impl Into<String>) -> Status {
    status(Code::Unauthenticated, reason, message, &[])
}

/// The caller may not do this.
#[must_use]
pub fn permission_denied(reason: Reason, message: impl Into<String>, metadata: &[(&str, &str)]) -> Status {
    status(Code::PermissionDenied, reason, message, metadata)
}

/// Something is away for the moment.
#[must_use]
pub fn unavailable(reason: Reason, message: impl Into<String>) -> Status {
    with_details(Code::Unavailable, reason, message, &[], ErrorDetails::with_retry_info(Some(RETRY_DELAY)))
}

/// A node is not connected.
#[must_use]
pub fn node_offline(name: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
    details.set_resource_info(kind_of(name), name, "", "is not connected");
    with_details(Code::Unavailable, Reason::NodeOffline, message, &[("node", name)], details)
}

/// Too much was asked for.
#[must_use]
pub fn exhausted(reason: Reason, message: impl Into<String>, retry_after: Duration) -> Status {
    with_details(Code::ResourceExhausted, reason, message, &[], ErrorDetails::with_retry_info(Some(retry_after)))
}

/// A watch cannot go on from there.
#[must_use]
pub fn resume_token_expired() -> Status {
    status(
        Code::OutOfRange,
        Reason::ResumeTokenExpired,
        "the resume token is of another epoch of the fleet; begin the watch anew",
        &[],
    )
}

/// A fault of the server. The cause goes to the log, not to the caller.
#[must_use]
pub fn internal(what: &str, cause: &(dyn std::error::Error + 'static)) -> Status {
    let mut chain = cause.to_string();
    let mut source = cause.source();
    while let Some(error) = source {
        chain = format!("{chain}: {error}");
        source = error.source();
    }
    tracing::error!(error = chain, "{what}");
    status(Code::Internal, Reason::Internal, format!("{what}; the server's log says more"), &[])
}

/// A failure of the database.
#[must_use]
pub fn store(error: store::Error) -> Status {
    use store::Error;
    match &error {
        Error::Unavailable { cause, .. } => {
            tracing::debug!(error = error.chain(), "the database cannot be used");
            let metadata = [("cause", cause.to_string()), ("hint", cause.hint().to_owned())];
            let metadata = metadata.each_ref().map(|(name, value)| (*name, value.as_str()));
            let retry = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
            let text = format!("the database cannot be used: {cause}; try again");
            with_details(Code::Unavailable, Reason::DatabaseUnavailable, text, &metadata, retry)
        }
        Error::TimedOut => {
            tracing::debug!("the database did not answer in time");
            unavailable(Reason::DatabaseUnavailable, "the database did not answer in time; try again")
        }
        Error::Busy { .. } => exhausted(Reason::DatabaseBusy, format!("{error}; try again"), RETRY_DELAY),
        Error::OutcomeUnknown { .. } => {
            tracing::warn!(error = error.chain(), "it is not known whether a change was made");
            let text = format!("{error}; repeat the call with the same request_id: then it is made once");
            unavailable(Reason::OutcomeUnknown, text)
        }
        Error::Contended { .. } => {
            tracing::info!(error = error.chain(), "a transaction was in another's way");
            let retry = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
            with_details(Code::Aborted, Reason::Contended, "another change was in the way; try again", &[], retry)
        }
        Error::AuditTampered(finding) => {
            tracing::error!(component = "audit", finding, "Nothing is changed: the audit log was tampered with");
            status(
                Code::DataLoss,
                Reason::AuditLogTampered,
                format!("the audit log was tampered with, so nothing is changed: {finding}; run `dwcp audit verify`"),
                &[("finding", finding)],
            )
        }
        Error::Stopping => unavailable(Reason::Stopping, "the server is stopping; try again"),
        Error::RequestIdReused => status(
            Code::AlreadyExists,
            Reason::RequestIdReused,
            "request_id was used for another request; take a new one",
            &[],
        ),
        Error::Statement { .. } | Error::Damaged(_) | Error::Unaudited(_) | Error::NoAuditKey => {
            internal("the database could not do this", &error)
        }
    }
}

/// `nodes` of `nodes/x`.
fn kind_of(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}
