//! `dwcp check --pre`: this host, before anything is installed. Reads `/proc` only.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

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
    let tcp = [listeners("/proc/net/tcp", "0A"), listeners("/proc/net/tcp6", "0A")].concat();
    // 07 is an unconnected UDP socket.
    let udp = [listeners("/proc/net/udp", "07"), listeners("/proc/net/udp6", "07")].concat();
    let mut holders = None;
    PORTS
        .iter()
        .map(|(usage, protocol, port, flag)| {
            let (name, listeners) = if *protocol == Protocol::Tcp { ("tcp", &tcp) } else { ("udp", &udp) };
            let description = format!("{port}/{name} is free ({usage})");
            let Some((_, inode)) = listeners.iter().find(|(held, _)| held == port) else { return good(&description) };
            let holder = holders.get_or_insert_with(socket_holders).get(inode).cloned();
            let holder = holder.unwrap_or_else(|| "a process of another user".to_owned());
            warn(&description, &format!("{holder} holds it"), &format!("stop it, or give another port by {flag}"))
        })
        .collect()
}

/// Ports and inodes of sockets in a state, from one of `/proc/net`'s tables.
fn listeners(table: &str, state: &str) -> Vec<(u16, u64)> {
    let text = fs::read_to_string(table).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| listener(line, state)).collect()
}

fn listener(line: &str, state: &str) -> Option<(u16, u64)> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let (_, port) = columns.get(1)?.rsplit_once(':')?;
    (*columns.get(3)? == state).then_some(())?;
    Some((u16::from_str_radix(port, 16).ok()?, columns.get(9)?.parse().ok()?))
}

/// Who holds which socket, as far as `/proc` lets us look.
fn socket_holders() -> BTreeMap<u64, String> {
    let mut holders = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                holders.insert(inode, format!("{} (process {pid})", command.trim()));
            }
        }
    }
    holders
}

fn kernel() -> Vec<Check> {
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
    fn a_listener_is_read_from_the_kernels_table() {
        let line = "   0: 0100007F:1D12 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(listener(line, "0A"), Some((7442, 4711)));
        assert_eq!(listener(line, "07"), None);
        assert_eq!(listener("nonsense", "0A"), None);
    }

    #[test]
    fn a_held_port_is_found_with_its_holder() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let (_, inode) = listeners("/proc/net/tcp", "0A").into_iter().find(|(held, _)| *held == port).unwrap();
        let holder = socket_holders().remove(&inode).unwrap();
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    }
}
