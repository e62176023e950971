//! [`Tree`]: a layer, parsed.

use std::sync::Arc;

use super::{
    Diagnostic, LayerName,
    merge::merge,
    node::{Content, Entry, Mark, Node},
    render, scope,
};

/// A layer, parsed: its values with their places. What they mean is found out by [`super::resolve`].
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    pub(super) name: Arc<LayerName>,
    pub(super) root: Node,
    pub(super) warnings: Vec<Diagnostic>,
}

impl Tree {
    /// A layer that says nothing.
    #[must_use]
    pub fn empty(name: LayerName) -> Self {
        let name = Arc::new(name);
        Self { root: Node::empty_map(Mark::nowhere(&name)), name, warnings: Vec::new() }
    }

    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &LayerName {
        &self.name
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.entries().is_empty()
    }

    /// Whether it asks for syncs, which only the control plane's document of a node may.
    #[must_use]
    pub fn has_syncs(&self) -> bool {
        self.section("syncs").root.child("syncs").is_some_and(|syncs| !syncs.entries().is_empty())
    }

    /// Takes it for another layer's document, its places included.
    pub fn set_name(&mut self, name: LayerName) {
        self.name = Arc::new(name);
        set_layer(&mut self.root, &self.name);
    }

    /// What it says in one section, and nothing else.
    #[must_use]
    pub(super) fn section(&self, key: &str) -> Self {
        let mut root = self.root.clone();
        super::shape::unwrap_root(&mut root);
        if let Content::Map(entries) = &mut root.content {
            entries.retain(|entry| entry.key == key);
        }
        Self { name: Arc::clone(&self.name), root, warnings: Vec::new() }
    }

    /// Sets the value at a path such as `network.quic_listen`: what flags and variables do. A list is separated by commas.
    pub fn assign(&mut self, path: &str, value: impl Into<String>) {
        self.put(path, Content::Scalar(value.into()));
    }

    /// Sets the list at a path.
    pub fn assign_list(&mut self, path: &str, values: impl IntoIterator<Item = impl Into<String>>) {
        let mark = Mark::nowhere(&self.name);
        let items = values.into_iter().map(|value| Node { mark: mark.clone(), content: Content::Scalar(value.into()) });
        self.put(path, Content::List(items.collect()));
    }

    fn put(&mut self, path: &str, content: Content) {
        let mark = Mark::nowhere(&self.name);
        let mut over = Node { mark: mark.clone(), content };
        for key in path.rsplit('.') {
            let entry = Entry { key: key.to_owned(), mark: mark.clone(), value: over };
            over = Node { mark: mark.clone(), content: Content::Map(vec![entry]) };
        }
        merge(&mut self.root, &over);
    }

    /// What a host reports of its own layers, the lowest first: one YAML document, secrets left out.
    #[must_use]
    pub fn report(layers: &[Self]) -> String {
        let mut whole = Self::empty(LayerName::Environment).root;
        for layer in layers {
            let mut root = layer.root.clone();
            super::shape::unwrap_root(&mut root);
            merge(&mut whole, &root);
        }
        for secret in scope::SECRETS {
            remove(&mut whole, secret);
        }
        render::document(&whole)
    }
}

/// No deeper than a document may be.
fn set_layer(node: &mut Node, layer: &Arc<LayerName>) {
    node.mark.layer = Arc::clone(layer);
    match &mut node.content {
        Content::Map(entries) => {
            for entry in entries {
                entry.mark.layer = Arc::clone(layer);
                set_layer(&mut entry.value, layer);
            }
        }
        Content::List(items) => items.iter_mut().for_each(|item| set_layer(item, layer)),
        Content::Null | Content::Scalar(_) => {}
    }
}

fn remove(node: &mut Node, path: &str) {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let Content::Map(entries) = &mut node.content else { return };
    match rest {
        None => entries.retain(|entry| entry.key != key),
        Some(rest) => {
            entries.iter_mut().filter(|entry| entry.key == key).for_each(|entry| remove(&mut entry.value, rest))
        }
    }
}
