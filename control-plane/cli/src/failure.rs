//! What went wrong, as a sentence and an exit code.

use std::error::Error;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The exit codes, as `interface.md` fixes them: few, and only ever more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command, or a field of it, is wrong.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// Done, but entries were left out.
    InPart = 4,
    /// A later try may work.
    Temporary = 5,
    /// Not allowed.
    Refused = 6,
    /// Somebody else changed it, or it exists already.
    Conflict = 7,
    /// It took too long.
    TimedOut = 8,
    /// A check found errors.
    CheckFound = 10,
    /// The audit log does not verify.
    AuditFailed = 12,
    /// Ctrl-C.
    Interrupted = 130,
}

/// What went wrong: shown once, at the end.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// The machine-readable reason, where the server gave one.
    pub(crate) reason: Option<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), reason: None, hint: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error with all that caused it, in one line.
    pub(crate) fn chain(context: impl Into<String>, error: &dyn Error) -> Self {
        Self::failed(chain(context, error))
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(context: impl Into<String>, error: &dyn Error) -> String {
    let mut message = context.into();
    let mut source = Some(error);
    while let Some(error) = source {
        message.push_str(&format!(": {error}"));
        source = error.source();
    }
    message
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let exit = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::Unavailable | Code::ResourceExhausted => Exit::Temporary,
            Code::PermissionDenied | Code::Unauthenticated => Exit::Refused,
            Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => Exit::Conflict,
            Code::DeadlineExceeded => Exit::TimedOut,
            Code::Cancelled => Exit::Interrupted,
            Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Failed,
        };
        let mut message = status.message().to_owned();
        if message.is_empty() {
            message = format!("the control plane answered {:?}", status.code());
        }
        if let Some(request) = status.get_details_bad_request() {
            for violation in request.field_violations {
                let line = format!("{}: {}", violation.field, violation.description);
                // A single violation often is the message itself.
                if message != line {
                    message.push_str(&format!("\n  {line}"));
                }
            }
        }
        let mut source = status.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(&format!(": {text}"));
            }
            source = error.source();
        }
        let info = status.get_details_error_info();
        // The server knows better than we do what mends it.
        let advice = info.as_ref().and_then(|info| info.metadata.get("hint").cloned());
        let reason = info.map(|info| info.reason);
        let exit = if reason.as_deref() == Some("AUDIT_LOG_TAMPERED") { Exit::AuditFailed } else { exit };
        if message.contains("invalid peer certificate") {
            let of_time = message.contains("not valid yet") || message.contains("expired");
            let hint = if of_time {
                "set this host's clock, or the control plane's: they differ, and a certificate is valid for a time"
                    .to_owned()
            } else {
                "is --ca (DWCP_CA) the ca.pem of this very fleet?".to_owned()
            };
            return Self { exit: Exit::Refused, message, reason, hint: Some(hint) };
        }
        let hint = match status.code() {
            // What an HTTP server says to gRPC.
            _ if message.contains("415 Unsupported Media Type") => {
                Some("is this the gRPC port of a control plane (7442), and not its HTTP port?".to_owned())
            }
            Code::Unauthenticated => Some("give a token by --token-file or DWCP_TOKEN_FILE".to_owned()),
            Code::Unavailable => Some("is the control plane running, and --endpoint right? try: dwcp check".to_owned()),
            _ => None,
        };
        Self { exit, message, reason, hint: advice.or(hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_etag_is_a_conflict_and_a_missing_node_is_not_found() {
        assert_eq!(Failure::from(Status::aborted("x")).exit, Exit::Conflict);
        assert_eq!(Failure::from(Status::not_found("x")).exit, Exit::NotFound);
        assert_eq!(Failure::from(Status::unauthenticated("x")).exit, Exit::Refused);
    }

    #[test]
    fn field_violations_are_shown_line_by_line() {
        let mut details = tonic_types::ErrorDetails::new();
        details.add_bad_request_violation("spec.source_paths", "is empty");
        let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
        let failure = Failure::from(status);
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("\n  spec.source_paths: is empty"), "{}", failure.message);
    }

    #[test]
    fn a_violation_that_is_the_message_is_shown_once() {
        let mut details = tonic_types::ErrorDetails::new();
        details.add_bad_request_violation("name", "is empty");
        let status = Status::with_error_details(Code::InvalidArgument, "name: is empty", details);
        assert_eq!(Failure::from(status).message, "name: is empty");
    }
}
