//! Who this host is, whom it trusts, and the TLS that follows from both.
//!
//! One Ed25519 key, made at the first start, is the node: the fleet's CA certifies it, QUIC and gRPC authenticate with it,
//! and the SHA-1 of its public half is the node's id. Who belongs to the fleet is a roster of entries signed one by one by
//! the control plane (D1); it lies on disk, so that a host that restarts without a control plane still knows its peers.
//!
//! [`Identity`] is the whole of it in a data directory; [`Membership`] is the view of the roster that other parts ask.

mod certificate;
mod fingerprint;
mod identity;
mod membership;
mod node_key;
mod roster;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
mod trust_store;

pub use certificate::{Certificate, CertificateError};
pub use fingerprint::{BadFingerprint, CaFingerprint};
pub use identity::{Identity, IdentityError};
pub use membership::{Member, Membership};
pub use node_key::{NodeKey, NodeKeyError};
pub use roster::{RosterError, RosterPosition, RosterUpdate};
pub use trust_store::{TrustStore, TrustStoreError};
