//! Writes the seeds of the kept corpus: `cargo run -p tests-parsers --bin seed [FOLDER]`.

use std::{fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let corpus = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("tests/fuzz/corpus"), PathBuf::from);
    for (target, seeds) in tests_parsers::seeds() {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
