//! What can go wrong between the program and its database.

/// A failure of the database, or of our use of it. Says nothing of the request's own merits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection; temporary.
    #[error("the database cannot be reached")]
    Unavailable {
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// It took too long; temporary. The change may have been made when the commit itself was cut off.
    #[error("the database did not answer in time")]
    TimedOut,
    /// Somebody else's transaction was in the way; temporary.
    #[error("the database could not serialise this change with others")]
    Contended {
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A statement failed.
    #[error("the database refused a statement")]
    Statement {
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A row does not hold what this program wrote.
    #[error("a stored {0} cannot be read")]
    Damaged(&'static str),
    /// A transaction changed something, recorded no event and did not say that nothing shall be kept: it was rolled back.
    #[error("a change without an audit record was rolled back: {0}")]
    Unaudited(&'static str),
    /// The audit key was not opened before a write.
    #[error("the audit log has no signing key yet")]
    NoAuditKey,
    /// The program is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The same request id came with another request.
    #[error("this request id was used for another request")]
    RequestIdReused,
}

impl Error {
    /// Whether the same call may succeed in a moment.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::TimedOut | Self::Contended { .. } | Self::Stopping => true,
            Self::Statement { .. }
            | Self::Damaged(_)
            | Self::Unaudited(_)
            | Self::NoAuditKey
            | Self::RequestIdReused => false,
        }
    }

    /// The error with its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        if let sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) = source {
            return Self::Unavailable { source };
        }
        let code = source.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match code.as_deref() {
            // serialization_failure, deadlock_detected, lock_not_available (also lock_timeout)
            Some("40001" | "40P01" | "55P03") => Self::Contended { source },
            // query_canceled by statement_timeout
            Some("57014") => Self::TimedOut,
            // connection exceptions, too_many_connections, shutdown, crash, cannot_connect_now, idle time-out in a transaction
            Some(code) if code.starts_with("08") || matches!(code, "53300" | "57P01" | "57P02" | "57P03" | "25P03") => {
                Self::Unavailable { source }
            }
            Some(_) | None => Self::Statement { source },
        }
    }
}

/// Whether this is a violation of the unique index or key of this name.
pub(crate) fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation() && error.constraint() == Some(constraint))
}
