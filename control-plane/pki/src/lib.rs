//! The fleet's certificates, the seal of its keys, and the secrets of its tokens. Without a network; the only file is the seal key's.

mod ca;
mod certificate;
mod seal;
pub mod secret;

pub use ca::{
    BACKDATED, CONTROL_PLANE_NAME, CaError, FleetCa, NODE_CERTIFICATE_DAYS, NodeCertificate, SERVER_CERTIFICATE_DAYS,
    ServerCertificate, ServerNames,
};
pub use certificate::{
    CertificateError, NODE_NAME_SUFFIX, fingerprint, node_name, node_uid_of, not_after_of, public_key_of,
    verify_audit_key,
};
pub use seal::{SealError, SealKey};
pub use secret::{JoinSecret, OperatorSecret, SecretError};
