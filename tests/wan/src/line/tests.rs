use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::link::{Bursts, PathMtu, Queue, Rate};

const MS: u64 = 1_000_000;

/// 1,500 bytes take 1 ms.
fn link() -> Link {
    Link {
        rate: Some(Rate::megabits(12)),
        rtt: Duration::from_millis(80),
        queue: Queue::Bytes(u64::MAX),
        ..Link::default()
    }
}

/// A packet that carries its number.
fn numbered(number: u64) -> Vec<u8> {
    let mut packet = vec![0; 1500];
    packet[..8].copy_from_slice(&number.to_be_bytes());
    packet
}

/// All that comes out by `until`: the packets' numbers with their times.
fn out(line: &mut Line, until: u64) -> Vec<(u64, u64)> {
    let mut seen = Vec::new();
    while let Some(due) = line.next_due().filter(|due| *due <= until) {
        while let Some(packet) = line.take_due(due) {
            seen.push((u64::from_be_bytes(packet.bytes[..8].try_into().unwrap()), packet.due));
        }
    }
    seen
}

/// Sends so many packets, one each `gap`, and takes out all of them.
fn sent(link: Link, count: u64, gap: u64) -> (Line, Vec<(u64, u64)>) {
    let mut line = Line::new(link);
    for number in 0..count {
        line.on_packet(number * gap, &numbered(number));
    }
    let seen = out(&mut line, u64::MAX);
    (line, seen)
}

#[test]
fn rate_and_delay_are_exact() {
    let (line, seen) = sent(link(), 1000, 0);
    assert_eq!((seen[0], seen[999]), ((0, 41 * MS), (999, 1040 * MS)));
    // On average over the second: half of all; the last left when it was over.
    assert_eq!(line.tally().mean_queue(0..20), 749_250);
}

#[test]
fn a_full_queue_drops_what_comes() {
    let (line, seen) = sent(Link { queue: Queue::Bytes(15_000), ..link() }, 100, 0);
    assert_eq!((seen.len(), line.tally().counts.dropped, line.tally().counts.queue_max_bytes), (10, 90, 15_000));
    // At twice the rate half gets through.
    let (_, seen) = sent(Link { queue: Queue::Bdp(1.0), ..link() }, 10_000, MS / 2);
    assert!((5000..5100).contains(&seen.len()), "{}", seen.len());
}

#[test]
fn so_many_are_lost_alone_and_in_bursts() {
    let (_, seen) = sent(Link { loss: 0.01, ..link() }, 300_000, MS);
    assert!((2_800..3_200).contains(&(300_000 - seen.len())), "{}", seen.len());
    let (_, seen) = sent(Link { bursts: Some(Bursts { share: 0.01, length: 8.0 }), ..link() }, 300_000, MS);
    let lost = 300_000 - seen.len();
    let bursts = seen.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1).count();
    assert!((2_300..3_700).contains(&lost), "{lost}");
    assert!((70..90).contains(&(lost * 10 / bursts)), "{lost} in {bursts}");
}

#[test]
fn jitter_stays_within_its_bounds_and_reorders_nothing() {
    let (_, seen) = sent(Link { jitter: Duration::from_millis(5), rate: None, ..link() }, 100_000, MS / 10);
    let delays: Vec<_> = seen.iter().map(|(number, at)| at - number * MS / 10).collect();
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    assert!(*least >= 35 * MS && *most <= 45 * MS && most - least > 8 * MS, "{least} {most}");
    let mean = delays.iter().sum::<u64>() / delays.len() as u64;
    assert!((39 * MS..41 * MS).contains(&mean), "{mean}");
}

#[test]
fn what_is_held_back_is_overtaken() {
    let reorder = Some(Reorder { share: 0.01, by: Duration::from_millis(3) });
    let (line, seen) = sent(Link { reorder, rate: None, ..link() }, 100_000, MS / 10);
    assert_eq!(seen.len(), 100_000);
    assert!(seen.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    let overtaken = seen.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
    let held = line.tally().counts.held_back;
    assert!((900..1100).contains(&held) && overtaken > 850, "{held} {overtaken}");
}

#[test]
fn what_waits_goes_at_the_new_rate() {
    let mut line = Line::new(Link { rtt: Duration::ZERO, ..link() });
    for number in 0..3 {
        line.on_packet(0, &numbered(number));
    }
    // Half of the first is out; all the rest takes ten times as long.
    let slow = Link { rate: Some(Rate(1_200_000)), ..line.link().clone() };
    line.change(MS / 2, slow);
    let fast = Link { rate: None, ..line.link().clone() };
    assert_eq!(out(&mut line, 20 * MS), [(0, 5 * MS + MS / 2), (1, 15 * MS + MS / 2)]);
    line.change(21 * MS, fast);
    assert_eq!(out(&mut line, 21 * MS), [(2, 21 * MS)]);
}

#[test]
fn a_shorter_path_lets_nothing_overtake_what_is_on_its_way() {
    let mut line = Line::new(link());
    line.on_packet(0, &numbered(0));
    let short = Link { rtt: Duration::from_millis(10), ..line.link().clone() };
    line.change(2 * MS, short);
    line.on_packet(2 * MS, &numbered(1));
    line.on_packet(60 * MS, &numbered(2));
    assert_eq!(out(&mut line, u64::MAX), [(0, 41 * MS), (1, 41 * MS), (2, 66 * MS)]);
}

#[test]
fn a_cut_takes_what_waits_and_what_is_on_its_way() {
    let mut line = Line::new(link());
    for number in 0..100 {
        line.on_packet(0, &numbered(number));
    }
    assert_eq!(out(&mut line, 41 * MS).len(), 1);
    let down = Link { down: true, ..line.link().clone() };
    line.change(50 * MS, down);
    line.on_packet(55 * MS, &numbered(100));
    let up = Link { down: false, ..line.link().clone() };
    line.change(60 * MS, up);
    line.on_packet(70 * MS, &numbered(101));
    assert_eq!(out(&mut line, u64::MAX), [(101, 111 * MS)]);
    assert_eq!(line.tally().counts.cut, 100);
}

#[test]
fn what_is_too_large_for_the_path_is_answered_or_not() {
    let mut packet = numbered(0);
    // IPv4, don't fragment, UDP, from 10.0.0.1 to 10.0.0.2.
    packet[..20].copy_from_slice(&[0x45, 0, 5, 220, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let mut line = Line::new(Link { mtu: Some(PathMtu { bytes: 1400, answers: true }), ..link() });
    let answer = line.on_packet(0, &packet).unwrap();
    assert_eq!((&answer[12..20], &answer[20..22]), (&[10, 0, 0, 2, 10, 0, 0, 1][..], &[3, 4][..]));
    assert_eq!(answer[26..28], 1400_u16.to_be_bytes());
    assert!(line.on_packet(0, &packet[..1400]).is_none());
    let silent = Link { mtu: Some(PathMtu { bytes: 1400, answers: false }), ..link() };
    line.change(0, silent);
    assert!(line.on_packet(0, &packet).is_none());
    assert_eq!((line.tally().counts.too_big, out(&mut line, u64::MAX).len()), (2, 1));
}

#[test]
fn the_same_seed_loses_the_same() {
    let lossy = |seed| sent(Link { loss: 0.1, seed, ..link() }, 1000, MS).1;
    assert_eq!(lossy(5), lossy(5));
    assert_ne!(lossy(5), lossy(6));
}

proptest! {
    /// Whatever comes and changes: nothing is made, nothing vanishes uncounted, nothing is handed out early.
    #[test]
    fn every_packet_is_accounted_for(steps in prop::collection::vec((0_u8..8, 0_u64..20_000_000), 1..200)) {
        let mut line = Line::new(Link { loss: 0.05, queue: Queue::Bytes(20_000), ..link() });
        let (mut now, mut seen, mut number) = (0, 0_u64, 0);
        for (kind, by) in steps {
            now += by;
            let mut changed = line.link().clone();
            match kind {
                0 => changed.rate = Some(Rate(1 + by)),
                1 => changed.rate = None,
                2 => changed.down = !changed.down,
                3 => changed.rtt = Duration::from_nanos(by * 4),
                4 => changed.reorder = Some(Reorder { share: 0.3, by: Duration::from_nanos(by) }),
                _ => { line.on_packet(now, &numbered(number)); number += 1; }
            }
            line.change(now, changed);
            while let Some(packet) = line.take_due(now) {
                prop_assert!(packet.due <= now);
                seen += 1;
            }
        }
        let up = Link { down: false, rate: None, ..line.link().clone() };
        line.change(now, up);
        seen += out(&mut line, u64::MAX).len() as u64;
        let counts = line.tally().counts;
        prop_assert_eq!(counts.packets_in, number);
        prop_assert_eq!(counts.packets_out, seen);
        prop_assert_eq!(number, seen + counts.dropped + counts.lost + counts.cut + counts.too_big);
        prop_assert_eq!(line.backlog, 0);
    }
}
