//! `dwcp hde`.

use std::path::PathBuf;

use proto_model::{BitRate, ByteCount};

use clap::Subcommand;

/// `dwcp hde`.
#[derive(Debug, Subcommand)]
pub(crate) enum Hde {
    /// Encodes a file
    Encode(HdeEncode),
    /// Decodes a file
    Decode {
        /// The encoded file
        file: PathBuf,
        /// The baseline it was encoded against
        #[arg(long)]
        baseline: Option<PathBuf>,
        /// Where to write
        #[arg(short = 'O', long = "out")]
        out: PathBuf,
        /// The longest file that may come of it, as 10GB [default: what is free where it is written]
        #[arg(long)]
        max_bytes: Option<ByteCount>,
        /// Threads [default: as many as there are cores]
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Says how a file would be encoded, segment by segment, and why
    Explain {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        how: HdeHow,
    },
}

/// `dwcp hde encode`.
#[derive(Debug, clap::Args)]
pub(crate) struct HdeEncode {
    /// The file
    pub(crate) file: PathBuf,
    /// Where to write
    #[arg(short = 'O', long = "out")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) how: HdeHow,
}

/// How to encode.
#[derive(Debug, clap::Args)]
pub(crate) struct HdeHow {
    /// What the receiver holds
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// zstd, lz4 or snappy
    #[arg(long, default_value = "zstd")]
    pub(crate) algorithm: String,
    /// Level of zstd, 1 to 22; 19 is the strongest that is worth its time
    #[arg(long, default_value_t = 3)]
    pub(crate) level: i32,
    /// What the path carries, as 1Gbit: a fast one is given less compression
    #[arg(long)]
    pub(crate) link: Option<BitRate>,
    /// Threads; the bytes are the same by any number [default: as many as there are cores]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Where the baseline's index is kept: read where it is younger than the baseline, else made
    #[arg(long, requires = "baseline")]
    pub(crate) index: Option<PathBuf>,
}
