//! What two processes of DWCP put between themselves besides gRPC: signed bytes, grants and roster entries, the frames and
//! pieces of a transfer or a bench, its manifest, the container of an encoded segment, and the signature of an object. Pure
//! encode and decode, no I/O.
//!
//! Everything here meets bytes that a stranger may have made, so every decoder has a bound and none panics.

pub mod bench;
pub mod frames;
pub mod grant;
pub mod hde;
pub mod manifest;
pub mod piece;
pub mod renew;
pub mod roster;
pub mod signature;
pub mod signed;
pub mod sync;
pub mod tree_path;

pub use signed::Signed;
pub use tree_path::TreePath;
