//! `dwcp config`.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use crate::units::parse_duration;

/// `dwcp config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Prints a document
    Get {
        /// `fleet` or node.NAME; all are listed where none is given
        config: Option<String>,
        /// An older revision
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Writes a new revision, rolls it out and waits for the agents' answers
    #[command(after_help = "\
Examples:
  dwcp config set fleet dwcp.yaml -m 'more streams'
  dwcp config set node.site-a - < site-a.yaml
  dwcp config diff fleet dwcp.yaml       prints this command with the etag that makes it safe")]
    Set {
        /// `fleet` or node.NAME
        config: String,
        /// The YAML document, or - for standard input
        file: PathBuf,
        /// What for
        #[arg(long, short, default_value = "", hide_default_value = true)]
        message: String,
        /// Refuses where somebody else wrote since [default: the present one]
        #[arg(long)]
        etag: Option<String>,
        /// Checks only
        #[arg(long)]
        dry_run: bool,
        /// Does not wait for the agents' answers
        #[arg(long)]
        no_wait: bool,
        /// Gives up waiting after so long; the rollout goes on
        #[arg(long, default_value = "60s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Compares the present document with a file, or two revisions
    #[command(after_help = "\
Examples:
  dwcp config diff fleet dwcp.yaml
  dwcp config diff fleet --from 3 --to 5
  dwcp config diff fleet dwcp.yaml --exit-code     0 same, 1 differs")]
    Diff {
        /// `fleet` or node.NAME
        config: String,
        /// The YAML document, or - for standard input
        #[arg(required_unless_present = "to", conflicts_with = "to")]
        file: Option<PathBuf>,
        /// The revision to start from [default: the newest]
        #[arg(long)]
        from: Option<u64>,
        /// The revision to compare it with
        #[arg(long)]
        to: Option<u64>,
        /// Exits with 1 where something differs
        #[arg(long)]
        exit_code: bool,
    },
    /// Says what is wrong with a document, with line and column; needs no control plane
    #[command(
        after_help = "Example:\n  dwcp config validate dwcp.staging.yaml      reads dwcp.yaml beside it as its base"
    )]
    Validate {
        /// The YAML document, or - for standard input
        file: PathBuf,
        /// Asks the control plane too, for this configuration: `fleet` or node.NAME
        #[arg(long, value_name = "CONFIG")]
        online: Option<String>,
    },
    /// Lists revisions, newest first
    History {
        /// `fleet` or node.NAME
        config: String,
    },
    /// Writes an old revision's document as a new revision
    Rollback {
        /// `fleet` or node.NAME
        config: String,
        /// The revision to go back to [default: the one before the present]
        #[arg(long)]
        revision: Option<u64>,
        /// What for
        #[arg(long, short, default_value = "", hide_default_value = true)]
        message: String,
        /// Does not wait for the agents' answers
        #[arg(long)]
        no_wait: bool,
        /// Gives up waiting after so long; the rollout goes on
        #[arg(long, default_value = "60s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Shows what a node's configuration comes to
    Effective {
        /// The node [default: what a node without layers of its own gets]
        node: Option<String>,
        /// Shows where each value comes from
        #[arg(long)]
        show_origin: bool,
        /// What bounds the control plane itself, as its own file of options names it
        #[arg(long, conflicts_with_all = ["node", "show_origin"])]
        control_plane: bool,
    },
}
