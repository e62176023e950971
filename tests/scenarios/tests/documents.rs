//! The documents say all that there is, and nothing that there is not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

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
