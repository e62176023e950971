//! `dwcp context`: named control planes.

use std::path::{Path, PathBuf};

use crate::{
    args::{Context as Verb, Global},
    connection::require_endpoint,
    context::{Context, Contexts},
    failure::{Exit, Failure},
    output::{Output, table},
};

pub(super) fn run(global: &Global, output: &Output, verb: Verb) -> Result<(), Failure> {
    let file = global.contexts_file.as_deref();
    match verb {
        Verb::Add { name, select } => add(global, output, name, select),
        Verb::List => list(output, file),
        Verb::Use { name } => select(output, file, name),
    }
}

fn add(global: &Global, output: &Output, name: String, select: bool) -> Result<(), Failure> {
    let endpoint = global.endpoint.clone().ok_or_else(|| Failure::usage("a context needs --endpoint"))?;
    require_endpoint(&endpoint)?;
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Failure::usage("a context's name is a word"));
    }
    let context = Context {
        endpoint,
        token_file: global.token_file.as_deref().map(absolute).transpose()?,
        ca: global.ca.as_deref().map(absolute).transpose()?,
    };
    let file = global.contexts_file.as_deref();
    let mut contexts = Contexts::load(file)?;
    contexts.contexts.insert(name.clone(), context);
    if select || contexts.selected.is_none() {
        contexts.selected = Some(name.clone());
    }
    contexts.save(file)?;
    output.talk(&format!("√ context {name} is kept\nNext: dwcp check --context {name}"));
    Ok(())
}

fn list(output: &Output, file: Option<&Path>) -> Result<(), Failure> {
    let contexts = Contexts::load(file)?;
    output.plain(&contexts, |contexts| {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        table(
            ["", "NAME", "ENDPOINT", "TOKEN FILE", "CA"],
            contexts.contexts.iter().map(|(name, context)| {
                let mark = if contexts.selected.as_ref() == Some(name) { "*" } else { " " };
                [mark.to_owned(), name.clone(), context.endpoint.clone(), path(&context.token_file), path(&context.ca)]
            }),
        )
    })
}

fn select(output: &Output, file: Option<&Path>, name: String) -> Result<(), Failure> {
    let mut contexts = Contexts::load(file)?;
    if !contexts.contexts.contains_key(&name) {
        return Err(Failure::new(Exit::NotFound, format!("there is no context `{name}`")).hint("dwcp context list"));
    }
    output.talk(&format!("√ {name} is used from now on"));
    contexts.selected = Some(name);
    contexts.save(file)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::chain(format!("cannot use {}", path.display()), &error))
}
