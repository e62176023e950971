//! [`Change`]: what differs between two documents, value by value.

use std::collections::BTreeMap;

use proto_rpc::v1 as rpc;

use super::{Tree, node::Node, render, scope, shape::unwrap_root};

/// One value that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The field, for example `transport.max_streams`.
    pub path: String,
    /// As YAML; none where it was absent.
    pub old: Option<String>,
    /// As YAML; none where it is absent.
    pub new: Option<String>,
}

/// What differs, by path. How the documents are written (comments, order, the `dwcp:` root) does not count.
#[must_use]
pub fn diff(old: &Tree, new: &Tree) -> Vec<Change> {
    let (old, new) = (leaves(&old.root), leaves(&new.root));
    let mut changes = Vec::new();
    for (path, value) in &old {
        if new.get(path) != Some(value) {
            changes.push(Change { path: path.clone(), old: Some(value.clone()), new: new.get(path).cloned() });
        }
    }
    for (path, value) in new.into_iter().filter(|(path, _)| !old.contains_key(path)) {
        changes.push(Change { path, old: None, new: Some(value) });
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

fn leaves(root: &Node) -> BTreeMap<String, String> {
    let mut root = root.clone();
    unwrap_root(&mut root);
    let mut leaves = BTreeMap::new();
    root.for_each_leaf("", &mut |path, node| {
        let yaml = if scope::is_secret(path) { render::REDACTED.to_owned() } else { render::inline(node) };
        leaves.insert(path.to_owned(), yaml);
    });
    leaves
}

impl From<Change> for rpc::ConfigChange {
    fn from(change: Change) -> Self {
        Self { path: change.path, old_value: change.old.unwrap_or_default(), new_value: change.new.unwrap_or_default() }
    }
}
