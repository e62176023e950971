//! Either end of a transfer is killed while it goes over a long, thin, lossy path.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tests_harness::{End, Host, TwoHosts, digest, eventually};
use tests_wan::{Link, Rate, Wan};

const LIMIT: Duration = Duration::from_secs(120);
/// Bytes on the path that show that a transfer goes on: more than handshakes and the manifest take.
const ON: u64 = 1_000_000;

/// One kill.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// Who.
    pub end: End,
    /// How much of the tree had entered the path, in thousandths.
    pub at: u64,
    /// What travelled more than once, as the sender counts.
    pub again: u64,
    /// What entered the path beyond what a transfer without a kill puts on it.
    pub again_on_the_path: u64,
    /// From its start until the transfer went on.
    pub resumed_after: Duration,
}

/// Sends a tree so many times over 80 ms, 100 Mbit/s and 1 % of loss, and kills one of the two ends each time, at a moment of the seed.
///
/// # Errors
/// A transfer does not go on by itself, or is not what was sent.
pub fn kill_far_apart(kills: u32, seed: u64, megabytes: u32) -> Result<Vec<Killed>> {
    let mut wan = None;
    let rate = Some(Rate::megabits(100));
    let link = Link { rate, rtt: Duration::from_millis(80), loss: 0.01, seed, ..Link::default() };
    let hosts = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, |one, two| {
        wan = Some(Wan::between((one, "10.77.0.1/24"), (two, "10.77.0.2/24"), link)?);
        Ok(())
    })?;
    let mut bed = Bed { hosts, wan: wan.context("a path")?, megabytes, expected: String::new(), undisturbed: 0 };
    bed.expected = bed.hosts.data_set("set", megabytes)?;
    let mut random = StdRng::seed_from_u64(seed);
    let before = bed.on_the_path()?;
    let name = bed.begin("whole")?;
    bed.ended(&name, "whole")?;
    bed.undisturbed = bed.on_the_path()? - before;
    let ends = [End::Sender, End::Receiver];
    (0..kills)
        .map(|round| {
            // Neither end twice as often as the other.
            let end = ends[usize::try_from(round % 2)?];
            let at = random.random_range(20..950);
            bed.kill(end, at, &format!("round-{round}")).with_context(|| format!("seed {seed}, round {round}, {end:?}"))
        })
        .collect()
}

struct Bed {
    hosts: TwoHosts,
    wan: Wan,
    megabytes: u32,
    expected: String,
    /// What a transfer without a kill puts on the path.
    undisturbed: u64,
}

impl Bed {
    fn on_the_path(&self) -> Result<u64> {
        Ok(self.wan.report()?.tally_there().payload_in)
    }

    fn begin(&self, folder: &str) -> Result<String> {
        let line = format!("dwcp -o json send --from site-a data:/set site-b:data:/{folder} --detach");
        let created: Value = serde_json::from_str(&self.hosts.one.ok(&line)?)?;
        Ok(created["name"].as_str().context("a transfer has a name")?.to_owned())
    }

    /// Waits for its end, and compares; what was sent.
    fn ended(&self, name: &str, folder: &str) -> Result<u64> {
        let ended = self.hosts.one.ok(&format!("dwcp -o json transfer watch {name} --timeout 300s"))?;
        let ended: Value = serde_json::from_str(&ended)?;
        ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
        let arrived = digest(&self.hosts.two, &format!("/srv/dwcp/data/{folder}/set"))?;
        ensure!(arrived == self.expected, "other bytes arrived");
        self.hosts.two.ok(&format!("rm -rf /srv/dwcp/data/{folder}"))?;
        let sent = ended["progress"]["bytesSent"].as_str().context("bytes sent")?;
        Ok(sent.parse()?)
    }

    fn kill(&mut self, end: End, at: u64, folder: &str) -> Result<Killed> {
        let clock = Clock::system();
        let bytes = u64::from(self.megabytes) * 1_000_000;
        let before = self.on_the_path()?;
        let name = self.begin(folder)?;
        // Both ends send the same for a tree: heads, and what was lost on the way.
        let until = before + bytes / 1000 * at;
        eventually("some of it to be sent", LIMIT, || Ok((self.on_the_path()? > until).then_some(())))?;
        self.hosts.kill_agent(end)?;
        self.hosts.start_agent(end)?;
        let (begun, then) = (clock.now(), self.on_the_path()?);
        let on = then + ON.min(bytes / 50);
        eventually("the transfer to go on", LIMIT, || Ok((self.on_the_path()? > on).then_some(())))?;
        let resumed_after = clock.now().duration_since(begun);
        let sent = self.ended(&name, folder)?;
        Ok(Killed {
            end,
            at,
            again: sent.saturating_sub(bytes),
            again_on_the_path: (self.on_the_path()? - before).saturating_sub(self.undisturbed),
            resumed_after,
        })
    }
}
