//! The README's page for two hosts, as it is typed: each host has a network, users, processes and folders of its own. Then what
//! real networks do: a NAT, no IPv6, an address that changes. All of it needs root.

use std::time::Duration;

use anyhow::{Context, Result};
use tests_harness::{Host, TwoHosts, binary, digest, eventually, joined, page, typed};

const LIMIT: Duration = Duration::from_secs(90);

fn cable(one: &Host, two: &Host) -> Result<()> {
    one.link("10.77.0.1/24", two, "10.77.0.2/24")
}

#[test]
fn the_page_works_as_it_is_typed_and_again_as_an_upgrade_and_is_taken_away() -> Result<()> {
    let world = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, cable)?;
    let TwoHosts { one, two, .. } = &world;
    let expected = world.data_set("dataset", 20)?;
    for line in &world.rest {
        let said = typed(one, line).with_context(|| line.clone())?;
        if line.contains("check") {
            // Each host's UDP reaches the other.
            assert!(said.contains("√ UDP reaches site-b"), "{said}");
        }
    }
    assert_eq!(digest(two, "/srv/dwcp/data/in/dataset")?, expected);
    // A path of the host itself; the file is a group member's.
    one.ok("useradd --no-create-home member && usermod -aG dwcp member && useradd --no-create-home stranger")?;
    one.ok("runuser -u member -- bash -c 'echo hello >/srv/dwcp/data/greeting'")?;
    one.ok("dwcp send /srv/dwcp/data/greeting site-b:data:/in/")?;
    assert_eq!(two.ok("cat /srv/dwcp/data/in/greeting")?, "hello\n");

    // What has the ports is named; a host that has nothing yet has them all.
    let held = one.ok("dwcp check --pre")?;
    assert!(held.contains("‼ 7442/tcp is free") && held.contains("dwcp-control-plane (process"), "{held}");
    let bare = Host::new("bare")?.ok(&format!("{} check --pre", binary("dwcp")?.display()))?;
    assert!(bare.contains("√ 7442/tcp is free") && bare.contains("√ 30906/udp is free"), "{bare}");

    the_sockets_group_is_let_in_and_nobody_else(one)?;
    nothing_of_the_state_is_open(one)?;

    // The same line again brings a host to a version, and keeps all that is there.
    let blocks = page()?;
    let before = two.ok("cat /var/lib/dwcp-agent/ed25519_public.key /etc/dwcp/agent.yaml | sha256sum; stat -c %i /usr/local/bin/dwcp-agent")?;
    typed(two, &blocks[1][0])?;
    let after = two.ok("cat /var/lib/dwcp-agent/ed25519_public.key /etc/dwcp/agent.yaml | sha256sum; stat -c %i /usr/local/bin/dwcp-agent")?;
    assert_eq!(before.lines().next(), after.lines().next());
    assert_ne!(before, after, "the program is replaced by rename");
    world.ready(2)?;

    let refused = two.run("deploy/uninstall agent")?;
    assert!(refused.code == 1 && refused.stderr.contains("stop it first"), "{refused:?}");
    two.ok("pkill -TERM dwcp-agent; while pgrep dwcp-agent >/dev/null; do sleep 0.05; done")?;
    let left = two.ok("deploy/uninstall agent && ls /usr/local/bin /var/lib/dwcp-agent")?;
    assert!(!left.contains("dwcp-agent\n") && left.contains("ed25519_private.key"), "{left}");
    two.ok("deploy/uninstall agent --purge && test ! -e /var/lib/dwcp-agent && ! getent passwd dwcp-agent && test -e /srv/dwcp/data/in/dataset")?;
    Ok(())
}

fn the_sockets_group_is_let_in_and_nobody_else(host: &Host) -> Result<()> {
    let pinged = host.ok("runuser -u member -- dwcp ping site-b --count 1")?;
    assert!(pinged.contains("10.77.0.2"), "{pinged}");
    let stranger = host.run(
        "runuser -u stranger -- env DWCP_AGENT_SOCKET=/var/lib/dwcp-agent/agent.sock dwcp ping site-b --count 1",
    )?;
    assert!(stranger.code == 6 && stranger.stderr.contains("permission denied"), "{stranger:?}");
    assert_eq!(host.ok("stat -c '%a %U %G' /var/lib/dwcp-agent/agent.sock")?, "660 dwcp-agent dwcp\n");
    // Nor into the control plane, group or not.
    for user in ["member", "stranger"] {
        let refused = host.run(&format!(
            "runuser -u {user} -- dwcp --endpoint unix:/var/lib/dwcp-control-plane/admin.sock node list"
        ))?;
        assert_ne!(refused.code, 0, "{user}: {refused:?}");
    }
    Ok(())
}

fn nothing_of_the_state_is_open(host: &Host) -> Result<()> {
    for (user, file) in [
        ("member", "/var/lib/dwcp-agent/ed25519_private.key"),
        ("stranger", "/var/lib/dwcp-agent/agent.db"),
        ("stranger", "/var/lib/dwcp-control-plane/seal.key"),
        ("stranger", "/var/lib/dwcp-control-plane/admin.token"),
        ("stranger", "/var/lib/dwcp-control-plane/postgres/data/PG_VERSION"),
    ] {
        assert_ne!(host.run(&format!("runuser -u {user} -- cat {file}"))?.code, 0, "{user} reads {file}");
    }
    // All of it belongs to the service's own user, also what root wrote there by `join`.
    for name in ["agent", "control-plane"] {
        assert_eq!(host.ok(&format!("find /var/lib/dwcp-{name} ! -user dwcp-{name}"))?, "");
    }
    Ok(())
}

#[test]
fn hosts_without_ipv6_do_the_main_job() -> Result<()> {
    let world = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, |one, two| {
        cable(one, two)?;
        for host in [one, two] {
            host.ok("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; test -z \"$(ip -6 address)\"")?;
        }
        Ok(())
    })?;
    let expected = world.data_set("dataset", 4)?;
    world.one.ok("dwcp send --from site-a data:/dataset site-b:data:/in")?;
    assert_eq!(digest(&world.two, "/srv/dwcp/data/in/dataset")?, expected);
    Ok(())
}

#[test]
fn a_transfer_goes_on_when_either_end_gets_another_address() -> Result<()> {
    let world = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, |one, two| {
        cable(one, two)?;
        // The control plane stays where it is; site-a has an address of its own on the same cable.
        one.ok("ip address add 10.77.0.11/24 dev to-two")?;
        // A cable that takes long enough.
        two.ok("nft add table inet slow; nft 'add chain inet slow in { type filter hook input priority 0; }'; \
             nft add rule inet slow in udp dport 30906 limit rate over 40 mbytes/second burst 1 mbytes drop")?;
        Ok(())
    })?;
    let expected = world.data_set("dataset", 240)?;
    let created = world.one.ok("dwcp -o json send --from site-a data:/dataset site-b:data:/in --detach")?;
    let name = created.split('"').find(|word| word.starts_with("transfers/")).context("a name")?.to_owned();
    let arrived = |least: u32| {
        eventually("bytes to arrive", LIMIT, || {
            let kib: u32 = world.two.ok("du -sk /srv/dwcp/data | cut -f1")?.trim().parse()?;
            Ok((kib >= least).then_some(()))
        })
    };
    arrived(10_000)?;
    world.two.ok("ip address add 10.77.0.22/24 dev to-one && ip address del 10.77.0.2/24 dev to-one")?;
    // Deleting the first address of a subnet takes the others with it.
    world.two.ok("ip address replace 10.77.0.22/24 dev to-one")?;
    let present = world.one.ok(&format!("dwcp -o json transfer get {name}"))?;
    assert!(!present.contains("\"SUCCEEDED\""), "the address changed in the middle: {present}");
    let ended = world.one.run(&format!("dwcp transfer watch {name} --timeout 180s"))?;
    assert_eq!(ended.code, 0, "{}{}\n{}", ended.stdout, ended.stderr, world.scratch.path().display());
    assert_eq!(digest(&world.two, "/srv/dwcp/data/in/dataset")?, expected);
    world.ready(2)
}

#[test]
fn a_host_behind_a_nat_sends_and_check_says_that_it_cannot_be_reached() -> Result<()> {
    let (router, inside) = (Host::new("router")?, Host::new("inside")?);
    let world = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, |one, two| {
        cable(one, two)?;
        one.link("10.78.0.1/24", &router, "10.78.0.254/24")?;
        router.link("192.168.9.1/24", &inside, "192.168.9.2/24")?;
        router.ok("echo 1 >/proc/sys/net/ipv4/ip_forward")?;
        router.ok("nft add table ip nat; nft 'add chain ip nat out { type nat hook postrouting priority 100; }'; \
             nft add rule ip nat out oifname to-one masquerade")?;
        inside.ok("ip route add default via 192.168.9.1; echo '10.78.0.1 ctl.example' >>/etc/hosts")?;
        Ok(())
    })?;
    let printed = typed(&world.one, "sudo dwcp token create")?;
    let join =
        printed.lines().find_map(|line| line.trim().strip_prefix("dwcp-agent join ")).context("a line to type")?;
    let _agent = joined(&inside, "site-n", &page()?[1], join, &world.scratch)?;
    world.ready(3)?;
    eventually("the control plane to see the router", LIMIT, || {
        Ok(world.one.ok("dwcp -o json node get site-n")?.contains("10.78.0.254:30906").then_some(()))
    })?;

    // Whoever stands outside cannot begin; it is said, with what to do.
    let check = world.one.ok("dwcp check")?;
    assert!(check.contains("‼ UDP reaches site-n") && check.contains("behind a NAT"), "{check}");
    // From inside all ways are open, also back over the session that stands then.
    inside.ok("runuser -u dwcp-agent -- bash -c 'echo from inside >/srv/dwcp/data/note'")?;
    world.one.ok("dwcp send --from site-n data:/note site-a:data:/in/")?;
    assert_eq!(world.one.ok("cat /srv/dwcp/data/in/note")?, "from inside\n");
    Ok(())
}
