//! `tests/wan/run`: two network namespaces joined by an emulated path, and a command that runs beside them.

use std::{
    fs,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::signal::{Signal, kill};
use tests_wan::{Direction, Link, Namespace, Wan, duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines, Stdin},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// The addresses of the two ends.
const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// The command went well, but the emulator was late: sysexits' EX_TEMPFAIL, "try again".
const THROWN_AWAY: u8 = 75;

/// Two network namespaces joined by a path with a rate, a delay, losses and a queue. COMMAND runs outside of both, with their names
/// in NSA and NSB (`ip netns exec $NSA …`) and their addresses in IPA and IPB; without one the path stands until the input ends.
///
/// Lines on the standard input change the path while it runs: `rate 20mbit`, `back loss 1%`, `down`, `up`, `report`.
#[derive(Debug, Parser)]
#[command(name = "dwcp-wan")]
struct Options {
    /// The bottleneck's rate: 200mbit; without one nothing waits
    #[arg(long)]
    rate: Option<String>,
    /// The round trip without a queue: 80ms
    #[arg(long)]
    rtt: Option<String>,
    /// Each direction's delay wanders by so much to either side: 4ms
    #[arg(long)]
    jitter: Option<String>,
    /// The share of packets lost, each for itself: 0.1%
    #[arg(long)]
    loss: Option<String>,
    /// Lost in bursts: the share and a burst's mean length, 1%,8
    #[arg(long)]
    bursts: Option<String>,
    /// The bottleneck's queue: 1bdp, 20ms, 256k (bytes)
    #[arg(long)]
    queue: Option<String>,
    /// The share that is held back, and by how much: 1%,5ms
    #[arg(long)]
    reorder: Option<String>,
    /// The largest packet that the path takes: 1280, or 1280,silent
    #[arg(long)]
    mtu: Option<String>,
    /// What is lost follows from it
    #[arg(long)]
    seed: Option<String>,
    /// For the way back only: loss=0
    #[arg(long, value_name = "KEY=VALUE")]
    back: Vec<String>,
    /// Changes the path after so long: 5s:down
    #[arg(long, value_name = "TIME:LINE")]
    at: Vec<String>,
    /// Set in both namespaces, besides large TCP buffers: net.ipv4.tcp_sack=0
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// TCP's congestion control in both namespaces: bbr, cubic, reno
    #[arg(long)]
    cc: Option<String>,
    /// The report, with its series of 50 ms
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// What to run
    #[arg(last = true)]
    command: Vec<String>,
}

impl Options {
    fn links(&self) -> Result<(Link, Link)> {
        let mut there = Link::default();
        let given = [
            ("rate", &self.rate),
            ("rtt", &self.rtt),
            ("jitter", &self.jitter),
            ("loss", &self.loss),
            ("bursts", &self.bursts),
            ("queue", &self.queue),
            ("reorder", &self.reorder),
            ("mtu", &self.mtu),
            ("seed", &self.seed),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                there.set(key, value)?;
            }
        }
        let mut back = Link { seed: there.seed ^ 0xbac, ..there.clone() };
        for setting in &self.back {
            let (key, value) = setting.split_once('=').with_context(|| format!("--back {setting}: KEY=VALUE"))?;
            back.set(key, value)?;
        }
        Ok((there, back))
    }

    /// What is to happen when, the first first.
    fn changes(&self) -> Result<Vec<(Duration, String)>> {
        let mut changes = Vec::new();
        for change in &self.at {
            let (time, line) = change.split_once(':').with_context(|| format!("--at {change}: TIME:LINE"))?;
            changes.push((duration(time)?, line.to_owned()));
        }
        changes.sort();
        Ok(changes)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let (there, back) = options.links()?;
    Namespace::delete_stale();
    let ends = [Namespace::new("a")?, Namespace::new("b")?];
    let addresses = ADDRESSES.map(|address| format!("{address}/24"));
    let wan = Wan::directed((&ends[0], &addresses[0]), (&ends[1], &addresses[1]), there, back)?;
    for end in &ends {
        set_up(end, &options).await?;
    }
    let mut command = Running::start(&options.command, &ends)?;
    let code = serve(&wan, &mut command, options.changes()?).await?;
    let report = wan.report()?;
    eprintln!("{report}");
    if let Some(file) = &options.json {
        fs::write(file, serde_json::to_vec(&report)?)?;
    }
    Ok(ExitCode::from(if code == 0 && !report.verdict.is_good() { THROWN_AWAY } else { code }))
}

/// Buffers that a long, fast path needs; no memory of what earlier connections met.
async fn set_up(end: &Namespace, options: &Options) -> Result<()> {
    let mut settings = vec![
        "net.ipv4.tcp_rmem=4096 131072 134217728".to_owned(),
        "net.ipv4.tcp_wmem=4096 65536 134217728".to_owned(),
        "net.ipv4.tcp_no_metrics_save=1".to_owned(),
    ];
    settings.extend(options.cc.iter().map(|name| format!("net.ipv4.tcp_congestion_control={name}")));
    settings.extend(options.sysctl.iter().cloned());
    for setting in settings {
        let ran =
            Command::new("ip").args(["netns", "exec", end.full_name(), "sysctl", "-qw", &setting]).output().await?;
        if !ran.status.success() {
            bail!("{setting}: {}", String::from_utf8_lossy(&ran.stderr).trim());
        }
    }
    Ok(())
}

/// The command, or nothing where none was given.
struct Running(Option<Child>);

impl Running {
    fn start(command: &[String], ends: &[Namespace; 2]) -> Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            let [a, b] = ends;
            eprintln!("NSA={} IPA={} NSB={} IPB={}", a.full_name(), ADDRESSES[0], b.full_name(), ADDRESSES[1]);
            return Ok(Self(None));
        };
        let child = Command::new(program)
            .args(arguments)
            .env("NSA", ends[0].full_name())
            .env("NSB", ends[1].full_name())
            .env("IPA", ADDRESSES[0])
            .env("IPB", ADDRESSES[1])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.clone())?;
        Ok(Self(Some(child)))
    }

    /// Its exit code; never where there is none. Cancel safe.
    async fn ended(&mut self) -> Result<u8> {
        let Some(child) = &mut self.0 else { return std::future::pending().await };
        let code = child.wait().await?.code();
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    fn pass_on(&self, signal: Signal) {
        let pid = self.0.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            kill(nix::unistd::Pid::from_raw(pid), signal).ok();
        }
    }
}

/// Until the command, or else the input, ends, or a signal comes.
async fn serve(wan: &Wan, command: &mut Running, changes: Vec<(Duration, String)>) -> Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let alone = command.0.is_none();
    let mut input = Some(BufReader::new(tokio::io::stdin()).lines());
    let start = Clock::now();
    let mut changes = changes.into_iter().peekable();
    loop {
        let next = changes.peek().map(|(after, _)| start + *after);
        tokio::select! {
            code = command.ended() => return code,
            () = at(next) => obey(wan, &changes.next().map(|(_, line)| line).unwrap_or_default())?,
            line = next_line(&mut input) => match line? {
                Some(line) => {
                    if let Err(error) = obey(wan, &line) {
                        eprintln!("{error:#}");
                    }
                }
                None if alone => return Ok(0),
                None => input = None,
            },
            _ = interrupt.recv() => { command.pass_on(Signal::SIGINT); return Ok(130) }
            _ = terminate.recv() => { command.pass_on(Signal::SIGTERM); return Ok(143) }
        }
    }
}

/// Tokio's own clock, which its timers need.
struct Clock;

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "real time passes on the path too")]
    fn now() -> Instant {
        Instant::now()
    }
}

/// Ends then; never where there is no time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn next_line(input: &mut Option<Lines<BufReader<Stdin>>>) -> Result<Option<String>> {
    match input {
        Some(input) => Ok(input.next_line().await?),
        None => std::future::pending().await,
    }
}

/// A line of the control.
fn obey(wan: &Wan, line: &str) -> Result<()> {
    let mut words = line.split_whitespace().peekable();
    let direction = match words.peek() {
        None => return Ok(()),
        Some(&"report") => {
            eprintln!("{}", wan.report()?);
            return Ok(());
        }
        Some(&"there") => Some(Direction::There),
        Some(&"back") => Some(Direction::Back),
        Some(_) => None,
    };
    if direction.is_some() {
        words.next();
    }
    let (key, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // Tried first, so that a wrong line changes nothing.
    Link::default().set(key, value)?;
    let change = |link: &mut Link| drop(link.set(key, value));
    match direction {
        Some(direction) => wan.change_one(direction, change),
        None => wan.change(change),
    }
    Ok(())
}
