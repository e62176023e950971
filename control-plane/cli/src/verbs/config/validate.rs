//! `dwcp config validate`: by the code that applies configurations, so what passes here passes there.

use std::{path::Path, process::ExitCode};

use proto_model::{
    ConfigName,
    config::{Layer, LayerName, Tree, files, parse, resolve},
    printable,
};
use proto_rpc::v1::{Diagnostic, ValidateConfigRequest, ValidateConfigResponse, diagnostic::Severity};

use super::{read, resource};
use crate::{
    args::Global,
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
};

pub(super) async fn run(
    global: &Global,
    output: &Output,
    file: &Path,
    online: Option<&str>,
) -> Result<ExitCode, Failure> {
    let answer = match online {
        Some(config) => {
            let request = ValidateConfigRequest { name: resource("configs", config), document: read(file)? };
            Connection::open(global)?.configs().validate_config(request).await?.into_inner()
        }
        None => offline(file)?,
    };
    output.message(&answer, |answer| lines(output, file, answer))?;
    Ok(if answer.valid { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failed as u8) })
}

fn offline(file: &Path) -> Result<ValidateConfigResponse, Failure> {
    let layers = if file == Path::new("-") {
        vec![Layer::host("standard input", read(file)?)]
    } else {
        files::read(file).map_err(|error| Failure::chain("cannot validate", &error))?
    };
    let mut trees = Vec::new();
    let mut found = Vec::new();
    for layer in layers {
        match parse(layer) {
            Ok(tree) => trees.push(tree),
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    let of_a_node = if trees.iter().any(Tree::has_syncs) { as_a_nodes(&mut trees) } else { Vec::new() };
    if found.is_empty() {
        match resolve(&trees) {
            Ok(effective) => found.extend(effective.warnings),
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    for one in &mut found {
        let shown = of_a_node.iter().find(|(name, _)| *name == one.file);
        one.file = shown.map_or_else(|| std::mem::take(&mut one.file), |(_, file)| file.clone());
    }
    let valid = !found.iter().any(proto_model::config::Diagnostic::is_error);
    Ok(ValidateConfigResponse { diagnostics: found.into_iter().map(Diagnostic::from).collect(), valid })
}

/// Only the control plane's document of a node has syncs: one that has is checked as such, whichever node it will be of. Gives the names of the
/// layers, and their files.
fn as_a_nodes(trees: &mut [Tree]) -> Vec<(String, String)> {
    let rename = |(n, tree): (usize, &mut Tree)| {
        let file = tree.name().file();
        let name = format!("any-{n}").parse().expect("letters, a hyphen and digits are a name");
        let name = LayerName::Config(ConfigName::Node(name));
        tree.set_name(name.clone());
        (name.file(), file)
    };
    trees.iter_mut().enumerate().map(rename).collect()
}

/// As compilers write it: `FILE:LINE:COLUMN: PATH: MESSAGE`.
fn lines(output: &Output, file: &Path, answer: &ValidateConfigResponse) -> String {
    let mut text = String::new();
    for diagnostic in &answer.diagnostics {
        let mark = match diagnostic.severity() {
            Severity::Error => output.paint("31", "×"),
            Severity::Warning | Severity::Unspecified => output.paint("33", "‼"),
        };
        let place = if diagnostic.line > 0 {
            format!("{}:{}:{}: ", diagnostic.file, diagnostic.line, diagnostic.column)
        } else if diagnostic.file.is_empty() {
            String::new()
        } else {
            format!("{}: ", diagnostic.file)
        };
        let path =
            if diagnostic.path.is_empty() { String::new() } else { format!("{}: ", printable(&diagnostic.path)) };
        text.push_str(&format!("{mark} {place}{path}{}\n", diagnostic.message));
        if !diagnostic.hint.is_empty() {
            text.push_str(&format!("    fix: {}\n", diagnostic.hint));
        }
    }
    let file = file.display();
    text.push_str(&if answer.valid {
        format!("{} {file} is good\nNext: dwcp config diff fleet {file}\n", output.paint("32", "√"))
    } else {
        format!("{} {file} would be refused\n", output.paint("31", "×"))
    });
    text
}
