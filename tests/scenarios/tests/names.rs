//! R38: no name from outside reaches a terminal raw, and made-up names do not make series.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_harness::{Agent, AgentOptions, ControlPlane, ControlPlaneOptions, Scratch, eventually};

const LIMIT: Duration = Duration::from_secs(60);

fn curl(url: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    Ok(Command::new("curl").args(["-s", "-i", "-m", "20"]).args(arguments).arg(url).output()?.stdout)
}

/// ESC, newline, bidi, C1, DEL.
const HOSTILE: &str = "a\u{1b}[31mb\nc\u{202e}d\u{9b}2Je\u{7f}f";

fn raw(text: &str) -> bool {
    text.chars()
        .any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// Asks for many paths that do not exist, and says whose series grew by it.
fn made_up_names(addresses: &[String]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let series = |address: &str| -> Result<usize> {
        let text = curl(&format!("http://{address}/metrics"), &[])?;
        Ok(String::from_utf8_lossy(&text).lines().filter(|line| !line.starts_with('#')).count())
    };
    let before = addresses.iter().map(|address| series(address)).collect::<Result<Vec<_>>>()?;
    for address in addresses {
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
    Ok(wrong)
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
    wrong.extend(made_up_names(&addresses)?);
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
