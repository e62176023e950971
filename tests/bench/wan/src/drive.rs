//! Lets a contestant move bytes over the path as it is.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests_harness::eventually;

use crate::{
    bed::{Bed, FILE, TARGET},
    contestant::Contestant,
    figures::Outcome,
};

/// In real time, as the emulator is, so that what else runs on the machine does not shape the result.
pub(crate) const REAL_TIME: &str = "chrt --rr 1";
const READY: Duration = Duration::from_secs(20);

/// Where a file is sent: what the path carries in `seconds`, so that it takes a little longer; cut off after `limit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) seconds: f64,
    pub(crate) limit: f64,
}

pub(crate) fn prepare(bed: &mut Bed, contestant: Contestant, bytes: u64) -> Result<()> {
    bed.clear()?;
    match contestant {
        Contestant::Dwcp => {
            bed.file_of(bytes)?;
            bed.fresh_agents()
        }
        Contestant::Rsync | Contestant::Sendme => bed.file_of(bytes),
        Contestant::Tcp(..) | Contestant::Quinn(..) => Ok(()),
    }
}

pub(crate) fn drive(bed: &Bed, contestant: Contestant, length: Length) -> Result<Outcome> {
    match contestant {
        Contestant::Dwcp => dwcp(bed, length),
        Contestant::Tcp(congestion, flows) => iperf3(bed, congestion, flows, length),
        Contestant::Rsync => rsync(bed, length),
        Contestant::Quinn(congestion, connections) => quinn(bed, congestion, connections, length),
        Contestant::Sendme => sendme(bed, length),
    }
}

fn dwcp(bed: &Bed, length: Length) -> Result<Outcome> {
    let one = &bed.hosts.one;
    let created = one.ok("dwcp -o json send --from site-a data:/file site-b:data:/in/ --detach")?;
    let created: Value = serde_json::from_str(&created)?;
    let name = created["name"].as_str().context("a transfer has a name")?;
    let watched = one.run(&format!("dwcp -o json transfer watch {name} --timeout {:.0}s", length.limit))?;
    let ended = bed.passed().as_secs_f64();
    if watched.code == 0 {
        return Ok(Outcome { useful: Some(bed.file_bytes()), complete: true, ended, window: None });
    }
    let present: Value = serde_json::from_str(&one.ok(&format!("dwcp -o json transfer get {name}"))?)?;
    let state = present["state"].as_str().unwrap_or_default();
    ensure!(["RUNNING", "WAITING", "SUCCEEDED"].contains(&state), "{present:#}");
    one.run(&format!("dwcp transfer cancel {name}"))?;
    Ok(Outcome { useful: number(&present, "bytesDone"), complete: false, ended, window: None })
}

/// A number anywhere in a document; 64 bits are written as text there.
fn number(document: &Value, key: &str) -> Option<u64> {
    match document {
        Value::Object(map) => match map.get(key) {
            Some(Value::String(text)) => text.parse().ok(),
            Some(Value::Number(number)) => number.as_u64(),
            _ => map.values().find_map(|value| number(value, key)),
        },
        _ => None,
    }
}

/// Starts a server, and lets the client measure for `length.seconds`.
fn iperf3(bed: &Bed, congestion: &str, flows: u32, length: Length) -> Result<Outcome> {
    let mut server = bed.hosts.two.start("iperf3", &format!("{REAL_TIME} iperf3 -s -1 -p 5201"), &bed.hosts.scratch)?;
    listens(bed, 5201)?;
    let line = format!("{REAL_TIME} iperf3 -c {TARGET} -p 5201 -C {congestion} -P {flows} -t {:.0} -J", length.seconds);
    let ran = bed.hosts.one.run(&line)?;
    let ended = bed.passed().as_secs_f64();
    let report: Value = serde_json::from_str(&ran.stdout).with_context(|| format!("{}{}", ran.stdout, ran.stderr))?;
    let received = report["end"]["sum_received"]["bytes"].as_f64().with_context(|| format!("{}", report["error"]))?;
    server.wait(READY)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
    let useful = Some(received as u64);
    Ok(Outcome { useful, complete: true, ended, window: Some(length.seconds) })
}

/// Waits until somebody listens there at the second host.
pub(crate) fn listens(bed: &Bed, port: u16) -> Result<()> {
    eventually("a server to listen", READY, || {
        let listed = bed.hosts.two.ok(&format!("ss -Hltn sport = :{port}"))?;
        Ok((!listed.trim().is_empty()).then_some(()))
    })
}

fn rsync(bed: &Bed, length: Length) -> Result<Outcome> {
    let _daemon = daemon(bed)?;
    let line = format!(
        "timeout {:.0} {REAL_TIME} rsync --whole-file --inplace --port 8730 {FILE} rsync://{TARGET}/in/file",
        length.limit
    );
    let ran = bed.hosts.one.run(&line)?;
    let ended = bed.passed().as_secs_f64();
    ensure!([0, 124].contains(&ran.code), "{ran:?}");
    let useful = bed.hosts.two.ok("stat -c %s /srv/rsync/file")?.trim().parse()?;
    Ok(Outcome { useful: Some(useful), complete: ran.code == 0, ended, window: None })
}

/// An rsync daemon at the second host, over a folder `in`.
pub(crate) fn daemon(bed: &Bed) -> Result<tests_harness::Process> {
    let config = bed.shared("rsyncd.conf");
    std::fs::write(&config, "use chroot = no\nuid = 0\ngid = 0\n[in]\npath = /srv/rsync\nread only = no\n")?;
    bed.hosts.two.ok("mkdir -p /srv/rsync")?;
    let line = format!("{REAL_TIME} rsync --daemon --no-detach --port 8730 --config {}", config.display());
    let mut daemon = bed.hosts.two.start("rsync", &line, &bed.hosts.scratch)?;
    listens(bed, 8730)?;
    daemon.check_alive()?;
    Ok(daemon)
}

fn quinn(bed: &Bed, congestion: &str, connections: u32, length: Length) -> Result<Outcome> {
    let me = std::env::current_exe()?;
    let certificate = bed.shared("quinn.der");
    drop(std::fs::remove_file(&certificate));
    let (me, file) = (me.display(), certificate.display());
    let line = format!(
        "{REAL_TIME} {me} quinn-receive {TARGET}:4433 {file} --connections {connections} --for-seconds {}",
        length.seconds
    );
    let mut server = bed.hosts.two.start("quinn", &line, &bed.hosts.scratch)?;
    eventually("quinn to listen", READY, || {
        server.check_alive()?;
        Ok(certificate.exists().then_some(()))
    })?;
    let before = server.output().len();
    let line = format!(
        "{REAL_TIME} {me} quinn-send 10.77.0.1:0 {TARGET}:4433 {file} --connections {connections} --congestion {congestion}"
    );
    let client = bed.hosts.one.start("quinn", &line, &bed.hosts.scratch)?;
    let ended = server.wait(Duration::from_secs_f64(length.seconds) + READY);
    let passed = bed.passed().as_secs_f64();
    ended.with_context(|| client.output())?;
    let said = server.output();
    let useful = said.get(before..).unwrap_or_default().trim().parse();
    let useful = useful.with_context(|| format!("the receiver said: {said}; the sender: {}", client.output()))?;
    Ok(Outcome { useful: Some(useful), complete: true, ended: passed, window: None })
}

/// The program is looked for in `PATH` and where cargo puts it.
fn sendme(bed: &Bed, length: Length) -> Result<Outcome> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join("sendme")).find(|file| file.exists());
    let Some(found) = found else { bail!("there is no `sendme` in PATH (cargo install sendme)") };
    let program = bed.shared("sendme");
    std::fs::copy(found, &program)?;
    let program = program.display();
    bed.hosts.one.ok("mkdir -p /srv/sendme")?;
    let line = format!(
        "bash -c 'cd /srv/sendme && exec {REAL_TIME} {program} send --no-progress --relay disabled --ticket-type addresses {FILE}'"
    );
    let mut sender = bed.hosts.one.start("sendme", &line, &bed.hosts.scratch)?;
    let ticket = eventually("a ticket", READY, || {
        sender.check_alive()?;
        let said = sender.output();
        let word = said.split_whitespace().rfind(|word| word.starts_with("blob") && word.len() > 60);
        Ok(word.map(str::to_owned))
    })
    .with_context(|| sender.output())?;
    let line = format!(
        "mkdir -p /srv/sendme && cd /srv/sendme && timeout {:.0} {REAL_TIME} {program} receive --no-progress --relay disabled {ticket}",
        length.limit
    );
    let ran = bed.hosts.two.run(&line)?;
    let ended = bed.passed().as_secs_f64();
    ensure!([0, 124].contains(&ran.code), "{ran:?}");
    let complete = ran.code == 0;
    Ok(Outcome { useful: complete.then(|| bed.file_bytes()), complete, ended, window: None })
}
