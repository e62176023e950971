//! R38: no secret stands where others may look (logs of all levels, the audit log, process lists, traces, metrics, errors, the database), no name
//! from outside reaches a terminal raw, and made-up names do not make series.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Agent, AgentOptions, ControlPlane, ControlPlaneOptions, OtlpReceiver, Scratch, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// What must not be seen, in every form in which it could be.
struct Secret {
    what: String,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn text(what: &str, text: &str) -> Self {
        Self { what: what.to_owned(), forms: vec![text.trim().as_bytes().to_vec()] }
    }

    /// A key's bytes: as they are, in hexadecimal, in base64.
    fn bytes(what: &str, bytes: &[u8]) -> Self {
        let hexadecimal = hex::encode(bytes);
        Self {
            what: what.to_owned(),
            forms: vec![bytes.to_vec(), hexadecimal.to_uppercase().into_bytes(), hexadecimal.into_bytes()],
        }
    }

    fn is_in(&self, place: &[u8]) -> bool {
        self.forms.iter().any(|form| form.len() >= 8 && place.windows(form.len()).any(|window| window == form))
    }
}

fn all_in(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            all_in(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The command lines of a process and of all that it started.
fn command_lines(root: u32) -> Vec<u8> {
    let parent = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok())
    };
    let mut lines = Vec::new();
    for pid in fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
    {
        let mut ancestors = std::iter::successors(Some(pid), |pid| parent(*pid));
        if ancestors.any(|ancestor| ancestor == root) {
            lines.extend(fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        }
    }
    lines
}

fn curl(url: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    Ok(Command::new("curl").args(["-s", "-i", "-m", "20"]).args(arguments).arg(url).output()?.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_stands_where_others_may_look() -> Result<()> {
    let scratch = Scratch::new()?;
    let traces = OtlpReceiver::start().await?;
    let environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), traces.endpoint().to_owned()),
        ("RUST_LOG".to_owned(), "trace".to_owned()),
        ("DWCP_LOG_LEVEL".to_owned(), "trace".to_owned()),
    ];
    // A database of others, with a password that is ours to keep.
    let password = "planted-database-password-7f3a";
    let url = tests_postgres::cluster().database();
    let (scheme, rest) = url.split_once("://").context("a URL")?;
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    let user = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'))
        .map_or("postgres", |(user, _)| user.split(':').next().unwrap_or(user));
    let url_file = scratch.path().join("database-url");
    fs::write(&url_file, format!("{scheme}://{user}:{password}@{rest}"))?;
    let options = ControlPlaneOptions {
        arguments: vec!["--database-url-file".to_owned(), url_file.display().to_string()],
        environment: environment.clone(),
        ..ControlPlaneOptions::default()
    };
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let cli = control_plane.cli()?;
    let made = cli.json(&["token", "create"])?;
    let join_token = made["token"].as_str().context("a token")?.to_owned();
    let operator = cli.json(&["operator", "create", "alice", "--role", "admin"])?;
    let operator_token = operator["token"].as_str().context("a token")?.to_owned();
    let token_file = scratch.path().join("join.token");
    fs::write(&token_file, &join_token)?;
    let dir = scratch.path().join("site-a");
    let joined = Command::new(tests_harness::binary("dwcp-agent")?)
        .args(["join", &control_plane.grpc(), "--token-file", &token_file.display().to_string(), "--name", "site-a"])
        .args([
            "--ca-fingerprint",
            made["caFingerprint"].as_str().context("a fingerprint")?,
            "--data-dir",
            &dir.display().to_string(),
        ])
        .envs(environment.iter().cloned())
        .output()?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let options = AgentOptions {
        name: "site-a".to_owned(),
        roots: vec![("data".to_owned(), scratch.path().join("data"))],
        environment: environment.clone(),
        ..AgentOptions::default()
    };
    let agent = Agent::start(&dir, options)?;

    // The secrets are used well, used up, wrong by a letter, and in places where they do not belong.
    let wrong = format!("{}x", operator_token);
    let wrong_file = scratch.path().join("wrong.token");
    fs::write(&wrong_file, &wrong)?;
    let mut said = joined.stderr;
    said.extend(joined.stdout);
    for token in [&operator_token, &wrong] {
        fs::write(&wrong_file, token)?;
        let ran = cli.clone().with("DWCP_TOKEN_FILE", &wrong_file).run(&["-o", "json", "node", "list"])?;
        said.extend(ran.stderr.bytes());
    }
    for token in [join_token.as_str(), "dwcp1.planted"] {
        fs::write(&token_file, token)?;
        let again = Command::new(tests_harness::binary("dwcp-agent")?)
            .args(["join", &control_plane.grpc(), "--token-file", &token_file.display().to_string(), "--name", "other"])
            .args(["--ca-fingerprint", made["caFingerprint"].as_str().unwrap_or_default()])
            .args(["--data-dir", &scratch.path().join("other").display().to_string()])
            .output()?;
        ensure!(!again.status.success(), "a used token let another in");
        said.extend(again.stderr);
    }
    let bearer = format!("Authorization: Bearer {operator_token}");
    for address in [control_plane.http(), control_plane.metrics(), agent.http(), agent.metrics()] {
        for path in ["/status", "/metrics", "/nowhere", "/health?verbose"] {
            said.extend(curl(&format!("http://{address}{path}"), &["-H", &bearer])?);
            said.extend(curl(
                &format!("http://{address}{path}"),
                &["-H", &format!("Authorization: Bearer {wrong}"), "-H", "Host: evil.example"],
            )?);
        }
    }
    fs::create_dir_all(scratch.path().join("data"))?;
    fs::write(scratch.path().join("data/file"), "content")?;
    let config = scratch.path().join("fleet.yaml");
    fs::write(&config, "compression:\n  level: 5\n")?;
    cli.ok(&["config", "set", "fleet", &config.display().to_string()])?;
    said.extend(cli.run(&["check"])?.stdout.bytes());
    // The agent's spans are those of calls to its socket.
    let host = cli.clone().with("DWCP_AGENT_SOCKET", agent.socket());
    let local = scratch.path().join("data/file").display().to_string();
    let sent = host.run(&["send", &local, "site-a:data:/again"])?;
    said.extend([sent.stdout, sent.stderr].concat().bytes());
    eventually("traces of both programs", LIMIT, || {
        let services: std::collections::BTreeSet<_> = traces.spans().into_iter().map(|span| span.service).collect();
        Ok((services.len() >= 2).then_some(()))
    })?;

    let key = fs::read(dir.join("ed25519_private.key"))?;
    let seal = fs::read(control_plane.dir().join("seal.key"))?;
    let secrets = [
        Secret::text("the join token", &join_token),
        Secret::text("the operator's token", &operator_token),
        Secret::text("the administrator's token", &fs::read_to_string(control_plane.admin_token_file())?),
        Secret::text("the database's password", password),
        Secret::bytes("the node's key", &key[key.len().saturating_sub(32)..]),
        Secret::bytes("the seal key", seal.trim_ascii()),
    ];
    // The whole of the logs counts: trace says more than debug.
    let log = |dir: &Path| fs::read(dir.with_extension("log")).unwrap_or_default();
    let (cp_log, agent_log) = (log(control_plane.dir()), log(&dir));
    let audit = cli.ok(&["-o", "json", "audit", "list", "--limit", "1000"])?;
    let rows = "SELECT string_agg(query_to_xml(format('SELECT * FROM %I', tablename), true, false, '')::text, '') \
                FROM pg_tables WHERE schemaname = 'public'";
    let rows = tests_postgres::cluster().sql(&url, rows);
    ensure!(rows.contains("site-a"), "the database was not searched");
    let mut places: Vec<(String, Vec<u8>)> = vec![
        ("the control plane's log".to_owned(), cp_log),
        ("the agent's log".to_owned(), agent_log),
        ("the audit log".to_owned(), audit.into_bytes()),
        (
            "command lines".to_owned(),
            [command_lines(control_plane.process().pid()), command_lines(agent.process().pid())].concat(),
        ),
        ("traces".to_owned(), traces.raw()),
        ("what was answered".to_owned(), said),
        (
            "tables".to_owned(),
            [cli.ok(&["token", "list"])?, cli.ok(&["operator", "list"])?, cli.ok(&["system", "info"])?]
                .concat()
                .into_bytes(),
        ),
        (
            "ready.json".to_owned(),
            [fs::read(control_plane.dir().join("ready.json"))?, fs::read(dir.join("ready.json"))?].concat(),
        ),
    ];
    places.push(("the database".to_owned(), rows.into_bytes()));
    let mut wrong = Vec::new();
    for (place, bytes) in &places {
        ensure!(!bytes.is_empty(), "{place} is empty: nothing was searched");
        for secret in secrets.iter().filter(|secret| secret.is_in(bytes)) {
            wrong.push(format!("{} in {place}", secret.what));
        }
    }
    // On disk only where it belongs, and for nobody else to read.
    let mut files = Vec::new();
    all_in(&dir, &mut files)?;
    for file in files.iter().filter(|file| !file.ends_with("ed25519_private.key")) {
        let bytes = fs::read(file).unwrap_or_default();
        for secret in secrets.iter().filter(|secret| secret.is_in(&bytes)) {
            wrong.push(format!("{} in {}", secret.what, file.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// ESC, newline, bidi, C1, DEL.
const HOSTILE: &str = "a\u{1b}[31mb\nc\u{202e}d\u{9b}2Je\u{7f}f";

fn raw(text: &str) -> bool {
    text.chars()
        .any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

#[test]
fn no_name_from_outside_reaches_a_terminal_raw_and_made_up_names_make_no_series() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())?;
    let cli = control_plane.cli()?;
    let options = AgentOptions {
        name: "site-a".to_owned(),
        roots: vec![("data".to_owned(), scratch.path().join("data"))],
        ..AgentOptions::default()
    };
    let agent = Agent::join(&control_plane, &scratch.path().join("site-a"), options)?;
    let options = AgentOptions {
        name: "site-b".to_owned(),
        roots: vec![("data".to_owned(), scratch.path().join("data-b"))],
        ..AgentOptions::default()
    };
    let other = Agent::join(&control_plane, &scratch.path().join("site-b"), options)?;
    eventually("both agents to be ready", LIMIT, || {
        let list = cli.json(&["node", "list"])?;
        let ready = list["nodes"].as_array().into_iter().flatten().filter(|node| node["state"] == "READY").count();
        Ok((ready == 2).then_some(()))
    })?;
    fs::write(scratch.path().join("data").join(HOSTILE), "x")?;
    fs::create_dir_all(scratch.path().join("data").join(format!("dir{HOSTILE}")))?;
    let config = scratch.path().join("config.yaml");
    fs::write(
        &config,
        format!("# {}\ncompression:\n  level: \"{}\"\n", HOSTILE.replace('\n', " "), "9\\e[31m\\u202e"),
    )?;
    let path = config.display().to_string();
    let good = scratch.path().join("good.yaml");
    fs::write(&good, "# plain\ncompression:\n  level: 4\n")?;
    let good = good.display().to_string();
    let comment = scratch.path().join("comment.yaml");
    fs::write(&comment, format!("# {}\ncompression:\n  level: 4\n", HOSTILE.replace('\n', " ")))?;
    let comment = comment.display().to_string();
    let hostile_path = format!("data:/{HOSTILE}");
    let name_filter = format!("name={HOSTILE}");
    let label = format!("k={HOSTILE}");
    let destination = format!("site-b:data:/in{HOSTILE}");
    let verbs: &[&[&str]] = &[
        &["operator", "create", HOSTILE, "--role", "viewer"],
        &["operator", "list"],
        &["token", "create", "--label", &label],
        &["token", "list"],
        &["node", "get", HOSTILE],
        &["node", "list", "--filter", &name_filter],
        &["config", "set", "fleet", &path, "-m", HOSTILE],
        &["config", "set", "fleet", &good, "-m", HOSTILE],
        &["config", "validate", &path],
        &["config", "history", "fleet"],
        &["config", "set", "fleet", &comment, "-m", "a comment"],
        &["config", "get", HOSTILE],
        &["send", "--from", "site-a", &hostile_path, "site-b:data:/in"],
        &["send", "--from", "site-a", "data:/", &destination],
        &["transfer", "list"],
        &["audit", "list", "--limit", "1000"],
        &["node", "get", "site-a"],
        &["check"],
    ];
    let mut wrong = Vec::new();
    for verb in verbs {
        let ran = cli.run(verb)?;
        for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
            if raw(text) {
                wrong.push(format!("{stream} of {verb:?}: {text:?}"));
            }
        }
    }
    let shown = cli.json(&["transfer", "list"])?;
    ensure!(shown.to_string().contains("SUCCEEDED"), "a file with such a name is sent: {shown:#}");
    let addresses = [control_plane.http(), control_plane.metrics(), agent.http(), agent.metrics()];
    let series = |address: &str| -> Result<usize> {
        let text = curl(&format!("http://{address}/metrics"), &[])?;
        Ok(String::from_utf8_lossy(&text).lines().filter(|line| !line.starts_with('#')).count())
    };
    let before = addresses.iter().map(|address| series(address)).collect::<Result<Vec<_>>>()?;
    for address in &addresses {
        // curl asks for many paths over one connection; a hundred stand for a hundred thousand, as each is as new as the next.
        for kind in ["/api/v1/dwcp/", "/"] {
            let url = format!("http://{address}{kind}made-up-[1-100]%1b%0a%e2%80%ae");
            curl(&url, &["-A", "agent\u{1b}[2J\u{202e}", "-H", "X-Request-Id: \u{9b}"])?;
        }
    }
    let after = addresses.iter().map(|address| series(address)).collect::<Result<Vec<_>>>()?;
    for ((address, before), after) in addresses.iter().zip(&before).zip(&after) {
        // A class, a status and their buckets may be new; a name may not.
        if *after > before + 120 {
            wrong.push(format!("{address} had {before} series and has {after}"));
        }
    }
    for agent in [&agent, &other] {
        if raw(&agent.process().output()) {
            wrong.push(format!("the log of {}", agent.name()));
        }
    }
    if raw(&control_plane.process().output()) {
        wrong.push("the control plane's log".to_owned());
    }
    for address in &addresses {
        let text = String::from_utf8_lossy(&curl(&format!("http://{address}/metrics"), &[])?).replace('\r', "");
        if raw(&text) || text.contains("made-up") {
            wrong.push(format!("the metrics of {address}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let _parses: Value = cli.json(&["audit", "verify"])?;
    Ok(())
}
