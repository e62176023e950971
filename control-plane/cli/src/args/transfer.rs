//! `dwcp transfer`.

use super::Send;
use std::time::Duration;

use clap::{Subcommand, builder::RangedU64ValueParser};

use crate::units::parse_duration;

/// `dwcp transfer`.
#[derive(Debug, Subcommand)]
pub(crate) enum Transfer {
    /// Lists transfers, newest first
    #[command(visible_alias = "ls", after_help = "Example:\n  dwcp transfer list --filter state=RUNNING,node=site-a")]
    List {
        /// state=STATE, node=NAME; several are separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
        limit: usize,
    },
    /// Shows one transfer
    Get {
        /// Its name
        transfer: String,
    },
    /// Follows a transfer to its end, or all of them
    Watch {
        /// Its name [default: all]
        transfer: Option<String>,
        /// Gives up after so long; the transfer goes on
        #[arg(long, value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Stops a transfer; files that were published stay
    Cancel {
        /// Its name
        transfer: String,
    },
    /// Holds a transfer: nothing more is sent, and what arrived is kept, until it is resumed
    #[command(after_help = "\
A paused transfer stays so whatever is restarted. Its grant and its deadline go on: when one of them is
over, it ends without success (`dwcp transfer get` shows both). A direct send (`dwcp send --direct`) is
known to its agent alone, and cannot be paused.

Examples:
  dwcp transfer pause 0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f
  dwcp transfer pause 0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f --reason 'the line is needed until 6'
  dwcp transfer list --filter state=PAUSED")]
    Pause {
        /// Its name
        transfer: String,
        /// Why, for those who ask
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Lets a paused transfer go on; what arrived is not sent again
    #[command(after_help = "Example:\n  dwcp transfer resume 0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f")]
    Resume {
        /// Its name
        transfer: String,
    },
    /// Accepts a transfer between two nodes and returns with its name
    #[command(
        after_help = "Examples:\n  dwcp transfer create --from site-a data:/set site-b:data:/in\n  dwcp transfer create --from site-a data:/set site-b:data:/in --deadline 2026-11-22T06:00:00Z"
    )]
    Create(Box<Send>),
}
