//! The command line: forms that scripts rely on.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the texts below are help for people: `[::]` is an address, no link"
)]

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// What was asked for.
#[derive(Debug)]
pub enum Asked {
    /// `join`.
    Join(JoinArgs),
    /// `run`, or `--config F` alone.
    Run(Box<RunArgs>),
    /// `content`.
    Content(ContentArgs),
}

#[derive(Debug, Parser)]
#[command(
    name = "dwcp-agent",
    version,
    about = "Moves data between hosts across WANs, steered by a control plane",
    after_help = "`dwcp-agent --config FILE` alone means `dwcp-agent run --config FILE`.",
    args_conflicts_with_subcommands = true
)]
struct CommandLine {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Joins a fleet: once for each host, before or while the agent runs.
    Join(JoinArgs),
    /// Runs the agent.
    Run(Box<RunArgs>),
    /// Looks after this host's content store: versions of files that later ones are made of.
    Content(ContentArgs),
}

/// `dwcp-agent content VERB …`.
#[derive(Debug, Clone, Args)]
pub struct ContentArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ContentVerb,
    /// Where the agent keeps its keys and state.
    #[arg(long, value_name = "DIR", env = "DWCP_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// How to say it.
    #[arg(long, short, value_enum, default_value_t = Output::Human, global = true)]
    pub output: Output,
}

/// What is done with the content store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ContentVerb {
    /// Says how many objects it holds, and how much of the disk they take.
    Stats,
    /// Reads every object; one that is damaged is set aside, and the exit code is then 1. The agent may run meanwhile.
    Verify,
    /// Removes what nobody needs, while no agent runs: a running one does so by itself.
    Collect,
}

/// How to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// `dwcp-agent join HOST:PORT …`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// The control plane, HOST:PORT, as `dwcp token create` prints it. Where the host has joined already, this only says where
    /// the control plane is now, and no token is needed.
    pub endpoint: String,
    /// The join token; better by --token-file, since other users of this host can see command lines.
    #[arg(long, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file with the join token; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The fingerprint of the fleet's CA, sha256:HEX.
    #[arg(long, value_name = "sha256:HEX")]
    pub ca_fingerprint: String,
    /// Where the agent keeps its keys and state.
    #[arg(long, value_name = "DIR", env = "DWCP_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The name wished for; the host's own by default, and the token's where it gives one.
    #[arg(long)]
    pub name: Option<String>,
    /// Where the agent will listen for QUIC, to try the way in.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub quic_listen: Option<SocketAddr>,
}

/// `dwcp-agent run …`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// The host's own configuration file.
    #[arg(long, value_name = "FILE", env = "DWCP_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the agent keeps its keys and state.
    #[arg(long, value_name = "DIR", env = "DWCP_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to listen for QUIC [default: [::]:30906]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub quic_listen: Option<SocketAddr>,
    /// Where the DHT node listens; `none` for no DHT at all [default: [::]:30609]
    #[arg(long, value_name = "ADDRESS:PORT|none")]
    pub dht_listen: Option<AddressOrNone>,
    /// Where to serve health, status and metrics [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http_listen: Option<SocketAddr>,
    /// Where to serve metrics alone [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// An address that others reach this host at; may be repeated.
    #[arg(long, value_name = "IP[:PORT]")]
    pub advertise: Vec<Advertised>,
    /// The DHT's first nodes, instead of the control plane's list; `none` for none.
    #[arg(long, value_name = "HOST:PORT,…|none", value_delimiter = ',')]
    pub dht_bootstrap: Vec<String>,
    /// Whether others can dial this host.
    #[arg(long, value_enum)]
    pub reach: Option<Reach>,
    /// Offers to relay and to store DHT records; does so only where an operator allows it.
    #[arg(long)]
    pub relay: bool,
    /// A folder that transfers may read and write below; may be repeated.
    #[arg(long = "root", value_name = "NAME=DIR[:ro]")]
    pub roots: Vec<RootArg>,
    /// The group whose members may use `agent.sock`.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// The least severe log lines to write: error, warn, info, debug, trace.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The same as `--log-level debug`.
    #[arg(long, short, conflicts_with = "log_level")]
    pub verbose: bool,
}

/// Whether others can dial this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reach {
    /// The agent finds out.
    Auto,
    /// They can.
    Public,
    /// They cannot: it dials, or is reached through a relay.
    Private,
}

impl Reach {
    /// The word in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// `ADDRESS:PORT`, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOrNone {
    /// Listen here.
    Address(SocketAddr),
    /// Do not.
    None,
}

impl FromStr for AddressOrNone {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::Address) }
    }
}

/// `IP`, or `IP:PORT`; without a port it is the one that the agent listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// The address.
    pub ip: IpAddr,
    /// The port, where it differs from the one listened on.
    pub port: Option<u16>,
}

impl std::fmt::Display for Advertised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// Why a text is no address to advertise.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no IP or IP:PORT, for example 203.0.113.7 or [2001:db8::7]:30906")]
pub struct InvalidAdvertised(String);

impl FromStr for Advertised {
    type Err = InvalidAdvertised;

    fn from_str(text: &str) -> Result<Self, InvalidAdvertised> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Ok(Self { ip, port: None });
        }
        let address: SocketAddr = text.parse().map_err(|_neither| InvalidAdvertised(text.to_owned()))?;
        Ok(Self { ip: address.ip(), port: Some(address.port()).filter(|port| *port != 0) })
    }
}

/// `NAME=DIR[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootArg {
    /// The root's name; checked with the rest of the configuration.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether transfers may only read from it.
    pub read_only: bool,
}

/// Why a text is no root.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no NAME=DIR or NAME=DIR:ro with an absolute DIR, for example data=/srv/data")]
pub struct InvalidRoot(String);

impl FromStr for RootArg {
    type Err = InvalidRoot;

    fn from_str(text: &str) -> Result<Self, InvalidRoot> {
        let invalid = || InvalidRoot(text.to_owned());
        let (name, rest) = text.split_once('=').ok_or_else(invalid)?;
        let (path, read_only) = rest.strip_suffix(":ro").map_or((rest, false), |path| (path, true));
        let path = PathBuf::from(path);
        if name.is_empty() || !path.is_absolute() {
            return Err(invalid());
        }
        Ok(Self { name: name.to_owned(), path, read_only })
    }
}

/// Reads the command line.
///
/// # Errors
/// Usage, help and version, to be printed as clap prints them.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, clap::Error> {
    let line = CommandLine::try_parse_from(args)?;
    match line.verb {
        Some(Verb::Join(args)) => Ok(Asked::Join(args)),
        Some(Verb::Run(args)) => Ok(Asked::Run(args)),
        Some(Verb::Content(args)) => Ok(Asked::Content(args)),
        None if line.run.config.is_some() => Ok(Asked::Run(Box::new(line.run))),
        None => Err(CommandLine::command()
            .error(clap::error::ErrorKind::MissingSubcommand, "say `join` or `run`, or give a file with --config")),
    }
}

#[cfg(test)]
mod tests;
