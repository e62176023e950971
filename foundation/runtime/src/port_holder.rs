//! Who holds a port of this host, as far as `/proc` tells.

use std::{
    fmt, fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// A kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP port that is listened on.
    Tcp,
    /// A UDP port that is bound.
    Udp,
}

impl Protocol {
    /// The kernel's tables, and the state of a socket there that holds its port.
    fn tables(self) -> ([&'static str; 2], &'static str) {
        match self {
            Self::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], "0A"),
            Self::Udp => (["/proc/net/udp", "/proc/net/udp6"], "07"),
        }
    }
}

/// Who has a port. Shown as `prometheus (process 812)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHolder(Option<(String, u32)>);

impl PortHolder {
    /// Looks for who holds the port; nothing where nobody does.
    #[must_use]
    pub fn of(protocol: Protocol, port: u16) -> Option<Self> {
        let (tables, state) = protocol.tables();
        let inodes: Vec<u64> = tables.iter().flat_map(|table| inodes(table, state, port)).collect();
        if inodes.is_empty() {
            return None;
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let found = pids.find(|pid| has_one_of(*pid, &inodes));
        Some(Self(found.map(|pid| (program(pid), pid))))
    }

    /// Somebody of whom nothing is known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self(None)
    }

    /// The process, where it can be seen.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(|(_, pid)| *pid)
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((name, pid)) => write!(f, "{name} (process {pid})"),
            // The sockets of another user's process are seen by root only.
            None => f.write_str("a process of another user"),
        }
    }
}

fn inodes(table: &str, state: &str, port: u16) -> Vec<u64> {
    let text = fs::read_to_string(table).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| inode(line, state, port)).collect()
}

/// `sl local_address rem_address st … inode …`.
fn inode(line: &str, state: &str, port: u16) -> Option<u64> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let (_, held) = columns.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(held, 16).ok()? == port && *columns.get(3)? == state;
    matches.then(|| columns.get(9)?.parse().ok()).flatten()
}

fn has_one_of(pid: u32, inodes: &[u64]) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut sockets = files.filter_map(|file| {
        fs::read_link(file.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
    });
    sockets.any(|socket| inodes.contains(&socket))
}

/// The program's name: of its file, else of its command line, else the 15 letters that the kernel keeps.
fn program(pid: u32) -> String {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let file_name = |path: &Path| path.file_name().map(|name| name.as_bytes().to_vec());
    let exe = || {
        let exe = file_name(&fs::read_link(proc.join("exe")).ok()?)?;
        Some(exe.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(exe))
    };
    let first = || {
        let line = fs::read(proc.join("cmdline")).ok()?;
        let first = line.split(|byte| *byte == 0).next().filter(|first| !first.is_empty())?;
        file_name(Path::new(std::ffi::OsStr::from_bytes(first)))
    };
    let comm = || fs::read(proc.join("comm")).ok().map(|name| name.trim_ascii().to_vec());
    let name = exe().or_else(first).or_else(comm).unwrap_or_default();
    // Whoever started it chose these bytes.
    String::from_utf8_lossy(&name).chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_is_understood() {
        let line = "   0: 0100007F:1D12 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(inode(line, "0A", 7442), Some(4711));
        assert_eq!(inode(line, "0A", 7443), None);
        assert_eq!(inode(line, "07", 7442), None);
        assert_eq!(inode("nonsense", "0A", 7442), None);
    }

    #[test]
    fn a_held_port_is_found_with_the_whole_name_of_its_holder() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let me = std::env::current_exe().unwrap();
        let expected = format!("{} (process {})", me.file_name().unwrap().to_str().unwrap(), std::process::id());
        assert!(me.file_name().unwrap().len() > 15, "longer than what the kernel keeps");
        let held = |protocol, port| PortHolder::of(protocol, port).map(|holder| holder.to_string());
        assert_eq!(held(Protocol::Tcp, tcp.local_addr().unwrap().port()).as_deref(), Some(&*expected));
        let port = udp.local_addr().unwrap().port();
        assert_eq!(held(Protocol::Udp, port).as_deref(), Some(&*expected));
        drop(udp);
        assert_eq!(PortHolder::of(Protocol::Udp, port), None);
    }
}
