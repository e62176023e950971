//! Whether a document may be written: asked of the code that applies it, merged with the layers of every node that it reaches.
//!
//! Pure. A node whose layers do not fit together already, before this write, does not stand in its way.

use std::collections::{BTreeMap, BTreeSet};

use control_plane_store::layers::{Layers, NodeLayers};
use proto_model::{
    ConfigName, NodeName, Revision, SyncName,
    config::{ConfiguredSync, Diagnostic, Effective, Layer, LayerName, Tree, configured_syncs, parse, resolve},
};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Errors first, then warnings; each once.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Keys of the document that are known but have no effect yet.
    pub(super) not_in_force: Vec<String>,
    /// The syncs that it asks for.
    pub(super) syncs: BTreeMap<SyncName, ConfiguredSync>,
}

impl Checked {
    pub(super) fn is_valid(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }

    pub(super) fn add(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        for diagnostic in diagnostics {
            // The same place is wrong in the same way on a thousand nodes: once is enough.
            let known = |held: &&Diagnostic| {
                (&held.path, &held.file, held.line, held.column)
                    == (&diagnostic.path, &diagnostic.file, diagnostic.line, diagnostic.column)
                    && held.severity == diagnostic.severity
            };
            if !self.diagnostics.iter().any(|held| known(&held)) {
                self.diagnostics.push(diagnostic);
            }
        }
    }
}

/// Checks a document, or with none the removal of the configuration.
pub(super) fn check(layers: &Layers, name: &ConfigName, document: Option<&str>) -> Checked {
    let mut checked = Checked::default();
    let candidate = match document.map(|document| parse(layer(name.clone(), document))).transpose() {
        Ok(candidate) => candidate,
        Err(diagnostics) => return Checked { diagnostics, ..checked },
    };
    match candidate.as_ref().map(configured_syncs).transpose() {
        Ok(syncs) => checked.syncs = syncs.unwrap_or_default(),
        // Also where the rest of the node's layers does not fit together already.
        Err(diagnostics) => checked.add(diagnostics),
    }
    let alone: Vec<Tree> = candidate.iter().cloned().collect();
    checked.not_in_force = resolve(&alone).map(|effective| effective.not_in_force).unwrap_or_default();
    match name {
        ConfigName::Fleet => {
            // A node without layers of its own, and one that joins tomorrow.
            match resolve(&alone) {
                Ok(effective) => checked.add(effective.warnings),
                Err(diagnostics) => checked.add(diagnostics),
            }
            check_nodes(&mut checked, layers, |node| under_fleet(candidate.as_ref(), node));
        }
        ConfigName::Node(node) => {
            let fleet = parsed(layers.fleet.as_deref(), ConfigName::Fleet);
            let merged: Vec<Tree> = fleet.iter().chain(&candidate).cloned().collect();
            if layers.nodes.is_empty() {
                match resolve(&merged) {
                    Ok(effective) => checked.add(effective.warnings),
                    Err(diagnostics) => checked.add(diagnostics),
                }
                checked.add(document.map(|_| unknown_node(name, node)));
            }
            check_nodes(&mut checked, layers, |node| merged.iter().cloned().chain(host(node)).collect());
        }
    }
    checked.diagnostics.sort_by_key(|diagnostic| (diagnostic.severity, diagnostic.line, diagnostic.column));
    checked
}

/// Asks for every distinct set of layers, once.
fn check_nodes(checked: &mut Checked, layers: &Layers, merged: impl Fn(&NodeLayers) -> Vec<Tree>) {
    let mut asked = BTreeSet::new();
    for node in &layers.nodes {
        if !asked.insert((&node.own, &node.host_layer)) {
            continue;
        }
        match resolve(&merged(node)) {
            Ok(effective) => checked.add(effective.warnings),
            Err(_) if node_layers(layers.fleet.as_deref(), node).is_err() => {}
            Err(diagnostics) => checked.add(diagnostics.into_iter().map(|diagnostic| on_node(diagnostic, &node.node))),
        }
    }
}

/// What a node's layers come to at present.
pub(super) fn node_layers(fleet: Option<&str>, node: &NodeLayers) -> Result<Effective, Vec<Diagnostic>> {
    resolve(&under_fleet(parsed(fleet, ConfigName::Fleet).as_ref(), node))
}

fn under_fleet(fleet: Option<&Tree>, node: &NodeLayers) -> Vec<Tree> {
    let own = parsed(node.own.as_deref(), ConfigName::Node(node.node.clone()));
    fleet.cloned().into_iter().chain(own).chain(host(node)).collect()
}

/// The host's own layer. One that cannot be read is that host's trouble: its agent does not start with it either.
fn host(node: &NodeLayers) -> Option<Tree> {
    if node.host_layer.trim().is_empty() {
        return None;
    }
    let file =
        if node.host_layer_origin.is_empty() { node.node.resource_name() } else { node.host_layer_origin.clone() };
    parse(Layer::host(file, node.host_layer.clone())).ok()
}

/// A document that is stored was parsed before.
fn parsed(document: Option<&str>, name: ConfigName) -> Option<Tree> {
    document.map(|document| {
        parse(layer(name.clone(), document)).unwrap_or_else(|_refused| Tree::empty(LayerName::Config(name)))
    })
}

fn layer(name: ConfigName, document: &str) -> Layer {
    Layer::config(name, Revision::default(), document)
}

fn on_node(mut diagnostic: Diagnostic, node: &NodeName) -> Diagnostic {
    if diagnostic.is_error() {
        diagnostic.message = format!("{} (merged with the layers of {})", diagnostic.message, node.resource_name());
    }
    diagnostic
}

fn unknown_node(name: &ConfigName, node: &NodeName) -> Diagnostic {
    Diagnostic {
        severity: proto_model::config::Severity::Warning,
        path: String::new(),
        file: name.to_string(),
        line: 0,
        column: 0,
        message: format!("there is no node of the name {node} yet"),
        hint: "the configuration waits for a node that joins under this name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proto_model::Generation;

    use super::*;

    fn node(name: &str, own: Option<&str>, host_layer: &str) -> NodeLayers {
        NodeLayers {
            node: name.parse().unwrap(),
            own: own.map(str::to_owned),
            host_layer: host_layer.to_owned(),
            host_layer_origin: "/etc/dwcp.yaml".to_owned(),
            not_in_force: Vec::new(),
            applied: None,
        }
    }

    fn layers(fleet: Option<&str>, nodes: Vec<NodeLayers>) -> Layers {
        Layers { generation: Generation::default(), fleet: fleet.map(str::to_owned), nodes }
    }

    #[test]
    fn names_the_field_and_its_place() {
        let checked = check(&layers(None, vec![]), &ConfigName::Fleet, Some("transport:\n  max_streams: 8\n"));
        assert!(!checked.is_valid());
        let error = &checked.diagnostics[0];
        assert_eq!((error.path.as_str(), error.line), ("transport.max_streams", 2), "{error}");
        assert!(error.to_string().starts_with("configs/fleet:2:"), "{error}");
    }

    #[test]
    fn merges_with_what_the_host_says_of_itself() {
        let fleet = "transport: {max_streams: 64}\n";
        let lone = layers(None, vec![]);
        assert!(check(&lone, &ConfigName::Fleet, Some(fleet)).is_valid());
        let hosts = layers(None, vec![node("edge", None, "transport: {min_streams: 100}\n")]);
        let checked = check(&hosts, &ConfigName::Fleet, Some(fleet));
        assert!(!checked.is_valid());
        assert!(checked.diagnostics[0].message.contains("nodes/edge"), "{:?}", checked.diagnostics);
    }

    #[test]
    fn a_node_that_is_broken_already_does_not_stand_in_the_way() {
        let broken =
            layers(Some("transport: {max_streams: 64}\n"), vec![node("edge", None, "transport: {min_streams: 100}\n")]);
        assert!(check(&broken, &ConfigName::Fleet, Some("transport: {max_streams: 65}\n")).is_valid());
    }

    #[test]
    fn a_removal_is_checked_too() {
        let fleet = Some("transport: {max_streams: 64}\n");
        let own = Some("transport: {max_streams: 128}\n");
        let held = layers(fleet, vec![node("edge", own, "transport: {min_streams: 100}\n")]);
        let name = ConfigName::Node("edge".parse().unwrap());
        assert!(!check(&held, &name, None).is_valid());
    }

    #[test]
    fn an_unknown_node_is_a_warning() {
        let name = ConfigName::Node("tomorrow".parse().unwrap());
        let checked = check(&layers(None, vec![]), &name, Some("transport: {max_streams: 64}\n"));
        assert!(checked.is_valid());
        assert_eq!(checked.diagnostics.len(), 1);
    }
}
