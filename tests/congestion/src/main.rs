//! `dwcp-congestion`: tables of what the congestion control does in the simulator, median and worst over seeds.

use std::{sync::Mutex, thread};

use anyhow::Result;
use clap::Parser;
use proto_model::config::CongestionAlgorithm;
use tests_congestion::{
    cells::{Join, PATHS, QUEUES, Rivals, alone, beside},
    link::Path,
    simulation::Host,
};

/// Runs the promised cases in virtual time.
#[derive(Debug, Parser)]
struct Arguments {
    /// auto, bbr, cubic or reno
    #[arg(long, default_value = "auto")]
    algorithm: String,
    /// The first seed
    #[arg(long, default_value_t = 1000)]
    seed: u64,
    /// Seeds for each cell
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Lanes of the session
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    /// Seconds of the runs alone
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Packets for an acknowledgment
    #[arg(long, default_value_t = 2)]
    ack_every: usize,
    /// Share of wakings that are up to 10 ms late
    #[arg(long, default_value_t = 0.0)]
    late: f64,
    /// Which tables: alone, cubic1, cubic4, ours, bbr, rough
    #[arg(long, value_delimiter = ',', default_value = "alone,cubic1,cubic4,ours")]
    tables: Vec<String>,
    /// Only rows that contain this
    #[arg(long, default_value = "")]
    only: String,
}

/// A row: its name, and what one seed gives.
type Row = (String, Box<dyn Fn(u64) -> Vec<f64> + Send + Sync>);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let algorithm = match arguments.algorithm.as_str() {
        "auto" => CongestionAlgorithm::Auto,
        "bbr" => CongestionAlgorithm::Bbr,
        "cubic" => CongestionAlgorithm::Cubic,
        "reno" => CongestionAlgorithm::Reno,
        other => anyhow::bail!("no algorithm {other}"),
    };
    let host = Host { ack_every: arguments.ack_every, late: (arguments.late, 10_000_000), ..Host::default() };
    for table in &arguments.tables {
        let (columns, rows) = match table.as_str() {
            "alone" => alone_rows(algorithm, host, &arguments),
            "rough" => rough_rows(algorithm, host, &arguments),
            "cubic1" => beside_rows(Rivals::Cubic(1), algorithm, host, &arguments),
            "cubic4" => beside_rows(Rivals::Cubic(4), algorithm, host, &arguments),
            "ours" => beside_rows(Rivals::Ours, algorithm, host, &arguments),
            "bbr" => beside_rows(Rivals::Bbr, algorithm, host, &arguments),
            other => anyhow::bail!("no table {other}"),
        };
        print_table(table, columns, rows, &arguments)?;
    }
    Ok(())
}

/// Names of the columns, and whether more is better.
type Columns = &'static [(&'static str, bool)];

const ALONE: Columns = &[("steady %", true), ("start s", false), ("resent %", false), ("queue BDP", false)];

fn alone_rows(algorithm: CongestionAlgorithm, host: Host, arguments: &Arguments) -> (Columns, Vec<Row>) {
    let mut rows: Vec<Row> = Vec::new();
    for (rtt, rate, loss) in PATHS {
        for queue in QUEUES {
            let path = Path::new(rtt, rate, queue, loss);
            rows.push(alone_row(
                format!("{rtt} ms {rate} Mbit {} % {queue} BDP", loss * 100.0),
                path,
                algorithm,
                host,
                arguments,
            ));
        }
    }
    (ALONE, rows)
}

fn alone_row(name: String, path: Path, algorithm: CongestionAlgorithm, host: Host, arguments: &Arguments) -> Row {
    let (lanes, seconds) = (arguments.lanes, arguments.seconds);
    (
        name,
        Box::new(move |seed| {
            let run = alone(&path, host, algorithm, lanes, seconds, seed);
            vec![100.0 * run.steady, run.start, 100.0 * run.resent, run.queue]
        }),
    )
}

fn rough_rows(algorithm: CongestionAlgorithm, host: Host, arguments: &Arguments) -> (Columns, Vec<Row>) {
    let base = || Path::new(80, 200, 1.0, 0.0);
    let thirty = |loss| Path { queue: 30 * 1500, ..Path::new(20, 200, 1.0, loss) };
    let second = 1_000_000_000;
    let paths = [
        ("jitter 4 ms", Path { jitter: 4_000_000, ..base() }),
        ("jitter 4 ms 1 %", Path { jitter: 4_000_000, loss: 0.01, ..base() }),
        ("reordering 1 % by 2 ms", Path { reordering: (0.01, 2_000_000), ..base() }),
        ("bursts of 20, 0.01 %", Path { bursts: (0.0001, 20), ..base() }),
        ("30 packets 20 ms", thirty(0.0)),
        ("30 packets 20 ms 0.5 %", thirty(0.005)),
        ("3 % loss", Path::new(80, 200, 1.0, 0.03)),
        ("0.01 % loss", Path::new(80, 200, 1.0, 0.0001)),
        ("rate to a half at 8 s", Path { changes: vec![(8 * second, 100_000_000)], ..base() }),
        ("rate tripled at 5 s", Path { rate: 66_666_666, changes: vec![(5 * second, 200_000_000)], ..base() }),
    ];
    let rows =
        paths.map(|(name, path)| alone_row(name.to_owned(), path, algorithm, host, arguments)).into_iter().collect();
    (ALONE, rows)
}

fn beside_rows(
    rivals: Rivals,
    algorithm: CongestionAlgorithm,
    host: Host,
    arguments: &Arguments,
) -> (Columns, Vec<Row>) {
    let mut rows: Vec<Row> = Vec::new();
    let lanes = arguments.lanes;
    for rtt in [20, 80] {
        for queue in QUEUES {
            for join in Join::ALL {
                let path = Path::new(rtt, 200, queue, 0.0);
                rows.push((
                    format!("{rtt} ms {queue} BDP {join:?}"),
                    Box::new(move |seed| {
                        let run = beside(&path, host, (algorithm, lanes), rivals, join, seed);
                        vec![run.jain, run.share, 100.0 * run.used]
                    }),
                ));
            }
        }
    }
    (&[("Jain", true), ("our part", true), ("used %", true)], rows)
}

/// Runs all, as many at once as there are processors, and prints medians and worsts.
fn print_table(name: &str, columns: Columns, rows: Vec<Row>, arguments: &Arguments) -> Result<()> {
    let rows: Vec<Row> = rows.into_iter().filter(|(name, _)| name.contains(&arguments.only)).collect();
    let work: Vec<(usize, u64)> =
        (0..rows.len()).flat_map(|row| (0..arguments.seeds).map(move |seed| (row, seed))).collect();
    let next = Mutex::new(work.into_iter());
    let results = Mutex::new(vec![Vec::new(); rows.len()]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((row, seed)) = next.lock().ok().and_then(|mut next| next.next()) {
                    let result = rows[row].1(arguments.seed + seed);
                    if let Ok(mut results) = results.lock() {
                        results[row].push(result);
                    }
                }
            });
        }
    });
    let results = results.into_inner().map_err(|_poisoned| anyhow::anyhow!("a run failed"))?;
    let mut table = format!("\n{name} ({}, {} lanes): median / worst\n{:34}", arguments.algorithm, arguments.lanes, "");
    columns.iter().for_each(|(column, _)| table.push_str(&format!("{column:>19}")));
    table.push('\n');
    for ((name, _), seeds) in rows.iter().zip(results) {
        table.push_str(&format!("{name:34}"));
        for (column, (_, more)) in columns.iter().enumerate() {
            let mut values: Vec<f64> = seeds.iter().map(|seed| seed[column]).collect();
            values.sort_by(f64::total_cmp);
            let worst = if *more { values.first() } else { values.last() };
            let median = values.get(values.len() / 2);
            table.push_str(&format!("{:>10.2} /{:>7.2}", median.unwrap_or(&0.0), worst.unwrap_or(&0.0)));
        }
        table.push('\n');
    }
    show(&table);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "it is what the program is for")]
fn show(table: &str) {
    println!("{table}");
}
