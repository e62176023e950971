//! `dwcp check --pre`: this host, before anything is installed. Reads `/proc` only.

use std::{
    fs,
    path::{Path, PathBuf},
};

use foundation_runtime::{PortHolder, Protocol};
use proto_rpc::v1::{Check, CheckCategory};

use super::finding::{category, good, warn, wrong};
use crate::units;

/// What the programs listen on unless told otherwise.
const PORTS: [(&str, Protocol, u16, &str); 8] = [
    ("control plane, gRPC", Protocol::Tcp, 7442, "--listen"),
    ("control plane, HTTP", Protocol::Tcp, 7443, "--http-listen"),
    ("control plane, metrics", Protocol::Tcp, 7444, "--metrics-listen"),
    ("control plane, DHT", Protocol::Udp, 30610, "--dht-listen"),
    ("agent, QUIC", Protocol::Udp, 30906, "--quic-listen"),
    ("agent, DHT", Protocol::Udp, 30609, "--dht-listen"),
    ("agent, HTTP", Protocol::Tcp, 8080, "--http-listen"),
    ("agent, metrics", Protocol::Tcp, 9090, "--metrics-listen"),
];
/// What a fast WAN needs of a UDP socket's buffers (facts: replies are dropped at the kernel's default).
const UDP_BUFFER_BYTES: u64 = 4 * 1024 * 1024;
/// A session with many transfers, and PostgreSQL, need more than the 1,024 of an old default.
const OPEN_FILES: u64 = 4096;
/// `openat2` came with Linux 5.6; without it nothing is read or written (D21).
const KERNEL: (u32, u32) = (5, 6);
/// Room for the database and a first transfer's journal.
const FREE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// All checks of this host.
pub(super) fn host() -> Vec<CheckCategory> {
    vec![
        category("ports", ports()),
        category("kernel", kernel()),
        category("postgres", vec![postgres()]),
        category("disk", vec![disk()]),
    ]
}

fn ports() -> Vec<Check> {
    PORTS.iter().map(|(usage, protocol, port, flag)| port_check(usage, *protocol, *port, flag)).collect()
}

fn port_check(usage: &str, protocol: Protocol, port: u16, flag: &str) -> Check {
    let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let description = format!("{port}/{name} is free ({usage})");
    match PortHolder::of(protocol, port) {
        None => good(&description),
        Some(holder) => {
            warn(&description, &format!("{holder} holds it"), &format!("stop it, or give another port by {flag}"))
        }
    }
}

/// What the kernel allows.
pub(super) fn kernel() -> Vec<Check> {
    vec![
        kernel_version(),
        udp_buffer("net.core.rmem_max", "/proc/sys/net/core/rmem_max"),
        udp_buffer("net.core.wmem_max", "/proc/sys/net/core/wmem_max"),
        open_files(),
    ]
}

fn kernel_version() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let description = "the kernel confines paths (openat2, Linux 5.6 or newer)";
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= KERNEL => good(description),
        (Some(Ok(_)), Some(Ok(_))) => wrong(description, &format!("this is {release}"), "use a newer kernel"),
        _ => warn(description, &format!("`{release}` is no version"), ""),
    }
}

fn udp_buffer(name: &str, path: &str) -> Check {
    let description = format!("{name} is at least {}", units::bytes(UDP_BUFFER_BYTES));
    match fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(value) if value >= UDP_BUFFER_BYTES => good(&description),
        Some(value) => warn(
            &description,
            &format!("it is {}: a fast link will lose packets in this host", units::bytes(value)),
            &format!("sysctl -w {name}={UDP_BUFFER_BYTES}, and a file in /etc/sysctl.d to keep it"),
        ),
        None => warn(&description, "it cannot be read", ""),
    }
}

fn open_files() -> Check {
    let description = format!("a process may open {OPEN_FILES} files");
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1));
    match hard {
        Some("unlimited") => good(&description),
        Some(hard) if hard.parse::<u64>().is_ok_and(|hard| hard >= OPEN_FILES) => good(&description),
        Some(hard) => warn(&description, &format!("the limit is {hard}"), "raise it: ulimit -n, or LimitNOFILE="),
        None => warn(&description, "the limit cannot be read", ""),
    }
}

fn postgres() -> Check {
    let description = "PostgreSQL's programs are here, for a control plane without --database-url";
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = versions.map(|version| version.path().join("bin/postgres")).find(|path| path.exists());
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join("postgres")).find(|path| path.exists()));
    match packaged.or(on_path) {
        Some(path) => good(&format!("{description} ({})", path.display())),
        None => warn(description, "they are not", "apt-get install postgresql, or give --database-url"),
    }
}

fn disk() -> Check {
    let description = format!("there are {} free for state", units::bytes(FREE_BYTES));
    let mut folder = PathBuf::from("/var/lib");
    while !folder.exists() {
        folder = folder.parent().unwrap_or(Path::new("/")).to_path_buf();
    }
    match nix::sys::statvfs::statvfs(&folder) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            if free >= FREE_BYTES {
                return good(&description);
            }
            warn(
                &description,
                &format!("{} has {}", folder.display(), units::bytes(free)),
                "free some, or use --data-dir",
            )
        }
        Err(error) => warn(&description, &error.to_string(), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_named_with_its_holder_and_the_way_out() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let held = port_check("agent, QUIC", Protocol::Udp, port, "--quic-listen");
        assert_eq!(held.result, "warning");
        assert!(held.error.contains(&format!("(process {})", std::process::id())), "{}", held.error);
        assert!(held.hint.contains("--quic-listen"), "{}", held.hint);
        drop(socket);
        assert_eq!(port_check("agent, QUIC", Protocol::Udp, port, "--quic-listen").result, "success");
    }
}
