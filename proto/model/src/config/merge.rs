//! One layer over another.

use super::node::{Content, Node};

/// Puts `over` over `base`: keys of mappings meet, everything else is replaced whole. Associative for trees of one shape, which
/// is what [`super::shape`] sees to before.
pub(super) fn merge(base: &mut Node, over: &Node) {
    match (&mut base.content, &over.content) {
        (Content::Map(below), Content::Map(above)) => {
            for entry in above {
                match below.iter_mut().find(|held| held.key == entry.key) {
                    Some(held) => merge(&mut held.value, &entry.value),
                    None => below.push(entry.clone()),
                }
            }
        }
        (Content::Null | Content::Scalar(_) | Content::List(_) | Content::Map(_), _) => *base = over.clone(),
    }
}
