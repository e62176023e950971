//! [`Diagnostic`]: one thing that is wrong with a configuration, or worth knowing, and where.

use std::fmt;

use proto_rpc::v1 as rpc;

/// One thing that is wrong, or worth knowing.
///
/// Its text is `FILE:LINE:COLUMN: PATH: MESSAGE`, as compilers write it, without what it does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The field, for example `transport.max_streams`; empty where it is the document.
    pub path: String,
    /// The document: a file's name, or that of a layer.
    pub file: String,
    /// From 1; 0 where it has no place.
    pub line: u32,
    /// From 1; 0 where it has no place.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do; empty where that is plain.
    pub hint: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted, but something in it has no effect.
    Warning,
}

impl Diagnostic {
    /// Whether the document is refused for it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// `PATH: MESSAGE (HINT)`: what an agent answers in a rejection.
    #[must_use]
    pub fn sentence(&self) -> String {
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        let hint = if self.hint.is_empty() { String::new() } else { format!(" ({})", self.hint) };
        format!("{path}{}{hint}", self.message)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.line > 0 {
                write!(f, ":{}:{}", self.line, self.column)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.sentence())
    }
}

impl From<Diagnostic> for rpc::Diagnostic {
    fn from(diagnostic: Diagnostic) -> Self {
        let severity = match diagnostic.severity {
            Severity::Error => rpc::diagnostic::Severity::Error,
            Severity::Warning => rpc::diagnostic::Severity::Warning,
        };
        Self {
            severity: severity.into(),
            path: diagnostic.path,
            file: diagnostic.file,
            line: diagnostic.line,
            column: diagnostic.column,
            message: diagnostic.message,
            hint: diagnostic.hint,
        }
    }
}

impl From<rpc::Diagnostic> for Diagnostic {
    fn from(diagnostic: rpc::Diagnostic) -> Self {
        let severity = match diagnostic.severity() {
            rpc::diagnostic::Severity::Error | rpc::diagnostic::Severity::Unspecified => Severity::Error,
            rpc::diagnostic::Severity::Warning => Severity::Warning,
        };
        Self {
            severity,
            path: diagnostic.path,
            file: diagnostic.file,
            line: diagnostic.line,
            column: diagnostic.column,
            message: diagnostic.message,
            hint: diagnostic.hint,
        }
    }
}
