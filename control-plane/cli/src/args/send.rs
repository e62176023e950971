//! `dwcp send`.

use std::time::Duration;

use crate::units::{Deadline, parse_duration};

/// `dwcp send`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The destination is the folder that receives; a trailing slash there says nothing. A source file lands in
it under its own name, a source folder as a folder of its own name. A source with a trailing slash (a
root itself, data:/, has one) lands as its contents.

Nothing is deleted without --delete. With it, what the source does not have is deleted from each folder
that is sent, and nothing beside it; only where contents are sent also from the destination folder
itself. --dry-run lists what would be deleted.

Examples:
  dwcp send ./dataset site-b:data:/in             a folder of this host
  dwcp send --from site-a data:/set/ site-b:data:/in
  dwcp send --from site-a data:/set site-b:data:/in --dry-run
  dwcp send --from site-a data:/set site-b:data:/ --delete    what lies beside data:/set at site-b stays
  dwcp send ./build site-b:data:/releases --detach
  dwcp send ./nightly site-b:data:/in --deadline 2h     ends without success if it takes longer")]
pub(crate) struct Send {
    /// What is sent, and last NODE:ROOT:/PATH: where to
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub(crate) paths: Vec<std::ffi::OsString>,
    /// The node that sends; then sources are ROOT:/path [default: this host's agent]
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Option<String>,
    /// Returns at once with the transfer's name
    #[arg(long, conflicts_with = "direct")]
    pub(crate) detach: bool,
    /// Deletes from the folders that are sent what the source does not have
    #[arg(long)]
    pub(crate) delete: bool,
    /// Leaves alone what matches, at both ends; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Compares contents where size and time agree
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Moves nothing, and lists what would be moved
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Asks the local agent alone, without the control plane
    #[arg(long, conflicts_with = "from")]
    pub(crate) direct: bool,
    /// Checks authority, the paths' form and whether both ends can be reached; begins nothing
    #[arg(long, conflicts_with_all = ["direct", "detach", "dry_run"])]
    pub(crate) validate_only: bool,
    /// Ends the transfer without success if it has not ended by then, also while it is paused: a duration from now, or a time
    /// such as 2026-11-22T06:00:00Z; at most the grant's end (7 days)
    #[arg(long, value_name = "DURATION|TIME", value_parser = Deadline::parse)]
    pub(crate) deadline: Option<Deadline>,
    /// Gives up waiting after so long; the transfer goes on
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}
