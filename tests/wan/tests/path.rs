//! What probes of a test's own see of an emulated path is what was asked for. A run in which the emulator was late is repeated a few
//! times, and then said to prove nothing, since the machine and not the emulator is to blame.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use nix::{
    sched::{CloneFlags, setns},
    unistd::gettid,
};
use tests_wan::{Bursts, Direction, Link, Namespace, PathMtu, Place as _, Queue, Rate, Report, Verdict, Wan};

const TRIES: usize = 4;
const FIRST: &str = "10.77.0.1";
const SECOND: &str = "10.77.0.2";

/// One path at a time: several would make each other late.
static ALONE: Mutex<()> = Mutex::new(());

/// Two namespaces with a path between them.
struct Bed {
    // Dropped first.
    wan: Wan,
    first: Namespace,
    second: Namespace,
    _alone: MutexGuard<'static, ()>,
}

impl Bed {
    /// `name` tells this test's from those of others in this process.
    fn new(name: &str, link: Link) -> Result<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, second) = (Namespace::new(&format!("{name}1"))?, Namespace::new(&format!("{name}2"))?);
        let wan = Wan::between((&first, &format!("{FIRST}/24")), (&second, &format!("{SECOND}/24")), link)?;
        Ok(Self { wan, first, second, _alone: alone })
    }

    /// A socket at the first end that sends to one at the second.
    fn probes(&self) -> Result<(UdpSocket, UdpSocket)> {
        let bind = |address| move || Ok(UdpSocket::bind((address, 0))?);
        let (from, to) = (within(&self.first, bind(FIRST))?, within(&self.second, bind(SECOND))?);
        from.connect(to.local_addr()?)?;
        to.set_read_timeout(Some(Duration::from_millis(700)))?;
        Ok((from, to))
    }
}

/// Makes something, sockets above all, inside of a namespace; they stay there.
fn within<T: Send + 'static>(place: &Namespace, make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let namespace = File::open(place.network())?;
    let made = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        make()
    });
    made.join().ok().context("the thread does not panic")?
}

/// Lets the present thread's time be measured also on a busy machine; where that is not allowed, it is as it is.
fn in_real_time() {
    drop(Command::new("chrt").args(["--fifo", "--pid", "30", &gettid().to_string()]).output());
}

/// Repeats a run in which the emulator was late. What it promised is looked at in good runs only.
fn unless_late(what: &str, mut run: impl FnMut() -> Result<(Report, Result<()>)>) -> Result<()> {
    for _ in 0..TRIES {
        let (report, held) = run()?;
        match report.verdict {
            Verdict::Good => return held.with_context(|| report.to_string()),
            Verdict::ThrownAway(why) => eprintln!("{what}: {why}; once more"),
        }
    }
    eprintln!("{what}: late {TRIES} times; this machine is too busy to prove anything");
    Ok(())
}

/// A probe that arrived: its number, and when it was sent and received.
#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u32,
    sent: Instant,
    received: Instant,
}

impl Probe {
    fn delay(self) -> Duration {
        self.received - self.sent
    }
}

/// Sends `count` probes of `length` bytes (as IP packets), each `gap` after the last, and waits for those that arrive.
fn send(bed: &Bed, count: u32, length: usize, gap: Duration) -> Result<Vec<Probe>> {
    let (from, to) = bed.probes()?;
    let clock = Clock::system();
    let (ready, is_ready) = mpsc::sync_channel(1);
    let receiver = thread::spawn(move || -> Result<_> {
        in_real_time();
        ready.send(())?;
        let (mut seen, mut packet) = (Vec::new(), [0; 2048]);
        while let Ok(length) = to.recv(&mut packet) {
            let number = u32::from_be_bytes(packet[..4].try_into()?);
            seen.push((number, Clock::system().now()));
            assert!(length >= 4);
            if number == count - 1 {
                to.set_read_timeout(Some(Duration::from_millis(200)))?;
            }
        }
        Ok(seen)
    });
    is_ready.recv()?;
    let sender = thread::spawn(move || -> Result<Vec<Instant>> {
        in_real_time();
        let mut packet = vec![0; length - 28];
        let start = clock.now();
        let mut sent = Vec::new();
        for number in 0..count {
            thread::sleep((start + gap * number).saturating_duration_since(clock.now()));
            packet[..4].copy_from_slice(&number.to_be_bytes());
            sent.push(clock.now());
            from.send(&packet)?;
        }
        Ok(sent)
    });
    let sent = sender.join().ok().context("no panic")??;
    let seen = receiver.join().ok().context("no panic")??;
    Ok(seen.iter().map(|&(number, received)| Probe { number, sent: sent[number as usize], received }).collect())
}

fn median(mut delays: Vec<Duration>) -> Duration {
    delays.sort();
    delays.get(delays.len() / 2).copied().unwrap_or_default()
}

fn delays(probes: &[Probe]) -> Vec<Duration> {
    probes.iter().map(|probe| probe.delay()).collect()
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn probes_take_the_delay_that_was_asked_for_and_another_once_it_is_changed() -> Result<()> {
    unless_late("delay", || {
        let bed = Bed::new("delay", Link { rtt: 40 * MS, ..Link::default() })?;
        let first = delays(&send(&bed, 200, 200, 2 * MS)?);
        bed.wan.change(|link| link.rtt = 100 * MS);
        let second = delays(&send(&bed, 200, 200, 2 * MS)?);
        bed.wan.change(|link| link.jitter = 5 * MS);
        let third = delays(&send(&bed, 400, 200, MS)?);
        let held = || {
            ensure!(first.len() == 200 && second.len() == 200 && third.len() == 400, "some were lost");
            for (delays, asked) in [(&first, 20 * MS), (&second, 50 * MS)] {
                let (least, median) = (delays.iter().min().copied().unwrap_or_default(), median(delays.clone()));
                eprintln!("asked for {asked:?}: at least {least:?}, median {median:?}");
                ensure!(least >= asked && median <= asked + MS / 2, "{least:?} {median:?}");
            }
            let (least, most) = (third.iter().min().context("some")?, third.iter().max().context("some")?);
            eprintln!("50 ms with 5 ms of jitter: {least:?} to {most:?}");
            ensure!(*least >= 45 * MS && *least < 50 * MS && *most > 51 * MS, "jitter of 5 ms: {least:?} to {most:?}");
            Ok(())
        };
        Ok((bed.wan.report()?, held()))
    })
}

#[test]
fn a_flood_comes_out_at_the_rate_and_waits_as_long_as_the_queue_is() -> Result<()> {
    // 1,000 bytes at 20 Mbit/s are 0.4 ms; twice as many come. The queue of 50 kB holds for 20 ms.
    let link = Link { rate: Some(Rate::megabits(20)), rtt: 10 * MS, queue: Queue::Bytes(50_000), ..Link::default() };
    unless_late("rate", || {
        let bed = Bed::new("rate", link.clone())?;
        let first = send(&bed, 5000, 1000, MS / 5)?;
        bed.wan.change_one(Direction::There, |link| link.rate = Some(Rate::megabits(2)));
        let second = send(&bed, 400, 1000, 2 * MS)?;
        let report = bed.wan.report()?;
        let held = || {
            for (probes, rate, queue) in [(&first, 20e6, 20 * MS), (&second, 2e6, 200 * MS)] {
                let [start, .., end] = &probes[..] else { anyhow::bail!("none arrived") };
                let seconds = (end.received - start.received).as_secs_f64();
                let seen = (probes.len() - 1) as f64 * 8000.0 / seconds;
                let most = median(delays(&probes[probes.len() / 2..]));
                eprintln!("asked for {rate}: {seen:.0}; {most:?} in a queue of {queue:?}");
                ensure!((seen / rate - 1.0).abs() < 0.005, "{seen} of {rate}");
                let asked = 5 * MS + queue;
                ensure!(most <= asked + MS && most >= asked - queue / 20 - MS, "waited {most:?} of {asked:?}");
            }
            let counts = report.tally_there();
            ensure!(counts.queue_max_bytes == 50_000, "{counts:?}");
            ensure!(counts.dropped == 5400 - (first.len() + second.len()) as u64, "{counts:?}");
            Ok(())
        };
        let held = held();
        Ok((report, held))
    })
}

#[test]
fn so_many_are_lost_as_was_asked_for_and_the_same_for_the_same_seed() -> Result<()> {
    const SENT: u32 = 10_000;
    let link = |seed| Link { rtt: 2 * MS, loss: 0.01, seed, ..Link::default() };
    let lost = |seed| -> Result<Vec<u32>> {
        let mut lost = Vec::new();
        unless_late("loss", || {
            let bed = Bed::new("loss", link(seed))?;
            let seen = send(&bed, SENT, 100, MS / 20)?;
            lost = (0..SENT).collect();
            lost.retain(|number| seen.binary_search_by_key(number, |probe| probe.number).is_err());
            let report = bed.wan.report()?;
            let counted = report.tally_there().lost;
            let held = || {
                ensure!(lost.len() as u64 == counted, "{} of {counted}", lost.len());
                // Four standard deviations.
                ensure!((60..140).contains(&lost.len()), "{} of {SENT}", lost.len());
                Ok(())
            };
            let held = held();
            Ok((report, held))
        })?;
        Ok(lost)
    };
    let (first, again, other) = (lost(7)?, lost(7)?, lost(8)?);
    eprintln!("lost {} {} {} of {SENT}", first.len(), again.len(), other.len());
    assert_eq!(first, again);
    assert_ne!(first, other);
    Ok(())
}

#[test]
fn a_cut_lets_nothing_through_and_bursts_lose_what_is_together() -> Result<()> {
    let bed = Bed::new("cut", Link { rtt: 2 * MS, ..Link::default() })?;
    assert_eq!(send(&bed, 20, 100, MS)?.len(), 20);
    bed.wan.change(|link| link.down = true);
    assert_eq!(send(&bed, 20, 100, MS)?.len(), 0);
    bed.wan.change(|link| link.down = false);
    assert_eq!(send(&bed, 20, 100, MS)?.len(), 20);
    bed.wan.change(|link| link.bursts = Some(Bursts { share: 0.1, length: 10.0 }));
    let seen = send(&bed, 4000, 100, MS / 20)?;
    let lost = 4000 - seen.len();
    let gaps = seen.windows(2).filter(|pair| pair[1].number != pair[0].number + 1).count();
    eprintln!("lost {lost} in {gaps} bursts\n{}", bed.wan.report()?);
    assert!((200..700).contains(&lost) && gaps * 5 < lost && gaps * 20 > lost, "lost {lost} in {gaps} bursts");
    Ok(())
}

#[test]
fn tcp_learns_a_smaller_mtu_from_the_path() -> Result<()> {
    let bed = Bed::new("mtu", Link { rtt: 4 * MS, ..Link::default() })?;
    let listener = within(&bed.second, || Ok(TcpListener::bind((SECOND, 0))?))?;
    let address: SocketAddr = listener.local_addr()?;
    let mut from = within(&bed.first, move || Ok(TcpStream::connect(address)?))?;
    let (mut to, _) = listener.accept()?;
    let reader = thread::spawn(move || -> std::io::Result<usize> { to.read_to_end(&mut Vec::new()) });
    from.write_all(&[1; 100_000])?;
    bed.wan.change(|link| link.mtu = Some(PathMtu { bytes: 1300, answers: true }));
    from.write_all(&[2; 100_000])?;
    drop(from);
    assert_eq!(reader.join().ok().context("no panic")??, 200_000);
    let report = bed.wan.report()?;
    assert!(report.tally_there().too_big > 0, "{report}");
    Ok(())
}
