//! A value of a document, and where it stands.

use std::sync::Arc;

use super::LayerName;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// In whose document.
    pub(super) layer: Arc<LayerName>,
    /// From 1; 0 where it has no place.
    pub(super) line: u32,
    /// From 1; 0 where it has no place.
    pub(super) column: u32,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// None.
    Null,
    /// A text; what it means is said by the key.
    Scalar(String),
    /// Several.
    List(Vec<Node>),
    /// Keys, in the document's order.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

impl Mark {
    /// Of what has no place in a text.
    pub(super) fn nowhere(layer: &Arc<LayerName>) -> Self {
        Self { layer: Arc::clone(layer), line: 0, column: 0 }
    }
}

impl Node {
    pub(super) fn empty_map(mark: Mark) -> Self {
        Self { mark, content: Content::Map(Vec::new()) }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            Content::Null | Content::Scalar(_) | Content::List(_) => &[],
        }
    }

    /// The value of a key.
    pub(super) fn child(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value at a path of keys, separated by dots.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, key| node.child(key))
    }

    /// Calls back for each value that is no mapping, with its path; empty mappings below the top have none.
    pub(super) fn for_each_leaf(&self, path: &str, visit: &mut dyn FnMut(&str, &Self)) {
        match &self.content {
            Content::Map(entries) => {
                for entry in entries {
                    entry.value.for_each_leaf(&join(path, &entry.key), visit);
                }
            }
            Content::Null | Content::Scalar(_) | Content::List(_) => visit(path, self),
        }
    }
}

/// A path and a key below it.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
