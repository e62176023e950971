//! The command line, as clap sees it. Every verb's help ends in examples that work as typed.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, builder::RangedU64ValueParser};
use clap_complete::Shell;

use crate::{
    output::{Color, Format},
    units::{Deadline, parse_duration},
};

/// Moves data between hosts over WANs, and steers the fleet that does it.
#[derive(Debug, Parser)]
#[command(
    name = "dwcp",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  dwcp check                                  is everything as it should be?
  dwcp token create                           prints what to type on a new host
  dwcp send ./dataset site-b:data:/in         sends a folder of this host
  dwcp config diff fleet new.yaml             what would change, and the command that does it

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 done in part, 5 temporary, 6 refused, 7 conflict,
8 timed out, 10 check found errors, 12 audit verification failed, 130 interrupted"
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb has.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// The control plane, HOST:PORT or unix:PATH [default: the selected context, else the local admin.sock]
    #[arg(long, global = true, env = "DWCP_ENDPOINT", value_name = "ENDPOINT", help_heading = "Global options")]
    pub(crate) endpoint: Option<String>,
    /// A file with an operator's token
    #[arg(long, global = true, env = "DWCP_TOKEN_FILE", value_name = "FILE", help_heading = "Global options")]
    pub(crate) token_file: Option<PathBuf>,
    /// The fleet's CA certificate, PEM
    #[arg(long, global = true, env = "DWCP_CA", value_name = "FILE", help_heading = "Global options")]
    pub(crate) ca: Option<PathBuf>,
    /// A context of `dwcp context`
    #[arg(long, global = true, env = "DWCP_CONTEXT", value_name = "NAME", help_heading = "Global options")]
    pub(crate) context: Option<String>,
    /// The file of contexts [default: dwcp/contexts.json in the user's configuration folder]
    #[arg(long = "config", id = "contexts-file", global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) contexts_file: Option<PathBuf>,
    /// The local agent's socket
    #[arg(long, global = true, env = "DWCP_AGENT_SOCKET", value_name = "PATH", help_heading = "Global options")]
    pub(crate) agent_socket: Option<PathBuf>,
    /// How results are printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) output: Format,
    /// When colours are used
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Global options")]
    pub(crate) color: Color,
}

/// Nouns, and verbs for people in a hurry.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Sends files and folders from one host to another, and waits for the end
    Send(Send),
    /// Hosts of the fleet
    #[command(subcommand, visible_alias = "nodes")]
    Node(Node),
    /// Tokens with which hosts join
    #[command(subcommand)]
    Token(Token),
    /// Tokens with which people and scripts call the API
    #[command(subcommand)]
    Operator(Operator),
    /// Configuration of the fleet and of single nodes
    #[command(subcommand)]
    Config(Config),
    /// Transfers, running and ended
    #[command(subcommand, visible_alias = "transfers")]
    Transfer(Transfer),
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Encodes and decodes files as transfers do
    #[command(subcommand)]
    Hde(Hde),
    /// Measures the way from this host's agent to a node
    Ping(Ping),
    /// Measures the path between two nodes: throughput, round trip, loss, and what would make it faster
    Bench(Bench),
    /// Checks that everything is as it should be
    Check(Check),
    /// Named control planes
    #[command(subcommand)]
    Context(Context),
    /// The control plane itself
    #[command(subcommand)]
    System(System),
    /// Prints a completion script for a shell
    #[command(after_help = "Example:\n  dwcp completion bash > /etc/bash_completion.d/dwcp")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

impl Verb {
    /// Its name, for the trace.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Send(_) => "send",
            Self::Node(_) => "node",
            Self::Token(_) => "token",
            Self::Operator(_) => "operator",
            Self::Config(_) => "config",
            Self::Transfer(_) => "transfer",
            Self::Audit(_) => "audit",
            Self::Hde(_) => "hde",
            Self::Ping(_) => "ping",
            Self::Bench(_) => "bench",
            Self::Check(_) => "check",
            Self::Context(_) => "context",
            Self::System(_) => "system",
            Self::Completion { .. } => "completion",
        }
    }
}

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

/// `dwcp node`.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Lists nodes
    #[command(visible_alias = "ls", after_help = "Example:\n  dwcp node list --filter environment=staging,state=READY")]
    List {
        /// `key=value` of a label, or state=READY; several are separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Shows one node
    Get {
        /// Its name, uid or node id
        node: String,
    },
    /// Changes labels, or whether the node may relay
    #[command(
        after_help = "Example:\n  dwcp node set site-a --label environment=staging --remove-label old --relay true"
    )]
    Set {
        /// Its name
        node: String,
        /// Adds or replaces a label; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
        labels: Vec<(String, String)>,
        /// Removes a label; may be repeated
        #[arg(long = "remove-label", value_name = "KEY")]
        removed: Vec<String>,
        /// Whether it may relay and store DHT records
        #[arg(long)]
        relay: Option<bool>,
    },
    /// Shows every change as it happens
    Watch {
        /// As for list
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Revokes a node: it is cut off and never admitted again
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        node: String,
        /// Does not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Frees the name of a deleted node, so that any host may join under it
    #[command(after_help = "\
A deleted node's name stays reserved, so that no other host passes for it unnoticed. A rebuilt host takes its place without
this: dwcp token create --node NAME.

Example:
  dwcp node free site-a")]
    Free {
        /// The name
        node: String,
    },
}

/// `dwcp token`.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token, and prints what to type on the host
    #[command(after_help = "\
Examples:
  dwcp token create                                one host, within an hour
  dwcp token create --relay --label region=eu
  dwcp token create --node site-a                  lets a rebuilt host take its place
  dwcp token create -o json | jq -r .joinCommand")]
    Create {
        /// How long it lives
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// How many hosts may join with it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        max_uses: i32,
        /// A label for every host that joins with it; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
        labels: Vec<(String, String)>,
        /// Lets these hosts relay and store DHT records
        #[arg(long)]
        relay: bool,
        /// The name the host gets
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Lists tokens
    #[command(visible_alias = "ls")]
    List,
    /// Makes a token useless
    Revoke {
        /// Its name
        token: String,
    },
}

/// `dwcp operator`.
#[derive(Debug, Subcommand)]
pub(crate) enum Operator {
    /// Makes a token; it is printed once
    #[command(after_help = "Example:\n  dwcp operator create alice --role operator --ttl 90d > alice.token")]
    Create {
        /// Who or what will hold it
        display_name: String,
        /// What its holder may do
        #[arg(long, value_enum)]
        role: Role,
        /// How long it lives [default: without end]
        #[arg(long, value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Lists tokens
    #[command(visible_alias = "ls")]
    List,
    /// Makes a token useless
    Revoke {
        /// Its name
        token: String,
    },
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Role {
    /// Read.
    Viewer,
    /// Read; change configurations, transfers and nodes; make join tokens.
    Operator,
    /// Everything.
    Admin,
}

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

/// `dwcp hde`.
#[derive(Debug, Subcommand)]
pub(crate) enum Hde {
    /// Encodes a file
    Encode(HdeEncode),
    /// Decodes a file
    Decode {
        /// The encoded file
        file: PathBuf,
        /// The baseline it was encoded against
        #[arg(long)]
        baseline: Option<PathBuf>,
        /// Where to write
        #[arg(short = 'O', long = "out")]
        out: PathBuf,
    },
    /// Says how a file would be encoded, segment by segment
    Explain {
        /// The file
        file: PathBuf,
        /// What the receiver holds
        #[arg(long)]
        baseline: Option<PathBuf>,
        /// The algorithm
        #[arg(long, default_value = "zstd")]
        algorithm: String,
        /// Its level
        #[arg(long, default_value_t = 3)]
        level: i32,
    },
}

/// `dwcp hde encode`.
#[derive(Debug, clap::Args)]
pub(crate) struct HdeEncode {
    /// The file
    pub(crate) file: PathBuf,
    /// What the receiver holds
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Where to write
    #[arg(short = 'O', long = "out")]
    pub(crate) out: PathBuf,
    /// zstd, lz4 or snappy
    #[arg(long, default_value = "zstd")]
    pub(crate) algorithm: String,
    /// Its level
    #[arg(long, default_value_t = 3)]
    pub(crate) level: i32,
}

/// `dwcp ping`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ping {
    /// The node
    pub(crate) node: String,
    /// How many round trips
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) count: u32,
}

/// `dwcp bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Data of the agents' own making flows from the source to NODE, by sessions like those of transfers, and is
dropped there; nothing is read or written. It takes what the path has: bounds of bandwidth hold for it.
Ctrl-C ends it at both ends. docs/bench.md says how to read the result.

Examples:
  dwcp bench site-b                          from this host's agent, for 10 s
  dwcp bench --from site-a site-b --reverse  data flows from site-b to site-a
  dwcp bench site-b --seconds 30 --bidirectional
  dwcp -o json bench site-b | jq '.results[0].steadyBitsPerSecond'")]
pub(crate) struct Bench {
    /// The other end
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// The node that measures [default: this host's agent]
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Option<String>,
    /// For how long data flows
    #[arg(long, short = 't', default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: u32,
    /// Pieces under way at once, at most [default: as many as the scaler comes to]
    #[arg(long, short = 'P', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) streams: Option<u32>,
    /// Data flows from NODE to the source
    #[arg(long, short = 'R', conflicts_with = "bidirectional")]
    pub(crate) reverse: bool,
    /// Data flows both ways at once
    #[arg(long)]
    pub(crate) bidirectional: bool,
    /// Asks the local agent alone, without the control plane; NODE takes part if one of its roots accepts this node
    #[arg(long, conflicts_with = "from")]
    pub(crate) direct: bool,
}

/// `dwcp check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dwcp check --pre            before anything is installed on this host
  dwcp check                  the control plane, its database, the audit log, the nodes
  dwcp check --short          only what is wrong
  dwcp check --wait 60s       until all is well, or the time is over")]
pub(crate) struct Check {
    /// This host, before anything is installed
    #[arg(long)]
    pub(crate) pre: bool,
    /// Only what is wrong
    #[arg(long)]
    pub(crate) short: bool,
    /// Checks again until all is well, at most so long
    #[arg(long, value_parser = parse_duration)]
    pub(crate) wait: Option<Duration>,
}

/// `dwcp context`.
#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Adds or replaces a context
    #[command(
        after_help = "Example:\n  dwcp context add prod --endpoint ctl.example:7442 --ca ca.pem --token-file me.token --use"
    )]
    Add {
        /// Its name
        name: String,
        /// Uses it from now on
        #[arg(long = "use")]
        select: bool,
    },
    /// Lists contexts; * marks the one in use
    #[command(visible_alias = "ls")]
    List,
    /// Uses a context from now on
    Use {
        /// Its name
        name: String,
    },
}

/// `dwcp system`.
#[derive(Debug, Subcommand)]
pub(crate) enum System {
    /// What the control plane is and serves
    Info,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not KEY=VALUE"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_verbs_argument_hides_a_global_flag() {
        let args = Args::try_parse_from(["dwcp", "config", "get", "fleet"]).unwrap();
        assert!(args.global.contexts_file.is_none());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
