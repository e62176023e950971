//! The life of both programs on a host: what the service manager hears, how they start, wait, are refused, reload and stop.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{sys::signal::Signal, unistd::geteuid};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tests_harness::{
    Agent, AgentOptions, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, Process, Scratch, binary, digest_tree,
    eventually, fill_random, seed,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Where a service manager listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Manager {
    fn new(dir: &Path) -> Result<Self> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, heard: Vec::new() })
    }

    fn environment(&self) -> Vec<(String, String)> {
        let pairs = [("NOTIFY_SOCKET", self.path.display().to_string()), ("WATCHDOG_USEC", "200000".to_owned())];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// Waits for an assignment, and forgets all before it.
    fn hears(&mut self, assignment: &str) -> Result<()> {
        eventually(assignment, LIMIT, || {
            let mut bytes = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                self.heard.extend(text.lines().map(str::to_owned));
            }
            let at = self.heard.iter().position(|line| line.starts_with(assignment));
            Ok(at.map(|at| drop(self.heard.drain(..=at))))
        })
        .with_context(|| format!("heard {:?}", self.heard))
    }

    /// All that a well-behaved service says, in order.
    fn hears_a_life(&mut self, process: &Process) -> Result<()> {
        self.hears("READY=1")?;
        self.hears("STATUS=")?;
        self.hears("WATCHDOG=1")?;
        process.signal(Signal::SIGHUP)?;
        self.hears("RELOADING=1")?;
        self.hears("MONOTONIC_USEC=")?;
        self.hears("READY=1")?;
        process.signal(Signal::SIGTERM)?;
        self.hears("STOPPING=1")
    }
}

#[test]
fn the_service_manager_hears_of_a_whole_life_and_no_socket_is_left() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut manager = Manager::new(scratch.path())?;
    let options = ControlPlaneOptions { environment: manager.environment(), ..ControlPlaneOptions::default() };
    let mut server = ControlPlane::start(&scratch.path().join("cp"), options)?;
    assert!(server.dir().join("admin.sock").exists());
    manager.hears_a_life(server.process())?;
    server.stop()?;
    for name in ["admin.sock", "ready.json"] {
        assert!(!server.dir().join(name).exists(), "{name} is left");
    }

    let dir = scratch.path().join("agent");
    let options = AgentOptions { environment: manager.environment(), ..AgentOptions::default() };
    let mut agent = Agent::start(&dir, options)?;
    manager.hears_a_life(agent.process())?;
    agent.stop()?;
    for name in ["agent.sock", "ready.json"] {
        assert!(!dir.join(name).exists(), "{name} is left");
    }
    Ok(())
}

#[test]
fn the_status_of_a_member_follows_its_health() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut manager = Manager::new(scratch.path())?;
    let mut server = ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())?;
    let options =
        AgentOptions { name: "site-a".to_owned(), environment: manager.environment(), ..AgentOptions::default() };
    let mut agent = Agent::join(&server, &scratch.path().join("agent"), options)?;
    // Also of one that had joined before it started.
    agent.stop()?;
    manager.hears("STOPPING=1")?;
    agent.restart()?;
    manager.hears("READY=1")?;
    manager.hears("STATUS=healthy")?;
    server.stop()?;
    manager.hears("STATUS=degraded: control_plane: ")?;
    server.restart()?;
    manager.hears("STATUS=healthy")
}

#[test]
fn a_second_agent_says_at_once_for_whom_it_waits_and_takes_over() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir = scratch.path().join("agent");
    let mut first = Agent::start(&dir, AgentOptions::default())?;
    let mut command = Command::new(binary("dwcp-agent")?);
    command.arg("run").arg("--data-dir").arg(&dir);
    command.args(["--http-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    let mut second = Process::start("the second", &mut command, &scratch.path().join("second.log"))?;
    let said = format!("is in use by process {}; waiting up to 30 s for it to stop", first.process().pid());
    eventually("the second to say that it waits", LIMIT, || Ok(second.output().contains(&said).then_some(())))?;
    first.stop()?;
    eventually("the second to serve", LIMIT, || {
        second.check_alive()?;
        let ready = fs::read_to_string(dir.join("ready.json")).unwrap_or_default();
        Ok(ready.contains(&format!("\"pid\":{}", second.pid())).then_some(()))
    })?;
    assert!(second.stop(Duration::from_secs(25))?.success());
    Ok(())
}

/// What a start that cannot be says: one line, of the program, and nothing of a stop.
fn refused(command: &mut Command) -> Result<String> {
    let output = command.env_remove("NOTIFY_SOCKET").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
    assert!(!said.contains("has stopped"), "{said}");
    let own: Vec<_> = said.lines().filter(|line| line.starts_with("dwcp-")).collect();
    assert_eq!(own.len(), 1, "{said}");
    Ok(own[0].to_owned())
}

fn agent(dir: &Path, more: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("dwcp-agent")?);
    command.arg("run").arg("--data-dir").arg(dir).args(["--metrics-listen", "127.0.0.1:0"]).args(more);
    if more.is_empty() {
        command.args(["--http-listen", "127.0.0.1:0"]);
    }
    Ok(command)
}

fn server(dir: &Path) -> Result<Command> {
    let mut command = Command::new(binary("dwcp-control-plane")?);
    command.arg("run").arg("--data-dir").arg(dir).args(["--dht-listen", "none"]);
    for flag in ["--listen", "--http-listen", "--metrics-listen"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    Ok(command)
}

/// The program in mounts of its own, with a file system of this kind at `dir`.
fn mounted(dir: &Path, options: &str, prepare: &str, program: &Command) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs {options} tmpfs {} && {prepare} && exec \"$@\"", dir.display());
    command.args(["--mount", "--propagation", "private", "bash", "-c", &script, "bash"]);
    command.arg(program.get_program()).args(program.get_args());
    command
}

#[test]
fn a_start_that_cannot_be_says_so_in_one_line_with_what_to_do() -> Result<()> {
    let scratch = Scratch::new()?;
    // A port that somebody has, by his whole name.
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let me = std::env::current_exe()?.file_name().context("a name")?.to_string_lossy().into_owned();
    let holder = format!("{me} (process {})", std::process::id());
    let said = refused(&mut agent(&scratch.path().join("a"), &["--http-listen", &address])?)?;
    assert!(said.contains(&holder) && said.contains("give another --http-listen"), "{said}");
    let mut on_taken = server(&scratch.path().join("s"))?;
    let said = refused(on_taken.args(["--listen", &address]))?;
    assert!(said.contains(&holder) && said.contains("give another --listen"), "{said}");

    ensure!(geteuid().is_root(), "the rest mounts file systems, which needs root: run it as root");
    for (name, program) in [("a", agent(&scratch.folder("ro-a")?, &[])?), ("s", server(&scratch.folder("ro-s")?)?)] {
        let dir = scratch.folder(&format!("ro-{name}"))?;
        let said = refused(&mut mounted(&dir, "-o ro,mode=755", "true", &program))?;
        assert!(said.contains(&dir.display().to_string()) && said.contains("Read-only file system"), "{said}");
        let fill = format!("{{ head -c 2M /dev/zero >{}/fill || true; }} 2>/dev/null", dir.display());
        let said = refused(&mut mounted(&dir, "-o size=1M,mode=755", &fill, &program))?;
        assert!(said.contains(&dir.display().to_string()) && said.contains("No space left on device"), "{said}");
    }

    let open = scratch.folder("open")?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    for mut program in [agent(&open, &[])?, server(&open)?] {
        let said = refused(&mut program)?;
        assert!(said.contains("others can write to the data directory") && said.contains("chmod go-w"), "{said}");
    }

    // Somebody else's: neither may a stranger use it, nor root leave files there that its owner cannot read.
    let dir = scratch.folder("owned")?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let program = agent(&dir, &[])?;
    stranger.arg(program.get_program()).args(program.get_args());
    let said = refused(&mut stranger)?;
    assert!(said.contains("Permission denied") && said.contains("--data-dir"), "{said}");
    for (file, mut program) in [("ed25519_private.key", program), ("seal.key", server(&dir)?)] {
        fs::write(dir.join(file), "")?;
        std::os::unix::fs::chown(dir.join(file), Some(65534), None)?;
        let said = refused(&mut program)?;
        assert!(said.contains("root must not run it") && said.contains("runuser -u nobody"), "{said}");
    }
    Ok(())
}

#[test]
fn a_stop_in_the_middle_of_a_start_is_obeyed_and_harms_nothing() -> Result<()> {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let scratch = Scratch::new()?;
    let agent_dir = scratch.path().join("agent");
    for _ in 0..8 {
        let mut process = Process::start("an agent", &mut agent(&agent_dir, &[])?, &scratch.path().join("agents.log"))?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..250)));
        process.stop(Duration::from_secs(25))?;
        assert!(!agent_dir.join("ready.json").exists());
    }
    let mut agent = Agent::start(&agent_dir, AgentOptions::default())?;
    agent.stop()?;

    let dir = scratch.path().join("cp");
    for _ in 0..3 {
        let mut process = ControlPlane::spawn(&dir, &ControlPlaneOptions::default())?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..2500)));
        process.stop(Duration::from_secs(30))?;
        assert!(!dir.join("ready.json").exists());
    }
    let mut server = ControlPlane::start(&dir, ControlPlaneOptions::default())?;
    server.stop()
}

#[test]
fn all_stop_in_time_in_the_middle_of_a_transfer_which_goes_on_later() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    fs::create_dir_all(&source)?;
    for part in 0..4 {
        fill_random(&source.join(format!("part-{part}")), 80_000_000, part)?;
    }
    let created = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--detach"])?;
    let name = created["name"].as_str().context("a transfer has a name")?.to_owned();
    eventually("the first bytes to arrive", LIMIT, || {
        let entries = fs::read_dir(&target).into_iter().flatten().flatten();
        let arrived: u64 = entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.blocks() * 512).sum();
        Ok((arrived > 4_000_000).then_some(()))
    })?;
    // Each within the time that it has: 25 s and 30 s.
    fleet.agents[1].stop()?;
    fleet.agents[0].stop()?;
    fleet.control_plane.stop()?;
    fleet.control_plane.restart()?;
    fleet.agents[0].restart()?;
    fleet.agents[1].restart()?;
    let ended = fleet.cli()?.json(&["transfer", "watch", &name, "--timeout", "120s"])?;
    assert_eq!(ended["state"], "SUCCEEDED", "{ended:#}");
    assert_eq!(digest_tree(&source)?, digest_tree(&target)?);
    Ok(())
}

#[test]
fn a_log_file_that_cannot_be_written_stops_nobody_and_is_said() -> Result<()> {
    let scratch = Scratch::new()?;
    let environment = vec![("DWCP_LOGGING__FILE".to_owned(), "/dev/full".to_owned())];
    let agent = Agent::start(&scratch.path().join("agent"), AgentOptions { environment, ..AgentOptions::default() })?;
    let said = "/dev/full: the log cannot be written there: No space left on device";
    assert_eq!(agent.process().output().matches(said).count(), 1, "said once: {}", agent.process().output());
    eventually("health to say so", LIMIT, || {
        let mut stream = TcpStream::connect(agent.http())?;
        write!(stream, "GET /health?verbose=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.contains(said).then_some(()))
    })?;

    let file = scratch.path().join("no/such/folder/log");
    let arguments = vec!["--log-file".to_owned(), file.display().to_string()];
    let options = ControlPlaneOptions { arguments, ..ControlPlaneOptions::default() };
    let server = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let said = format!("{}: the log cannot be written there", file.display());
    assert_eq!(server.process().output().matches(&said).count(), 1, "{}", server.process().output());
    let found = server.cli()?.json(&["check"])?;
    assert!(found.to_string().contains(&said), "{found:#}");
    // What is missing is made, and the log goes there with the next reload at the latest.
    fs::create_dir_all(file.parent().context("a folder")?)?;
    server.process().signal(Signal::SIGHUP)?;
    eventually("the log to be written", LIMIT, || Ok(fs::read(&file).is_ok_and(|log| !log.is_empty()).then_some(())))?;
    let checked = server.cli()?.json(&["check"])?;
    assert!(!checked.to_string().contains(&said), "{checked:#}");
    Ok(())
}
