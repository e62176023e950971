//! Small files without an old version lean on a dictionary of their kind: trained of what the peer was sent, shipped once, lost without harm;
//! and whoever lies about one gets nothing.

use std::{fs, time::Duration};

use dataplane_transfer::Settings;
use proto_model::{ByteCount, TransferOptions, TransferState};
use proto_wire::{
    frames::{Authority, DictionaryContents, HeldDictionaries, Open, ReceiverFrame, SenderFrame},
    piece::{BundleRow, Header, PieceKind},
};

use crate::{
    bed::{Bed, PATIENCE, settings, tree},
    liars::{Step, bundle, entry, manifest_end, page, page_frame, refusal_opened},
};

const VIOLATION: &str = "PROTOCOL_VIOLATION";

fn on() -> Settings {
    Settings { dictionaries: true, ..settings() }
}

/// A configuration of a service like others.
fn document(number: u64) -> String {
    let of = |n: u64| blake3::hash(&(number * 100 + n).to_le_bytes()).to_hex().to_string();
    let checks: String = (0..2 + number % 3)
        .map(|n| {
            format!("    {{ \"path\": \"/health/{n}\", \"interval_seconds\": {}, \"expect_status\": 200 }},\n", 5 + n)
        })
        .collect();
    format!(
        "{{\n  \"apiVersion\": \"services.example.org/v1\",\n  \"name\": \"service-{number}\",\n  \"image\": \
         \"registry.example.org/platform/service@sha256:{}\",\n  \"replicas\": {},\n  \"resources\": {{ \"limits\": {{ \"cpu\": \
         \"500m\", \"memory\": \"256Mi\" }} }},\n  \"environment\": [ {{ \"name\": \"LOG_LEVEL\", \"value\": \"info\" }}, {{ \
         \"name\": \"DATABASE_URL\", \"value\": \"postgres://{}\" }} ],\n  \"healthChecks\": [\n{checks}  ]\n}}\n",
        &of(0)[..16],
        number % 7,
        &of(1)[..12],
    )
}

/// Sends so many new documents; gives the bytes on the wire.
async fn round(bed: &Bed, numbers: std::ops::Range<u64>) -> u64 {
    let name = format!("round-{}", numbers.start);
    fs::create_dir(bed.a.root.join(&name)).unwrap();
    for number in numbers {
        fs::write(bed.a.root.join(format!("{name}/{number}.json")), document(number)).unwrap();
    }
    let (report, wires) = bed.send(&[&format!("data:/{name}")], "data:/", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert!(tree(&bed.a.root.join(&name)) == tree(&bed.b.root.join(&name)));
    wires.bytes().iter().sum()
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_of_a_kind_lean_on_a_dictionary_that_is_shipped_once() {
    let mut sums = Vec::new();
    for dictionaries in [false, true] {
        let mut bed = Bed::new();
        bed.a.settings = Settings { dictionaries, ..settings() };
        bed.a.restart().await;
        let mut sum = round(&bed, 0..300).await;
        if dictionaries {
            until(|| bed.a.transfers.dictionaries().trained == 1).await;
        }
        let mut each = Vec::new();
        for number in 1..=16 {
            each.push(round(&bed, number * 1000..number * 1000 + 4).await);
        }
        sum += each.iter().sum::<u64>();
        sums.push(sum);
        let (first, last) = (each[0], each[15]);
        if !dictionaries {
            continue;
        }
        assert!(last < first * 2 / 3, "{each:?}");
        assert_eq!(bed.b.transfers.dictionaries().received, 1);
        // It was shipped in one of them.
        assert_eq!(each.iter().filter(|bytes| **bytes > first * 3 / 2).count(), 1, "{each:?}");
        // Either end starts anew, and has it still.
        bed.a.restart().await;
        bed.b.restart().await;
        let again = round(&bed, 500_000..500_004).await;
        assert!(again < first * 2 / 3, "{again}");
        // The receiver lost it: files go without, and it comes again when it has missed its price again.
        fs::remove_dir_all(bed.b.folder.join("dictionaries/received")).unwrap();
        let without = round(&bed, 600_000..600_004).await;
        assert!(without > first * 9 / 10, "{without} of {first}");
        for number in 61..72 {
            round(&bed, number * 1000..number * 1000 + 4).await;
        }
        assert!(round(&bed, 900_000..900_004).await < first * 2 / 3);
    }
    assert!(sums[1] < sums[0], "{sums:?}");
    eprintln!("without and with: {sums:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_without_a_dictionary_for_which_the_receiver_has_no_memory() {
    let mut bed = Bed::new();
    bed.a.settings = on();
    bed.a.restart().await;
    round(&bed, 0..300).await;
    until(|| bed.a.transfers.dictionaries().trained == 1).await;
    bed.b.settings = Settings { receive_budget: ByteCount::new(1), ..settings() };
    bed.b.restart().await;
    for number in 1..=16 {
        round(&bed, number * 1000..number * 1000 + 4).await;
    }
    // It was shipped, and is used as soon as there is memory for it.
    assert_eq!(bed.b.transfers.dictionaries().received, 1);
    let without = round(&bed, 17_000..17_004).await;
    bed.b.settings = settings();
    bed.b.restart().await;
    let with = round(&bed, 18_000..18_004).await;
    assert!(with < without * 2 / 3, "{with} of {without}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_dictionaries_gets_none() {
    let mut bed = Bed::new();
    bed.a.settings = on();
    bed.a.restart().await;
    bed.b.transfers.set_settings(Settings { dictionary_bytes: ByteCount::new(0), ..settings() });
    for number in 0..4 {
        round(&bed, number * 1000..number * 1000 + 200).await;
    }
    assert_eq!(bed.a.transfers.dictionaries().trained, 0);
    assert!(!bed.b.folder.join("dictionaries").exists());
}

fn frame(frame: SenderFrame) -> Step {
    Step::Frame(frame.encode())
}

/// Opens with dictionaries, then these steps.
async fn refusal(features: &[&str], steps: Vec<Step>) -> String {
    let bed = Bed::new();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    let open = Open {
        transfer: grant.transfer,
        authority: Authority::Grant(bed.sign(&grant)),
        traceparent: None,
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        segment_bytes: 64 << 10,
        order: 0,
    };
    let mut all = vec![frame(SenderFrame::Open(Box::new(open)))];
    all.extend(steps);
    let reason = refusal_opened(&bed, all).await;
    let kept = bed.b.transfers.dictionaries();
    assert!(kept.received <= 32 && kept.received_bytes <= 32 * (112 << 10), "{kept:?}");
    reason
}

fn container(bytes: &[u8]) -> Vec<u8> {
    let mut container = Vec::new();
    let plain = dataplane_hde::Version::plain(dataplane_hde::Options::default());
    dataplane_hde::Encoder::new().encode(&plain, 0, bytes, &mut container).unwrap();
    container
}

fn offer(number: u32, of: &[u8]) -> Step {
    frame(SenderFrame::Dictionaries(vec![(number, *blake3::hash(of).as_bytes())]))
}

fn ship(number: u32, size: usize, of: &[u8]) -> Step {
    let size = u32::try_from(size).unwrap();
    frame(SenderFrame::Dictionary(DictionaryContents { number, size, container: container(of) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_lie_about_dictionaries_are_refused() {
    let bytes = document(1).into_bytes().repeat(10);
    let with = async |steps| refusal(&["dictionaries"], steps).await;
    // Not agreed upon; another digest; another size; not offered; offered twice; shipped twice; longer than one may be.
    assert_eq!(refusal(&[], vec![offer(1, &bytes)]).await, VIOLATION);
    assert_eq!(with(vec![offer(1, b"another"), ship(1, bytes.len(), &bytes)]).await, VIOLATION);
    assert_eq!(with(vec![offer(1, &bytes), ship(1, bytes.len() - 1, &bytes)]).await, VIOLATION);
    assert_eq!(with(vec![offer(1, &bytes), ship(1, 112 << 10, &bytes)]).await, VIOLATION);
    assert_eq!(with(vec![offer(1, &bytes), ship(2, bytes.len(), &bytes)]).await, VIOLATION);
    assert_eq!(with(vec![offer(1, &bytes), offer(1, &bytes)]).await, VIOLATION);
    let twice = || ship(1, bytes.len(), &bytes);
    assert_eq!(with(vec![offer(1, &bytes), twice(), twice()]).await, VIOLATION);
    let long = vec![7; (112 << 10) + 1];
    assert_eq!(with(vec![offer(1, &long), ship(1, long.len(), &long)]).await, VIOLATION);
    let garbage = DictionaryContents { number: 1, size: 5000, container: vec![0xee; 300] };
    assert_eq!(with(vec![offer(1, &bytes), frame(SenderFrame::Dictionary(garbage))]).await, VIOLATION);
    // Without end.
    assert_eq!(with((1..40).map(|number| offer(number, &bytes)).collect()).await, VIOLATION);
    let all = (1..=32).flat_map(|number| {
        let bytes = document(number.into()).into_bytes().repeat(10);
        [offer(number, &bytes), ship(number, bytes.len(), &bytes)]
    });
    assert_eq!(with(all.chain([offer(1, b"more")]).collect()).await, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_that_lie_about_their_dictionary_are_refused() {
    let (bytes, contents) = (document(1).into_bytes(), document(2).into_bytes());
    let dictionary = dataplane_hde::Dictionary::from_bytes(&bytes, blake3::hash(&bytes)).unwrap();
    let size = u64::try_from(contents.len()).unwrap();
    let row = BundleRow { file: 0, basis: false, as_read: None };
    let leaning = |rows: &[BundleRow], number: u64, packed: &[u8]| {
        let (header, whole) = bundle(rows, &contents);
        let table = 4 + usize::try_from(u32::from_le_bytes(*whole.first_chunk().unwrap())).unwrap();
        let header = Header { kind: PieceKind::Leaning, file_bytes: number, ..header };
        (header, [&whole[..table], packed].concat())
    };
    let mut small = dataplane_hde::SmallEncoder::new();
    let packed = small.compress(&contents, dataplane_hde::Lean::Dictionary(&dictionary), 3).unwrap().to_vec();
    let tree = page(&[entry("a.json", size)]);
    let with = async |(header, bundle): (Header, Vec<u8>), held: bool| {
        let mut steps = vec![offer(1, &bytes)];
        if held {
            steps.push(ship(1, bytes.len(), &bytes));
        }
        steps.extend([page_frame(&tree), manifest_end(&tree), Step::Wanted, Step::Piece(header, bundle)]);
        refusal(&["dictionaries"], steps).await
    };
    assert_eq!(with(leaning(&[row], 1, &packed), false).await, VIOLATION);
    assert_eq!(with(leaning(&[row], 2, &packed), true).await, VIOLATION);
    assert_eq!(with(leaning(&[row], 1 << 40, &packed), true).await, VIOLATION);
    assert_eq!(with(leaning(&[row], 1, &packed[1..]), true).await, VIOLATION);
    assert_eq!(with(leaning(&[row], 1, &[0; 100]), true).await, VIOLATION);
    assert_eq!(with(leaning(&[BundleRow { basis: true, ..row }], 1, &packed), true).await, VIOLATION);
    let (header, whole) = leaning(&[row], 1, &packed);
    assert_eq!(with((Header { value: [1; 32], ..header }, whole.clone()), true).await, "CORRUPTED");
    assert_eq!(with((Header { decoded_bytes: 4 << 20, ..header }, whole), true).await, VIOLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_lie_about_dictionaries_are_refused() {
    let held = |held: Vec<u32>, missing: Vec<u32>| ReceiverFrame::Dictionaries(HeldDictionaries { held, missing });
    for lie in [held(vec![1], vec![]), held(vec![], vec![1]), held(vec![32], vec![])] {
        assert_eq!(crate::lying_receivers::refusal_of(settings(), lie.clone()).await, VIOLATION);
        assert_eq!(crate::lying_receivers::refusal_of(on(), lie).await, VIOLATION);
    }
}
