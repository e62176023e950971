//! Every parser that meets bytes from outside, as one function of bytes each: what libFuzzer drives (`tests/fuzz`), and what the
//! suite runs over the kept corpus.
//!
//! A target takes any bytes and returns; it panics where the parser does, or where a property does not hold: what was parsed is
//! encoded and parsed again as it was, what was decoded has the length that was promised, no path leads out of its folder.

#![allow(clippy::panic, reason = "a property that does not hold is said by a panic")]

mod disk;
mod documents;
mod frames;
mod pieces;
mod seeds;
mod signed;
mod texts;

pub use seeds::seeds;

/// A parser under test.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 24] = [
    ("sender_frame", frames::sender_frame),
    ("receiver_frame", frames::receiver_frame),
    ("manifest", frames::manifest),
    ("amst_frame", frames::amst_frame),
    ("piece", pieces::piece),
    ("bundle", pieces::bundle),
    ("known", pieces::known),
    ("container", pieces::container),
    ("decoder", pieces::decoder),
    ("signature", pieces::signature),
    ("numbers", pieces::numbers),
    ("small", pieces::small),
    ("grant", signed::grant),
    ("roster", signed::roster),
    ("dht_record", signed::dht_record),
    ("checkpoint", signed::checkpoint),
    ("certificate", signed::certificate),
    ("config", documents::config),
    ("audit_leaf", documents::audit_leaf),
    ("path", texts::path),
    ("glob", texts::glob),
    ("text", texts::text),
    ("token", texts::token),
    ("disk", disk::disk),
];

/// Whatever came of it: that it came to an end is all that is asked.
fn tried<T>(_outcome: T) {}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
