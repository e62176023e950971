//! What the program is told: on its command line, or in a file with the same names.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use control_plane_console::Rate;
use foundation_telemetry::Format;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    backup::{
        BackupOptions, EpochOptions, RestoreOptions,
        options::{BackupArgs, EpochArgs, RestoreArgs},
    },
    limits::{self, LimitError, Limits, OneLimit, SetLimits},
};

/// The longest file of options that is read.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// DC-6 asks for so many a second, DX-7 for so many a minute.
const DEFAULT_REQUESTS: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

const EXAMPLES: &str = "\
Examples:
  dwcp-control-plane run --data-dir /var/lib/dwcp-control-plane --advertise ctl.example.org
      serves on 7442 (gRPC), 127.0.0.1:7443 (HTTP) and 30610/udp (DHT), on a PostgreSQL of its own
  dwcp-control-plane run --data-dir ./cp --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --dht-listen none
      chooses its ports once, keeps them, and writes them to ./cp/ready.json
  dwcp-control-plane run --database-url-file /etc/dwcp/database-url
      uses a PostgreSQL that others operate
  dwcp-control-plane --config /etc/dwcp/control-plane.yaml
      runs with the options of a file: `data-dir: /srv/dwcp`, `advertise: [ctl.example.org]`, …

When it serves, DIR/ready.json names its addresses and DIR/admin.token lets you in:
  grpcurl -cacert DIR/ca.pem -H \"authorization: Bearer $(cat DIR/admin.token)\" HOST:7442 list
  grpcurl -plaintext -authority localhost -unix DIR/admin.sock list";

/// The control plane of DWCP: steers a fleet of agents from one place.
#[derive(Debug, Parser)]
#[command(name = "dwcp-control-plane", version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serves until it is told to stop.
    #[command(after_help = EXAMPLES, args_override_self = true)]
    Run(Box<RunArgs>),
    /// Writes all that a new host needs into one sealed file, also while the server runs.
    #[command(after_help = crate::backup::options::BACKUP_EXAMPLES)]
    Backup(Box<BackupArgs>),
    /// Makes a data directory and a database of a backup, and opens a new epoch of the fleet.
    #[command(after_help = crate::backup::options::RESTORE_EXAMPLES)]
    Restore(Box<RestoreArgs>),
    /// Opens a new epoch of the fleet in a database that was put back by other means; the server is stopped.
    #[command(after_help = crate::backup::options::EPOCH_EXAMPLES)]
    OpenEpoch(Box<EpochArgs>),
}

/// What the program is told to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// To serve.
    Run(Box<Options>),
    /// To make a backup.
    Backup(BackupOptions),
    /// To restore one.
    Restore(RestoreOptions),
    /// To open a new epoch.
    OpenEpoch(EpochOptions),
}

/// The options of `run`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RunArgs {
    /// A YAML file with these options, by the same names; the command line goes before it.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where keys, tokens, sockets and the private database lie [default: /var/lib/dwcp-control-plane].
    #[arg(long, value_name = "DIR")]
    #[serde(alias = "data_dir")]
    data_dir: Option<PathBuf>,
    /// A PostgreSQL to use instead of a private one; other users of the machine can see it here.
    #[arg(long, value_name = "URL", conflicts_with = "database_url_file")]
    #[serde(alias = "database_url")]
    database_url: Option<String>,
    /// A file with that URL; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    #[serde(alias = "database_url_file")]
    database_url_file: Option<PathBuf>,
    /// The folder of `postgres` and `initdb` for the private PostgreSQL, where it is not found by itself.
    #[arg(long, value_name = "DIR")]
    #[serde(alias = "postgres_bin")]
    postgres_bin: Option<PathBuf>,
    /// gRPC, for operators and agents [default: [::]:7442].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// HTTP, plain and TLS on one port [default: 127.0.0.1:7443].
    #[arg(long, value_name = "ADDRESS")]
    #[serde(alias = "http_listen")]
    http_listen: Option<SocketAddr>,
    /// Metrics for Prometheus [default: 127.0.0.1:7444].
    #[arg(long, value_name = "ADDRESS")]
    #[serde(alias = "metrics_listen")]
    metrics_listen: Option<SocketAddr>,
    /// A file with a token that opens /metrics for others than this machine.
    #[arg(long, value_name = "FILE")]
    #[serde(alias = "metrics_token_file")]
    metrics_token_file: Option<PathBuf>,
    /// The DHT node of the ring, or `none` [default: [::]:30610].
    #[arg(long, value_name = "ADDRESS|none")]
    #[serde(alias = "dht_listen")]
    dht_listen: Option<DhtListen>,
    /// How hosts reach this server; may be repeated [default: the host's name and addresses].
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(deserialize_with = "one_or_many")]
    advertise: Vec<Advertised>,
    /// How many requests to /api an address may make [default: 100/s].
    #[arg(long, value_name = "N/s|N/min")]
    #[serde(alias = "http_api_limit", deserialize_with = "rate_text")]
    http_api_limit: Option<Rate>,
    /// How many other requests an address may make; health, status and metrics are free [default: 100/min].
    #[arg(long, value_name = "N/s|N/min")]
    #[serde(alias = "http_limit", deserialize_with = "rate_text")]
    http_limit: Option<Rate>,
    /// One of the limits, for example grpc_connections=1000; may be repeated. A file has a section `limits:`.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    #[serde(skip)]
    limit: Vec<OneLimit>,
    #[arg(skip)]
    limits: SetLimits,
    /// trace, debug, info, warn or error [default: info; RUST_LOG is honoured].
    #[arg(long, value_name = "LEVEL", env = "DWCP_LOG_LEVEL")]
    #[serde(alias = "log_level")]
    log_level: Option<String>,
    /// The same as --log-level debug.
    #[arg(long, short)]
    #[serde(skip)]
    verbose: bool,
    /// Where traces go, by OTLP over gRPC, for example http://localhost:4317.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    #[serde(alias = "otlp_endpoint")]
    otlp_endpoint: Option<String>,
    /// auto (human on a terminal, else JSON), human or json.
    #[arg(long, value_name = "FORMAT")]
    #[serde(alias = "log_format")]
    log_format: Option<LogFormat>,
    /// A file that the log also goes to.
    #[arg(long, value_name = "FILE")]
    #[serde(alias = "log_file")]
    log_file: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Where the DHT node listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhtListen {
    /// No DHT node.
    None,
    /// Here.
    At(SocketAddr),
}

/// How hosts reach the server: a name or an address, and a port where it is not the listener's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Advertised {
    /// A DNS name or an address, without brackets.
    pub host: String,
    /// Where given.
    pub port: Option<u16>,
}

/// Where the state is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// In a private PostgreSQL; its programs may be named.
    Embedded {
        /// The folder of `postgres` and `initdb`.
        binaries: Option<PathBuf>,
    },
    /// In a PostgreSQL that others operate.
    External {
        /// Its URL; may hold a password.
        url: String,
    },
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedded { .. } => "Embedded",
            Self::External { .. } => "External",
        })
    }
}

/// How the program logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The least level, or levels by target.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Where they also go.
    pub file: Option<PathBuf>,
    /// Where traces go, if anywhere.
    pub otlp_endpoint: Option<String>,
}

impl Logging {
    /// As telemetry wants it.
    #[must_use]
    pub fn telemetry(&self) -> foundation_telemetry::Options {
        let mut options = foundation_telemetry::Options::new("dwcp-control-plane", crate::VERSION);
        options.format = match self.format {
            LogFormat::Auto => Format::Auto,
            LogFormat::Human => Format::Human,
            LogFormat::Json => Format::Json,
        };
        options.level.clone_from(&self.level);
        options.file.clone_from(&self.file);
        options.otlp_endpoint.clone_from(&self.otlp_endpoint);
        options
    }

    /// Whether lines of level info are logged.
    pub(crate) fn shows_info(&self) -> bool {
        !["warn", "error", "off"].contains(&self.level.to_ascii_lowercase().as_str())
    }
}

/// What the server does.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the state is kept.
    pub database: Database,
    /// gRPC.
    pub listen: SocketAddr,
    /// HTTP.
    pub http_listen: SocketAddr,
    /// Metrics.
    pub metrics_listen: SocketAddr,
    /// The file with the token for metrics.
    pub metrics_token_file: Option<PathBuf>,
    /// The DHT node.
    pub dht_listen: DhtListen,
    /// How hosts reach the server; the host's own name and addresses where empty.
    pub advertise: Vec<Advertised>,
    /// The rate of requests to `/api`.
    pub http_api_limit: Rate,
    /// The rate of other requests.
    pub http_limit: Rate,
    /// What bounds the server.
    pub limits: Limits,
    /// The log.
    pub logging: Logging,
}

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The file of options is too long.
    #[error("{path} is longer than {MAX_FILE_BYTES} bytes", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file of options is wrong.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: yaml_serde::Error,
    },
    /// A limit cannot be.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// There is no place for the state.
    #[error("no data directory: give --data-dir DIR (neither root, nor HOME or XDG_STATE_HOME is set)")]
    NoDataDir,
}

impl Cli {
    /// What to do; options of the command line over those of the file.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn command(self) -> Result<Command, OptionsError> {
        Ok(match self.command {
            Some(Verb::Run(args)) => Command::Run(Box::new(args.options()?)),
            None => Command::Run(Box::new(self.run.options()?)),
            Some(Verb::Backup(args)) => Command::Backup(args.options()?),
            Some(Verb::Restore(args)) => Command::Restore(args.options()?),
            Some(Verb::OpenEpoch(args)) => Command::OpenEpoch(args.options()?),
        })
    }
}

/// Where the state is: what all verbs must find alike.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) database: Database,
}

impl Place {
    /// By the command line, and the server's file of options below it.
    pub(crate) fn find(
        config: Option<PathBuf>,
        data_dir: Option<PathBuf>,
        (database_url, database_url_file): (Option<String>, Option<PathBuf>),
        postgres_bin: Option<PathBuf>,
    ) -> Result<Self, OptionsError> {
        let args = RunArgs { config, data_dir, database_url, database_url_file, postgres_bin, ..RunArgs::default() };
        let options = args.options()?;
        Ok(Self { data_dir: options.data_dir, database: options.database })
    }
}

impl RunArgs {
    fn options(self) -> Result<Options, OptionsError> {
        let file = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        self.over(file)
    }

    fn over(self, file: Self) -> Result<Options, OptionsError> {
        // A URL given in one place goes before either form in the other.
        let (url, url_file) = match (self.database_url, self.database_url_file) {
            (None, None) => (file.database_url, file.database_url_file),
            given => given,
        };
        let url = match (url, url_file) {
            (Some(url), _) => Some(url),
            (None, Some(path)) => Some(read_secret(&path)?),
            (None, None) => credential("database-url")?,
        };
        let binaries = self.postgres_bin.or(file.postgres_bin);
        let local = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let everywhere = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let rate = |seconds| Rate { requests: DEFAULT_REQUESTS, per: Duration::from_secs(seconds) };
        let verbose = self.verbose.then(|| "debug".to_owned());
        let level = verbose.or(self.log_level).or(file.log_level).or_else(|| std::env::var("RUST_LOG").ok());
        Ok(Options {
            data_dir: self.data_dir.or(file.data_dir).or_else(default_data_dir).ok_or(OptionsError::NoDataDir)?,
            database: url.map_or(Database::Embedded { binaries }, |url| Database::External { url }),
            listen: self.listen.or(file.listen).unwrap_or_else(|| everywhere(7442)),
            http_listen: self.http_listen.or(file.http_listen).unwrap_or_else(|| local(7443)),
            metrics_listen: self.metrics_listen.or(file.metrics_listen).unwrap_or_else(|| local(7444)),
            metrics_token_file: self.metrics_token_file.or(file.metrics_token_file),
            dht_listen: self.dht_listen.or(file.dht_listen).unwrap_or_else(|| DhtListen::At(everywhere(30610))),
            advertise: if self.advertise.is_empty() { file.advertise } else { self.advertise },
            http_api_limit: self.http_api_limit.or(file.http_api_limit).unwrap_or_else(|| rate(1)),
            http_limit: self.http_limit.or(file.http_limit).unwrap_or_else(|| rate(60)),
            limits: Limits::new(limits::together(&self.limit).over(self.limits).over(file.limits))?,
            logging: Logging {
                level: level.unwrap_or_else(|| "info".to_owned()),
                format: self.log_format.or(file.log_format).unwrap_or_default(),
                file: self.log_file.or(file.log_file),
                otlp_endpoint: self.otlp_endpoint.or(file.otlp_endpoint).filter(|url| !url.is_empty()),
            },
        })
    }
}

fn read_file(path: &Path) -> Result<RunArgs, OptionsError> {
    let io = |source| OptionsError::Io { path: path.to_path_buf(), source };
    if fs::metadata(path).map_err(io)?.len() > MAX_FILE_BYTES {
        return Err(OptionsError::TooLong { path: path.to_path_buf() });
    }
    let text = fs::read_to_string(path).map_err(io)?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(RunArgs::default());
    }
    yaml_serde::from_str(&text).map_err(|source| OptionsError::File { path: path.to_path_buf(), source })
}

fn read_secret(path: &Path) -> Result<String, OptionsError> {
    let read = if path == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let text = read.map_err(|source| OptionsError::Io { path: path.to_path_buf(), source })?;
    Ok(text.trim().to_owned())
}

/// A credential that systemd hands over, if it does.
fn credential(name: &str) -> Result<Option<String>, OptionsError> {
    let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    let path = Path::new(&folder).join(name);
    if path.exists() { read_secret(&path).map(Some) } else { Ok(None) }
}

/// `/var/lib` for root, else the XDG state folder.
fn default_data_dir() -> Option<PathBuf> {
    const NAME: &str = "dwcp-control-plane";
    if nix::unistd::Uid::effective().is_root() {
        return Some(Path::new("/var/lib").join(NAME));
    }
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).and_then(absolute);
    let home = std::env::var_os("HOME").map(PathBuf::from).and_then(absolute);
    state.or_else(|| home.map(|home| home.join(".local/state"))).map(|state| state.join(NAME))
}

impl FromStr for DhtListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            _ => {
                text.parse().map(Self::At).map_err(|_form| "an address with a port, or `none`, is expected".to_owned())
            }
        }
    }
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither HOST nor HOST:PORT");
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_number| wrong())?)),
            None => (text, None),
        };
        rustls_pki_types::DnsName::try_from(host).map_err(|_form| wrong())?;
        Ok(Self { host: host.to_owned(), port })
    }
}

macro_rules! deserialize_from_str {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

deserialize_from_str!(DhtListen, Advertised);

fn rate_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Advertised>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Advertised),
        Many(Vec<Advertised>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        match command(&std::iter::once(&"dwcp-control-plane").chain(arguments).copied().collect::<Vec<_>>()) {
            Ok(Command::Run(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn command(arguments: &[&str]) -> Result<Command, OptionsError> {
        Cli::try_parse_from(arguments).unwrap().command()
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let options = options(&["run", "--data-dir", "/srv/x"]);
        assert_eq!(options.listen.to_string(), "[::]:7442");
        assert_eq!(options.http_listen.to_string(), "127.0.0.1:7443");
        assert_eq!(options.metrics_listen.to_string(), "127.0.0.1:7444");
        assert_eq!(options.dht_listen, DhtListen::At("[::]:30610".parse().unwrap()));
        assert_eq!(options.database, Database::Embedded { binaries: None });
    }

    #[test]
    fn a_file_alone_means_run_and_the_command_line_goes_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("options.yaml");
        fs::write(&file, "data-dir: /srv/a\ndht-listen: none\nadvertise: ctl.example:9000\nhttp_limit: 5/s\n").unwrap();
        let path = file.to_str().unwrap();
        let from_file = options(&["--config", path]);
        assert_eq!(from_file.data_dir, Path::new("/srv/a"));
        assert_eq!(from_file.dht_listen, DhtListen::None);
        assert_eq!(from_file.advertise, [Advertised { host: "ctl.example".to_owned(), port: Some(9000) }]);
        assert_eq!(from_file.http_limit, "5/s".parse().unwrap());
        assert_eq!(options(&["run", "--config", path, "--data-dir", "/srv/b"]).data_dir, Path::new("/srv/b"));

        fs::write(&file, "data-dir: /srv/a\nlisten: nowhere\n").unwrap();
        let error = command(&["x", "--config", path]).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        fs::write(&file, "limits:\n  grpc_streams: 9\n  node_connections: 2\n").unwrap();
        let limits = options(&["--config", path, "--limit", "grpc_streams=8"]).limits;
        assert_eq!((limits.grpc_streams, limits.node_connections), (8, 2));
        fs::write(&file, "lisen: x\n").unwrap();
        let error = command(&["x", "--config", path]).unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
    }

    #[test]
    fn a_backup_finds_the_state_where_the_server_does() {
        let dir = tempfile::tempdir().unwrap();
        let (file, url) = (dir.path().join("options.yaml"), dir.path().join("url"));
        fs::write(&url, "postgresql://db.example/dwcp\n").unwrap();
        fs::write(&file, format!("data-dir: /srv/a\ndatabase-url-file: {}\n", url.display())).unwrap();
        let arguments = ["x", "backup", "--config", file.to_str().unwrap(), "--passphrase-file", "-", "-O", "out"];
        let Ok(Command::Backup(options)) = command(&arguments) else { panic!("a backup") };
        assert_eq!(options.data_dir, Path::new("/srv/a"));
        assert_eq!(options.database, Database::External { url: "postgresql://db.example/dwcp".to_owned() });
        assert!(Cli::try_parse_from(["x", "backup", "-O", "out"]).is_err(), "a passphrase is needed");
    }

    #[test]
    fn addresses_to_advertise_have_every_usual_form() {
        for (text, host, port) in [
            ("ctl.example", "ctl.example", None),
            ("ctl.example:1", "ctl.example", Some(1)),
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:1", "192.0.2.1", Some(1)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:1", "2001:db8::1", Some(1)),
        ] {
            assert_eq!(text.parse(), Ok(Advertised { host: host.to_owned(), port }));
        }
        assert!("two words".parse::<Advertised>().is_err());
    }
}
