//! `dwcp config validate`: by the code that applies configurations, so what passes here passes there.

use std::{path::Path, process::ExitCode};

use proto_model::{
    config::{Layer, files, parse, resolve},
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
    if found.is_empty() {
        match resolve(&trees) {
            Ok(effective) => found.extend(effective.warnings),
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    let valid = !found.iter().any(proto_model::config::Diagnostic::is_error);
    Ok(ValidateConfigResponse { diagnostics: found.into_iter().map(Diagnostic::from).collect(), valid })
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
