//! The audit log's form, and the verification of a log: pure.
//!
//! A [`Record`] is one leaf of an RFC 6962 tree; its bytes are canonical JSON ([RFC 8785](https://www.rfc-editor.org/rfc/rfc8785)), so
//! that what is stored in columns and what was hashed can be compared. A [`LogVerifier`] reads a whole log in order and says what was done
//! to it; an [`ExportVerifier`] does so with a file, which needs neither server nor database (docs/protocol/audit-export.md).

mod canonical;
mod export;
mod head;
mod record;
mod restore;
mod verify;

pub use canonical::canonical_json;
pub use export::{
    ExportError, ExportFinding, ExportHeader, ExportReport, ExportVerifier, MAX_HEADER_BYTES, MAX_RECORD_BYTES,
    record_line,
};
pub use head::{epoch_of, key_name, origin};
pub use record::{LeafError, Outcome, OutcomeError, Record};
pub use restore::Restore;
pub use verify::{Anchor, Event, Finding, LogVerifier, Report};
