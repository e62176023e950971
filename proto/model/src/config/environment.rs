//! Variables of a process as a layer: `DWCP_SECTION__KEY` (D9).

use super::node::Mark;
use super::{Diagnostic, LayerName, Severity, Tree, parse::diagnostic, suggest};

/// What our variables begin with.
pub const VARIABLE_PREFIX: &str = "DWCP_";

/// Variables that are no keys: the programs read them. Names without two underscores are all reserved for this.
pub const PROGRAM_VARIABLES: [(&str, &str); 8] = [
    ("DWCP_CONFIG", "the host's configuration file, as --config"),
    ("DWCP_LOG_LEVEL", "monitoring.log_level"),
    ("DWCP_ENDPOINT", "where the control plane is, as --endpoint"),
    ("DWCP_TOKEN_FILE", "the file that holds the token, as --token-file"),
    ("DWCP_CA", "the fleet's CA certificate, as --ca"),
    ("DWCP_AGENT_SOCKET", "the local agent's socket"),
    ("DWCP_CONTEXT", "the named context, as --context"),
    ("DWCP_DATA_DIR", "the data directory, as --data-dir"),
];

/// More variables than there are keys.
const MAX_VARIABLES: usize = 1024;

/// The layer that a process's variables make. `DWCP__KEY` is a key without a section.
///
/// # Errors
/// Where there are too many of them; what they say is looked at by [`super::resolve`].
pub fn environment<N: AsRef<str>, V: AsRef<str>>(
    variables: impl IntoIterator<Item = (N, V)>,
) -> Result<Tree, Vec<Diagnostic>> {
    let mut tree = Tree::empty(LayerName::Environment);
    let mark = Mark::nowhere(&tree.name);
    let mut log_level = None;
    let mut count = 0;
    for (name, value) in variables {
        let (name, value) = (name.as_ref(), value.as_ref());
        let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
        count += 1;
        if count > MAX_VARIABLES {
            let message = format!("more than {MAX_VARIABLES} variables begin with {VARIABLE_PREFIX}");
            return Err(vec![diagnostic(&mark, "", message, "")]);
        }
        if name == "DWCP_LOG_LEVEL" {
            log_level = Some(value.to_owned());
        } else if rest.contains("__") || rest.starts_with('_') {
            tree.assign(&path(rest), value);
        } else if let Some(near) = near_program_variable(name) {
            let message = format!("the variable {name} is not read");
            let hint = format!("did you mean {near}?");
            tree.warnings.push(Diagnostic { severity: Severity::Warning, ..diagnostic(&mark, "", message, hint) });
        }
    }
    // The short name is what somebody types in a hurry: it wins.
    if let Some(level) = log_level {
        tree.assign("monitoring.log_level", level);
    }
    Ok(tree)
}

fn path(rest: &str) -> String {
    let rest = rest.strip_prefix('_').unwrap_or(rest);
    let rest = rest.to_ascii_lowercase();
    let parts: Vec<&str> = rest.split("__").filter(|part| !part.is_empty()).collect();
    parts.join(".")
}

fn near_program_variable(name: &str) -> Option<&'static str> {
    if PROGRAM_VARIABLES.iter().any(|(known, _)| *known == name) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let known = PROGRAM_VARIABLES.map(|(known, _)| (known, known.to_ascii_lowercase()));
    let near = suggest::nearest(&lower, known.iter().map(|(_, lower)| lower.as_str()))?;
    known.iter().find(|(_, lower)| lower == near).map(|(known, _)| *known)
}
