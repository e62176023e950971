//! The host's own layers of configuration: its file, its environment, the flags; lowest first.

use std::{env, path::Path};

use proto_model::{
    RootName,
    config::{self, Diagnostic, LayerName, Tree, files::ReadConfigError},
};

use crate::command::{AddressOrNone, RunArgs};

/// What the host itself says.
#[derive(Debug, Clone)]
pub(crate) struct HostLayers {
    /// Lowest first.
    pub(crate) trees: Vec<Tree>,
    /// All of them in one document, secrets left out: what the control plane is told.
    pub(crate) report: String,
    /// Where it comes from, for people.
    pub(crate) origin: String,
}

/// Why the host's own configuration cannot be used; a line for each thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The file.
    #[error(transparent)]
    Read(#[from] ReadConfigError),
    /// What it says.
    #[error("{}", lines(.0))]
    Wrong(Vec<Diagnostic>),
    /// A flag.
    #[error("--root {0}: {1}")]
    Root(String, proto_model::ParseRootNameError),
}

/// Every diagnostic in a line of its own.
pub(crate) fn lines(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|one| one.is_error());
    errors.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads them; also again, on SIGHUP.
///
/// # Errors
/// See [`LayersError`].
pub(crate) fn read(args: &RunArgs) -> Result<HostLayers, LayersError> {
    let mut trees = Vec::new();
    if let Some(file) = &args.config {
        for layer in config::files::read(file)? {
            trees.push(config::parse(layer).map_err(LayersError::Wrong)?);
        }
    }
    // A variable that is not UTF-8 is none of ours.
    let variables =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    trees.push(config::environment(variables).map_err(LayersError::Wrong)?);
    trees.push(flags(args)?);
    trees.retain(|tree| !tree.is_empty());
    let report = Tree::report(&trees);
    let origin = args.config.as_deref().map_or_else(|| "flags".to_owned(), |file: &Path| file.display().to_string());
    Ok(HostLayers { trees, report, origin })
}

fn flags(args: &RunArgs) -> Result<Tree, LayersError> {
    let mut tree = Tree::empty(LayerName::Flag);
    let mut listen = |key: &str, address: Option<String>| {
        if let Some(address) = address {
            tree.assign(&format!("network.{key}"), address);
        }
    };
    listen("quic_listen", args.quic_listen.map(|address| address.to_string()));
    listen("http_listen", args.http_listen.map(|address| address.to_string()));
    listen("metrics_listen", args.metrics_listen.map(|address| address.to_string()));
    listen(
        "dht_listen",
        args.dht_listen.map(|listen| match listen {
            AddressOrNone::Address(address) => address.to_string(),
            AddressOrNone::None => "none".to_owned(),
        }),
    );
    if !args.advertise.is_empty() {
        tree.assign_list("network.advertise", args.advertise.iter().map(ToString::to_string));
    }
    if !args.dht_bootstrap.is_empty() && !no_bootstrap(args) {
        tree.assign_list("dht.bootstrap", args.dht_bootstrap.iter().cloned());
    }
    if let Some(reach) = args.reach {
        tree.assign("network.reach", reach.as_str());
    }
    if args.relay {
        tree.assign("network.relay", "true");
    }
    for root in &args.roots {
        let name: RootName = root.name.parse().map_err(|error| LayersError::Root(root.name.clone(), error))?;
        tree.assign(&format!("roots.{name}.path"), root.path.to_string_lossy());
        tree.assign(&format!("roots.{name}.read_only"), root.read_only.to_string());
    }
    match (&args.log_level, args.verbose) {
        (Some(level), _) => tree.assign("monitoring.log_level", level.as_str()),
        (None, true) => tree.assign("monitoring.log_level", "debug"),
        (None, false) => {}
    }
    Ok(tree)
}

/// Whether the DHT is to begin nowhere at all, whatever the control plane says.
pub(crate) fn no_bootstrap(args: &RunArgs) -> bool {
    args.dht_bootstrap.iter().any(|entry| entry == "none")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn flags_lie_over_the_file_and_the_environments_file_over_its_base() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("dwcp.yaml"), "dwcp:\n  transport: {min_streams: 4}\n").unwrap();
        let file = dir.path().join("dwcp.staging.yaml");
        fs::write(&file, "network: {reach: public}\ntransport: {max_streams: 64}\n").unwrap();
        let args = RunArgs {
            config: Some(file),
            reach: Some(crate::command::Reach::Private),
            roots: vec!["data=/srv/data:ro".parse().unwrap()],
            ..RunArgs::default()
        };
        let layers = read(&args).unwrap();
        let effective = config::resolve(&layers.trees).unwrap();
        assert_eq!(effective.config.transport.min_streams, 4);
        assert_eq!(effective.config.transport.max_streams, 64);
        assert_eq!(effective.config.network.reach, config::Reach::Private);
        assert!(effective.config.roots[&"data".parse().unwrap()].read_only);
        assert!(layers.report.contains("reach: private"), "{}", layers.report);
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        fs::write(&file, "transport:\n  max_stream: 8\n").unwrap();
        let layers = read(&RunArgs { config: Some(file.clone()), ..RunArgs::default() }).unwrap();
        let wrong = lines(&config::resolve(&layers.trees).unwrap_err());
        assert!(wrong.starts_with(&format!("{}:2:3: transport.max_stream", file.display())), "{wrong}");
    }
}
