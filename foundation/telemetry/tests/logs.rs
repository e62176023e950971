//! Lines in a file: their form, their level, their file, all changed while the program runs. One process, one telemetry.

use std::{fs, path::Path};

use foundation_telemetry::{Format, InitError, Options, init, metrics_http, propagation, requests};
use serde_json::Value;

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a log file");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[tokio::test]
async fn logs_and_metrics_of_a_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dwcp.log");
    let options = Options { format: Format::Json, file: Some(path.clone()), ..Options::new("dwcp-test", "0.0.0") };
    let telemetry = init(options.clone()).expect("set up");
    assert!(matches!(init(options), Err(InitError::Twice(_))));

    has_flat_fields_and_the_trace(&path);
    changes_its_level(&telemetry, &path);
    leaves_out_a_flood(&path);
    opens_its_file_anew(&telemetry, &path);
    loses_no_line_when_it_is_rotated_under_load(&telemetry, folder.path());
    goes_on_without_its_file(&telemetry, folder.path());
    keeps_names_of_metrics(&telemetry);
    telemetry.shutdown().await;
}

fn has_flat_fields_and_the_trace(path: &Path) {
    let span = tracing::info_span!("work");
    let trace_id = propagation::trace_id(&span).expect("a span has a trace, also without an endpoint");
    span.in_scope(|| {
        tracing::info!(component = "amst", active_streams = 32, target_streams = 48_u64, "Stream scaling triggered");
        tracing::warn!(target: "dataplane_dht::node", name = "a\n{\"level\":\"error\"}\u{1b}[2J", level = "mine", "Peer\r\nsays");
    });
    let lines = lines(path);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (scaled, told) = (&lines[0], &lines[1]);
    assert_eq!(scaled["component"], "amst");
    assert_eq!(scaled["level"], "info");
    assert_eq!(scaled["message"], "Stream scaling triggered");
    assert_eq!((&scaled["active_streams"], &scaled["target_streams"]), (&32.into(), &48.into()));
    assert_eq!(scaled["trace_id"], trace_id);
    assert!(scaled["timestamp"].as_str().expect("a time").ends_with('Z'));
    assert_eq!(told["component"], "dht");
    assert_eq!(told["message"], "Peer\\x0d\\x0asays");
    assert_eq!(told["name"], "a\\x0a{\"level\":\"error\"}\\x1b[2J");
    assert_eq!((&told["level"], &told["field_level"]), (&"warn".into(), &"mine".into()));
}

fn changes_its_level(telemetry: &foundation_telemetry::Telemetry, path: &Path) {
    tracing::debug!("not yet");
    telemetry.set_level("debug").expect("a level");
    tracing::debug!("now");
    tracing::debug!(target: "h2::codec", "never");
    telemetry.set_level("warn").expect("a level");
    tracing::info!("no more");
    telemetry.set_level("").expect_err("no level");
    telemetry.set_level("info").expect("a level");
    let messages: Vec<Value> = lines(path).into_iter().skip(2).map(|line| line["message"].clone()).collect();
    assert_eq!(messages, ["now"]);
}

fn opens_its_file_anew(telemetry: &foundation_telemetry::Telemetry, path: &Path) {
    let rotated = path.with_extension("1");
    fs::rename(path, &rotated).expect("moved");
    tracing::info!("into the old one");
    telemetry.reopen().expect("opened");
    tracing::info!("into the new one");
    assert_eq!(lines(path).len(), 1);
    assert_eq!(lines(&rotated).last().expect("a line")["message"], "into the old one");
    telemetry.set_file(Some("/nowhere/dwcp.log".into())).expect_err("there is no such folder");
    telemetry.set_file(None).expect("closed");
    tracing::info!("into none");
    assert_eq!(lines(path).len(), 1);
}

fn leaves_out_a_flood(path: &Path) {
    let before = lines(path).len();
    for number in 0..10_000 {
        tracing::info!(number, "A stranger knocks");
    }
    tracing::info!("Something else");
    let lines = lines(path);
    assert_eq!(lines.len() - before, 101, "a hundred in ten seconds, and what is of another kind");
    assert_eq!(lines.last().expect("a line")["message"], "Something else");
}

fn loses_no_line_when_it_is_rotated_under_load(telemetry: &foundation_telemetry::Telemetry, folder: &Path) {
    const WRITERS: u64 = 4;
    const LINES: u64 = 500;
    let path = folder.join("busy.log");
    telemetry.set_file(Some(path.clone())).expect("opened");
    telemetry.set_log_lines(1_000_000);
    std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            threads.spawn(move || (0..LINES).for_each(|line| tracing::info!(number = writer * LINES + line, "busy")));
        }
        for rotation in 0..20 {
            fs::rename(&path, folder.join(format!("busy.{rotation}"))).expect("moved");
            telemetry.reopen().expect("opened");
        }
    });
    let rotated = (0..20).map(|rotation| folder.join(format!("busy.{rotation}")));
    let all = rotated.chain([path]).flat_map(|path| lines(&path));
    let mut numbers: Vec<u64> = all.filter_map(|line| line["number"].as_u64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..WRITERS * LINES).collect::<Vec<_>>());
    telemetry.set_log_lines(10);
}

fn goes_on_without_its_file(telemetry: &foundation_telemetry::Telemetry, folder: &Path) {
    let trouble = telemetry.log_file_trouble();
    // The kernel's disk that is always full.
    telemetry.set_file(Some("/dev/full".into())).expect("opened");
    assert_eq!(*trouble.borrow(), None);
    tracing::info!("nowhere to go");
    tracing::info!("nor this");
    let why = trouble.borrow().clone().expect("it is said");
    assert!(why.starts_with("/dev/full: ") && why.contains("No space left"), "{why}");
    telemetry.set_file(Some(folder.join("room.log"))).expect("opened");
    tracing::info!("there is room again");
    assert_eq!(*trouble.borrow(), None);
    assert_eq!(lines(&folder.join("room.log")).len(), 1);
    telemetry.set_file(None).expect("closed");
}

fn keeps_names_of_metrics(telemetry: &foundation_telemetry::Telemetry) {
    requests::register();
    metrics::gauge!("dwcp_amst_active_streams").set(32);
    metrics::counter!("dwcp_amst_bytes_sent").increment(7);
    metrics::histogram!("dwcp_latency_seconds").record(0.004);
    metrics::histogram!("dwcp_amst_connection_duration_seconds").record(90.0);
    let text = telemetry.metrics().render();
    for line in [
        "# TYPE dwcp_amst_active_streams gauge",
        "dwcp_amst_active_streams 32",
        "# TYPE dwcp_amst_bytes_sent counter",
        "dwcp_amst_bytes_sent 7",
        "dwcp_requests_total 0",
        "dwcp_errors_total 0",
        "# TYPE dwcp_latency_seconds histogram",
        "dwcp_latency_seconds_bucket{le=\"0.005\"} 1",
        "dwcp_latency_seconds_count 1",
        "dwcp_amst_connection_duration_seconds_bucket{le=\"60\"} 0",
        "dwcp_amst_connection_duration_seconds_bucket{le=\"300\"} 1",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(text.lines().any(|held| held == line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("dwcp_hde_compression_ratio"), "what nobody measured is absent");
    assert_eq!(metrics_http::content_type(), "text/plain; version=0.0.4");
}
