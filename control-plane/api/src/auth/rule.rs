//! What a method demands of its caller.

use std::{collections::BTreeSet, sync::LazyLock};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use proto_model::Role;

/// The methods that there are, `dwcp.v1.NodeService/GetNode`, and the HTTP side by its own name.
static METHODS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(proto_rpc::DESCRIPTOR_SET).unwrap_or_default();
    let mut methods = BTreeSet::from(["http".to_owned()]);
    for file in &set.file {
        for service in &file.service {
            let method = |method: &str| format!("{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|found| method(found.name())));
        }
    }
    methods
});

/// What a method demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: it checks by itself, or tells nothing.
    Open,
    /// A certificate of the fleet.
    Node,
    /// A token, or the local socket, of this role or a higher one.
    Role(Role),
}

impl Rule {
    /// The name of a path's method, where there is such a method.
    #[must_use]
    pub fn known(path: &str) -> Option<&'static str> {
        METHODS.get(path.strip_prefix('/').unwrap_or(path)).map(String::as_str)
    }

    /// The rule of a path such as `/dwcp.v1.NodeService/GetNode`. What is not listed here demands the highest role.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Self::Role(Role::Admin);
        };
        match service {
            "grpc.health.v1.Health"
            | "grpc.reflection.v1.ServerReflection"
            | "grpc.reflection.v1alpha.ServerReflection" => Self::Open,
            "dwcp.agent.v1.AgentService" => match method {
                "Enroll" | "Renew" => Self::Open,
                _ => Self::Node,
            },
            _ => match service.strip_prefix("dwcp.v1.") {
                Some(service) => Self::Role(role(service, method)),
                None => Self::Role(Role::Admin),
            },
        }
    }
}

fn role(service: &str, method: &str) -> Role {
    match (service, method) {
        ("NodeService", "GetNode" | "ListNodes" | "WatchNodes")
        | ("JoinTokenService", "GetJoinToken" | "ListJoinTokens")
        | (
            "ConfigService",
            "GetConfig"
            | "ListConfigs"
            | "WatchConfigs"
            | "GetConfigRevision"
            | "ListConfigRevisions"
            | "DiffConfigRevisions"
            | "ValidateConfig"
            | "GetEffectiveConfig",
        )
        | ("RolloutService", "GetRollout" | "ListRollouts" | "WatchRollout" | "ListRolloutTargets")
        | ("TransferService", "GetTransfer" | "ListTransfers" | "WatchTransfer" | "WatchTransfers")
        | ("SyncService", "GetSync" | "ListSyncs" | "WatchSyncs")
        | (
            "AuditService",
            "GetAuditEvent"
            | "ListAuditEvents"
            | "TailAuditEvents"
            | "GetAuditHead"
            | "GetInclusionProof"
            | "GetConsistencyProof"
            | "ExportAuditEvents",
        )
        | ("SystemService", "GetServerInfo" | "RunChecks") => Role::Viewer,
        ("NodeService", "UpdateNode" | "DeleteNode")
        | ("JoinTokenService", "CreateJoinToken" | "RevokeJoinToken")
        | ("ConfigService", "CreateConfig" | "UpdateConfig" | "RollbackConfig" | "DeleteConfig")
        | ("TransferService", "CreateTransfer" | "CancelTransfer" | "PauseTransfer" | "ResumeTransfer")
        | ("SyncService", "CreateSync" | "DeleteSync" | "PauseSync" | "ResumeSync" | "RunSync")
        | ("BenchService", "RunBench") => Role::Operator,
        // Operator tokens, and whatever is not listed.
        _ => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operator_tokens_and_freed_names_are_for_admins_alone() {
        let set = FileDescriptorSet::decode(proto_rpc::OPERATOR_DESCRIPTOR_SET).unwrap();
        for file in set.file.iter().filter(|file| file.package() == "dwcp.v1") {
            for service in &file.service {
                for method in &service.method {
                    let rule = Rule::of(&format!("/dwcp.v1.{}/{}", service.name(), method.name()));
                    let for_admins = rule == Rule::Role(Role::Admin);
                    let meant = service.name() == "OperatorTokenService" || method.name() == "FreeNodeName";
                    assert_eq!(for_admins, meant, "{}", method.name());
                }
            }
        }
    }

    #[test]
    fn only_methods_that_there_are_have_a_name() {
        assert_eq!(Rule::known("/dwcp.v1.NodeService/GetNode"), Some("dwcp.v1.NodeService/GetNode"));
        assert_eq!(Rule::known("/dwcp.agent.v1.AgentService/Session"), Some("dwcp.agent.v1.AgentService/Session"));
        for made_up in ["/dwcp.v1.NodeService/GetNode\u{1b}[2J", "/dwcp.v1.NodeService/Secret", "", "/"] {
            assert_eq!(Rule::known(made_up), None, "{made_up:?}");
        }
    }

    #[test]
    fn open_is_only_what_must_be() {
        assert_eq!(Rule::of("/grpc.health.v1.Health/Check"), Rule::Open);
        assert_eq!(Rule::of("/dwcp.agent.v1.AgentService/Enroll"), Rule::Open);
        assert_eq!(Rule::of("/dwcp.agent.v1.AgentService/Session"), Rule::Node);
        assert_eq!(Rule::of("/dwcp.v1.NodeService/ListNodes"), Rule::Role(Role::Viewer));
        assert_eq!(Rule::of("/dwcp.v1.NodeService/DeleteNode"), Rule::Role(Role::Operator));
        assert_eq!(Rule::of("/dwcp.v1.OperatorTokenService/ListOperatorTokens"), Rule::Role(Role::Admin));
        for unknown in ["", "/", "x", "/dwcp.v1.NodeService/Explode", "/other.Service/Get"] {
            assert_eq!(Rule::of(unknown), Rule::Role(Role::Admin), "{unknown}");
        }
    }
}
