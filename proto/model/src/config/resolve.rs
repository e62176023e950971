//! Layers into what is in force.

use std::{fmt::Write as _, sync::Arc};

use super::{
    AgentConfig, Bandwidth, Compression, ConfiguredSync, ContentStore, Dht, Diagnostic, Effective, Http, LayerName,
    Limits, Logging, MetadataCache, Monitoring, Network, PeerDiscovery, Root, Security, Severity, Storage, Transfer,
    Transport, Tree, Value,
    in_force::idle_reason,
    merge::merge,
    node::{Content, Node},
    parse::diagnostic,
    render, scope,
    section::Reader,
    shape::{DEFAULT_TREE, ROOT_DEFAULT_TREE, SYNC_DEFAULT_TREE, conform},
};
use crate::Digest;

/// More than this many findings help nobody.
const MAX_DIAGNOSTICS: usize = 200;

/// Puts layers over the built-in defaults, the lowest first, and checks what comes out.
///
/// # Errors
/// Everything that is wrong with any of them or with what they come to; warnings among it.
pub fn resolve(layers: &[Tree]) -> Result<Effective, Vec<Diagnostic>> {
    let names: Vec<Arc<LayerName>> = layers.iter().map(|layer| Arc::clone(&layer.name)).collect();
    let mut found: Vec<Diagnostic> = layers.iter().flat_map(|layer| layer.warnings.clone()).collect();
    let mut merged = DEFAULT_TREE.clone();
    for layer in layers {
        let (root, wrong) = conform(&layer.root);
        found.extend(wrong);
        merge(&mut merged, &root);
    }
    fill(&mut merged, "roots", &ROOT_DEFAULT_TREE, &["path"]);
    fill(&mut merged, "syncs", &SYNC_DEFAULT_TREE, &["source", "destination"]);
    let mut reader = Reader::new(&merged, &names);
    let config = read(&mut reader);
    let Reader { canonical, found: wrong, .. } = reader;
    found.extend(wrong);

    let mut values = Vec::new();
    let mut not_in_force = Vec::new();
    merged.for_each_leaf("", &mut |path, node| {
        let Some(yaml) = canonical.get(path) else { return };
        let set = !matches!(*node.mark.layer, LayerName::Default);
        if let Some(reason) = idle_reason(path, yaml).filter(|_| set) {
            not_in_force.push(path.to_owned());
            let message = format!("accepted, but has no effect: {reason}");
            found.push(Diagnostic { severity: Severity::Warning, ..diagnostic(&node.mark, path, message, "") });
        }
        values.push(value(path, yaml, node));
    });
    if found.iter().any(Diagnostic::is_error) {
        found.truncate(MAX_DIAGNOSTICS);
        return Err(in_order(found, &names));
    }
    let digest = digest(&values);
    let document = render::document_of(values.iter().map(|value| (value.path.clone(), value.yaml.clone())));
    Ok(Effective { config, values, not_in_force, digest, warnings: in_order(found, &names), document })
}

fn read(reader: &mut Reader<'_>) -> AgentConfig {
    AgentConfig {
        enabled: reader.section("").boolean("enabled"),
        transport: Transport::read(reader),
        bandwidth: Bandwidth::read(reader),
        compression: Compression::read(reader),
        monitoring: Monitoring::read(reader),
        logging: Logging::read(reader),
        security: Security::read(reader),
        dht: Dht::read(reader),
        metadata_cache: MetadataCache::read(reader),
        peer_discovery: PeerDiscovery::read(reader),
        transfer: Transfer::read(reader),
        storage: Storage::read(reader),
        content: ContentStore::read(reader),
        limits: Limits::read(reader),
        http: Http::read(reader),
        network: Network::read(reader),
        roots: Root::read_all(reader),
        syncs: ConfiguredSync::read_all(reader),
    }
}

/// Gives each of a section's names the keys that nobody set; what is needed is missing where the name stands.
fn fill(merged: &mut Node, section: &str, defaults: &Node, needed: &[&str]) {
    let Content::Map(sections) = &mut merged.content else { return };
    for section in sections.iter_mut().filter(|found| found.key == section) {
        let Content::Map(named) = &mut section.value.content else { continue };
        for one in named {
            let mut whole = defaults.clone();
            if let Content::Map(entries) = &mut whole.content {
                entries
                    .iter_mut()
                    .filter(|entry| needed.contains(&entry.key.as_str()))
                    .for_each(|entry| entry.value.mark = one.mark.clone());
            }
            merge(&mut whole, &one.value);
            one.value = whole;
        }
    }
}

fn value(path: &str, yaml: &str, node: &Node) -> Value {
    let is_secret = scope::is_secret(path) && yaml != "null";
    Value {
        path: path.to_owned(),
        yaml: if is_secret { render::REDACTED.to_owned() } else { yaml.to_owned() },
        origin: node.mark.layer.to_string(),
        line: if matches!(*node.mark.layer, LayerName::Default) { 0 } else { node.mark.line },
        column: if matches!(*node.mark.layer, LayerName::Default) { 0 } else { node.mark.column },
    }
}

/// SHA-256 over `PATH: YAML` lines in order of the paths. Secrets are not in it, since a host does not report them.
fn digest(values: &[Value]) -> Digest {
    let mut lines: Vec<(&str, &str)> = values.iter().map(|value| (value.path.as_str(), value.yaml.as_str())).collect();
    lines.retain(|(path, _)| !scope::is_secret(path));
    lines.sort_unstable();
    let mut text = String::new();
    for (path, yaml) in lines {
        writeln!(text, "{path}: {yaml}").expect("a String takes whatever is written");
    }
    Digest::sha256(text.as_bytes())
}

/// By document, then by place.
fn in_order(mut found: Vec<Diagnostic>, layers: &[Arc<LayerName>]) -> Vec<Diagnostic> {
    let rank = |file: &str| layers.iter().position(|layer| layer.file() == file);
    found.sort_by_cached_key(|one| (rank(&one.file), one.line, one.column));
    found
}
