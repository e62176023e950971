//! Keeps `docs/cli.md` true: it is what the programs' own help says. `DWCP_UPDATE_DOCS=1 cargo test -p control-plane-cli` writes it.

use std::{fmt::Write, fs, path::Path};

use clap::{Command, CommandFactory};

use crate::args::Args;

const HEAD: &str = "# Command line

Each verb of `dwcp`, as `dwcp VERB --help` prints it. Global options stand once, at the top. Results go to standard output,
talk to standard error; `-o json` prints the API's message in proto3 JSON and nothing else.
";

#[test]
fn the_reference_of_the_command_line_is_true() {
    let mut text = HEAD.to_owned();
    let mut command = Args::command().term_width(110);
    command.build();
    section(&mut text, &mut command, 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    if std::env::var_os("DWCP_UPDATE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/cli.md is not what --help says: DWCP_UPDATE_DOCS=1 cargo test -p control-plane-cli");
}

fn section(text: &mut String, command: &mut Command, depth: usize) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = if depth == 0 {
        command.render_long_help()
    } else {
        command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg }).render_long_help()
    };
    // What the environment of this test says is no part of the reference.
    let help: Vec<_> = help.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    write!(text, "\n## {name}\n\n```\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    let verbs: Vec<_> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for verb in verbs {
        section(text, command.find_subcommand_mut(&verb).unwrap(), depth + 1);
    }
}
