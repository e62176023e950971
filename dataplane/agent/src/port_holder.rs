//! Who holds a TCP port, as far as `/proc` tells.

use std::{fs, path::Path};

/// For example `prometheus (process 812)`; nothing where `/proc` does not tell.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|file| listener(file, port))?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let name = process.file_name();
        let pid: u32 = name.to_str()?.parse().ok()?;
        has(&process.path(), &socket).then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} (process {pid})", proto_model::escape(name.trim().as_bytes()))
        })
    })
}

/// The inode of the socket that listens (state 0A) on the port.
fn listener(file: &str, port: u16) -> Option<String> {
    let table = fs::read_to_string(file).ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit(':').next()?;
        let matches = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == "0A";
        matches.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

fn has(process: &Path, socket: &str) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_this_process_as_the_holder_of_its_own_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = super::holder(listener.local_addr().unwrap().port()).unwrap();
        assert!(holder.ends_with(&format!("(process {})", std::process::id())), "{holder}");
    }
}
