//! The configuration layers that a node should run with, one snapshot for each distinct configuration.
//!
//! Agents without a layer of their own, that is nearly all, share one snapshot. Its digest covers the layers alone, so that an agent
//! does not apply again what it has; its generation is that of the newest write that touched one of them, so a write for another
//! node is not news to this one.

use std::{collections::HashMap, sync::Arc};

use proto_model::{ConfigName, Digest, Generation, NodeName, Revision};

/// One layer as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotLayer {
    /// Whose.
    pub name: ConfigName,
    /// Its revision.
    pub revision: Revision,
    /// YAML.
    pub document: Arc<str>,
}

/// The layers that should be in force, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Of the newest write that touched these layers, a deletion included.
    pub generation: Generation,
    /// SHA-256 over the layers.
    pub digest: Digest,
    /// Lowest first.
    pub layers: Vec<SnapshotLayer>,
}

/// A configuration as the table has it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) name: ConfigName,
    /// Absent when it was deleted.
    pub(crate) layer: Option<SnapshotLayer>,
    pub(crate) generation: Generation,
}

/// All distinct snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    shared: Arc<Snapshot>,
    by_node: HashMap<NodeName, Arc<Snapshot>>,
}

impl Snapshots {
    /// Before anything was read: no layers.
    pub(crate) fn empty() -> Self {
        Self { shared: Arc::new(Snapshot::new(Generation::default(), Vec::new())), by_node: HashMap::new() }
    }

    /// Builds them from the tables.
    pub(crate) fn build(stored: Vec<Stored>) -> Self {
        let (fleet, nodes): (Vec<_>, Vec<_>) = stored.into_iter().partition(|config| config.name == ConfigName::Fleet);
        let fleet = fleet.into_iter().next();
        let generation = fleet.as_ref().map_or_else(Generation::default, |fleet| fleet.generation);
        let layer = fleet.and_then(|fleet| fleet.layer);
        let by_node = nodes.into_iter().filter_map(|config| {
            let ConfigName::Node(node) = config.name else { return None };
            let layers = layer.iter().cloned().chain(config.layer).collect();
            Some((node, Arc::new(Snapshot::new(generation.max(config.generation), layers))))
        });
        let by_node = by_node.collect();
        Self { shared: Arc::new(Snapshot::new(generation, layer.into_iter().collect())), by_node }
    }

    /// What a node should run with.
    pub(crate) fn of(&self, node: &NodeName) -> Arc<Snapshot> {
        Arc::clone(self.by_node.get(node).unwrap_or(&self.shared))
    }
}

impl Snapshot {
    fn new(generation: Generation, layers: Vec<SnapshotLayer>) -> Self {
        let mut covered = Vec::new();
        for layer in &layers {
            for part in [layer.name.to_string().as_bytes(), layer.document.as_bytes()] {
                // The length first, so that no two lists of layers are the same bytes.
                covered.extend_from_slice(&u64::try_from(part.len()).expect("a length fits 64 bits").to_be_bytes());
                covered.extend_from_slice(part);
            }
        }
        let digest = Digest::sha256(&covered);
        Self { generation, digest, layers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, number: u64, document: Option<&str>) -> Stored {
        let name: ConfigName = name.parse().unwrap();
        let layer = document.map(|document| SnapshotLayer {
            name: name.clone(),
            revision: Revision::new(number),
            document: document.into(),
        });
        Stored { name, layer, generation: Generation { number, ..Generation::default() } }
    }

    #[test]
    fn nodes_without_a_layer_of_their_own_share_one_snapshot() {
        let snapshots =
            Snapshots::build(vec![stored("configs/fleet", 3, Some("a")), stored("configs/node.x", 2, Some("b"))]);
        let (one, other) = (snapshots.of(&"one".parse().unwrap()), snapshots.of(&"other".parse().unwrap()));
        assert!(Arc::ptr_eq(&one, &other));
        let own = snapshots.of(&"x".parse().unwrap());
        assert_eq!((own.layers.len(), own.generation.number), (2, 3));
        assert_ne!(own.digest, one.digest);
    }

    #[test]
    fn a_removed_layer_is_news_with_the_digest_of_what_is_left() {
        let snapshots =
            Snapshots::build(vec![stored("configs/fleet", 3, Some("a")), stored("configs/node.x", 4, None)]);
        let (own, shared) = (snapshots.of(&"x".parse().unwrap()), snapshots.of(&"y".parse().unwrap()));
        assert_eq!((own.generation.number, shared.generation.number), (4, 3));
        assert_eq!(own.digest, shared.digest);
    }
}
