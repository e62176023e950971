//! Keys that are known and checked, but that nothing acts on yet (or that say what cannot be had here).

/// When a key has no effect.
enum When {
    /// Whenever a layer sets it.
    Set,
    /// Where it has one of these values.
    Is(&'static [&'static str]),
}

/// A key without effect, and why.
struct Idle {
    path: &'static str,
    when: When,
    reason: &'static str,
}

/// Struck from here by whoever builds it.
const IDLE: [Idle; 6] = [
    Idle {
        path: "transport.enable_rdma",
        when: When::Is(&["true"]),
        reason: "devices are found and reported, and QUIC serves: there is no RDMA path",
    },
    Idle { path: "dht.public", when: When::Is(&["true"]), reason: "only the fleet's own ring is used" },
    Idle { path: "dht.encrypt_records", when: When::Is(&["true"]), reason: "records are signed, not encrypted yet" },
    Idle { path: "dht.query_timeout", when: When::Set, reason: "a query ends by the time-outs of its requests" },
    Idle {
        path: "peer_discovery.max_known_peers_to_share",
        when: When::Set,
        reason: "peers tell nobody of others yet",
    },
    Idle { path: "limits.roster_entries", when: When::Set, reason: "every agent keeps the whole roster at present" },
];

/// Why a key that a layer set to this value (as YAML) has no effect, if it has none.
pub(super) fn idle_reason(path: &str, yaml: &str) -> Option<&'static str> {
    let idle = IDLE.iter().find(|idle| idle.path == path)?;
    let applies = match idle.when {
        When::Set => true,
        When::Is(values) => values.contains(&yaml),
    };
    applies.then_some(idle.reason)
}

#[cfg(test)]
pub(super) fn idle_paths() -> impl Iterator<Item = &'static str> {
    IDLE.iter().map(|idle| idle.path)
}

/// When and why a key has no effect, in words.
#[cfg(test)]
pub(super) fn idle_meaning(path: &str) -> Option<String> {
    let idle = IDLE.iter().find(|idle| idle.path == path)?;
    let when = match idle.when {
        When::Set => String::new(),
        When::Is(values) => format!(" as `{}`", values.join("` or `")),
    };
    Some(format!("{when}: {}", idle.reason))
}
