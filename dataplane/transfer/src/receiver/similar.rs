//! Finds a file that is like a new one: one that was renamed and changed, or a second image of a kind. Its chunks are told to the sender as those
//! of an old version are.
//!
//! Only files that this host published below the granted folder are looked at, none through a link and none that has another name, which may be
//! outside: whoever may write there is told their chunks under their own paths as well (`old_versions`).

use std::{fs::File, os::unix::fs::FileExt};

use dataplane_hde::{FileAt, SKETCH_WINDOW_BYTES, Sketch, sketch_has, sketch_windows};
use proto_wire::{frames::WantedFile, manifest::Entry, tree_path::TreePath};

use super::{
    compare::Comparer,
    old_versions::{BASIS_FACTOR, describe},
    state::{Receiving, gone},
};
use crate::{confine::size, exclude::is_temporary, stop::Stop};

/// Smaller files have no sketch: to make one would take as long as to read them.
pub(crate) const SKETCH_FROM_BYTES: u64 = 16 << 20;
/// Words that a file must have in common with another one to be like it.
pub(crate) const LEAST_WORDS: usize = 2;
/// Files that are looked into for one new file: the likeliest by name and size.
const MAX_LOOKED_INTO: usize = 8;
/// What is looked through around the place of a window, besides as much as the sizes differ.
const SLACK_BYTES: u64 = 64 << 10;
/// That is at most so much.
const MAX_SLACK_BYTES: u64 = 1 << 20;

impl Comparer {
    /// Asks for a file that has no old version, by one that is like it where there is such.
    pub(super) fn say_with_similar(&mut self, file: WantedFile, entry: &Entry) -> Result<(), Stop> {
        let receiving = std::sync::Arc::clone(&self.receiving);
        let sketch = entry.versions.sketch.filter(|_| receiving.deltas && entry.size() >= SKETCH_FROM_BYTES);
        let Some(sketch) = sketch.filter(|_| receiving.files().may_have_similar()) else { return self.say(file) };
        let Some((similar, bytes)) = find(&receiving, entry, &sketch)? else { return self.say(file) };
        let usable = bytes.min(entry.size().saturating_mul(BASIS_FACTOR));
        let Some(described) = describe(&receiving, &similar, usable)? else { return self.say(file) };
        let Ok(similar) = FileAt::new(similar) else { return self.say(file) };
        metrics::counter!("dwcp_hde_similar_files_total").increment(1);
        receiving.files().offer_similar(file.file, similar);
        self.say_signature(WantedFile { basis_bytes: usable, elsewhere: true, ..file }, &described.signature)
    }
}

/// The file that has most words of a sketch, and its size.
fn find(receiving: &Receiving, entry: &Entry, sketch: &Sketch) -> Result<Option<(File, u64)>, Stop> {
    let (at, wanted) = (&receiving.destination, entry.size());
    let mut near = receiving.shared.versions.of_sizes(&at.root, wanted / 2..=wanted.saturating_mul(2));
    let name = entry.path.name();
    near.sort_by_key(|(path, size)| {
        let other = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        (other != name, extension(other) != extension(name), size.abs_diff(wanted))
    });
    let mut best: Option<(usize, File, u64)> = None;
    let below = near.into_iter().filter_map(|(path, _)| {
        let below = match at.path.as_bytes() {
            [] => path.as_slice(),
            folder => path.strip_prefix(folder)?.strip_prefix(b"/")?,
        };
        TreePath::parse(below).ok().filter(|path| *path != entry.path && !is_temporary(path.name()))
    });
    for path in below.take(MAX_LOOKED_INTO) {
        if receiving.frames.is_closed() {
            return Err(gone());
        }
        let Ok(file) = receiving.parent(&path).and_then(|parent| parent.read(path.name())) else { continue };
        let Some(stat) = rustix::fs::fstat(&file).ok().filter(|stat| stat.st_nlink == 1) else { continue };
        let bytes = size(&stat);
        let words = words_in(&file, bytes, wanted, sketch);
        if words >= LEAST_WORDS && best.as_ref().is_none_or(|(most, ..)| words > *most) {
            best = Some((words, file, bytes));
        }
        if words == sketch.iter().filter(|word| **word != 0).count() {
            break;
        }
    }
    Ok(best.map(|(_, file, bytes)| (file, bytes)))
}

fn extension(name: &[u8]) -> &[u8] {
    name.iter().rposition(|byte| *byte == b'.').map_or(&[], |dot| &name[dot..])
}

/// How many words of the sketch of a file of `wanted` bytes are in a file, about where they are in that one.
fn words_in(file: &File, bytes: u64, wanted: u64, sketch: &Sketch) -> usize {
    let slack = bytes.abs_diff(wanted).saturating_add(SLACK_BYTES).min(MAX_SLACK_BYTES);
    let window = u64::try_from(SKETCH_WINDOW_BYTES).unwrap_or_default();
    let mut room = Vec::new();
    let both = sketch_windows(wanted).into_iter().zip(sketch).filter(|(_, word)| **word != 0);
    both.filter(|(offset, word)| {
        let from = offset.saturating_sub(slack).min(bytes);
        let to = offset.saturating_add(window).saturating_add(slack).min(bytes);
        room.resize(usize::try_from(to - from).unwrap_or_default(), 0);
        file.read_exact_at(&mut room, from).is_ok() && sketch_has(&room, **word)
    })
    .count()
}
