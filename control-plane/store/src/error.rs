//! What can go wrong between the program and its database.

/// Why the database cannot be used, in words that may be shown to anybody: what PostgreSQL itself said goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Cause {
    /// Nobody listens there.
    #[error("nothing listens at its address")]
    Refused,
    /// It took too long.
    #[error("it does not answer")]
    NoAnswer,
    /// The connection broke.
    #[error("it closed the connection")]
    Lost,
    /// It is starting, stopping, or recovering from a crash.
    #[error("it is starting or stopping")]
    Starting,
    /// `max_connections` is reached.
    #[error("it has no connection left (max_connections)")]
    TooManyConnections,
    /// `pg_hba.conf`, the role or the password.
    #[error("it refuses this server's login (pg_hba.conf, the role or its password)")]
    LoginRefused,
    /// It takes no writes.
    #[error("it is a standby or read-only")]
    Standby,
    /// Its disk.
    #[error("its disk is full")]
    DiskFull,
}

impl Cause {
    /// What a connection that failed says of the database.
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => Self::Refused,
                std::io::ErrorKind::TimedOut => Self::NoAnswer,
                _ => Self::Lost,
            },
            error => error
                .as_database_error()
                .and_then(|error| error.code())
                .map_or(Self::Lost, |code| Self::of_code(&code).unwrap_or(Self::LoginRefused)),
        }
    }

    /// From an SQLSTATE; absent where that says nothing of the database as a whole.
    fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            "53300" => Self::TooManyConnections,
            "57P01" | "57P02" | "57P03" | "57P04" => Self::Starting,
            "53100" => Self::DiskFull,
            "25006" => Self::Standby,
            "25P03" => Self::Lost,
            code if code.starts_with("08") => Self::Lost,
            code if code.starts_with("28") => Self::LoginRefused,
            _ => return None,
        })
    }

    /// Whether this is why a write failed, wherever it stands among the error's causes.
    pub(crate) fn is_behind(self, error: &(dyn std::error::Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(sqlx::Error::Database(error)) = error.downcast_ref::<sqlx::Error>() {
                return error.code().is_some_and(|code| Self::of_code(&code) == Some(self));
            }
            cause = error.source();
        }
        false
    }

    /// What an operator does about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Refused | Self::Lost | Self::Starting => {
                "start PostgreSQL; its log says why it ended. Nothing else has to be done"
            }
            Self::NoAnswer => {
                "look at PostgreSQL's host and at the network to it; it goes on by itself when it answers"
            }
            Self::TooManyConnections => "raise max_connections of PostgreSQL, or end what holds its connections",
            Self::LoginRefused => "mend pg_hba.conf, the role or --database-url-file",
            Self::Standby => "point --database-url at the primary",
            Self::DiskFull => {
                "make room on the disk of PostgreSQL (an own one lies in DIR/postgres); it goes on by itself"
            }
        }
    }
}

/// A failure of the database, or of our use of it. Says nothing of the request's own merits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be used; temporary.
    #[error("the database cannot be used: {cause}")]
    Unavailable {
        /// Why.
        cause: Cause,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// It took too long; temporary. Nothing was changed.
    #[error("the database did not answer in time")]
    TimedOut,
    /// All connections are in use, and enough callers wait; temporary.
    #[error("all {connections} connections to the database are in use (limits.database_connections)")]
    Busy {
        /// How many there are.
        connections: u32,
    },
    /// The connection broke, or time ran out, in the commit: it may have been made. Temporary; the same request, with its id, is
    /// harmless to repeat.
    #[error("the database did not say whether the change was made")]
    OutcomeUnknown {
        /// What the driver said, where it said something.
        #[source]
        source: Option<sqlx::Error>,
    },
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
    /// Somebody changed the audit log past this program: nothing is appended to it, and so nothing is changed.
    #[error("the audit log was tampered with: {0}")]
    AuditTampered(String),
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
            Self::Unavailable { .. }
            | Self::TimedOut
            | Self::Busy { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Contended { .. }
            | Self::Stopping => true,
            Self::Statement { .. }
            | Self::Damaged(_)
            | Self::Unaudited(_)
            | Self::NoAuditKey
            | Self::AuditTampered(_)
            | Self::RequestIdReused => false,
        }
    }

    /// What a COMMIT came to that was not confirmed: refused for sure only where PostgreSQL lives to say so.
    pub(crate) fn of_commit(source: sqlx::Error) -> Self {
        let severity = source
            .as_database_error()
            .and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
            .map(sqlx::postgres::PgDatabaseError::severity);
        match severity {
            Some(sqlx::postgres::PgSeverity::Error) => source.into(),
            Some(_) | None => Self::OutcomeUnknown { source: Some(source) },
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

    /// Into the log. That the database is away is said there once, by who watches it, and by who meets it only to who looks closely.
    pub fn log(&self, of: impl std::fmt::Display, what: &'static str) {
        if self.is_temporary() {
            tracing::debug!(component = "database", %of, error = self.chain(), "{what}");
        } else {
            tracing::warn!(component = "database", %of, error = self.chain(), "{what}");
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        if let sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) = source {
            return Self::Unavailable { cause: Cause::of(&source), source };
        }
        let code = source.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match code.as_deref() {
            // serialization_failure, deadlock_detected, lock_not_available (also lock_timeout)
            Some("40001" | "40P01" | "55P03") => Self::Contended { source },
            // query_canceled by statement_timeout
            Some("57014") => Self::TimedOut,
            Some(code) => match Cause::of_code(code) {
                Some(cause) => Self::Unavailable { cause, source },
                None => Self::Statement { source },
            },
            None => Self::Statement { source },
        }
    }
}

/// Whether this is a violation of the unique index or key of this name.
pub(crate) fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation() && error.constraint() == Some(constraint))
}
