//! `dwcp hde`.

use std::path::PathBuf;

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
    },
    /// Says how a file would be encoded, segment by segment
    Explain {
        /// The file
        file: PathBuf,
        /// What the receiver holds
        #[arg(long)]
        baseline: Option<PathBuf>,
        /// The algorithm
        #[arg(long, default_value = "zstd")]
        algorithm: String,
        /// Its level
        #[arg(long, default_value_t = 3)]
        level: i32,
    },
}

/// `dwcp hde encode`.
#[derive(Debug, clap::Args)]
pub(crate) struct HdeEncode {
    /// The file
    pub(crate) file: PathBuf,
    /// What the receiver holds
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Where to write
    #[arg(short = 'O', long = "out")]
    pub(crate) out: PathBuf,
    /// zstd, lz4 or snappy
    #[arg(long, default_value = "zstd")]
    pub(crate) algorithm: String,
    /// Its level
    #[arg(long, default_value_t = 3)]
    pub(crate) level: i32,
}
