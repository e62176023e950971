//! `dwcp-dht`: the DHT on a bad day; prints what came of it.

#![allow(clippy::print_stdout, reason = "it prints what it found")]

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests_dht::{
    alarm, begin,
    eclipse::{self, Eclipse, Tally},
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
    /// Made-up nodes around one record (R30).
    Eclipse(Eclipse),
    /// An agent of a real fleet whose ring lies (R30): when and what `dwcp check` says.
    Alarm,
    /// How a node finds the ring (R32); its test starts it, in a network of its own.
    #[command(hide = true)]
    Begin,
    /// One half of a partition; started by its command.
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
        What::Eclipse(options) => runtime()?.block_on(eclipsed(&options)),
        What::Alarm => {
            println!("{:#?}", runtime()?.block_on(alarm::run())?);
            Ok(())
        }
        What::Begin => {
            println!("{}", runtime()?.block_on(begin::run())?);
            Ok(())
        }
        What::Side(options) => runtime()?.block_on(side::run(&options)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn eclipsed(options: &Eclipse) -> Result<()> {
    println!("{options:?}");
    println!(
        "| lie | sybils | the DHT alone: newest, older, p99 | with the control plane | with what was kept | alarms | questions to sybils |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for lie in &options.lies {
        for sybils in &options.sybils {
            let row = eclipse::row(options, *sybils, lie).await?;
            let shown = |tally: &Tally| {
                format!("{}, {} of {}; {} ms", tally.right, tally.older, tally.of, tally.p99().as_millis())
            };
            println!(
                "| {lie:?} | {sybils} | {} | {} | {} | {} | {} |",
                shown(&row.alone),
                shown(&row.with_control_plane),
                shown(&row.with_kept),
                row.alarms,
                row.asked
            );
        }
    }
    Ok(())
}
