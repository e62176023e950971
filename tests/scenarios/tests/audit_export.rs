//! What is exported verifies without the control plane and its database, and whatever is done to the file is found with its line.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Cli, ControlPlane, ControlPlaneOptions, Ran, Scratch};
use tests_postgres::cluster;

const TAMPERED: i32 = 12;

fn number(value: &Value, field: &str) -> Result<u64> {
    value[field].as_u64().with_context(|| format!("{field} in {value:#}"))
}

/// A machine that has nothing but the command line.
fn elsewhere(scratch: &Scratch, name: &str) -> Result<Cli> {
    let home = scratch.folder(name)?;
    Cli::new("127.0.0.1:1", Path::new("/nonexistent"), Path::new("/nonexistent"), &home)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn an_export_verifies_where_there_is_neither_server_nor_database() -> Result<()> {
    let scratch = Scratch::new()?;
    let options = ControlPlaneOptions { database_url: Some(cluster().database()), ..ControlPlaneOptions::default() };
    let mut control_plane = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let cli = control_plane.cli()?;
    for label in ["a=b", "x=\u{1b}[2J", "a=\u{e4}\u{1f600}", "quote=\"'\\"] {
        drop(cli.run(&["token", "create", "--label", label])?);
    }
    for _ in 0..20 {
        cli.ok(&["token", "create"])?;
    }
    let file = |name: &str| scratch.path().join(name);
    let (full, range, since, again) =
        (file("full.jsonl"), file("range.jsonl"), file("since.jsonl"), file("again.jsonl"));
    let exported = cli.json(&["audit", "export", "-O", &text(&full)])?;
    cli.ok(&["audit", "export", "-O", &text(&again)])?;
    ensure!(fs::read(&full)? == fs::read(&again)?, "the same log is the same file");
    cli.ok(&["audit", "export", "--from", "7", "-O", &text(&range)])?;
    let events = cli.json(&["audit", "list", "--limit", "1000"])?;
    let listed = events["auditEvents"].as_array().context("a list")?;
    let from = listed[11]["time"].as_str().context("a time")?;
    let until = listed[15]["time"].as_str().context("a time")?;
    cli.ok(&["audit", "export", "--since", from, "--until", until, "-O", &text(&since)])?;
    let piped = cli.run(&["audit", "export", "--from", "7", "-O", "-"])?;
    ensure!(piped.stdout.as_bytes() == fs::read(&range)?, "a pipe gets what a file gets");
    // The records stand there as they are shown, one a line.
    let lines: Vec<Value> = fs::read_to_string(&full)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == listed.len() + 1, "{} lines for {} events", lines.len(), listed.len());
    for (line, event) in lines[1..].iter().zip(listed) {
        ensure!(
            line["record"]["action"] == event["action"] && line["leaf_hash"] == event["leafHash"],
            "{line} {event}"
        );
    }
    let (ca, key) = (file("ca.pem"), exported["signedBy"].as_str().context("a key")?.to_owned());
    fs::copy(control_plane.ca(), &ca)?;
    control_plane.stop()?;

    // By the CA, by a key that was written down, and by neither.
    let by_ca = elsewhere(&scratch, "by-ca")?;
    let ca = text(&ca);
    let whole = by_ca.json(&["audit", "verify", &text(&full), "--ca", &ca])?;
    ensure!(number(&whole, "events")? == listed.len() as u64 && number(&whole, "first")? == 0, "{whole:#}");
    let part = by_ca.json(&["audit", "verify", &text(&range), "--key", &key])?;
    ensure!(number(&part, "first")? == 7 && number(&part, "headSize")? == listed.len() as u64, "{part:#}");
    let part = by_ca.json(&["audit", "verify", &text(&since), "--ca", &ca])?;
    ensure!(number(&part, "first")? <= 11 && number(&part, "events")? >= 4, "{part:#}");
    let nobody = elsewhere(&scratch, "nobody")?.run(&["audit", "verify", &text(&full), "--ca", "/nonexistent"])?;
    ensure!(nobody.code == 1, "{nobody:?}");
    let other_key = key.replacen("dwcp.dev/audit/", "dwcp.dev/other/", 1);
    let other = by_ca.run(&["audit", "verify", &text(&full), "--key", &other_key])?;
    ensure!(other.code != 0, "{other:?}");
    // A head that an agent or a server kept is compared on the way.
    let anchor = text(&control_plane.dir().join("audit.checkpoint"));
    let anchored = by_ca.json(&["audit", "verify", &text(&full), "--ca", &ca, "--anchor", &anchor])?;
    ensure!(number(&anchored, "anchoredAt")? == listed.len() as u64, "{anchored:#}");

    damage_is_found(&by_ca, &ca, &full, &file("damaged.jsonl"))
}

/// What is done to the lines of a file, and what is found.
type Damage = (&'static str, fn(&mut Vec<String>), &'static str);

fn damage_is_found(cli: &Cli, ca: &str, full: &Path, damaged: &Path) -> Result<()> {
    let cases: [Damage; 9] = [
        ("a byte", |lines| lines[5] = lines[5].replace("join_token", "join_tokem"), "line 6: the record is damaged"),
        ("a line less", |lines| drop(lines.remove(9)), "line 10: record 9 stands where 8 belongs"),
        ("two lines swapped", |lines| lines.swap(4, 5), "line 5: record 4 stands where 3 belongs"),
        ("a line twice", |lines| lines.insert(4, lines[3].clone()), "line 5: record 2 stands where 3 belongs"),
        ("the end", |lines| lines.truncate(12), "line 13: the file ends before record 11"),
        ("a space", |lines| lines[3].insert(0, ' '), "line 4: it is not of the form of a record"),
        ("the header", |lines| lines[0] = lines[0].replace("\"first\":0", "\"first\":1"), "line 1"),
        ("no header", |lines| drop(lines.remove(0)), "line 1: not the header"),
        ("another's head", |lines| lines[0] = lines[0].replace("\\n\\n", "A\\n\\n"), "line 1"),
    ];
    let text_of = fs::read_to_string(full)?;
    let verify = |bytes: &[u8]| -> Result<Ran> {
        fs::write(damaged, bytes)?;
        cli.run(&["audit", "verify", &text(damaged), "--ca", ca])
    };
    for (what, damage, expected) in cases {
        let mut lines: Vec<_> = text_of.lines().map(str::to_owned).collect();
        damage(&mut lines);
        let ran = verify(format!("{}\n", lines.join("\n")).as_bytes())?;
        ensure!(
            ran.code == TAMPERED && ran.stdout.contains(expected),
            "{what}: {} {}{}",
            ran.code,
            ran.stdout,
            ran.stderr
        );
    }
    // Wherever it is cut.
    for size in [0, 1, 100, text_of.len() / 2, text_of.len() - 1] {
        let ran = verify(&text_of.as_bytes()[..size])?;
        ensure!(
            ran.code == TAMPERED && ran.stdout.contains("line "),
            "cut at {size}: {} {}{}",
            ran.code,
            ran.stdout,
            ran.stderr
        );
    }
    // Standard input does as well.
    let mut command = cli.command(&["audit", "verify", "-", "--ca", ca]);
    let output = command.stdin(Stdio::from(fs::File::open(full)?)).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn an_export_that_cannot_be_written_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let options = ControlPlaneOptions { database_url: Some(cluster().database()), ..ControlPlaneOptions::default() };
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let cli = control_plane.cli()?;
    let missing = scratch.path().join("missing/log.jsonl");
    let ran = cli.run(&["audit", "export", "-O", &text(&missing)])?;
    ensure!(ran.code == 1 && ran.stderr.contains("cannot write"), "{ran:?}");
    let folder = scratch.folder("taken")?;
    let ran = cli.run(&["audit", "export", "-O", &text(&folder)])?;
    ensure!(ran.code == 2 && ran.stderr.contains("no regular file"), "{ran:?}");
    let left: Vec<_> = fs::read_dir(scratch.path())?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
    for (arguments, says) in [
        (["audit", "list", "--filter", "colour=red"], "known are: actor, action, resource, outcome, since, until"),
        (["audit", "list", "--since", "yesterday"], "is no time"),
        (["audit", "tail", "--filter", "node=a"], "known are: actor"),
    ] {
        let ran = cli.run(&arguments)?;
        ensure!(ran.code == 2 && ran.stderr.contains(says), "{arguments:?}: {ran:?}");
    }
    Ok(())
}
