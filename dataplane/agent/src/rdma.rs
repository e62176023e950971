//! RDMA devices of this host, as the kernel's verbs interface shows them (DW-3). Nothing of ours uses them yet: QUIC serves.

use std::{fs, path::Path};

/// Where the kernel lists verbs devices; `ibv_devices` reads the same.
const VERBS: &str = "/sys/class/infiniband";
/// Devices and ports that are named at most.
const MAX_DEVICES: usize = 16;
/// Bytes of a name or a state that are taken.
const MAX_TEXT: usize = 64;

/// A port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// `mlx5_0/1`.
    pub(crate) name: String,
    /// Whether its link is up.
    pub(crate) active: bool,
}

/// The ports there are; none on a host without RDMA, or without the kernel's modules for it.
pub(crate) fn ports() -> Vec<Port> {
    ports_below(Path::new(VERBS))
}

fn ports_below(verbs: &Path) -> Vec<Port> {
    let mut ports = Vec::new();
    for device in names(verbs) {
        for port in names(&verbs.join(&device).join("ports")) {
            let state = fs::read_to_string(verbs.join(&device).join("ports").join(&port).join("state"));
            // `4: ACTIVE`.
            let active = state.is_ok_and(|state| state.trim_start().starts_with("4:"));
            ports.push(Port { name: format!("{device}/{port}"), active });
        }
    }
    ports.truncate(MAX_DEVICES);
    ports
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_DEVICES);
    let mut names: Vec<_> = entries.map(|entry| proto_model::printable(&entry.file_name().to_string_lossy())).collect();
    names.retain(|name| name.len() <= MAX_TEXT);
    names.sort();
    names
}

/// What carries data, and why it is not RDMA, in a sentence.
pub(crate) fn status(enabled: bool, ports: &[Port]) -> String {
    let active: Vec<_> = ports.iter().filter(|port| port.active).map(|port| port.name.as_str()).collect();
    match (enabled, active.as_slice()) {
        (false, _) => "switched off by transport.enable_rdma: false; QUIC carries everything".to_owned(),
        (true, []) if ports.is_empty() => "no device on this host; QUIC carries everything".to_owned(),
        (true, []) => "no port of this host's devices is active; QUIC carries everything".to_owned(),
        (true, active) => {
            format!("{} is there, and not used by this version; QUIC carries everything", active.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_with_the_state_of_their_ports_and_quic_serves_in_any_case() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ports_below(&dir.path().join("none")), []);
        for (port, state) in [("mlx5_0/ports/1", "4: ACTIVE\n"), ("mlx5_1/ports/1", "1: DOWN\n"), ("rxe0/ports/1", "")]
        {
            fs::create_dir_all(dir.path().join(port)).unwrap();
            fs::write(dir.path().join(port).join("state"), state).unwrap();
        }
        fs::create_dir_all(dir.path().join("broken")).unwrap();
        let ports = ports_below(dir.path());
        let seen: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.active)).collect();
        assert_eq!(seen, [("mlx5_0/1", true), ("mlx5_1/1", false), ("rxe0/1", false)]);
        assert!(status(true, &ports).starts_with("mlx5_0/1 is there"));
        assert!(status(true, &ports[1..]).starts_with("no port"));
        assert!(status(true, &[]).starts_with("no device"));
        assert!(
            [status(true, &ports), status(false, &ports)].iter().all(|text| text.contains("QUIC carries everything"))
        );
    }
}
