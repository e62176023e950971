//! No secret is anywhere but where it belongs (R38): not in a log, an answer, the audit log, a metric, a trace, a table, nor
//! with a child that we start; whatever goes wrong. Neither do made-up names steer a terminal or fill the metrics, and no
//! switch of tests is left in the programs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use control_plane_pki::SealKey;
use control_plane_store::{Db, Keys, Options};
use foundation_runtime::{Clock, TaskGroup};
use serde_json::Value;
use tests_harness::{
    Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, OtlpReceiver, Ran, Scratch, binary, eventually,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Also of the libraries that are quiet by default.
const DEBUG: &str = "debug,h2=debug,hyper=debug,hyper_util=debug,tonic=debug,tower=debug,rustls=debug,tokio_rustls=debug,sqlx=debug,\
                     quinn=debug,quinn_proto=debug,mainline=debug,opentelemetry=debug,opentelemetry_sdk=debug,opentelemetry-otlp=debug";

/// What must not be found, in each form that it may take.
#[derive(Debug, Default)]
struct Secrets(Vec<(String, Vec<Vec<u8>>)>);

impl Secrets {
    fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= 12, "{name} is too short to be looked for");
        let mut forms = vec![secret.to_vec(), hex::encode(secret).into_bytes(), hex::encode_upper(secret).into_bytes()];
        let percent = |byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
            other => format!("%{other:02X}"),
        };
        forms.push(secret.iter().map(percent).collect::<String>().into_bytes());
        // Wherever it begins within what is encoded: without the characters that others have a part in.
        for skipped in 0..3 {
            let whole = &secret[skipped..];
            let whole = &whole[..whole.len() / 3 * 3];
            forms.push(STANDARD_NO_PAD.encode(whole).into_bytes());
            forms.push(URL_SAFE_NO_PAD.encode(whole).into_bytes());
        }
        forms.sort();
        forms.dedup();
        self.0.push((name.to_owned(), forms));
    }

    /// The names of those that are in `bytes`.
    fn within(&self, bytes: &[u8]) -> Vec<&str> {
        let found = |forms: &[Vec<u8>]| forms.iter().any(|form| contains(bytes, form));
        self.0.iter().filter(|(_, forms)| found(forms)).map(|(name, _)| name.as_str()).collect()
    }
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    bytes.windows(form.len()).any(|window| window[0] == form[0] && window == form)
}

/// Everything that somebody may read.
#[derive(Debug, Default)]
struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    /// Runs a program, and keeps what it said; where it is told a secret, the caller leaves that out.
    fn run(&mut self, command: &mut Command) -> Result<Ran> {
        let ran: Ran = command.output().with_context(|| format!("{command:?}"))?.into();
        self.add(format!("standard output of {command:?}"), ran.stdout.clone());
        self.add(format!("standard error of {command:?}"), ran.stderr.clone());
        Ok(ran)
    }

    fn leaks(&self, secrets: &Secrets) -> Vec<String> {
        let named = |(place, bytes): &(String, Vec<u8>)| {
            let found = secrets.within(bytes);
            (!found.is_empty()).then(|| format!("{found:?} in {place}"))
        };
        self.0.iter().filter_map(named).collect()
    }
}

struct World {
    scratch: Scratch,
    secrets: Secrets,
    seen: Seen,
    database: String,
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A file that holds a secret, for its owner alone.
    fn file(&mut self, name: &str, secret: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, format!("{secret}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn dwcp(&mut self, cli: &Cli, arguments: &[&str]) -> Result<Ran> {
        self.seen.run(&mut cli.command(arguments))
    }
}

/// A word that nothing else contains, with what has to be escaped in a URL.
fn word(what: &str) -> String {
    format!("{what}-{:032x}", rand::random::<u128>())
}

fn environment(otlp: &str, header: &str) -> Vec<(String, String)> {
    let header = format!("authorization=Bearer%20{header}");
    [("RUST_LOG", DEBUG), ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp), ("OTEL_EXPORTER_OTLP_HEADERS", &header)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// What the kernel shows of all that descends from a process.
fn processes_below(root: u32) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let next = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == next).map(|(pid, _)| *pid));
        at += 1;
    }
    let read = |pid: u32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    found.into_iter().map(|pid| (pid, read(pid, "cmdline"), read(pid, "environ"))).collect()
}

/// What HTTP answers.
fn http(address: &str, path: &str, more: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn series(metrics: &str) -> Result<usize> {
    Ok(http(metrics, "/metrics", "")?.lines().filter(|line| line.contains(' ') && !line.starts_with('#')).count())
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("{field} in {value}"))
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A join that is refused or not, by a token in a file.
fn join(world: &mut World, server: &ControlPlane, fingerprint: &str, token: &Path, name: &str) -> Result<Ran> {
    let dir = world.path(name);
    let mut command = Command::new(binary("dwcp-agent")?);
    command.args(["join", &server.grpc(), "--ca-fingerprint", fingerprint, "--name", name]);
    command.arg("--token-file").arg(token).arg("--data-dir").arg(dir).env("RUST_LOG", DEBUG);
    world.seen.run(&mut command)
}

/// Everything goes wrong that an operator can get wrong.
fn everything_goes_wrong(world: &mut World, server: &ControlPlane, fingerprint: &str) -> Result<()> {
    let cli = server.cli()?;
    for name in ["no-such-token", "\u{1b}[31mred"] {
        let wrong = word("dwcpj_wrong");
        world.secrets.add("a wrong join token", wrong.as_bytes());
        let file = world.file("wrong.token", &wrong)?;
        ensure!(join(world, server, fingerprint, &file, name)?.code != 0);
    }
    let wrong = word("dwcpo_wrong");
    world.secrets.add("a wrong operator token", wrong.as_bytes());
    let file = world.file("wrong.operator", &wrong)?;
    let stranger = cli.clone().with("DWCP_TOKEN_FILE", &file);
    for format in ["json", "human"] {
        ensure!(world.dwcp(&stranger, &["-o", format, "node", "list"])?.code != 0);
        for arguments in [
            ["node", "get", "no-such"],
            ["node", "get", "\u{1b}[31mred"],
            ["transfer", "get", "\u{1b}]0;title\u{7}"],
            ["config", "get", "nodes/\u{1b}[2J"],
        ] {
            ensure!(world.dwcp(&cli, &[&["-o", format][..], &arguments].concat())?.code != 0, "{arguments:?}");
        }
        for arguments in
            [&["node", "list"][..], &["check"], &["system", "info"], &["token", "list"], &["operator", "list"]]
        {
            world.dwcp(&cli, &[&["-o", format][..], arguments].concat())?;
        }
    }
    // A database that is not there, and one that does not let in; each with its password.
    // A slash in a password has to be escaped, and is not: all of it is then taken for something else.
    let forms = [
        "dwcp:P@127.0.0.1:1/d?sslpassword=P",
        "dwcp:P@no-such-host.invalid/d?password=P&P=x",
        "dwcp:P/x@h/d",
        "P",
        "h:P/d",
    ];
    for (at, form) in forms.into_iter().enumerate() {
        let password = word("dsn");
        world.secrets.add("a wrong password of the database", password.as_bytes());
        let url = format!("postgresql://{}", form.replace('P', &password));
        let file = world.file("wrong.url", &url)?;
        let dir = world.path(&format!("no-database-{at}"));
        let mut command = Command::new("timeout");
        command.args(["--signal=TERM", "5"]).arg(binary("dwcp-control-plane")?).arg("run").arg("--data-dir").arg(dir);
        for flag in ["--listen", "--http-listen", "--metrics-listen"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        command.args(["--dht-listen", "none", "--database-url-file", show(&file)]).env("RUST_LOG", DEBUG);
        world.seen.run(&mut command)?;
    }
    Ok(())
}

/// A backup, and a restore with the wrong passphrase and the right one, into a PostgreSQL that we start ourselves.
fn backup_and_restore(world: &mut World, server: &ControlPlane, url: &Path, otlp: &str, header: &str) -> Result<()> {
    let [right, wrong] = [word("right passphrase"), word("wrong passphrase")];
    world.secrets.add("the passphrase", right.as_bytes());
    world.secrets.add("a wrong passphrase", wrong.as_bytes());
    let (right, wrong) = (world.file("right", &right)?, world.file("wrong", &wrong)?);
    let (backup, moved) = (world.path("backup"), world.path("moved"));
    let control_plane = binary("dwcp-control-plane")?;
    let mut command = Command::new(&control_plane);
    command.arg("backup").arg("--data-dir").arg(server.dir()).arg("--database-url-file").arg(url);
    command.arg("--passphrase-file").arg(&right).arg("-O").arg(&backup).env("RUST_LOG", DEBUG);
    let made = world.seen.run(&mut command)?;
    ensure!(made.code == 0, "{made:?}");
    world.seen.add("the backup", fs::read(&backup)?);
    for (passphrase, succeeds) in [(&wrong, false), (&right, true)] {
        let mut command = Command::new(&control_plane);
        command.arg("restore").arg("--data-dir").arg(&moved).arg("--passphrase-file").arg(passphrase).arg(&backup);
        command.envs(environment(otlp, header));
        let restored = world.seen.run(&mut command)?;
        ensure!((restored.code == 0) == succeeds, "{restored:?}");
    }
    let options = ControlPlaneOptions { environment: environment(otlp, header), ..ControlPlaneOptions::default() };
    let restored = ControlPlane::start(&moved, options)?;
    let pids = processes_below(restored.process().pid());
    ensure!(pids.len() > 3, "PostgreSQL's processes are seen: {}", pids.len());
    for (pid, command_line, environment) in pids {
        world.seen.add(format!("the command line of process {pid}"), command_line);
        if pid != restored.process().pid() {
            world.seen.add(format!("the environment of process {pid}, which we start"), environment);
        }
    }
    world.seen.add("the metrics of the restored", http(&restored.metrics(), "/metrics", "")?);
    Ok(())
}

/// Thousands of made-up names, at every port that answers strangers.
fn made_up_names(world: &mut World, server: &ControlPlane, agent: &Agent) -> Result<()> {
    let cli = server.cli()?;
    let before = [series(&server.metrics())?, series(&agent.metrics())?];
    for (address, kind) in [(server.http(), "server"), (server.metrics(), "server"), (agent.http(), "agent")] {
        // On one connection each while it lasts: what is asked is what matters.
        for _ in 0..40 {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut asked = String::new();
            for _ in 0..50 {
                let name = format!("{:016x}", rand::random::<u64>());
                asked
                    .push_str(&format!("GET /{name}?{name}={name} HTTP/1.1\r\nHost: localhost\r\nX-{name}: 1\r\n\r\n"));
            }
            asked.push_str("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(asked.as_bytes())?;
            let mut answer = Vec::new();
            // It may be shut in the middle: that is a bound too.
            stream.read_to_end(&mut answer).or_else(|error| if answer.is_empty() { Err(error) } else { Ok(0) })?;
            ensure!(!answer.is_empty(), "{kind} answers");
        }
    }
    for at in 0..40 {
        let name = format!("made-up-{at}");
        world.dwcp(
            &cli,
            &["send", "--from", "site-a", &format!("data:/{name}"), &format!("{name}:data:/"), "--detach"],
        )?;
        world.dwcp(&cli, &["node", "get", &name])?;
    }
    let after = [series(&server.metrics())?, series(&agent.metrics())?];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 60, "{before} series became {after} by 6,000 made-up names");
    }
    Ok(())
}

/// All of the database, in hexadecimal where it is bytes.
fn tables(database: &str) -> String {
    tests_postgres::sql(database, "SET xmlbinary TO hex; SELECT database_to_xml(true, false, '')")
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one story")]
async fn a_fleet_goes_through_its_life_and_no_secret_is_where_it_does_not_belong() -> Result<()> {
    let otlp = OtlpReceiver::start().await?;
    let database = tests_postgres::cluster().database();
    let scratch = Scratch::new()?;
    let mut world = World { scratch, secrets: Secrets::default(), seen: Seen::default(), database };
    let (password, header) = (word("dsn"), word("otlp"));
    world.secrets.add("the password of the database", password.as_bytes());
    world.secrets.add("the header of OTLP", header.as_bytes());
    let url = world.database.replacen("dwcp@", &format!("dwcp:{password}@"), 1);
    let url = world.file("database.url", &url)?;
    let (metrics_token, http_token) = (word("metrics"), word("http"));
    world.secrets.add("the token of the metrics", metrics_token.as_bytes());
    world.secrets.add("the token of the agent's HTTP", http_token.as_bytes());
    let metrics_file = world.file("metrics.token", &metrics_token)?;
    let http_file = world.file("http.token", &http_token)?;

    let mut arguments = vec!["--database-url-file".to_owned(), show(&url).to_owned()];
    arguments.extend(["--metrics-token-file".to_owned(), show(&metrics_file).to_owned()]);
    arguments.extend(["--log-file".to_owned(), show(&world.path("server-file.log")).to_owned()]);
    let mut options = environment(otlp.endpoint(), &header);
    options.push(("FAILPOINTS".to_owned(), "*=panic;all=return;cut=abort".to_owned()));
    let options = ControlPlaneOptions { arguments, environment: options, ..ControlPlaneOptions::default() };
    let server = ControlPlane::start(&world.path("cp"), options)?;
    let cli = server.cli()?;
    let admin = fs::read_to_string(server.admin_token_file())?;
    world.secrets.add("the administrator's token", admin.trim().as_bytes());
    let seal_key = fs::read_to_string(server.dir().join("seal.key"))?;
    let seal_key = seal_key.trim().rsplit(':').next().context("a key")?;
    world.secrets.add("the seal key as written", seal_key.as_bytes());
    let seal_key = base64::engine::general_purpose::STANDARD.decode(seal_key);
    world.secrets.add("the seal key", &seal_key.context("base64 after its name")?);

    // These two are printed once, on purpose.
    let operator = cli.json(&["operator", "create", "ann", "--role", "operator"])?;
    world.secrets.add("an operator's token", text(&operator, "token")?.as_bytes());
    let token = cli.json(&["token", "create", "--max-uses", "5"])?;
    let fingerprint = text(&token, "caFingerprint")?.to_owned();
    world.secrets.add("a join token", text(&token, "token")?.as_bytes());
    let token = world.file("join.token", text(&token, "token")?)?;
    let ann = world.file("ann.token", text(&operator, "token")?)?;

    let mut agents = Vec::new();
    for name in ["site-a", "site-b"] {
        let joined = join(&mut world, &server, &fingerprint, &token, name)?;
        ensure!(joined.code == 0, "{joined:?}");
        let dir = world.path(name);
        let mut environment = environment(otlp.endpoint(), &header);
        for (key, value) in [
            ("DWCP_HTTP__TOKEN_FILE", show(&http_file)),
            ("DWCP_HTTP__METRICS_TOKEN_FILE", show(&metrics_file)),
            ("DWCP_LOGGING__FILE", show(&world.path(&format!("{name}-file.log")))),
            ("FAILPOINTS", "*=panic;all=return;cut=abort"),
        ] {
            environment.push((key.to_owned(), value.to_owned()));
        }
        let roots = vec![("data".to_owned(), world.path(&format!("{name}-data")))];
        let options = AgentOptions { name: name.to_owned(), roots, environment, ..AgentOptions::default() };
        agents.push(Agent::start(&dir, options)?);
        let key = fs::read_to_string(dir.join("ed25519_private.key"))?;
        let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        world.secrets.add("a node's key in PEM", body.as_bytes());
        let der = base64::engine::general_purpose::STANDARD.decode(&body)?;
        // PKCS #8: the seed follows 16 bytes that all such keys have.
        world.secrets.add("a node's key", der.get(16..48).context("a seed")?);
    }
    eventually("both to be READY", LIMIT, || {
        let list = cli.json(&["node", "list"])?;
        Ok((list.to_string().matches("\"READY\"").count() == 2).then_some(()))
    })?;
    let root = agents[0].root("data");
    fs::write(root.join("plain"), vec![7; 300_000])?;
    fs::write(root.join("\u{1b}]0;title\u{7}\u{1b}[2Jname"), b"steers a terminal")?;
    let by_ann = cli.clone().with("DWCP_TOKEN_FILE", &ann);
    for arguments in [
        &["-o", "json", "send", "--from", "site-a", "data:/", "site-b:data:/in"][..],
        &["send", "--from", "site-a", "data:/", "site-b:data:/again"],
        &["transfer", "list"],
        &["operator", "list"],
    ] {
        world.dwcp(&by_ann, arguments)?;
    }
    ensure!(agents[1].root("data").join("in/plain").exists(), "FAILPOINTS has no effect, and the transfer went on");
    everything_goes_wrong(&mut world, &server, &fingerprint)?;
    for (name, word) in [("good", &http_token), ("wrong", &word("wrong-http"))] {
        let header = format!("Authorization: Bearer {word}\r\n");
        world.secrets.add("a token for HTTP", word.as_bytes());
        for address in [agents[0].http(), agents[0].metrics(), server.http(), server.metrics()] {
            world.seen.add(format!("HTTP of {address}, {name}"), http(&address, "/metrics", &header)?);
            world.seen.add(format!("HTTP of {address}, {name}"), http(&address, "/health?verbose=true", &header)?);
        }
    }
    made_up_names(&mut world, &server, &agents[0])?;
    backup_and_restore(&mut world, &server, &url, otlp.endpoint(), &header)?;

    // The keys that only the sealed database has.
    let keys = fleet_secrets(&world).await?;
    for (name, key) in &keys {
        world.secrets.add(name, key);
    }
    world.dwcp(&cli, &["-o", "json", "audit", "list", "--limit", "10000"])?;
    let export = world.path("audit.jsonl");
    world.dwcp(&cli, &["audit", "export", "-O", show(&export)])?;
    world.seen.add("the export of the audit log", fs::read(&export)?);
    let tables = tables(&world.database);
    ensure!(tables.contains("operator_tokens") || tables.contains("operator_token"), "the tables are read");
    world.seen.add("the tables", tables);
    for process in [server.process().pid(), agents[0].process().pid(), agents[1].process().pid()] {
        for (pid, command_line, _own) in processes_below(process) {
            world.seen.add(format!("the command line of process {pid}"), command_line);
        }
    }
    for agent in &mut agents {
        agent.check_alive()?;
        agent.stop()?;
    }
    drop(server);
    let spans = otlp.raw();
    ensure!(!spans.is_empty(), "traces came");
    world.seen.add("the traces", spans);
    for entry in fs::read_dir(world.scratch.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            world.seen.add(show(&path), fs::read(&path)?);
        }
    }
    ensure!(world.seen.0.iter().filter(|(place, _)| place.ends_with("-file.log")).count() == 3, "the log files");

    for program in ["cp.log", "site-a.log", "site-b.log"] {
        let log = fs::read_to_string(world.path(program))?;
        ensure!(log.contains("\"level\":\"debug\""), "{program} is as verbose as it can be");
    }
    assert_eq!(world.seen.leaks(&world.secrets), Vec::<String>::new());
    let binary = |place: &str| place == "the backup" || place == "the traces";
    let steering: Vec<_> = world
        .seen
        .0
        .iter()
        .filter(|(place, bytes)| !binary(place) && bytes.contains(&0x1b))
        .map(|(place, _)| place.escape_default().to_string())
        .collect();
    assert_eq!(steering, Vec::<String>::new(), "an escape is printed as it is");
    Ok(())
}

/// The private keys of CA, roster, grants and audit.
async fn fleet_secrets(world: &World) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let tasks = TaskGroup::new("fleet keys");
    let seal = Arc::new(SealKey::load(&world.path("cp").join("seal.key"))?);
    let db = Db::connect(Options::new(world.database.clone()), Clock::system(), &tasks).await?;
    let keys = Keys::load_or_create(&db, &seal).await?;
    let ca = keys.ca().key_pkcs8();
    // PKCS #8 of P-256: what all such keys share goes before the secret.
    let ca = ca.get(36..68).context("a P-256 key")?.to_vec();
    Ok(vec![
        ("the key of the CA", ca),
        ("the key of the roster", keys.roster().to_bytes().to_vec()),
        ("the key of grants", keys.grant().to_bytes().to_vec()),
    ])
}

#[test]
fn a_secret_that_was_put_somewhere_on_purpose_is_found_in_every_form() {
    let secret = b"p1anted/s3cret+of=the test";
    let mut secrets = Secrets::default();
    secrets.add("planted", secret);
    let standard = base64::engine::general_purpose::STANDARD;
    let mut forms = vec![
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
        b"p1anted%2Fs3cret%2Bof%3Dthe%20test".to_vec(),
    ];
    for before in ["", "x", "xy", "user:"] {
        let told = [before.as_bytes(), secret, b"!"].concat();
        forms.extend([standard.encode(&told).into_bytes(), URL_SAFE_NO_PAD.encode(&told).into_bytes()]);
    }
    for form in forms {
        let mut seen = Seen::default();
        seen.add("a log", [b"{\"message\":\"".as_slice(), &form, b"\"}"].concat());
        assert_eq!(seen.leaks(&secrets).len(), 1, "{}", String::from_utf8_lossy(&form));
    }
    let mut seen = Seen::default();
    seen.add("a log", b"nothing of it".as_slice());
    assert!(seen.leaks(&secrets).is_empty());
}
