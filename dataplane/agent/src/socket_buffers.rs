//! Whether the kernel's bounds of socket buffers hold a fast path back. `dwcp check` says it of this host by itself; here it is said where a
//! bench has measured a rate that needs more.

use std::fs;

/// What AMST asks the kernel for.
const WANTED: u64 = 4 * 1024 * 1024;
/// So many times a second at least a busy host's thread comes to empty its socket: 20 ms are a few of the scheduler's turns.
const TURNS: u64 = 50;
const BOUNDS: [(&str, &str); 2] =
    [("net.core.rmem_max", "/proc/sys/net/core/rmem_max"), ("net.core.wmem_max", "/proc/sys/net/core/wmem_max")];

/// What is to be typed, for this many bytes a second; empty where nothing is.
pub(crate) fn advice(bytes_per_second: u64) -> String {
    let read = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    advice_of(bytes_per_second, BOUNDS.map(|(key, path)| (key, read(path))))
}

fn advice_of(bytes_per_second: u64, bounds: [(&str, Option<u64>); 2]) -> String {
    let needed = (bytes_per_second / TURNS).min(WANTED);
    let low: Vec<_> =
        bounds.into_iter().filter_map(|(key, bytes)| Some((key, bytes.filter(|bytes| *bytes < needed)?))).collect();
    let Some((key, bytes)) = low.first() else { return String::new() };
    let settings: Vec<_> = low.iter().map(|(key, _)| format!("{key}={WANTED}")).collect();
    format!(
        "sockets there hold {} KiB ({key}), too little for this rate: packets are lost in the host where a thread is late; sysctl -w {}, \
         keep it in /etc/sysctl.d, and restart the agent",
        bytes / 1024,
        settings.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_is_said_where_the_rate_needs_it() {
        let bounds = |bytes| [("net.core.rmem_max", Some(bytes)), ("net.core.wmem_max", Some(bytes))];
        assert_eq!(advice_of(6_000_000, bounds(212_992)), "", "50 Mbit/s are fine with it");
        let fast = advice_of(120_000_000, bounds(212_992));
        assert!(fast.contains("sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304,"), "{fast}");
        assert_eq!(advice_of(10_000_000_000, bounds(WANTED)), "", "more is not asked for");
        assert_eq!(advice_of(120_000_000, [("net.core.rmem_max", None), ("net.core.wmem_max", None)]), "");
    }
}
