//! Every file of the kept corpus, every past crash, and what a few thousand seeded changes make of them, through every target.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails here, and says its seed")]

use std::{collections::BTreeMap, fs, path::Path};

use tests_parsers::{TARGETS, seeds, target};

/// Inputs of each target that are made of its corpus; a longer run is `tests/fuzz/run`.
const CHANGED: u64 = 2000;

fn files(below: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(below);
    let mut found = BTreeMap::new();
    for target in fs::read_dir(folder).into_iter().flatten() {
        let target = target.unwrap();
        let of_target: Vec<_> =
            fs::read_dir(target.path()).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        found.insert(target.file_name().into_string().unwrap(), of_target);
    }
    found
}

#[test]
fn every_kept_input_passes_its_target() {
    let corpus = files("corpus");
    for (name, _) in TARGETS {
        assert!(
            corpus.get(name).is_some_and(|files| !files.is_empty()),
            "{name} has no corpus: cargo run -p tests-parsers --bin seed"
        );
    }
    for (name, inputs) in corpus.into_iter().chain(files("crashes")) {
        let target = target(&name).unwrap_or_else(|| panic!("there is no target {name}"));
        inputs.iter().for_each(|input| target(input));
    }
}

#[test]
fn changed_seeds_pass_their_targets() {
    let seed = std::env::var("DWCP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121_u64);
    println!("DWCP_SEED={seed}");
    let mut state = seed | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 11).unwrap() % below.max(1)
    };
    for (name, seeds) in seeds() {
        let target = target(name).unwrap();
        for _ in 0..CHANGED {
            let mut input = seeds[next(seeds.len())].clone();
            for _ in 0..=next(4) {
                let at = next(input.len());
                match next(5) {
                    0 => input.truncate(at),
                    1 => input.insert(at.min(input.len()), u8::try_from(next(256)).unwrap()),
                    2 if !input.is_empty() => input[at] ^= 1 << next(8),
                    3 if !input.is_empty() => input[at] = [0, 0x7f, 0x80, 0xff][next(4)],
                    4 => input.extend_from_within(at.min(input.len())..),
                    _ => {}
                }
            }
            target(&input);
        }
    }
}
