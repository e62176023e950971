//! Addresses to come from: all of 127/8 is this host.

use std::net::{Ipv4Addr, SocketAddr};

/// The address of one of many strangers, with any port.
#[must_use]
pub fn source(number: u32) -> SocketAddr {
    // 127.0/16 is left to those who belong here; no address ends in 0 or 255.
    let (high, low) = (number / 250 % 65_000, number % 250 + 1);
    SocketAddr::new(Ipv4Addr::from(0x7f01_0000 + (high << 8) + low).into(), 0)
}
