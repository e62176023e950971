//! The parsed nouns of DWCP: what two processes say to each other, once it has been checked.
//!
//! Each noun is made from its generated form by `TryFrom` (or from text by `FromStr`) and turned back by `From`, so that past
//! the edge no raw string and no unchecked number is left. Everything here is pure: no clock, no randomness, no I/O, but for
//! [`config::files`], which reads a host's own configuration.

mod applied_config;
mod bench;
mod bit_rate;
mod byte_count;
mod component_health;
pub mod config;
mod config_name;
mod digest;
mod epoch;
mod escape;
mod etag;
mod filter;
mod fleet_id;
mod generation;
mod glob;
mod grant;
mod host_facts;
mod invalid_field;
mod labels;
mod newtype;
mod node_id;
mod node_name;
mod node_ref;
mod node_uid;
mod planned_change;
mod public_key;
mod request_id;
mod revision;
mod role;
mod root_path;
mod roster_entry;
mod roster_head;
mod selector;
mod sync;
mod time_spent;
mod timestamp;
mod traceparent;
mod transfer_error;
mod transfer_id;
mod transfer_issue;
mod transfer_options;
mod transfer_path_info;
mod transfer_progress;
mod transfer_report;
mod transfer_role;
mod transfer_spec;
mod transfer_state;
mod trust_bundle;

pub use applied_config::{AppliedConfig, ApplyStatus};
pub use bench::{
    BenchDirection, BenchFlow, BenchGrant, BenchId, BenchInterval, BenchPlan, BenchReport, BenchResult, BenchSpec,
    BenchState, ParseBenchIdError,
};
pub use bit_rate::{BitRate, ParseBitRateError};
pub use byte_count::{ByteCount, ParseByteCountError};
pub use component_health::{ComponentHealth, HealthStatus};
pub use config_name::{ConfigName, ParseConfigNameError};
pub use digest::{Digest, ParseDigestError};
pub use epoch::Epoch;
pub use escape::{escape, escape_str, printable, unescape};
pub use etag::{Etag, ParseEtagError};
pub use filter::{Filter, FilterTerm, ParseFilterError};
pub use fleet_id::{FleetId, ParseFleetIdError};
pub use generation::Generation;
pub use glob::{Glob, ParseGlobError};
pub use grant::{DirectRequest, Grant, GrantParty};
pub use host_facts::{HostFacts, ParseSharedRootError, SharedRoot};
pub use invalid_field::InvalidField;
pub use labels::{LabelKey, LabelValue, Labels, LabelsError, ParseLabelError};
pub use node_id::{NodeId, ParseNodeIdError};
pub use node_name::{NodeName, ParseNodeNameError};
pub use node_ref::{NodeRef, ParseNodeRefError};
pub use node_uid::{NodeUid, ParseNodeUidError};
pub use planned_change::{PlannedAction, PlannedChange};
pub use public_key::{PublicKey, PublicKeyError};
pub use request_id::{ParseRequestIdError, RequestId};
pub use revision::Revision;
pub use role::{ParseRoleError, Role};
pub use root_path::{ParseRelPathError, ParseRootNameError, ParseRootPathError, RelPath, RootName, RootPath};
pub use roster_entry::{RosterEntry, RosterSequence};
pub use roster_head::RosterHead;
pub use selector::{ParseSelectorError, Selector};
pub use sync::{
    ParseSyncIdError, ParseSyncNameError, SyncGrant, SyncId, SyncName, SyncReport, SyncResult, SyncRun, SyncSpec,
    SyncState, SyncStatus,
};
pub use time_spent::{Bottleneck, TimeSpent};
pub use timestamp::{TimestampError, from_timestamp, from_unix_ms, to_timestamp};
pub use traceparent::{ParseTraceparentError, Traceparent};
pub use transfer_error::TransferError;
pub use transfer_id::{ParseTransferIdError, TransferId};
pub use transfer_issue::TransferIssue;
pub use transfer_options::TransferOptions;
pub use transfer_path_info::{PathKind, TransferPathInfo};
pub use transfer_progress::TransferProgress;
pub use transfer_report::TransferReport;
pub use transfer_role::TransferRole;
pub use transfer_spec::TransferSpec;
pub use transfer_state::TransferState;
pub use trust_bundle::TrustBundle;
