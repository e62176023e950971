//! `dwcp sync`.

use std::time::Duration;

use clap::Subcommand;

use crate::units::parse_duration;

/// `dwcp sync`.
#[derive(Debug, Subcommand)]
pub(crate) enum Sync {
    /// Keeps a folder, or a large file, of one host in step on another
    #[command(after_help = "\
The destination is the folder that receives, as for `dwcp send`. What the source does not have is deleted
there, but nothing beside what is synced. What others change at the destination is never overwritten:
it is left out and listed, and `dwcp sync run NAME --overwrite` replaces it.

Where something stands at the destination already, the first run is refused unless --adopt is given.

Examples:
  dwcp sync create /srv/photos site-b:data:/in
  dwcp sync create data:/photos/ --from site-a site-b:data:/photos --every 1h --exclude '*.tmp'
  dwcp sync create /var/lib/disk.img site-b:images:/ --name disk --every 15m")]
    Create(Box<Create>),
    /// Lists syncs by name
    #[command(visible_alias = "ls", after_help = "Example:\n  dwcp sync list --filter state=WITH_ISSUES,node=site-a")]
    List {
        /// state=STATE, node=NAME; several are separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Shows one sync: how it is, its last and next run, what it left out
    Get {
        /// Its name
        sync: String,
    },
    /// Shows every change of a sync, or of all of them, as it happens
    Watch {
        /// Its name [default: all]
        sync: Option<String>,
        /// Ends after so long
        #[arg(long, value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Asks for a run now, and waits for its end
    #[command(after_help = "\
Exit codes: 0 everything is in step, 4 entries were left out, 1 the run failed, 8 it has not ended in time.

Examples:
  dwcp sync run photos
  dwcp sync run photos --overwrite   also replaces and deletes what others changed at the destination")]
    Run {
        /// Its name
        sync: String,
        /// Replaces and deletes also what others changed at the destination; in this run alone
        #[arg(long)]
        overwrite: bool,
        /// Returns at once
        #[arg(long)]
        detach: bool,
        /// Gives up waiting after so long; the run goes on
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "detach")]
        timeout: Option<Duration>,
    },
    /// Holds a sync: no run begins, and one under way stands still, until it is resumed
    Pause {
        /// Its name
        sync: String,
        /// Why, for those who ask
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Lets a paused sync go on
    Resume {
        /// Its name
        sync: String,
    },
    /// Ends a sync: no further run begins; what was published stays
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        sync: String,
        /// Only if it is still the one with this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
}

/// `dwcp sync create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// What is kept in step: a path of this host, or ROOT:/path; with a trailing slash a folder's contents
    #[arg(value_name = "SRC")]
    pub(crate) source: std::ffi::OsString,
    /// The folder that receives
    #[arg(value_name = "NODE:ROOT:/PATH")]
    pub(crate) destination: std::ffi::OsString,
    /// The node that sends; then SRC is ROOT:/path [default: this host's agent]
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Option<String>,
    /// The least time from the beginning of one run to that of the next: 1s to 30d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    pub(crate) every: Duration,
    /// Its name [default: one is made]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Leaves alone what matches, at both ends; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Compares contents where size and time agree
    #[arg(long)]
    pub(crate) checksum: bool,
    /// The first run may replace and delete what stands at the destination
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Checks only; begins nothing
    #[arg(long)]
    pub(crate) validate_only: bool,
}
