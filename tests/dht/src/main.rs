//! `dwcp-dht`: the DHT on a bad day; prints what came of it.

#![allow(clippy::print_stdout, reason = "it prints what it found")]

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests_dht::{
    partition::{self, Partition},
    side::{self, Side},
};

/// The DHT on a bad day.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A fleet that is cut in two for a while (R33).
    Partition(Partition),
    /// One half of it; started by the other.
    #[command(hide = true)]
    Side(Side),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Partition(options) => {
            println!("{options:?}");
            println!("{:#?}", partition::run(&std::env::current_exe()?, &options)?);
            Ok(())
        }
        What::Side(options) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(side::run(&options))
        }
    }
}
