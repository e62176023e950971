//! `dwcp bench` over an emulated path: what it says is what the path is, nobody runs one without a right, and whoever goes away ends it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Host, Ran, TwoHosts, eventually, seed};
use tests_wan::{Link, Rate, Wan};

const LIMIT: Duration = Duration::from_secs(60);
const MEGABITS: f64 = 50.0;
const RTT_MS: f64 = 20.0;
const LOSS: f64 = 0.005;

/// Two hosts with a path of 20 ms, 50 Mbit/s and 0.5 % of loss between them.
fn hosts() -> Result<(TwoHosts, Wan)> {
    let mut wan = None;
    let rate = Some(Rate::megabits(50));
    let link = Link { rate, rtt: Duration::from_millis(20), loss: LOSS, seed: seed(), ..Link::default() };
    let hosts = TwoHosts::typed_in(Host::new("bench-one")?, Host::new("bench-two")?, |one, two| {
        wan = Some(Wan::between((one, "10.77.0.1/24"), (two, "10.77.0.2/24"), link)?);
        Ok(())
    })?;
    Ok((hosts, wan.context("a path")?))
}

#[allow(clippy::disallowed_methods, reason = "a promised bound of real time is looked at")]
fn now() -> Instant {
    Instant::now()
}

fn bench(hosts: &TwoHosts, arguments: &str) -> Result<Ran> {
    hosts.one.run(&format!("dwcp -o json bench {arguments}"))
}

/// The result of a bench that succeeds, of its first direction.
fn measured(hosts: &TwoHosts, arguments: &str) -> Result<(Value, Value)> {
    let ran = bench(hosts, arguments)?;
    ensure!(ran.code == 0, "{arguments}: {} {}{}", ran.code, ran.stdout, ran.stderr);
    let bench: Value = serde_json::from_str(&ran.stdout)?;
    Ok((bench["results"][0].clone(), bench))
}

/// One that is refused or fails, with this exit code and these words.
fn refused(hosts: &TwoHosts, arguments: &str, code: i32, words: &str) -> Result<()> {
    let ran = bench(hosts, arguments)?;
    let said = format!("{}{}", ran.stdout, ran.stderr);
    ensure!(ran.code == code && said.contains(words), "{arguments}: {} instead of {code}: {said}", ran.code);
    Ok(())
}

fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(f64::NAN)
}

fn says_what_the_path_is(hosts: &TwoHosts) -> Result<()> {
    let (forward, bench) = measured(hosts, "--from site-a site-b --seconds 6")?;
    let steady = number(&forward["steadyBitsPerSecond"]) / 1e6;
    ensure!((0.7 * MEGABITS..=MEGABITS).contains(&steady), "{steady} Mbit/s: {bench:#}");
    let base = number(&forward["baseRttMs"]);
    ensure!((RTT_MS - 0.5..=RTT_MS + 2.0).contains(&base), "{base} ms: {forward:#}");
    ensure!(number(&forward["loadedRttMs"]) >= base - 0.5, "{forward:#}");
    let loss = number(&forward["loss"]);
    ensure!((LOSS / 3.0..=LOSS * 6.0).contains(&loss), "a loss of {loss}: {forward:#}");
    let (wire, bytes) = (number(&forward["bytesOnTheWire"]), number(&forward["bytes"]));
    ensure!(wire > bytes && number(&forward["overhead"]) < 0.25, "{forward:#}");
    let to_90 = number(&forward["secondsTo90Percent"]);
    ensure!(to_90 > 0.0 && to_90 < 6.0, "{forward:#}");
    let product = number(&forward["bandwidthDelayProductBytes"]);
    ensure!((0.7..=1.3).contains(&(product / (steady * 1e6 / 8.0 * base / 1000.0))), "{forward:#}");
    ensure!(forward["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{forward:#}");
    ensure!(forward["limitedBy"] == "", "{forward:#}");
    let intervals = bench["intervals"].as_array().context("intervals")?;
    ensure!(intervals.len() >= 5 && intervals.iter().all(|one| number(&one["rttMs"]) > RTT_MS - 1.0), "{bench:#}");
    eprintln!("forward: {steady:.1} Mbit/s, {base:.1} ms, loss {:.2} %", loss * 100.0);

    // From this host's agent, for people, the other way.
    let people = hosts.one.ok("dwcp bench site-b --seconds 3 --reverse")?;
    eprintln!("{people}");
    ensure!(people.contains("site-a ← site-b  direct 10.77.0.2:") && people.contains("advice"), "{people}");
    ensure!(people.lines().filter(|line| line.contains("Mbit/s  rtt")).count() >= 2, "{people}");

    let audit = hosts.one.ok("dwcp -o jsonl audit list --limit 20")?;
    ensure!(audit.contains("bench.create") && audit.contains("bench.end"), "{audit}");
    Ok(())
}

fn a_bound_holds_and_is_named(hosts: &TwoHosts) -> Result<()> {
    hosts.one.ok("printf 'bandwidth:\\n  total: 10mbit\\n' >/tmp/bench-bound.yaml && dwcp config set fleet /tmp/bench-bound.yaml")?;
    let (bounded, bench) = measured(hosts, "--from site-a site-b --seconds 5")?;
    let steady = number(&bounded["steadyBitsPerSecond"]) / 1e6;
    ensure!((7.0..=10.5).contains(&steady), "{steady} Mbit/s: {bench:#}");
    ensure!(bounded["limitedBy"] == "bandwidth.total", "{bounded:#}");
    let advice = bounded["advice"].as_str().unwrap_or_default();
    ensure!(advice.starts_with("limited by bandwidth.total (10mbit)"), "{advice}");
    hosts.one.ok(
        "printf 'bandwidth:\\n  total: null\\n' >/tmp/bench-bound.yaml && dwcp config set fleet /tmp/bench-bound.yaml",
    )?;
    Ok(())
}

fn nobody_without_a_right(hosts: &TwoHosts) -> Result<()> {
    refused(hosts, "--from site-a nobody", 2, "is not in the fleet")?;
    refused(hosts, "--from site-a site-a", 2, "a path has two ends")?;
    refused(hosts, "--direct site-b", 6, "NOT_ACCEPTED")?;
    hosts.one.ok("dwcp -o json operator create looker --role viewer | jq -r .token >/tmp/looker.token")?;
    let endpoint = "--endpoint 10.77.0.1:7442 --ca /var/lib/dwcp-control-plane/ca.pem --token-file /tmp/looker.token";
    refused(hosts, &format!("{endpoint} --from site-a site-b"), 6, "operator")
}

/// Who presses Ctrl-C ends it at both ends, at once: the next one finds both free.
fn who_goes_away_ends_it(hosts: &TwoHosts) -> Result<()> {
    let stopped = hosts.one.run("timeout --signal INT 3 dwcp bench --from site-a site-b --seconds 60")?;
    ensure!(stopped.stderr.contains("ended at both ends"), "{} {}{}", stopped.code, stopped.stdout, stopped.stderr);
    let begun = now();
    eventually("both ends to be free again", LIMIT, || {
        let ran = bench(hosts, "--from site-a site-b --seconds 1")?;
        ensure!(ran.code == 0 || ran.stdout.contains("BUSY"), "{}{}", ran.stdout, ran.stderr);
        Ok((ran.code == 0).then_some(()))
    })?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    Ok(())
}

/// The other end dies: the bench ends with a clear word, soon.
fn a_dead_end_ends_it(hosts: &TwoHosts) -> Result<()> {
    hosts.two.ok("(sleep 2; pkill -KILL dwcp-agent) >/dev/null 2>&1 &")?;
    let begun = now();
    refused(hosts, "--from site-a site-b --seconds 60", 5, "PEER_UNREACHABLE")?;
    ensure!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn a_bench_says_what_the_path_is_and_ends_with_whoever_goes_away() -> Result<()> {
    let (hosts, wan) = hosts()?;
    says_what_the_path_is(&hosts)?;
    a_bound_holds_and_is_named(&hosts)?;
    nobody_without_a_right(&hosts)?;
    who_goes_away_ends_it(&hosts)?;
    a_dead_end_ends_it(&hosts)?;
    hosts.one.ok("dwcp node delete site-b --yes")?;
    refused(&hosts, "--from site-a site-b", 2, "was removed from the fleet")?;
    eprintln!("{}", wan.report()?);
    Ok(())
}
