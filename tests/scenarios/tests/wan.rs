//! A transfer over a path that has a bad day: it is cut, becomes slow, loses in bursts, takes only small packets, brings them out of
//! order. Each transfer ends by itself with the right bytes. `DWCP_WAN_SECONDS` is how long each of it lasts (3; 30 for the long version).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests_harness::{End, Host, TwoHosts, digest, eventually, seed};
use tests_wan::{Bursts, Direction, Link, PathMtu, Rate, Reorder, Wan};

const LIMIT: Duration = Duration::from_secs(60);
const RATE: Rate = Rate::megabits(100);

/// Two hosts with a path of 20 ms and 100 Mbit/s between them.
fn hosts() -> Result<(TwoHosts, Wan)> {
    let mut wan = None;
    let link = Link { rate: Some(RATE), rtt: Duration::from_millis(20), seed: seed(), ..Link::default() };
    let hosts = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, |one, two| {
        wan = Some(Wan::between((one, "10.77.0.1/24"), (two, "10.77.0.2/24"), link)?);
        Ok(())
    })?;
    Ok((hosts, wan.context("a path")?))
}

#[allow(clippy::disallowed_methods, reason = "a path is disturbed for so long in real time")]
fn now() -> Instant {
    Instant::now()
}

/// How long a disturbance lasts.
fn lasts() -> Result<Duration> {
    let seconds = std::env::var("DWCP_WAN_SECONDS").map_or(Ok(3), |seconds| seconds.parse())?;
    Ok(Duration::from_secs(seconds))
}

/// Sends a new tree, disturbs the path once bytes arrive, and mends it where `mended`; the transfer must end by itself.
fn disturbed(
    hosts: &TwoHosts,
    wan: &Wan,
    name: &str,
    megabytes: u32,
    disturb: impl Fn(&mut Link),
    mended: bool,
) -> Result<()> {
    let expected = hosts.data_set(name, megabytes)?;
    let before = wan.report()?.tally_there().payload_in;
    let begun = now();
    let created = hosts.one.ok(&format!("dwcp -o json send --from site-a data:/{name} site-b:data:/in --detach"))?;
    let transfer = created.split('"').find(|word| word.starts_with("transfers/")).context("a name")?.to_owned();
    eventually("the first bytes to arrive", LIMIT, || {
        Ok((wan.report()?.tally_there().payload_in > before + 1_000_000).then_some(()))
    })?;
    let whole = wan.link(Direction::There);
    wan.change(disturb);
    if mended {
        std::thread::sleep(lasts()?);
        if wan.link(Direction::There).down {
            let state = hosts.one.ok(&format!("dwcp -o json transfer get {transfer}"))?;
            ensure!(!state.contains("\"SUCCEEDED\""), "{name}: nothing can be over while the path is cut");
        }
        wan.change(|link| *link = Link { seed: link.seed, ..whole.clone() });
    }
    let ended = hosts.one.run(&format!("dwcp transfer watch {transfer} --timeout 120s"))?;
    ensure!(
        ended.code == 0,
        "{name}: {}{}\n{}\n{}",
        ended.stdout,
        ended.stderr,
        wan.report()?,
        hosts.scratch.path().display()
    );
    let seconds = begun.elapsed().as_secs_f64();
    wan.change(|link| *link = Link { seed: link.seed, ..whole.clone() });
    ensure!(digest(&hosts.two, &format!("/srv/dwcp/data/in/{name}"))? == expected, "{name}: other bytes arrived");
    let report = wan.report()?;
    let over = report.tally_there().payload_in.saturating_sub(before);
    eprintln!(
        "{name}: {megabytes} MB in {seconds:.1} s; {:.2} MB entered the path, {:.1} % more than that",
        over as f64 / 1e6,
        (over as f64 / f64::from(megabytes * 1_000_000) - 1.0) * 100.0
    );
    Ok(())
}

/// On a path of 9,000 bytes datagrams become large, and as many as the kernel takes at once still arrive: together they have to fit 65,507 bytes.
fn jumbo(hosts: &mut TwoHosts, wan: &Wan) -> Result<()> {
    hosts.one.ok("ip link set to-two mtu 9000")?;
    hosts.two.ok("ip link set to-one mtu 9000")?;
    // A session looks for the path's MTU when it begins.
    hosts.kill_agent(End::Sender)?;
    hosts.start_agent(End::Sender)?;
    hosts.ready(2)?;
    let before = *wan.report()?.tally_there();
    let begun = now();
    disturbed(hosts, wan, "jumbo", 30, |_| {}, false)?;
    let seconds = begun.elapsed();
    let after = *wan.report()?.tally_there();
    let mean = (after.bytes_in - before.bytes_in) / (after.packets_in - before.packets_in).max(1);
    eprintln!("jumbo: packets of {mean} bytes");
    ensure!((5000..=6600).contains(&mean), "packets of {mean} bytes on a path that takes 9,000");
    // Twice what the link needs, the digests of both ends and the start of the command along with it.
    ensure!(seconds < Duration::from_secs(15), "30 MB at 100 Mbit/s took {seconds:?}");
    Ok(())
}

#[test]
fn a_transfer_ends_by_itself_whatever_the_path_does_meanwhile() -> Result<()> {
    let (mut hosts, wan) = hosts()?;
    let slow = |link: &mut Link| link.rate = Some(Rate(RATE.0 / 10));
    disturbed(&hosts, &wan, "cut", 30, |link| link.down = true, true)?;
    disturbed(&hosts, &wan, "slow", 30, slow, true)?;
    let bursts = Some(Bursts { share: 0.02, length: 10.0 });
    disturbed(&hosts, &wan, "bursts", 30, |link| link.bursts = bursts, true)?;
    for (name, answers) in [("mtu", true), ("mtu-silent", false)] {
        disturbed(&hosts, &wan, name, 20, |link| link.mtu = Some(PathMtu { bytes: 1280, answers }), false)?;
    }
    let wanders = |link: &mut Link| link.jitter = Duration::from_millis(8);
    disturbed(&hosts, &wan, "jitter", 8, wanders, false)?;
    let reorder = Some(Reorder { share: 0.05, by: Duration::from_millis(5) });
    disturbed(&hosts, &wan, "reordered", 8, |link| link.reorder = reorder, false)?;
    jumbo(&mut hosts, &wan)?;
    eprintln!("{}", wan.report()?);
    hosts.ready(2)
}
