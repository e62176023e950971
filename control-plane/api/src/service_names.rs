//! What the services are called.

/// The operators' services, by full name.
pub(crate) const SERVICES: [&str; 9] = [
    "dwcp.v1.AuditService",
    "dwcp.v1.BenchService",
    "dwcp.v1.ConfigService",
    "dwcp.v1.JoinTokenService",
    "dwcp.v1.NodeService",
    "dwcp.v1.OperatorTokenService",
    "dwcp.v1.SyncService",
    "dwcp.v1.SystemService",
    "dwcp.v1.TransferService",
];
