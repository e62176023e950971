//! `process_*`, as every Prometheus client has them; read from `/proc/self` when they are asked for.

use std::{fmt::Write as _, fs};

/// Linux counts processor time in hundredths of a second for whoever asks (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// The page size of every machine that we build for.
const PAGE_BYTES: f64 = 4096.0;

/// Appends what is known; nothing where `/proc` is not there.
pub(crate) fn render(out: &mut String) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) {
        metric(out, "process_cpu_seconds_total", "counter", "Processor time used.", stat.cpu_seconds);
        metric(out, "process_virtual_memory_bytes", "gauge", "Virtual memory.", stat.virtual_bytes);
        metric(out, "process_resident_memory_bytes", "gauge", "Resident memory.", stat.resident_bytes);
        metric(out, "process_threads", "gauge", "Threads.", stat.threads);
        if let Some(boot) = boot_seconds() {
            let start = boot + stat.start_seconds;
            metric(out, "process_start_time_seconds", "gauge", "When the process began, Unix time.", start);
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let open = u32::try_from(entries.count()).unwrap_or(u32::MAX);
        metric(out, "process_open_fds", "gauge", "Open file descriptors.", f64::from(open));
    }
    if let Some(max) = max_fds() {
        metric(out, "process_max_fds", "gauge", "How many file descriptors may be open.", max);
    }
}

struct Stat {
    cpu_seconds: f64,
    threads: f64,
    start_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

/// proc(5): the second field is the name in brackets, which may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `rest` begins with field 3.
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
        threads: field(20)?,
        start_seconds: field(22)? / TICKS_PER_SECOND,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * PAGE_BYTES,
    })
}

fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn metric(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
        .expect("a String takes whatever is written");
}
