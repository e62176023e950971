//! YAML into a tree, one event at a time: no recursion, every bound checked before it is passed, everything refused that could
//! hide what a document says (aliases, anchors, tags, merge keys, duplicates, further documents).

use std::{collections::HashSet, sync::Arc};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::{
    Diagnostic, Layer, LayerName, Severity, Tree,
    node::{Content, Entry, Mark, Node},
};

/// Bytes of a document. The built-in one, which names every key, has 5 KiB; a PEM chain has a few.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// Mappings and lists within one another. The keys need four.
pub const MAX_DEPTH: usize = 16;
/// Keys and values of a document. All keys and 256 roots with their rules have fewer.
pub const MAX_NODES: usize = 20_000;

/// Parses a layer.
///
/// # Errors
/// The first thing that makes it no document of ours, with its place. What the keys mean is not looked at.
pub fn parse(layer: Layer) -> Result<Tree, Vec<Diagnostic>> {
    let name = Arc::new(layer.name);
    let whole = |message: String, hint: &str| vec![diagnostic(&Mark::nowhere(&name), "", message, hint)];
    if layer.text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes are more than {MAX_DOCUMENT_BYTES}", layer.text.len());
        return Err(whole(message, "a configuration is not that large"));
    }
    let text = layer.text.strip_prefix('\u{feff}').unwrap_or(&layer.text);
    let root = Builder::new(&name).build(text).map_err(|error| vec![error])?;
    let root = match root {
        Some(Node { mark, content: Content::Null }) => Node::empty_map(mark),
        Some(node @ Node { content: Content::Map(_), .. }) => node,
        None => Node::empty_map(Mark::nowhere(&name)),
        Some(Node { mark, content: Content::Scalar(_) | Content::List(_) }) => {
            return Err(vec![diagnostic(&mark, "", "a configuration is a mapping of keys to values".to_owned(), "")]);
        }
    };
    Ok(Tree { name, root, warnings: Vec::new() })
}

/// An error at a place.
pub(super) fn diagnostic(mark: &Mark, path: &str, message: impl Into<String>, hint: impl Into<String>) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        path: path.to_owned(),
        file: mark.layer.file(),
        line: mark.line,
        column: mark.column,
        message: message.into(),
        hint: hint.into(),
    }
}

/// A mapping or list that is not closed yet.
enum Open {
    List { mark: Mark, items: Vec<Node> },
    Map { mark: Mark, entries: Vec<Entry>, seen: HashSet<String>, key: Option<(String, Mark)> },
}

struct Builder<'a> {
    layer: &'a Arc<LayerName>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
}

impl<'a> Builder<'a> {
    fn new(layer: &'a Arc<LayerName>) -> Self {
        Self { layer, open: Vec::new(), root: None, nodes: 0, documents: 0 }
    }

    fn build(mut self, text: &str) -> Result<Option<Node>, Diagnostic> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| self.scan_error(&error))?;
            self.on_event(event, span)?;
        }
        Ok(self.root)
    }

    fn on_event(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        let mark = self.mark(&span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => self.on_document(&mark),
            Event::Alias(_) => Err(self.refuse(&mark, "an alias is not allowed", "write the value out")),
            Event::Scalar(text, style, anchor, tag) => {
                self.check_plain(&mark, anchor, tag.is_some())?;
                self.on_scalar(&text, style, mark)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_plain(&mark, anchor, tag.is_some())?;
                self.on_open(Open::List { mark: mark.clone(), items: Vec::new() }, &mark)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_plain(&mark, anchor, tag.is_some())?;
                let map = Open::Map { mark: mark.clone(), entries: Vec::new(), seen: HashSet::new(), key: None };
                self.on_open(map, &mark)
            }
            Event::SequenceEnd | Event::MappingEnd => self.on_close(&mark),
        }
    }

    fn on_document(&mut self, mark: &Mark) -> Result<(), Diagnostic> {
        self.documents += 1;
        if self.documents > 1 {
            return Err(self.refuse(mark, "a second document is not allowed", "keep one document to a file"));
        }
        Ok(())
    }

    fn on_scalar(&mut self, text: &str, style: ScalarStyle, mark: Mark) -> Result<(), Diagnostic> {
        self.count(&mark)?;
        let is_key = matches!(self.open.last(), Some(Open::Map { key: None, .. }));
        if is_key {
            return self.on_key(text, mark);
        }
        let null = style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
        let content = if null { Content::Null } else { Content::Scalar(text.to_owned()) };
        self.on_value(Node { mark, content })
    }

    fn on_key(&mut self, text: &str, mark: Mark) -> Result<(), Diagnostic> {
        let path = self.path();
        let Some(Open::Map { seen, key, .. }) = self.open.last_mut() else { return Ok(()) };
        let path = super::node::join(&path, text);
        if text == "<<" {
            return Err(diagnostic(&mark, &path, "a merge key is not allowed", "write the values out"));
        }
        if !seen.insert(text.to_owned()) {
            return Err(diagnostic(&mark, &path, "the key is there twice", "remove one"));
        }
        *key = Some((text.to_owned(), mark));
        Ok(())
    }

    fn on_open(&mut self, open: Open, mark: &Mark) -> Result<(), Diagnostic> {
        self.count(mark)?;
        if matches!(self.open.last(), Some(Open::Map { key: None, .. })) {
            return Err(self.refuse(mark, "a key is a word, not a list or mapping", ""));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.refuse(mark, format!("nested more than {MAX_DEPTH} deep"), ""));
        }
        self.open.push(open);
        Ok(())
    }

    fn on_close(&mut self, end: &Mark) -> Result<(), Diagnostic> {
        let node = match self.open.pop() {
            Some(Open::List { mark, items }) => Node { mark, content: Content::List(items) },
            Some(Open::Map { mark, entries, .. }) => Node { mark, content: Content::Map(entries) },
            None => return Err(self.refuse(end, "an end without a beginning", "")),
        };
        self.on_value(node)
    }

    fn on_value(&mut self, value: Node) -> Result<(), Diagnostic> {
        let stray = match self.open.last_mut() {
            None => {
                self.root = Some(value);
                return Ok(());
            }
            Some(Open::List { items, .. }) => {
                items.push(value);
                return Ok(());
            }
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((key, mark)) => {
                    entries.push(Entry { key, mark, value });
                    return Ok(());
                }
                None => value.mark,
            },
        };
        Err(self.refuse(&stray, "a value without a key", ""))
    }

    fn check_plain(&self, mark: &Mark, anchor: usize, tagged: bool) -> Result<(), Diagnostic> {
        if anchor != 0 {
            return Err(self.refuse(mark, "an anchor is not allowed", "write the value out where it is needed"));
        }
        if tagged {
            return Err(self.refuse(mark, "a tag is not allowed", "the key says what a value means"));
        }
        Ok(())
    }

    fn count(&mut self, mark: &Mark) -> Result<(), Diagnostic> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.refuse(mark, format!("more than {MAX_NODES} keys and values"), ""));
        }
        Ok(())
    }

    /// The keys that are open.
    fn path(&self) -> String {
        let keys = self.open.iter().filter_map(|open| match open {
            Open::Map { key: Some((key, _)), .. } => Some(key.as_str()),
            Open::Map { key: None, .. } | Open::List { .. } => None,
        });
        keys.collect::<Vec<_>>().join(".")
    }

    fn refuse(&self, mark: &Mark, message: impl Into<String>, hint: &str) -> Diagnostic {
        diagnostic(mark, &self.path(), message, hint)
    }

    fn scan_error(&self, error: &ScanError) -> Diagnostic {
        self.refuse(&self.mark(error.marker()), format!("not YAML: {}", crate::escape_str(error.info())), "")
    }

    fn mark(&self, marker: &Marker) -> Mark {
        let line = u32::try_from(marker.line()).unwrap_or(u32::MAX);
        let column = u32::try_from(marker.col()).unwrap_or(u32::MAX).saturating_add(1);
        Mark { layer: Arc::clone(self.layer), line, column }
    }
}
