//! The same bytes arrive whatever the lanes, streams, codec, segments, path and shape of the tree. `DWCP_SAME_BYTES_CASES` is how many are tried
//! (16), `DWCP_TEST_SEED` draws others.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use dataplane_amst::TransportSettings;
use dataplane_hde::Algorithm;
use dataplane_transfer::{Connector, Settings};
use foundation_runtime::{OnEnd, TaskGroup};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use proto_model::{TransferOptions, TransferState, config::CongestionAlgorithm};
use tokio::net::UdpSocket;

use crate::{
    bed::{Bed, Host, PATIENCE, noise, settings, tree},
    over_amst::{Dial, endpoint, send, serve},
};

/// What stands in a tree.
#[derive(Clone, Debug)]
enum Entry {
    Empty,
    Folder,
    Noise(usize),
    Text(usize),
    /// So many files of some bytes.
    Many(usize),
    /// A file with holes: its length, and where something stands in it.
    Sparse(usize, Vec<usize>),
}

#[derive(Clone, Debug)]
struct Case {
    lanes: u32,
    sockets: usize,
    /// At least, to begin with, at most.
    streams: [u32; 3],
    congestion: CongestionAlgorithm,
    /// None where nothing is encoded.
    algorithm: Option<Algorithm>,
    references: bool,
    segment_bytes: u32,
    /// One of everything, as `enabled: false` has it.
    plain: bool,
    /// The path loses and reorders, by this seed.
    bad_path: Option<u64>,
    /// The receiver has an older version of the tree.
    older: bool,
    tree: Vec<Entry>,
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let sparse = (0_usize..12 << 20, prop::collection::vec(0_usize..12 << 20, 0..4));
    let entry = prop_oneof![
        2 => Just(Entry::Empty),
        1 => Just(Entry::Folder),
        4 => (1_usize..200_000).prop_map(Entry::Noise),
        2 => (1_usize..300_000).prop_map(Entry::Text),
        1 => (1_usize..300).prop_map(Entry::Many),
        2 => sparse.prop_map(|(length, islands)| Entry::Sparse(length, islands)),
    ];
    prop_oneof![
        3 => prop::collection::vec(entry, 0..6),
        1 => (1_usize..5 << 20).prop_map(|length| vec![Entry::Noise(length)]),
        1 => Just(vec![Entry::Many(900)]),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let algorithms = [None, Some(Algorithm::Zstd), Some(Algorithm::Lz4), Some(Algorithm::Snappy)];
    let congestion =
        [CongestionAlgorithm::Auto, CongestionAlgorithm::Bbr, CongestionAlgorithm::Cubic, CongestionAlgorithm::Reno];
    let streams = prop::collection::vec(1_u32..=TransportSettings::MAX_STREAMS, 3).prop_map(|mut streams| {
        streams.sort_unstable();
        [streams[0], streams[1], streams[2]]
    });
    let streams = prop_oneof![Just([1, 1, 1]), Just([16, 32, 256]), streams];
    let transport = (1..=TransportSettings::MAX_LANES, 1_usize..=4, streams, prop::sample::select(congestion.to_vec()));
    let encoding = (prop::sample::select(algorithms.to_vec()), any::<bool>(), 16_u32..=22);
    let path = (prop::bool::weighted(0.2), prop::option::weighted(0.3, any::<u64>()), any::<bool>());
    (transport, encoding, path, entries()).prop_map(|(transport, encoding, path, tree)| Case {
        lanes: transport.0,
        sockets: transport.1,
        streams: transport.2,
        congestion: transport.3,
        algorithm: encoding.0,
        references: encoding.1,
        segment_bytes: 1 << encoding.2,
        plain: path.0,
        bad_path: path.1,
        older: path.2,
        tree,
    })
}

/// Makes the tree; `version` changes a part of what stands in it.
fn make(at: &Path, tree: &[Entry], version: u64) {
    for (number, entry) in (0_u64..).zip(tree) {
        let path = at.join(format!("f{}", number % 3)).join(number.to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let spoilt = |mut bytes: Vec<u8>| {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= u8::try_from(version).unwrap();
            }
            bytes
        };
        match entry {
            Entry::Empty => fs::write(&path, b"").unwrap(),
            Entry::Folder => fs::create_dir(&path).unwrap(),
            Entry::Noise(length) => fs::write(&path, spoilt(noise(number, *length))).unwrap(),
            Entry::Text(length) => {
                let text: String = (0..length / 20).map(|line| format!("line {line:>12}\n")).collect();
                fs::write(&path, spoilt(text.into_bytes())).unwrap();
            }
            Entry::Many(count) => {
                fs::create_dir(&path).unwrap();
                for n in 0..u64::try_from(*count).unwrap() {
                    let bytes = noise(n ^ version, usize::try_from(n * 7 % 900).unwrap());
                    fs::write(path.join(n.to_string()), bytes).unwrap();
                }
            }
            Entry::Sparse(length, islands) => {
                let file = File::create(&path).unwrap();
                file.set_len(u64::try_from(*length).unwrap()).unwrap();
                for island in islands.iter().filter(|island| **island < *length) {
                    let bytes = noise(version, 5000.min(length - island));
                    file.write_all_at(&bytes, u64::try_from(*island).unwrap()).unwrap();
                }
            }
        }
    }
}

/// A path to `target` that loses one datagram of a hundred, and lets one of twenty be overtaken by the next four; the way back does not.
async fn bad_path(target: SocketAddr, seed: u64, tasks: &TaskGroup) -> SocketAddr {
    let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = near.local_addr().unwrap();
    let token = tasks.token().clone();
    tasks.spawn("path", OnEnd::Expected, async move {
        let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
        let (mut dialler, mut state, mut held) = (address, seed | 1, Vec::<(u32, Vec<u8>)>::new());
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                Ok((length, from)) = near.recv_from(&mut out) => {
                    dialler = from;
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    match state >> 33 {
                        dice if dice % 100 == 0 => continue,
                        dice if dice % 20 == 1 => held.push((5, out[..length].to_vec())),
                        _ => drop(far.send_to(&out[..length], target).await),
                    }
                    for (left, datagram) in &mut held {
                        *left -= 1;
                        if *left == 0 {
                            drop(far.send_to(datagram, target).await);
                        }
                    }
                    held.retain(|(left, _)| *left > 0);
                }
                Ok((length, _)) = far.recv_from(&mut back) => drop(near.send_to(&back[..length], dialler).await),
            }
        }
    });
    address
}

fn transport(case: &Case) -> TransportSettings {
    let [min_streams, initial_streams, max_streams] = if case.plain { [1; 3] } else { case.streams };
    TransportSettings {
        min_streams,
        initial_streams,
        max_streams,
        lanes: if case.plain { 1 } else { case.lanes },
        congestion: case.congestion,
        ..TransportSettings::default()
    }
}

async fn arrives(case: &Case) {
    let bed = Bed::new();
    let (from, to) = (bed.a.root.join("set"), bed.b.root.join("in/set"));
    fs::create_dir(&from).unwrap();
    make(&from, &case.tree, 0);
    if case.older {
        fs::create_dir_all(&to).unwrap();
        make(&to, &case.tree, 1);
    }
    let hde = dataplane_hde::Options {
        enabled: case.algorithm.is_some() && !case.plain,
        algorithm: case.algorithm.unwrap_or_default(),
        references: case.references,
        ..dataplane_hde::Options::default()
    };
    for host in [&bed.a, &bed.b] {
        host.transfers.set_settings(Settings { segment_bytes: case.segment_bytes, hde, ..settings() });
    }
    let of = async |host: &Host| endpoint(&host.identity, &host.tasks, case.sockets, transport(case)).await;
    let (ours, theirs) = (of(&bed.a).await, of(&bed.b).await);
    serve(theirs.clone(), bed.b.transfers.clone(), &bed.b.tasks);
    let to_address = match case.bad_path {
        Some(seed) => bad_path(theirs.local_addr(), seed, &bed.b.tasks).await,
        None => theirs.local_addr(),
    };
    let connector: Arc<dyn Connector> = Arc::new(Dial { endpoint: ours, to: to_address });
    let grant = |options| bed.grant(&["data:/set"], "data:/in", options);
    let checksum = TransferOptions { checksum: true, ..TransferOptions::default() };
    let report = send(&bed, &bed.a, &connector, grant(checksum)).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(report.path.map(|path| path.lanes >= 1), Some(true), "it went over AMST");
    assert_eq!(tree(&from), tree(&to));
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
    bed.a.tasks.shutdown(PATIENCE).await.unwrap();
    bed.b.tasks.shutdown(PATIENCE).await.unwrap();
}

#[test]
fn the_same_bytes_arrive_whatever_carries_them() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let cases = std::env::var("DWCP_SAME_BYTES_CASES").map_or(16, |cases| cases.parse().unwrap());
    let seed = std::env::var("DWCP_TEST_SEED").map_or(20_261_121_u64, |seed| seed.parse().unwrap());
    let dice = TestRng::from_seed(RngAlgorithm::ChaCha, blake3::hash(&seed.to_le_bytes()).as_bytes());
    let config = Config { cases, max_shrink_iters: 64, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, dice);
    let outcome = runner.run(&self::cases(), |case| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(arrives(&case));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("DWCP_TEST_SEED={seed}, of {cases}: {failure}"));
}
