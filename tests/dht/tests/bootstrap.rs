//! R32: a node begins with a list that is good, bad, dead or missing, in a network where each packet is counted. Needs root.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests_dht::begin::{OWN, RING};
use tests_harness::Host;

/// Where nothing may go, and where at most so much may.
const COUNTED: [(&str, &str); 8] = [
    ("multicast", "ip daddr 224.0.0.0/4"),
    ("reserved", "ip daddr 240.0.0.0/4"),
    ("nowhere", "ip daddr 0.0.0.0/8"),
    ("link_local", "ip daddr 169.254.0.0/16"),
    ("loopback", "ip daddr 127.0.0.0/8"),
    ("port_0", "udp dport 0"),
    ("own", "ip saddr 192.0.2.1 ip daddr 192.0.2.1 udp sport 30609 udp dport 30609"),
    ("nobody", "ip daddr 192.0.2.99"),
];

#[test]
fn a_poisoned_list_is_filtered_and_the_control_planes_serves_where_nobody_answers() -> Result<()> {
    let (host, other) = (Host::new("dht-c")?, Host::new("dht-d")?);
    host.link(&format!("{OWN}/24"), &other, "192.0.2.200/24")?;
    for address in RING {
        host.ok(&format!("ip address add {address}/24 dev to-dht-d"))?;
    }
    // Whatever is sent has a way to go.
    host.ok("ip route add default via 192.0.2.200")?;
    let counters: String = COUNTED.iter().map(|(name, _)| format!("add counter ip watch {name}\n")).collect();
    let rules: String =
        COUNTED.iter().map(|(name, what)| format!("add rule ip watch out {what} counter name {name}\n")).collect();
    let table = "add table ip watch\nadd chain ip watch out { type filter hook output priority 0; }\n";
    host.ok(&format!("nft -f - <<'END'\n{table}{counters}{rules}END"))?;

    let took: Value = serde_json::from_str(&host.ok(&format!("{} begin", env!("CARGO_BIN_EXE_dwcp-dht")))?)?;
    eprintln!("seconds to the first good look-up: {took:#}");
    let warm = took["warm: the list that was kept"].as_f64().context("the warm start")?;
    assert!(warm <= 2.0, "R32: {warm} s");

    let listed: Value = serde_json::from_str(&host.ok("nft -j list counters")?)?;
    let packets = |name: &str| {
        let counter = |entry: &Value| (entry["counter"]["name"] == name).then(|| entry["counter"]["packets"].as_u64());
        listed["nftables"].as_array().into_iter().flatten().find_map(counter).flatten()
    };
    for (name, _) in &COUNTED[..6] {
        assert_eq!(packets(name), Some(0), "R32: packets to {name}");
    }
    // By the list, a question and a ping at each look-up; the library pings what others say is its address, once at each start.
    let own = packets("own").context("the counter")?;
    assert!(own <= 5, "R32: {own} packets to itself in 5 starts");
    // Of ten thousand that look right 32 are asked, each by a question and a ping, a few times until the other list serves.
    let nobody = packets("nobody").context("the counter")?;
    eprintln!("packets to 10,000 places where nobody is: {nobody}");
    assert!((1..=64 * 200).contains(&nobody), "R32: {nobody}");
    Ok(())
}
