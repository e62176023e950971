//! Section `syncs`: standing syncs that one node sends. Only in `configs/node.NAME` of that node: the control plane makes them, with their grants, in
//! the transaction that stores the document. The agent is told of them as of all others.

use std::{collections::BTreeMap, time::Duration};

use super::{Diagnostic, LayerName, Tree, resolve, section::Reader};
use crate::{ConfigName, Glob, NodeName, NodeRef, RootPath, SyncName, SyncSpec};

/// A sync that a node's configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredSync {
    /// The folder or file.
    pub source: RootPath,
    /// Who receives, and the folder there.
    pub destination: (NodeName, RootPath),
    /// The least time from the beginning of one run to that of the next.
    pub every: Duration,
    /// Left alone at both ends.
    pub exclude: Vec<Glob>,
    /// Compares contents where size and time agree.
    pub checksum: bool,
    /// Whether the first run may replace and delete what it finds.
    pub adopt: bool,
}

impl ConfiguredSync {
    /// What is asked for of the node whose configuration it stands in.
    #[must_use]
    pub fn spec(&self, node: &NodeName) -> SyncSpec {
        let (destination_node, destination_path) = self.destination.clone();
        SyncSpec {
            source_node: NodeRef::Name(node.clone()),
            source_path: self.source.clone(),
            destination_node: NodeRef::Name(destination_node),
            destination_path,
            every: self.every,
            exclude: self.exclude.clone(),
            checksum: self.checksum,
        }
    }

    pub(super) fn read_all(reader: &mut Reader<'_>) -> BTreeMap<SyncName, Self> {
        let mut syncs = BTreeMap::new();
        for name in reader.names("syncs", parse_name) {
            let mut section = reader.section(&format!("syncs.{name}"));
            let source = section.required("source", |text| text.parse::<RootPath>().map(Some));
            let destination = section.required("destination", |text| parse_destination(text).map(Some));
            let seconds = SyncSpec::MIN_EVERY.as_secs()..=SyncSpec::MAX_EVERY.as_secs();
            let every = section.duration("every", seconds);
            let exclude = section.list("exclude", Glob::MAX_IN_A_TRANSFER, |text| text.parse::<Glob>());
            let (checksum, adopt) = (section.boolean("checksum"), section.boolean("adopt"));
            let own = match section.layer_of("destination") {
                Some(LayerName::Config(ConfigName::Node(node))) => Some(node.clone()),
                _ => None,
            };
            let (Some(source), Some(destination)) = (source, destination) else { continue };
            if own.as_ref() == Some(&destination.0) {
                section.refuse("destination", "is the sender itself: a sync has two hosts", "");
            }
            syncs.insert(name, Self { source, destination, every, exclude, checksum, adopt });
        }
        syncs
    }
}

/// The syncs of a document, whatever else it says.
///
/// # Errors
/// What is wrong with them.
pub fn configured_syncs(document: &Tree) -> Result<BTreeMap<SyncName, ConfiguredSync>, Vec<Diagnostic>> {
    resolve(&[document.section("syncs")]).map(|effective| effective.config.syncs)
}

/// A dot would be taken for the end of a key.
fn parse_name(text: &str) -> Result<SyncName, String> {
    let name = text.parse::<SyncName>().map_err(|error| error.to_string())?;
    if text.contains('.') { Err("has a dot, which the name of a configured sync may not".to_owned()) } else { Ok(name) }
}

fn parse_destination(text: &str) -> Result<(NodeName, RootPath), String> {
    let form = || "is not of the form NODE:ROOT:/PATH".to_owned();
    let (node, path) = text.split_once(':').ok_or_else(form)?;
    let node = node.parse::<NodeName>().map_err(|error| error.to_string())?;
    let path = path.parse::<RootPath>().map_err(|_bad| form())?;
    Ok((node, path))
}
