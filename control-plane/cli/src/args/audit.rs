//! `dwcp audit`.

use std::path::PathBuf;

use clap::{Subcommand, builder::RangedU64ValueParser};

/// `dwcp audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Lists events
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  dwcp audit list --filter 'action=config.*' --newest-first
  dwcp audit list --filter outcome=refused --since 2h"
    )]
    List {
        #[command(flatten)]
        filter: AuditFilter,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
        limit: usize,
        /// The newest first
        #[arg(long)]
        newest_first: bool,
    },
    /// Shows events as they are appended
    Tail {
        /// Begins with this one
        #[arg(long)]
        from: Option<u64>,
        /// As for list
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Reads the whole log, or an export of it, and proves that nothing was changed, removed or inserted
    #[command(after_help = "\
Every leaf is hashed here, the tree built here, and the signed head checked here: the server's word is not believed.
The head of the last verification is remembered, so that a cut or rewritten log is found.

Examples:
  dwcp audit verify
  dwcp audit verify --anchor /var/lib/dwcp-agent/audit-witness.json      on an agent's host
  dwcp audit verify audit.jsonl --ca ca.pem                              without control plane and database

Exit codes: 0 whole and unchanged, 12 it is not: the findings say what and where")]
    Verify {
        /// An export; - reads standard input [default: the control plane's log]
        file: Option<PathBuf>,
        /// A head kept elsewhere that the log must continue: a server's audit.checkpoint, an agent's audit-witness.json; may be repeated
        #[arg(long, value_name = "FILE")]
        anchor: Vec<PathBuf>,
        /// The log's verifier key, as kept elsewhere [default: remembered from the first verification, or the one that the CA signed]
        #[arg(long, visible_alias = "key", value_name = "KEY")]
        verifier_key: Option<String>,
    },
    /// Writes a stretch of the log to a file that verifies without control plane and database
    #[command(after_help = "\
The records stand in the file as they were hashed, one a line, with the signed head and the proof that it covers them
(docs/protocol/audit-export.md). The same stretch under the same head is the same file, byte for byte.

Examples:
  dwcp audit export -O audit.jsonl
  dwcp audit export --since 7d -O week.jsonl
  dwcp audit export --from 1000 -O - | gzip > audit-1000.jsonl.gz
  dwcp audit verify audit.jsonl --ca ca.pem")]
    Export {
        /// Begins with this event
        #[arg(long, value_name = "SEQ", conflicts_with = "since")]
        from: Option<u64>,
        /// Begins at this time, or so long ago: 2026-11-21T09:30:00Z, 2026-11-21, 2h
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Ends before this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Where to write; - is standard output
        #[arg(short = 'O', long = "out", value_name = "FILE")]
        out: PathBuf,
    },
}

/// Which events.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditFilter {
    /// actor=…, action=…, resource=…, outcome=ok or refused; a trailing * matches any rest
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) filter: String,
    /// From this time on, or since so long ago: 2026-11-21T09:30:00Z, 2026-11-21, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}
