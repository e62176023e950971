//! Keeps `docs/configuration.md` true: its tables are the built-in document. `DWCP_UPDATE_DOCS=1 cargo test -p proto-model` writes it.

use std::{fmt::Write, fs, path::Path};

use super::{DEFAULTS, PROGRAM_VARIABLES, in_force, scope};

const HEAD: &str = "# Configuration

Every key of an agent's configuration, with its default. Made from `proto/model/src/config/defaults.yaml`, which is the very document
that every other layer is put over: what it does not name is not a key, and refused with file, line and column.

**Layers**, lowest first: built-in < `configs/fleet` < `configs/node.NAME` < the host's file (`--config`, `DWCP_CONFIG`) < environment
variables < flags. `dwcp config effective NODE --show-origin` shows where each value comes from. A host's file `NAME.ENV.yaml` is put
over `NAME.yaml` beside it. Documents may stand below one `dwcp:` key, or without it.

**Variables.** `DWCP_SECTION__KEY`, two underscores between the two: `DWCP_TRANSPORT__MAX_STREAMS=128`. Lists are separated by commas.

**Values.** Durations: `5m`, `30s`, `250ms`, `1h30m`; a bare number is seconds. Sizes: `64MiB`, `10GB`; a bare number is bytes. `null` is \"none\".

**Whose.** Keys marked *host* say what a host allows on itself or where its things lie; they are taken from the host's own layers, and refused
in a document of the control plane. **Not in force**: accepted and checked, listed by `config set` and `config effective`, and without effect
for the reason given.

**Syncs** stand in `configs/node.NAME` of the node that sends them, and in no other layer: `syncs: {photos: {source: \"data:/photos\", destination:
\"site-b:data:/in\", every: 5m, exclude: [\"*.tmp\"], checksum: false, adopt: false}}`. They are made, changed and deleted with the document, as one: [sync.md](sync.md).

A document that does not hold is refused before it is stored, with all that is wrong in it: `dwcp config validate FILE` says the same without
a control plane. An agent that cannot apply one answers REJECTED with reasons (`dwcp node get NODE`, `dwcp check`) and keeps its last good one.
";

#[test]
fn the_reference_of_the_configuration_is_true() {
    let mut text = HEAD.to_owned();
    sections(&mut text);
    text.push_str("\n## Variables of the programs\n\nNames without two underscores are no keys of a configuration.\n\n| variable | is |\n| --- | --- |\n");
    for (name, meaning) in PROGRAM_VARIABLES {
        writeln!(text, "| `{name}` | {meaning} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("DWCP_UPDATE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/configuration.md is not what is built in: DWCP_UPDATE_DOCS=1 cargo test -p proto-model"
    );
}

/// A section for each of the built-in document's, a row for each key; the comment before a key is its meaning.
fn sections(text: &mut String) {
    let mut comment: Vec<&str> = Vec::new();
    let mut section = "";
    for line in DEFAULTS.lines().skip_while(|line| !line.is_empty()) {
        let bare = line.trim();
        if let Some(words) = bare.strip_prefix("# ") {
            comment.push(words);
            continue;
        }
        let Some((key, value)) = bare.split_once(':') else { continue };
        let meaning = std::mem::take(&mut comment).join(" ");
        if line.starts_with(' ') {
            row(text, &format!("{section}.{key}"), value.trim(), &meaning);
        } else {
            section = key;
            write!(text, "\n## {key}\n").unwrap();
            if value.is_empty() {
                if !meaning.is_empty() {
                    write!(text, "\n{meaning}\n").unwrap();
                }
                text.push_str("\n| key | default | meaning |\n| --- | --- | --- |\n");
            } else {
                text.push_str("\n| key | default | meaning |\n| --- | --- | --- |\n");
                row(text, key, value.trim(), &meaning);
            }
        }
    }
}

fn row(text: &mut String, path: &str, default: &str, meaning: &str) {
    let host = if scope::is_host_only(path) { "*host*" } else { "" };
    let idle = in_force::idle_meaning(path).map(|idle| format!("**Not in force**{idle}.")).unwrap_or_default();
    let meaning = [host, meaning, &idle].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    writeln!(text, "| `{path}` | `{default}` | {} |", meaning.replace('|', "\\|")).unwrap();
}
