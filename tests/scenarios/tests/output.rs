//! What scripts read: `-o json` always parses, standard output has nothing else, exit codes are those of the interface.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions};

#[test]
fn json_parses_for_every_verb_that_answers() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let source = fleet.agents[0].root("data").join("a\u{1b}[31mb");
    fs::write(&source, "a name with an escape code")?;
    let cli = fleet.cli_on(0)?;
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, "compression:\n  level: 5\n")?;
    let path = file.display().to_string();
    let verbs: &[&[&str]] = &[
        &["config", "set", "fleet", &path],
        &["config", "get"],
        &["config", "get", "fleet"],
        &["config", "history", "fleet"],
        &["config", "diff", "fleet", &path],
        &["config", "validate", &path],
        &["config", "effective", "--show-origin"],
        &["config", "effective", "site-a"],
        &["node", "list"],
        &["node", "get", "site-a"],
        &["node", "set", "site-a", "--label", "env=test"],
        &["token", "create"],
        &["token", "list"],
        &["operator", "create", "alice", "--role", "viewer"],
        &["operator", "list"],
        &["send", "--from", "site-a", "data:/", "site-b:data:/in"],
        &["transfer", "list"],
        &["audit", "list"],
        &["audit", "verify"],
        &["system", "info"],
        &["context", "list"],
        &["ping", "site-b"],
        &["check"],
    ];
    for verb in verbs {
        let value = cli.json(verb)?;
        assert!(value.is_object(), "{verb:?}: {value}");
    }
    let lines = cli.ok(&["-o", "jsonl", "node", "list"])?;
    for line in lines.lines() {
        let _: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    }
    assert_eq!(lines.lines().count(), 2);
    for verb in [&["node", "list"][..], &["transfer", "list"], &["audit", "list", "--limit", "1000"]] {
        let text = cli.ok(verb)?;
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{verb:?} prints control characters: {text:?}");
    }
    Ok(())
}

#[test]
fn exit_codes_are_those_of_the_interface() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    let cli = fleet.cli()?;
    assert_eq!(cli.run(&["node", "get", "nobody"])?.code, 3);
    assert_eq!(cli.run(&["node"])?.code, 2);
    assert_eq!(cli.run(&["no-such-verb"])?.code, 2);
    let wrong = fleet.scratch.path().join("wrong.token");
    fs::write(&wrong, "dwcpo1.wrong.wrong")?;
    let refused = cli.clone().with("DWCP_TOKEN_FILE", &wrong).run(&["node", "list"])?;
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    let nobody = cli.clone().with("DWCP_ENDPOINT", "127.0.0.1:1").run(&["node", "list"])?;
    assert_eq!(nobody.code, 5, "{}", nobody.stderr);
    let error = cli.run(&["-o", "json", "node", "get", "nobody"])?;
    let parsed: Value = serde_json::from_str(&error.stderr)?;
    assert_eq!(parsed["code"], 3);
    assert!(error.stdout.is_empty());
    Ok(())
}

#[test]
fn an_operators_role_bounds_what_a_token_may_do() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    let cli = fleet.cli()?;
    let token = fleet.scratch.path().join("viewer.token");
    let made = cli.json(&["operator", "create", "viewer", "--role", "viewer"])?;
    fs::write(&token, made["token"].as_str().context("a token")?)?;
    let viewer = cli.clone().with("DWCP_TOKEN_FILE", &token);
    viewer.ok(&["node", "list"])?;
    assert_eq!(viewer.run(&["token", "create"])?.code, 6);
    assert_eq!(viewer.run(&["node", "delete", "site-a", "--yes"])?.code, 6);
    let name = made["operatorToken"]["name"].as_str().context("a name")?;
    cli.ok(&["operator", "revoke", name])?;
    assert_eq!(viewer.run(&["node", "list"])?.code, 6);
    let refusals = cli.json(&["audit", "list", "--limit", "1000"])?.to_string();
    assert!(refusals.contains("\"refused\""), "a refusal is audited");
    Ok(())
}
