//! What a host lets be read and written: its roots, as their owner named them (D3, D21).

use std::{collections::BTreeMap, sync::Arc};

use dataplane_identity::Member;
use proto_model::{RootName, RootPath, config::Root};

use crate::{
    confine::{Closed, Folder},
    reason::end,
    stop::Stop,
};

/// The roots of a host. Without any nothing can be read or written.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    roots: BTreeMap<RootName, Root>,
    closed: Option<Arc<Closed>>,
}

impl Roots {
    /// These roots.
    #[must_use]
    pub fn new(roots: BTreeMap<RootName, Root>) -> Self {
        Self { roots, closed: None }
    }

    /// The same roots, with a folder closed wherever they lead to it.
    pub(crate) fn without(self, closed: Option<Arc<Closed>>) -> Self {
        Self { closed, ..self }
    }

    /// A root by its name.
    #[must_use]
    pub fn root(&self, name: &RootName) -> Option<&Root> {
        self.roots.get(name)
    }

    fn existing(&self, name: &RootName) -> Result<&Root, Stop> {
        self.root(name).ok_or_else(|| {
            let known = self.roots.keys().map(RootName::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "it has none: start the agent with --root".to_owned() } else { known };
            Stop::final_(end::NO_SUCH_ROOT, format!("this host has no root {name} (its roots: {known})"))
        })
    }

    /// Opens a root for reading.
    pub(crate) fn open(&self, name: &RootName) -> Result<Folder, Stop> {
        let root = self.existing(name)?;
        Folder::root(&root.path, self.closed.as_ref()).map_err(|error| {
            Stop::final_(end::SOURCE_UNAVAILABLE, format!("the root {name} cannot be opened: {error}"))
        })
    }

    /// The root that may be written to.
    pub(crate) fn writable(&self, path: &RootPath) -> Result<&Root, Stop> {
        let root = self.existing(&path.root)?;
        if root.read_only {
            return Err(Stop::final_(end::READ_ONLY_ROOT, format!("the root {} is read-only on this host", path.root)));
        }
        Ok(root)
    }

    /// Whether any root accepts direct sends of this member.
    pub(crate) fn accept_some(&self, member: &Member) -> bool {
        let mut rules = self.roots.values().flat_map(|root| &root.accept);
        rules.any(|rule| rule.accepts(&member.name, &member.labels))
    }

    /// The root that accepts a direct send of this member. Whom no root of that name accepts learns nothing of the roots there are.
    pub(crate) fn accepting(&self, path: &RootPath, member: &Member) -> Result<&Root, Stop> {
        let accepts = |root: &&Root| root.accept.iter().any(|rule| rule.accepts(&member.name, &member.labels));
        if self.root(&path.root).filter(accepts).is_some() {
            return self.writable(path);
        }
        let message = format!(
            "no root {} here accepts direct sends of {}; the host's owner adds it to `accept`",
            path.root, member.name
        );
        Err(Stop::final_(end::NOT_ACCEPTED, message))
    }
}
