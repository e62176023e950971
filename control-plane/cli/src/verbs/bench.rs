//! `dwcp bench`: the path between two nodes, a line each second and what it came to.

use std::process::ExitCode;

use foundation_runtime::stop_signal;
use proto_rpc::{
    agent::{BenchDirectRequest, GetLocalStatusRequest},
    v1::{
        Bench as Report, BenchInterval, BenchResult, BenchSpec, RunBenchRequest, bench::State, bench_spec::Direction,
    },
};

use super::{ping::no_agent, resource, short};
use crate::{
    args::{Bench, Global},
    connection::{Connection, local_agent},
    failure::{Exit, Failure},
    output::{Format, Output},
    units,
};

pub(super) async fn run(global: &Global, output: &Output, bench: Bench) -> Result<ExitCode, Failure> {
    let direction = match (bench.bidirectional, bench.reverse) {
        (true, _) => Direction::Both,
        (false, true) => Direction::Reverse,
        (false, false) => Direction::Forward,
    };
    let spec = BenchSpec {
        source_node: String::new(),
        destination_node: resource("nodes", &bench.node),
        seconds: bench.seconds,
        streams: bench.streams.unwrap_or_default(),
        direction: direction.into(),
    };
    let mut shown = Shown { output, said: [0; 2], began: false };
    let measured = async {
        if bench.direct {
            let request = BenchDirectRequest { spec: Some(spec) };
            let mut agent = local_agent(global);
            let mut stream = agent.bench_direct(request).await.map_err(|status| no_agent(global, status))?.into_inner();
            while let Some(event) = stream.message().await? {
                if let Some(report) = shown.take(event.bench)? {
                    return Ok(report);
                }
            }
        } else {
            let source = match bench.from {
                Some(node) => node,
                None => local_node(global).await?,
            };
            let spec = BenchSpec { source_node: resource("nodes", &source), ..spec };
            let connection = Connection::open(global)?;
            let request = RunBenchRequest { spec: Some(spec) };
            let mut stream = connection.benches().run_bench(request).await?.into_inner();
            while let Some(event) = stream.message().await? {
                if let Some(report) = shown.take(event.bench)? {
                    return Ok(report);
                }
            }
        }
        Err(Failure::new(Exit::Temporary, "the bench broke off without an end"))
    };
    let report = tokio::select! {
        measured = measured => measured?,
        // Dropped, the call ends the bench at both ends.
        signal = stop_signal() => {
            drop(signal);
            return Err(Failure::new(Exit::Interrupted, "interrupted; the bench is ended at both ends"));
        }
    };
    conclude(output, &report)
}

/// This host's own node, as the source.
async fn local_node(global: &Global) -> Result<String, Failure> {
    let status = local_agent(global).get_local_status(GetLocalStatusRequest {}).await;
    let status = status.map_err(|status| no_agent(global, status))?.into_inner();
    if status.name.is_empty() {
        return Err(Failure::failed("this host's agent has not joined a fleet").hint("dwcp token create"));
    }
    Ok(status.name)
}

/// What was printed so far.
struct Shown<'a> {
    output: &'a Output,
    /// Intervals, forward and back.
    said: [usize; 2],
    began: bool,
}

impl Shown<'_> {
    /// Prints what is new; the report once it has ended.
    fn take(&mut self, report: Option<Report>) -> Result<Option<Report>, Failure> {
        let Some(report) = report else { return Ok(None) };
        let ended = matches!(report.state(), State::Succeeded | State::Failed | State::Cancelled);
        match self.output.format {
            Format::Jsonl if !ended => self.output.message(&report, |_| String::new())?,
            Format::Table => {
                if !self.began && report.path.is_some() {
                    self.began = true;
                    self.output.text(&heading(&report))?;
                }
                for (direction, said) in [Direction::Forward, Direction::Reverse].into_iter().zip(&mut self.said) {
                    let of_it = report.intervals.iter().filter(|interval| interval.direction() == direction);
                    for interval in of_it.skip(*said) {
                        *said += 1;
                        self.output.text(&line(interval, is_two_way(&report)))?;
                    }
                }
            }
            Format::Json | Format::Jsonl | Format::Yaml => {}
        }
        Ok(Some(report).filter(|_| ended))
    }
}

fn is_two_way(report: &Report) -> bool {
    report.spec.as_ref().is_some_and(|spec| spec.direction() == Direction::Both)
}

fn heading(report: &Report) -> String {
    let spec = report.spec.clone().unwrap_or_default();
    let path = report.path.clone().unwrap_or_default();
    let arrow = match spec.direction() {
        Direction::Unspecified | Direction::Forward => "→",
        Direction::Reverse => "←",
        Direction::Both => "↔",
    };
    let (from, to) = (short(&spec.source_node), short(&spec.destination_node));
    format!("{from} {arrow} {to}  {} {}, {} s", path.path, path.remote_address, spec.seconds)
}

/// `  3.0-4.0  s  5.71 MiB  47.9 Mbit/s  rtt 21.0 ms  loss 0.40 %  streams 16  window 250 KiB cruise`.
fn line(interval: &BenchInterval, two_way: bool) -> String {
    let arrow = if two_way { arrow(interval.direction()) } else { "" };
    format!(
        "{arrow}{:5.1}-{:<5.1} s {:>9} {:>12}  rtt {:>6.1} ms  loss {:>5.2} %  streams {:<3}  window {:>8} {}",
        interval.start_seconds,
        interval.end_seconds,
        units::bytes(interval.bytes),
        bits(interval.bits_per_second),
        interval.rtt_ms,
        interval.loss * 100.0,
        interval.streams,
        units::bytes(interval.congestion_window_bytes),
        interval.congestion_mode,
    )
}

fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::Unspecified | Direction::Forward | Direction::Both => "→ ",
        Direction::Reverse => "← ",
    }
}

/// A rate in decimal bits, as links are sold.
fn bits(per_second: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let unit = UNITS.into_iter().find(|(factor, _)| per_second >= *factor);
    let (factor, name) = unit.unwrap_or((1.0, "bit/s"));
    let value = per_second / factor;
    if value < 99.95 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

fn conclude(output: &Output, report: &Report) -> Result<ExitCode, Failure> {
    let error = report.error.clone().unwrap_or_default();
    let exit = match error.reason.as_str() {
        "PEER_UNREACHABLE" | "NODE_OFFLINE" | "BUSY" | "STALLED" | "SHUTDOWN" => Exit::Temporary,
        "GRANT_INVALID"
        | "GRANT_EXPIRED"
        | "GRANT_NOT_YET_VALID"
        | "GRANT_OF_OTHER_EPOCH"
        | "NOT_ACCEPTED"
        | "ALREADY_FINISHED" => Exit::Refused,
        _ => Exit::Failed,
    };
    if report.state() != State::Succeeded {
        let message = match report.state() {
            State::Cancelled => "the bench was ended before its time".to_owned(),
            _ => format!("{}: {}", error.reason, error.message),
        };
        if !output.for_people() {
            output.message(report, |_| String::new())?;
            return Ok(ExitCode::from(exit as u8));
        }
        return Err(Failure::new(exit, message));
    }
    output
        .message(report, |report| report.results.iter().map(|result| summary(result, is_two_way(report))).collect())?;
    Ok(ExitCode::SUCCESS)
}

/// What a direction came to, for people.
fn summary(result: &BenchResult, two_way: bool) -> String {
    let arrow = if two_way { arrow(result.direction()) } else { "" };
    let causes: Vec<String> = result.time_spent.iter().take(3).map(|spent| spent.cause.replace('_', " ")).collect();
    let grown = (result.loaded_rtt_ms - result.base_rtt_ms).max(0.0);
    let to_90 = match result.seconds_to_90_percent {
        0.0 => "never steady".to_owned(),
        seconds => format!("90 % after {seconds:.1} s"),
    };
    let limit = match result.limited_by.as_str() {
        "" => String::new(),
        key => format!("\n  bound       {} ({key})", bits(float(result.limit_bits_per_second))),
    };
    format!(
        "\n{arrow}{steady} steady, {mean} on average, {bytes} in {seconds:.1} s, {to_90}\
         \n  round trip  {base:.1} ms idle, {loaded:.1} ms under load (+{grown:.1} ms of queue)\
         \n  loss        {loss:.2} %, {over:.1} % more sent than arrived ({again} lost and sent again)\
         \n  came to     {streams} streams, {lanes} {lane_word}, {algorithm}; bandwidth-delay product {bdp}\
         \n  processor   {sender:.0} % of the sender's thread, {receiver:.0} % of the receiver's{limit}\
         \n  held up by  {held}\
         \n  advice      {advice}\n",
        steady = bits(result.steady_bits_per_second),
        mean = bits(result.mean_bits_per_second),
        bytes = units::bytes(result.bytes),
        seconds = result.seconds,
        base = result.base_rtt_ms,
        loaded = result.loaded_rtt_ms,
        loss = result.loss * 100.0,
        over = result.overhead * 100.0,
        again = units::bytes(result.bytes_sent_again),
        streams = result.streams,
        lanes = result.lanes,
        lane_word = if result.lanes == 1 { "lane" } else { "lanes" },
        algorithm = result.congestion_algorithm,
        bdp = units::bytes(result.bandwidth_delay_product_bytes),
        sender = result.sender_cpu * 100.0,
        receiver = result.receiver_cpu * 100.0,
        held = causes.join(", "),
        advice = result.advice,
    )
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_decimal_and_lines_stand_in_columns() {
        assert_eq!(bits(0.0), "0.0 bit/s");
        assert_eq!(bits(47_890_000.0), "47.9 Mbit/s");
        assert_eq!(bits(940e6), "940 Mbit/s");
        let interval = BenchInterval {
            start_seconds: 9.0,
            end_seconds: 10.0,
            bytes: 5_987_000,
            bits_per_second: 47.9e6,
            rtt_ms: 21.0,
            loss: 0.004,
            streams: 16,
            congestion_window_bytes: 256_000,
            congestion_mode: "cruise".into(),
            ..BenchInterval::default()
        };
        let said = line(&interval, false);
        assert_eq!(
            said,
            "  9.0-10.0  s  5.71 MiB  47.9 Mbit/s  rtt   21.0 ms  loss  0.40 %  streams 16   window  250 KiB cruise"
        );
    }
}
