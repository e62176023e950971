//! The TUN device at one end.

use std::{fs::File, path::PathBuf, thread};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::namespace::inside;

/// Of both interfaces.
pub(crate) const MTU: u16 = 1500;
/// Packets that wait to be taken in; a burst of a whole window must not be lost before the emulator has seen it.
const WAITING: u32 = 50_000;

/// One end.
#[derive(Debug)]
pub(crate) struct Device {
    name: String,
    network: PathBuf,
    tun: SyncDeviceDebug,
}

/// The library's type shows nothing of itself.
struct SyncDeviceDebug(SyncDevice);

impl std::fmt::Debug for SyncDeviceDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncDevice")
    }
}

impl Device {
    /// Makes an interface in a namespace, with an address (`10.77.0.1/24`).
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn new(network: PathBuf, name: &str, address: &str) -> Result<Self> {
        let namespace = File::open(&network).with_context(|| format!("{}", network.display()))?;
        let builder = DeviceBuilder::new().name(name).mtu(MTU).tx_queue_len(WAITING);
        // A thread of its own enters the namespace, and ends there.
        let made = thread::spawn(move || -> Result<SyncDevice> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let tun = builder.build_sync()?;
            tun.set_nonblocking(true)?;
            Ok(tun)
        });
        let tun = made.join().ok().context("the thread does not panic")?;
        let tun = tun.with_context(|| format!("an interface {name} by /dev/net/tun in {}", network.display()))?;
        // The kernel's own packets (it solicits IPv6 routers) would shift which of the others are lost.
        inside(&network, &["ip", "link", "set", name, "addrgenmode", "none"])?;
        inside(&network, &["sysctl", "-qw", &format!("net.ipv6.conf.{name}.router_solicitations=0")]).ok();
        inside(&network, &["ip", "address", "add", address, "dev", name])?;
        inside(&network, &["ip", "link", "set", name, "up"])?;
        Ok(Self { name: name.to_owned(), network, tun: SyncDeviceDebug(tun) })
    }

    pub(crate) fn tun(&self) -> &SyncDevice {
        &self.tun.0
    }

    /// Packets that were lost on their way into and out of the emulator, without its having seen them.
    pub(crate) fn lost(&self) -> Result<u64> {
        let text = inside(&self.network, &["cat", "/proc/self/net/dev"])?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{}:", self.name)));
        let numbers = line.context("the interface is listed")?.split_whitespace().map(str::parse::<u64>);
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        // Received: bytes, packets, errs, drop, and four more; then sent, in the same order.
        Ok([3, 11].iter().filter_map(|column| numbers.get(*column)).sum())
    }
}
