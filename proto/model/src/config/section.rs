//! Reading typed values out of a merged tree: each read checks, remembers the value's canonical form, and goes on with the
//! built-in default where something is wrong, so that everything wrong is found at once.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::{
    Diagnostic, LayerName,
    duration::{format_duration, parse_duration},
    node::{Content, Mark, Node, join},
    parse::diagnostic,
    render, scope,
    shape::{DEFAULT_TREE, ROOT_DEFAULT_TREE, SYNC_DEFAULT_TREE},
    suggest,
};
use crate::{ByteCount, escape::shortened};

/// Values that a key can have, by name.
pub(super) trait Choice: Copy + 'static {
    /// All of them.
    const ALL: &'static [Self];
    /// The name.
    fn name(self) -> &'static str;
}

/// An enum whose values have names in the configuration.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// The name in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }

        impl $crate::config::section::Choice for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)*];

            fn name(self) -> &'static str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(super) use choice;

/// Reads a merged tree.
pub(super) struct Reader<'a> {
    root: &'a Node,
    layers: &'a [Arc<LayerName>],
    /// Canonical YAML of each value that was read.
    pub(super) canonical: HashMap<String, String>,
    pub(super) found: Vec<Diagnostic>,
    /// Keys of which something is wrong: no rule is tried on them.
    failed: HashSet<String>,
}

/// Reads a section of it.
pub(super) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
}

/// A value and its canonical YAML, or what is wrong with it and what to do.
type Read<T> = Result<(T, String), (String, String)>;

fn wrong<T>(message: impl Into<String>) -> Read<T> {
    Err((message.into(), String::new()))
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Node, layers: &'a [Arc<LayerName>]) -> Self {
        Self { root, layers, canonical: HashMap::new(), found: Vec::new(), failed: HashSet::new() }
    }

    /// A section, by its path; the top by an empty one.
    pub(super) fn section(&mut self, path: &str) -> Section<'_, 'a> {
        Section { reader: self, path: path.to_owned() }
    }

    /// The names below a path.
    pub(super) fn names<T, E: fmt::Display>(&mut self, path: &str, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        let mut names = Vec::new();
        for entry in self.root.at(path).map(Node::entries).unwrap_or_default() {
            match parse(&entry.key) {
                Ok(name) => names.push(name),
                Err(error) => {
                    let path = join(path, &entry.key);
                    self.found.push(diagnostic(&entry.mark, &path, error.to_string(), ""));
                }
            }
        }
        names
    }

    /// How high a layer is.
    fn rank(&self, mark: &Mark) -> usize {
        self.layers.iter().position(|layer| Arc::ptr_eq(layer, &mark.layer)).map_or(0, |position| position + 1)
    }
}

impl Section<'_, '_> {
    /// A value, as `read` takes it; the built-in default's where it does not.
    fn leaf<T>(&mut self, key: &str, read: impl Fn(&Node) -> Read<T>) -> T {
        self.try_leaf(key, &read).unwrap_or_else(|| {
            let named = || ROOT_DEFAULT_TREE.child(key).or_else(|| SYNC_DEFAULT_TREE.child(key));
            let default = DEFAULT_TREE.at(&join(&self.path, key)).or_else(named);
            let (value, _) = default.and_then(|node| read(node).ok()).expect("the built-in default is valid");
            value
        })
    }

    fn try_leaf<T>(&mut self, key: &str, read: impl Fn(&Node) -> Read<T>) -> Option<T> {
        let path = join(&self.path, key);
        let node = self.reader.root.at(&path)?;
        match read(node) {
            Ok((value, canonical)) => {
                self.reader.canonical.insert(path, canonical);
                Some(value)
            }
            Err((message, hint)) => {
                let message = if scope::is_secret(&path) { "is not usable".to_owned() } else { message };
                self.reader.found.push(diagnostic(&node.mark, &path, message, hint));
                self.reader.failed.insert(path);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.leaf(key, |node| match scalar(node)? {
            "true" | "True" | "TRUE" => Ok((true, "true".to_owned())),
            "false" | "False" | "FALSE" => Ok((false, "false".to_owned())),
            other => wrong(format!("\"{}\" is neither true nor false", shortened(other))),
        })
    }

    pub(super) fn number<N>(&mut self, key: &str, range: RangeInclusive<N>) -> N
    where
        N: Copy + fmt::Display + TryFrom<i128> + Into<i128>,
    {
        let bounds = (*range.start()).into()..=(*range.end()).into();
        self.leaf(key, |node| {
            let text = scalar(node)?;
            let digits = text.strip_prefix('-').unwrap_or(text);
            let whole = (1..=30).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            let Some(number) = whole.then(|| text.parse::<i128>().ok()).flatten() else {
                return wrong(format!("\"{}\" is not a whole number", shortened(text)));
            };
            let number = within(number, &bounds, |number| number.to_string())?;
            let Ok(typed) = N::try_from(number) else { return wrong(format!("{number} is too large")) };
            Ok((typed, number.to_string()))
        })
    }

    pub(super) fn real(&mut self, key: &str, range: RangeInclusive<f64>) -> f64 {
        self.leaf(key, |node| {
            let text = scalar(node)?;
            let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
            let Some(number) = text.parse::<f64>().ok().filter(|number| plain && number.is_finite()) else {
                return wrong(format!("\"{}\" is not a number", shortened(text)));
            };
            let number = within(number, &range, |number| number.to_string())?;
            Ok((number, format!("{number:?}")))
        })
    }

    /// A duration; its range is in seconds.
    pub(super) fn duration(&mut self, key: &str, range: RangeInclusive<u64>) -> Duration {
        let range = Duration::from_secs(*range.start())..=Duration::from_secs(*range.end());
        self.leaf(key, |node| {
            let text = scalar(node)?;
            let Ok(duration) = parse_duration(text) else {
                let hint = "30s, 5m, 250ms, 1h30m; a bare number is seconds".to_owned();
                return Err((format!("\"{}\" is not a duration", shortened(text)), hint));
            };
            let duration = within(duration, &range, |duration| format_duration(*duration))?;
            Ok((duration, format_duration(duration)))
        })
    }

    pub(super) fn size(&mut self, key: &str, range: RangeInclusive<ByteCount>) -> ByteCount {
        self.leaf(key, |node| {
            let size = scalar(node)?.parse::<ByteCount>().map_err(|error| (error.to_string(), String::new()))?;
            let size = within(size, &range, ToString::to_string)?;
            Ok((size, size.to_string()))
        })
    }

    pub(super) fn choice<C: Choice>(&mut self, key: &str) -> C {
        self.leaf(key, |node| {
            let text = scalar(node)?;
            if let Some(choice) = C::ALL.iter().find(|choice| choice.name() == text) {
                return Ok((*choice, choice.name().to_owned()));
            }
            let names: Vec<&str> = C::ALL.iter().map(|choice| choice.name()).collect();
            let near = suggest::nearest(text, names.iter().copied());
            let hint = near.map(|near| format!("did you mean {near}?")).unwrap_or_default();
            Err((format!("\"{}\" is none of {}", shortened(text), names.join(", ")), hint))
        })
    }

    /// A text with a form.
    pub(super) fn parsed<T, E: fmt::Display>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> T {
        self.leaf(key, |node| read_text(scalar(node)?, &parse))
    }

    /// A text with a form, of which there is no default.
    pub(super) fn required<T: Default, E: fmt::Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.try_leaf(key, |node| read_text(scalar(node)?, &parse)).unwrap_or_default()
    }

    /// A text with a form, or none.
    pub(super) fn optional<T, E: fmt::Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.leaf(key, |node| match &node.content {
            Content::Null => Ok((None, "null".to_owned())),
            Content::Scalar(text) if text.is_empty() => Ok((None, "null".to_owned())),
            Content::Scalar(text) => read_text(text, &parse).map(|(value, canonical)| (Some(value), canonical)),
            Content::List(_) | Content::Map(_) => wrong("takes one value"),
        })
    }

    /// Texts with a form.
    pub(super) fn list<T, E: fmt::Display>(
        &mut self,
        key: &str,
        max: usize,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        self.leaf(key, |node| {
            let Content::List(items) = &node.content else { return wrong("takes a list") };
            if items.len() > max {
                return wrong(format!("{} elements are more than {max}", items.len()));
            }
            let read: Result<Vec<(T, String)>, _> = items.iter().map(|item| read_text(scalar(item)?, &parse)).collect();
            let (values, canonical): (Vec<T>, Vec<String>) = read?.into_iter().unzip();
            Ok((values, render::list(canonical.into_iter())))
        })
    }

    /// Who says what a value is.
    pub(super) fn layer_of(&self, key: &str) -> Option<&LayerName> {
        self.reader.root.at(&join(&self.path, key)).map(|node| &*node.mark.layer)
    }

    /// Whether nobody but the built-in document says what a value is.
    pub(super) fn is_default(&self, key: &str) -> bool {
        let node = self.reader.root.at(&join(&self.path, key));
        node.is_none_or(|node| matches!(*node.mark.layer, LayerName::Default))
    }

    /// Says that a value that nobody chose follows others.
    pub(super) fn amend(&mut self, key: &str, canonical: impl fmt::Display) {
        self.reader.canonical.insert(join(&self.path, key), canonical.to_string());
    }

    /// Refuses a value for a reason that its form does not show.
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>, hint: &str) {
        let path = join(&self.path, key);
        if self.reader.failed.contains(&path) {
            return;
        }
        if let Some(node) = self.reader.root.at(&path) {
            self.reader.found.push(diagnostic(&node.mark, &path, message, hint));
        }
    }

    /// Sees to it that one value is not above another; the one that was set last is to blame.
    pub(super) fn ordered<T: PartialOrd + fmt::Display>(&mut self, low: (&str, T), high: (&str, T)) {
        if low.1 > high.1 {
            self.out_of_order((low.0, low.1.to_string()), (high.0, high.1.to_string()));
        }
    }

    /// The same of durations.
    pub(super) fn ordered_durations(&mut self, low: (&str, Duration), high: (&str, Duration)) {
        if low.1 > high.1 {
            self.out_of_order((low.0, format_duration(low.1)), (high.0, format_duration(high.1)));
        }
    }

    fn out_of_order(&mut self, low: (&str, String), high: (&str, String)) {
        let failed = |key: &str| self.reader.failed.contains(&join(&self.path, key));
        if failed(low.0) || failed(high.0) {
            return;
        }
        let rank =
            |key: &str| self.reader.root.at(&join(&self.path, key)).map_or(0, |node| self.reader.rank(&node.mark));
        if rank(low.0) > rank(high.0) {
            self.refuse(low.0, format!("{} is above {} ({})", low.1, high.0, high.1), "");
        } else {
            self.refuse(high.0, format!("{} is below {} ({})", high.1, low.0, low.1), "");
        }
    }
}

fn scalar(node: &Node) -> Result<&str, (String, String)> {
    match &node.content {
        Content::Scalar(text) => Ok(text),
        Content::Null => Err(("needs a value".to_owned(), String::new())),
        Content::List(_) | Content::Map(_) => Err(("takes one value".to_owned(), String::new())),
    }
}

fn read_text<T, E: fmt::Display>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Read<T> {
    match parse(text) {
        Ok(value) => Ok((value, render::text(text))),
        Err(error) => {
            let error = error.to_string();
            // Some errors say the text themselves.
            if error.contains('"') { wrong(error) } else { wrong(format!("\"{}\" {error}", shortened(text))) }
        }
    }
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    text: impl Fn(&T) -> String,
) -> Result<T, (String, String)> {
    let hint = || format!("{} to {}", text(range.start()), text(range.end()));
    if value < *range.start() {
        Err((format!("{} is below {}", text(&value), text(range.start())), hint()))
    } else if value > *range.end() {
        Err((format!("{} is above {}", text(&value), text(range.end())), hint()))
    } else {
        Ok(value)
    }
}
