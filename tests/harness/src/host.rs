//! A host of its own on this machine: network, processes, name and writable folders apart, by the kernel's namespaces. Needs root.
//!
//! What is installed on it, users included, is gone with its handle, and so is every process in it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use tests_wan::Place;

use crate::{cli::Ran, process::Process, scratch::Scratch};

/// Folders that a program may write are layers over the machine's own, in memory; `/run` is empty, so that systemd is seen to be
/// absent whatever runs outside.
const SET_UP: &str = r#"
set -e
mount -t tmpfs tmpfs /mnt
for folder in etc usr/local var/lib; do
    mkdir -p /mnt/$folder/upper /mnt/$folder/work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/$folder/upper,workdir=/mnt/$folder/work /$folder
done
for folder in /run /srv /root; do mount -t tmpfs -o mode=755 tmpfs $folder; done
rm -rf /var/lib/dwcp-agent /var/lib/dwcp-control-plane /etc/dwcp
command -v sudo >/dev/null || { printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo; chmod 755 /usr/local/bin/sudo; }
ip link set lo up
"#;

/// A host.
#[derive(Debug)]
pub struct Host {
    name: String,
    holder: Child,
    /// Of the first process in it.
    pid: u32,
}

impl Host {
    /// A new one, without a link to any other.
    ///
    /// # Errors
    /// This is not root, or the kernel refuses namespaces.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(geteuid().is_root(), "this test makes hosts of network namespaces, which needs root: run it as root");
        let script = format!("{SET_UP}\nhostname {name}\necho ready\nexec sleep infinity");
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "--propagation", "private", "bash", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (util-linux)")?;
        let said = BufReader::new(holder.stdout.take().context("its output is piped")?).lines().next();
        let ready = matches!(said, Some(Ok(ref line)) if line == "ready");
        if !ready {
            drop(holder.kill());
            drop(holder.wait());
            bail!(
                "this machine gives no namespaces for a host of its own (see above); as root, outside of a locked container?"
            );
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", holder.id()))?;
        let pid = children.split_whitespace().next().context("the first process of the host")?.parse()?;
        Ok(Self { name: name.to_owned(), holder, pid })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command on it, as root, with nothing of this process's environment but `PATH`.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--uts", "--pid", "--"]).args(arguments);
        command
    }

    /// Runs a line of shell in the repository's folder, to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, line: &str) -> Result<Ran> {
        // Entering a namespace of mounts forgets the present folder.
        let line = format!("cd '{}' && {line}", repository().display());
        Ok(self.command(&["bash", "-c", &line]).output().context("nsenter (util-linux)")?.into())
    }

    /// Runs a line of shell that must succeed; its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn ok(&self, line: &str) -> Result<String> {
        let ran = self.run(line)?;
        ensure!(ran.code == 0, "on {}: {line}: ended with {}:\n{}{}", self.name, ran.code, ran.stdout, ran.stderr);
        Ok(ran.stdout)
    }

    /// Starts a line of shell that goes on; it ends with the host at the latest.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, name: &str, line: &str, scratch: &Scratch) -> Result<Process> {
        let log = scratch.path().join(format!("{}-{name}.log", self.name));
        Process::start(
            name,
            &mut self.command(&["setpriv", "--pdeathsig", "TERM", "bash", "-c", &format!("exec {line}")]),
            &log,
        )
    }

    /// A cable to another host, with an address (`10.77.0.1/24`) at each end; the interfaces are called `to-NAME`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn link(&self, address: &str, other: &Self, its_address: &str) -> Result<()> {
        // Both ends are made inside, so that no name outside can collide.
        let ran: Ran = Command::new("ip")
            .args(["link", "add", &format!("to-{}", other.name), "netns", &self.pid.to_string(), "type", "veth"])
            .args(["peer", "name", &format!("to-{}", self.name), "netns", &other.pid.to_string()])
            .output()
            .context("ip (iproute2)")?
            .into();
        ensure!(ran.code == 0, "a cable from {} to {}: {}", self.name, other.name, ran.stderr);
        for (host, address, peer) in [(self, address, &other.name), (other, its_address, &self.name)] {
            host.ok(&format!("ip address add {address} dev to-{peer} && ip link set to-{peer} up"))?;
        }
        Ok(())
    }
}

/// So that an emulated path (`tests_wan::Wan`) joins it with another.
impl Place for Host {
    fn name(&self) -> &str {
        &self.name
    }

    fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// The repository's folder.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
