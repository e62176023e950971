//! Section `security`: what the manual lets one switch, and what is always on here.

use super::section::Reader;

/// Always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security {
    /// TLS on every connection between hosts.
    pub enable_tls: bool,
    /// Certificates at both ends.
    pub enable_mtls: bool,
}

impl Security {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("security");
        let security = Self { enable_tls: section.boolean("enable_tls"), enable_mtls: section.boolean("enable_mtls") };
        if !security.enable_tls {
            section.refuse(
                "enable_tls",
                "false is not possible: QUIC is always encrypted, and who a peer is comes from its certificate",
                "remove the key; `enabled: false` switches AMST and HDE off and keeps TLS",
            );
        }
        if !security.enable_mtls {
            section.refuse(
                "enable_mtls",
                "false is not possible: an agent without a certificate of the fleet is a stranger",
                "remove the key",
            );
        }
        security
    }
}
