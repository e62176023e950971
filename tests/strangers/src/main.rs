//! `dwcp-strangers`: see the library.
#![allow(missing_docs, reason = "a program")]
fn main() {}
