//! The documents say all that there is, and nothing that there is not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use control_plane_api::auth::Rule;
use proto_model::Role;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String> {
    let path = workspace().join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn is_reason(text: &str) -> bool {
    text.len() > 2 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// What a source writes in double quotes and looks like a reason.
fn quoted(source: &str) -> BTreeSet<String> {
    source.split('"').skip(1).step_by(2).filter(|text| is_reason(text)).map(str::to_owned).collect()
}

/// Rows of a document's tables that begin with a name in code.
fn rows(document: &str) -> BTreeSet<String> {
    document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned()))
        .collect()
}

/// Sources that give transfers their reasons beside the list of them.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && name != "tests" {
            sources(&path, found)?;
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_reason_is_documented_and_no_other() -> Result<()> {
    let mut reasons = quoted(&read("control-plane/api/src/error.rs")?);
    reasons.extend(quoted(&read("dataplane/transfer/src/reason.rs")?));
    reasons.extend(quoted(&read("proto/model/src/transfer_error.rs")?));
    reasons.remove("ETAG");
    // Whoever makes a TransferError or a TransferIssue elsewhere writes its reason on the spot.
    let mut files = Vec::new();
    for folder in ["control-plane/store/src/transfers", "control-plane/fleet/src", "dataplane/agent/src"] {
        sources(&workspace().join(folder), &mut files)?;
    }
    for file in files {
        for line in fs::read_to_string(&file)?.lines().filter(|line| line.contains("reason")) {
            reasons.extend(quoted(line));
        }
    }
    reasons.extend(quoted(&read("control-plane/store/src/transfers/standing.rs")?));
    let documented = rows(&read("docs/errors.md")?);
    let missing: Vec<_> = reasons.difference(&documented).collect();
    let dead: Vec<_> = documented.difference(&reasons).collect();
    assert!(missing.is_empty() && dead.is_empty(), "docs/errors.md lacks {missing:?}, and has in vain {dead:?}");
    Ok(())
}

/// All methods that operators and agents may call, by service, in the order of the protocol files.
fn methods() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for folder in ["proto/dwcp/v1", "proto/dwcp/agent/v1"] {
        let mut files: Vec<_> = fs::read_dir(workspace().join(folder))?.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file)?;
            let package = text.lines().find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'));
            let package = package.with_context(|| format!("a package in {}", file.display()))?;
            let mut service = "";
            for line in text.lines().map(str::trim) {
                if let Some(name) = line.strip_prefix("service ") {
                    service = name.trim_end_matches([' ', '{']);
                } else if let Some((name, _)) = line.strip_prefix("rpc ").and_then(|rest| rest.split_once('(')) {
                    found.push((format!("{package}.{service}"), name.to_owned()));
                }
            }
        }
    }
    Ok(found)
}

#[test]
fn who_may_call_what_is_what_the_server_applies() -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- methods -->\n", "<!-- /methods -->"];
    let mut table =
        "| service | everybody | a node | a viewer | an operator | an admin |\n| --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    let all = methods()?;
    let mut services: Vec<_> = all.iter().map(|(service, _)| service).collect();
    services.dedup();
    // Served on `agent.sock` alone, to whom its mode lets in.
    for service in services.into_iter().filter(|service| *service != "dwcp.agent.v1.LocalService") {
        let by = |rule: Rule| {
            let of =
                all.iter().filter(|(found, name)| found == service && Rule::of(&format!("/{found}/{name}")) == rule);
            of.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let columns =
            [Rule::Open, Rule::Node, Rule::Role(Role::Viewer), Rule::Role(Role::Operator), Rule::Role(Role::Admin)];
        table.push_str(&format!("| `{service}` | {} |\n", columns.map(by).join(" | ")));
    }
    let text = read("docs/security.md")?;
    let (before, rest) = text.split_once(MARKS[0]).context("the mark of the methods")?;
    let (_, after) = rest.split_once(MARKS[1]).context("the end of the methods")?;
    let wanted = format!("{before}{}{table}{}{after}", MARKS[0], MARKS[1]);
    if std::env::var_os("DWCP_UPDATE_DOCS").is_some() {
        fs::write(workspace().join("docs/security.md"), &wanted)?;
    }
    let written = read("docs/security.md")?;
    assert!(written == wanted, "docs/security.md: DWCP_UPDATE_DOCS=1 cargo test -p tests-scenarios --test documents");
    Ok(())
}

#[test]
fn every_bound_is_the_one_in_the_source() -> Result<()> {
    let document = read("docs/limits.md")?;
    let (_, section) = document.split_once("## Fixed").context("the section of what is fixed")?;
    let mut wrong = Vec::new();
    for line in section.lines().filter(|line| line.contains(".rs` `")) {
        let [_, bound, _, file, _, name, _] = line.splitn(7, '`').collect::<Vec<_>>()[..] else {
            wrong.push(line.to_owned());
            continue;
        };
        let source = read(file)?;
        let stands = source
            .lines()
            .any(|line| line.contains(&format!("const {name}: ")) && line.ends_with(&format!(" = {bound};")));
        if !stands {
            wrong.push(format!("{file} has no {name} = {bound}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Names and defaults of a section's table.
fn limits(document: &str, section: &str) -> Result<BTreeSet<(String, String)>> {
    let (_, section) = document.split_once(&format!("## {section}\n")).context("the section")?;
    let rows = section.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let [name, default, why, then] = row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>()[..] else {
            bail!("a row has four columns: {row}");
        };
        ensure!(!why.is_empty() && !then.is_empty(), "{row}");
        Ok((name.trim_matches('`').to_owned(), default.to_owned()))
    })
    .collect()
}

#[test]
fn every_limit_of_both_programs_is_on_the_page_and_no_other() -> Result<()> {
    let page = read("docs/limits.md")?;
    let mut server: BTreeSet<_> = control_plane_server::Limits::default()
        .rows()
        .into_iter()
        .map(|limit| (limit.name.to_owned(), limit.default))
        .collect();
    server.extend([("http_api_limit", "100/s"), ("http_limit", "100/min")].map(|(n, d)| (n.to_owned(), d.to_owned())));
    assert_eq!(limits(&page, "The control plane")?, server);
    let agent = proto_model::config::resolve(&[]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let agent: BTreeSet<_> = agent
        .values
        .iter()
        .filter(|value| value.path.starts_with("limits."))
        .map(|value| (value.path.clone(), value.yaml.clone()))
        .collect();
    assert_eq!(limits(&page, "An agent")?, agent);
    Ok(())
}
