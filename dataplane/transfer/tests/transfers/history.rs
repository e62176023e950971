//! Segments that refer to earlier ones of the same file: what repeats far apart travels once, whatever comes late, breaks or is damaged.

use std::fs;

use dataplane_transfer::{Received, Settings};
use proto_model::{ByteCount, TransferOptions, TransferState};

use crate::bed::{Bed, Faults, noise, settings, tree};

/// Bytes that nothing compresses, and that come again and again.
const NOISE: usize = 1 << 20;
const TIMES: usize = 5;

/// What goes over each link until the transfer has succeeded.
async fn send(bed: &Bed, faults: Vec<Faults>) -> Vec<u64> {
    fs::write(bed.a.root.join("dump"), noise(3, NOISE).repeat(TIMES)).unwrap();
    let grant = bed.grant(&["data:/dump"], "data:/", TransferOptions::default());
    let (report, wires) = bed.send_job(bed.job(&grant), faults).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
    let received = wires.received().await;
    let Some(Received::Ended(last)) = received.last() else { panic!("{received:?}") };
    // The receiver held nothing before but what came by an earlier link.
    assert!(received.len() > 1 || last.progress.bytes_reused == ByteCount::new(0), "{last:?}");
    assert!(received.len() > 1 || report.progress.bytes_reused == ByteCount::new(0), "{report:?}");
    wires.bytes()
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_repeats_far_apart_in_a_file_travels_once_in_whatever_order_it_comes() {
    for shuffle in [None, Some(1), Some(2)] {
        let bed = Bed::new();
        let bytes = send(&bed, vec![Faults { shuffle, ..Faults::default() }]).await;
        assert!(bytes.len() == 1 && bytes[0] < wide(NOISE + NOISE / 8), "{shuffle:?}: {bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_others_refer_to_may_be_damaged_on_its_way() {
    // The first ones carry the noise, those behind them refer to it.
    for spoil in [0, 3, 6] {
        let bed = Bed::new();
        let faults = Faults { spoil: Some(spoil), shuffle: Some(wide(spoil)), ..Faults::default() };
        let bytes = send(&bed, vec![faults]).await;
        assert!(bytes.len() == 1 && bytes[0] < wide(NOISE + NOISE / 4), "{spoil}: {bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_it_broke_though_nothing_is_known_there_of_what_came_before() {
    for cut in [4, 12, 30, 60] {
        let mut bed = Bed::new();
        let cut = Faults { cut_after: Some(cut), ..Faults::default() };
        send(&bed, vec![cut.clone(), cut, Faults { shuffle: Some(3), ..Faults::default() }]).await;
        bed.a.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_to_wait_in_segments_are_asked_for_again_and_refer_to_nothing() {
    let mut bed = Bed::new();
    bed.b.settings = Settings { receive_budget: ByteCount::new(1), ..settings() };
    bed.b.restart().await;
    let bytes = send(&bed, vec![Faults { shuffle: Some(5), ..Faults::default() }]).await;
    assert!(bytes.len() == 1 && bytes[0] <= wide(NOISE * (TIMES + 1)), "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_whose_history_does_not_pay_travel_without_it() {
    let bed = Bed::new();
    let lines = |from: u64| {
        (from..from + 12_000)
            .map(|line| format!("{line} GET /{} 200\n", line.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 977))
    };
    let text: String = lines(0).collect();
    fs::write(bed.a.root.join("log"), text.repeat(8)).unwrap();
    let (report, _) = bed.send(&["data:/log"], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}
