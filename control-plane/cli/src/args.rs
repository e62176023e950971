//! The command line, as clap sees it. Every verb's help ends in examples that work as typed.

mod audit;
mod bench;
mod config;
mod hde;
mod node;
mod operator;
mod send;
mod sync;
mod token;
mod transfer;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use audit::{Audit, AuditFilter};
pub(crate) use bench::Bench;
pub(crate) use config::Config;
pub(crate) use hde::{Hde, HdeHow};
pub(crate) use node::Node;
pub(crate) use operator::{Operator, Role};
pub(crate) use send::Send;
pub(crate) use sync::{Create as SyncCreate, Sync};
pub(crate) use token::Token;
pub(crate) use transfer::Transfer;

use crate::{
    output::{Color, Format},
    units::parse_duration,
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
    /// Standing syncs: a folder or a large file that is kept in step on another host
    #[command(subcommand, visible_alias = "syncs")]
    Sync(Sync),
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
            Self::Sync(_) => "sync",
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

/// `dwcp ping`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ping {
    /// The node
    pub(crate) node: String,
    /// How many round trips
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) count: u32,
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
