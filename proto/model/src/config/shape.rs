//! Which keys there are, and whether a layer keeps to them: the built-in document says it.

use std::sync::LazyLock;

use super::{
    Diagnostic, Layer, LayerName,
    defaults::{DEFAULTS, ROOT_DEFAULTS, SYNC_DEFAULTS},
    node::{Content, Entry, Mark, Node, join},
    parse::{diagnostic, parse},
    scope, suggest,
};
use crate::{ConfigName, HostFacts, Revision};

/// Names that somebody may choose in one place: as many as roots that a host may report.
const MAX_NAMES: usize = HostFacts::MAX_ROOTS;
/// Unknown keys of one document that are named; a document of nothing else says no more after them.
const MAX_UNKNOWN: usize = 200;

/// What may stand at a path.
enum Shape {
    /// One value.
    Scalar,
    /// Several.
    List,
    /// These keys.
    Section(Vec<(String, Self)>),
    /// Names that somebody chose, each with these keys.
    Named(Box<Self>),
}

/// The built-in document, parsed.
pub(super) static DEFAULT_TREE: LazyLock<Node> = LazyLock::new(|| built_in(DEFAULTS));
/// What a root has that nobody said anything of, parsed.
pub(super) static ROOT_DEFAULT_TREE: LazyLock<Node> = LazyLock::new(|| built_in(ROOT_DEFAULTS));
/// The same of a sync.
pub(super) static SYNC_DEFAULT_TREE: LazyLock<Node> = LazyLock::new(|| built_in(SYNC_DEFAULTS));

static SHAPE: LazyLock<Shape> = LazyLock::new(|| {
    let Shape::Section(mut keys) = shape_of(&DEFAULT_TREE) else { return Shape::Section(Vec::new()) };
    for (key, shape) in &mut keys {
        match key.as_str() {
            "roots" => *shape = Shape::Named(Box::new(shape_of(&ROOT_DEFAULT_TREE))),
            "syncs" => *shape = Shape::Named(Box::new(shape_of(&SYNC_DEFAULT_TREE))),
            _ => {}
        }
    }
    Shape::Section(keys)
});

fn built_in(text: &str) -> Node {
    let layer = Layer { name: LayerName::Default, revision: Revision::default(), text: text.to_owned() };
    parse(layer).expect("the built-in document is valid").root
}

fn shape_of(node: &Node) -> Shape {
    match &node.content {
        Content::Null | Content::Scalar(_) => Shape::Scalar,
        Content::List(_) => Shape::List,
        Content::Map(entries) => {
            Shape::Section(entries.iter().map(|entry| (entry.key.clone(), shape_of(&entry.value))).collect())
        }
    }
}

/// Takes away the `dwcp:` root of the manual's examples, where it is the only key.
pub(super) fn unwrap_root(root: &mut Node) {
    if let Content::Map(entries) = &mut root.content
        && let [Entry { key, value, .. }] = entries.as_mut_slice()
        && key == "dwcp"
    {
        let empty = Node::empty_map(value.mark.clone());
        let inner = std::mem::replace(value, empty);
        *root = match inner.content {
            Content::Null => Node::empty_map(inner.mark),
            Content::Scalar(_) | Content::List(_) | Content::Map(_) => inner,
        };
    }
}

/// What of a layer has its place, and everything that has not.
pub(super) fn conform(root: &Node) -> (Node, Vec<Diagnostic>) {
    let mut root = root.clone();
    unwrap_root(&mut root);
    let mut found = Vec::new();
    if let Some(stray) = root.entries().iter().find(|entry| entry.key == "dwcp") {
        let message = "the `dwcp:` root is not the only key";
        found.push(diagnostic(&stray.mark, "dwcp", message, "move all keys below it, or all of them out"));
        if let Content::Map(entries) = &mut root.content {
            entries.retain(|entry| entry.key != "dwcp");
        }
    }
    let mark = root.mark.clone();
    let root = check("", root, &SHAPE, &mut found).unwrap_or_else(|| Node::empty_map(mark));
    (root, found)
}

/// The value, where it has the shape; `None` where it says nothing or nothing that can be taken.
fn check(path: &str, node: Node, shape: &Shape, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let Node { mark, content } = node;
    match (shape, content) {
        (Shape::Scalar, content @ (Content::Null | Content::Scalar(_))) => Some(Node { mark, content }),
        (Shape::Scalar, Content::List(_) | Content::Map(_)) => {
            found.push(diagnostic(&mark, path, "takes one value", ""));
            None
        }
        // An empty list or section, all of it commented out, says nothing.
        (Shape::List | Shape::Section(_) | Shape::Named(_), Content::Null) => None,
        (Shape::List, content) => check_list(path, mark, content, found),
        (Shape::Section(keys), Content::Map(entries)) => Some(check_section(path, mark, entries, keys, found)),
        (Shape::Named(_), Content::Map(entries)) if entries.len() > MAX_NAMES => {
            found.push(diagnostic(&mark, path, format!("{} names are more than {MAX_NAMES}", entries.len()), ""));
            None
        }
        (Shape::Named(inner), Content::Map(entries)) => {
            let kept = entries.into_iter().filter_map(|Entry { key, mark, value }| {
                let path = join(path, &key);
                refuse_host_only(&path, &mark, found)?;
                refuse_beyond_a_node(&path, &mark, found)?;
                let value = match value.content {
                    // A name alone is there, though it says nothing.
                    Content::Null => Node::empty_map(value.mark),
                    Content::Scalar(_) | Content::List(_) | Content::Map(_) => check(&path, value, inner, found)?,
                };
                Some(Entry { key, mark, value })
            });
            let kept = kept.collect();
            Some(Node { mark, content: Content::Map(kept) })
        }
        (Shape::Section(keys), Content::Scalar(_) | Content::List(_)) => {
            let names: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
            found.push(diagnostic(&mark, path, "is a section", format!("its keys: {}", names.join(", "))));
            None
        }
        (Shape::Named(_), Content::Scalar(_) | Content::List(_)) => {
            found.push(diagnostic(
                &mark,
                path,
                "is a mapping of names",
                match path {
                    "syncs" => {
                        "for example syncs: {photos: {source: \"data:/photos\", destination: \"site-b:data:/in\"}}"
                    }
                    _ => "for example roots: {data: {path: /srv/data}}",
                },
            ));
            None
        }
    }
}

fn check_list(path: &str, mark: Mark, content: Content, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let items = match content {
        Content::List(items) => items,
        // Variables and flags know no lists.
        Content::Scalar(text) if mark.line == 0 => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| Node { mark: mark.clone(), content: Content::Scalar(part.to_owned()) }).collect()
        }
        Content::Null | Content::Scalar(_) | Content::Map(_) => {
            found.push(diagnostic(&mark, path, "takes a list", "write [a, b], or one `- a` to a line"));
            return None;
        }
    };
    for item in &items {
        if !matches!(item.content, Content::Scalar(_)) {
            found.push(diagnostic(&item.mark, path, "takes a list of single values", ""));
            return None;
        }
    }
    Some(Node { mark, content: Content::List(items) })
}

fn check_section(
    path: &str,
    mark: Mark,
    entries: Vec<Entry>,
    keys: &[(String, Shape)],
    found: &mut Vec<Diagnostic>,
) -> Node {
    let mut kept = Vec::new();
    for Entry { key, mark, value } in entries {
        let path = join(path, &key);
        let Some((_, shape)) = keys.iter().find(|(name, _)| *name == key) else {
            if found.len() < MAX_UNKNOWN {
                found.push(unknown(&path, &key, &mark, keys));
            }
            continue;
        };
        // A section is refused by its keys, so that each of them is named.
        if !matches!(shape, Shape::Section(_) | Shape::Named(_)) && refuse_host_only(&path, &mark, found).is_none() {
            continue;
        }
        if let Some(value) = check(&path, value, shape, found) {
            kept.push(Entry { key, mark, value });
        }
    }
    Node { mark, content: Content::Map(kept) }
}

/// `None`, and an error, where a document of the control plane says what only the host may.
fn refuse_host_only(path: &str, mark: &Mark, found: &mut Vec<Diagnostic>) -> Option<()> {
    if mark.layer.is_host() || !scope::is_host_only(path) {
        return Some(());
    }
    let hint = "set it in the file that the agent is given with --config, or by a flag there";
    found.push(diagnostic(mark, path, "is the host's own and cannot be set from the control plane", hint));
    None
}

/// `None`, and an error, where a layer that is not one node's says what only its document in the control plane may.
fn refuse_beyond_a_node(path: &str, mark: &Mark, found: &mut Vec<Diagnostic>) -> Option<()> {
    let of_a_node = matches!(*mark.layer, LayerName::Default | LayerName::Config(ConfigName::Node(_)));
    if of_a_node || !scope::is_nodes_only(path) {
        return Some(());
    }
    let hint = "write it into configs/node.NAME of the node that sends, or use `dwcp sync create`";
    found.push(diagnostic(mark, path, "is a sync of one node, and cannot be set here", hint));
    None
}

fn unknown(path: &str, key: &str, mark: &Mark, siblings: &[(String, Shape)]) -> Diagnostic {
    let near = suggest::nearest(key, siblings.iter().map(|(name, _)| name.as_str()));
    let parent = path.strip_suffix(key).unwrap_or_default();
    let hint = match near {
        Some(near) => format!("did you mean {parent}{near}?"),
        None => elsewhere(key).map(|path| format!("did you mean {path}?")).unwrap_or_default(),
    };
    diagnostic(mark, path, "unknown key", hint)
}

/// The path of a key of that very name in another section.
fn elsewhere(key: &str) -> Option<String> {
    let mut found = None;
    let Shape::Section(top) = &*SHAPE else { return None };
    for (name, shape) in top {
        if let Shape::Section(keys) = shape
            && keys.iter().any(|(inner, _)| inner == key)
        {
            found.get_or_insert_with(|| format!("{name}.{key}"));
        }
    }
    found
}
