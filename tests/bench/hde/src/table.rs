//! What was measured, and how it compares.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{child::Cost, print_line};

/// One contestant on one set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) set: String,
    pub(crate) contestant: String,
    pub(crate) new_bytes: u64,
    pub(crate) bytes: u64,
    pub(crate) encode: Cost,
    pub(crate) decode: Option<Cost>,
    /// The machine's load when it was measured.
    pub(crate) load: String,
}

impl Row {
    /// The least of both.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.encode = self.encode.best(other.encode);
        self.decode = match (self.decode, other.decode) {
            (Some(one), Some(two)) => Some(one.best(two)),
            (one, two) => one.or(two),
        };
    }

    /// MB of the new version in a second of the processor.
    fn speed(&self, cost: Cost) -> f64 {
        megabytes(self.new_bytes) / cost.cpu_seconds.max(1e-4)
    }

    /// Prints it; `head` goes before the first.
    pub(crate) fn print(&self) {
        let side = |cost: Option<Cost>| {
            cost.map_or_else(
                || format!("{:>38}", ""),
                |cost| {
                    format!(
                        "{:7.1} MB/CPU s {:7.2} s {:5.0}/{:5.0} MB",
                        self.speed(cost),
                        cost.wall_seconds,
                        megabytes(cost.resident),
                        megabytes(cost.heap)
                    )
                },
            )
        };
        print_line(&format!(
            "{:<13} {:<22} {:12.6} MB |{} |{}",
            self.set,
            self.contestant,
            megabytes(self.bytes),
            side(Some(self.encode)),
            side(self.decode)
        ));
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(crate) fn geometric_mean(values: &[f64]) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    let count = values.len() as f64;
    (values.iter().map(|value| value.ln()).sum::<f64>() / count).exp()
}

/// One contestant's value over another's, by set.
type Ratios = BTreeMap<String, f64>;

fn ratios(rows: &[Row], one: &str, other: &str, value: impl Fn(&Row) -> Option<f64>) -> Ratios {
    let of = |set: &str, who: &str| rows.iter().find(|row| row.set == set && row.contestant == who).and_then(&value);
    let sets = rows.iter().filter(|row| row.contestant == one).map(|row| &row.set);
    sets.filter_map(|set| Some((set.clone(), of(set, one)? / of(set, other)?))).collect()
}

fn line(name: &str, goal: &str, ratios: &Ratios, worst_is_high: bool) {
    if ratios.is_empty() {
        return;
    }
    let values: Vec<f64> = ratios.values().copied().collect();
    let order = |one: &(&String, &f64), other: &(&String, &f64)| one.1.total_cmp(other.1);
    let worst = if worst_is_high { ratios.iter().max_by(order) } else { ratios.iter().min_by(order) };
    let (set, worst) = worst.map_or(("", f64::NAN), |(set, value)| (set.as_str(), *value));
    print_line(&format!(
        "| {name} | {:.2} | {goal} | {worst:.2} ({set}) | {} |",
        geometric_mean(&values),
        values.len()
    ));
}

/// The comparisons that goals are set for, and then the bytes of all.
pub(crate) fn summary(rows: &[Row]) {
    const MINE: &str = "dwcp";
    let bytes = |row: &Row| Some(megabytes(row.bytes));
    let encode = |row: &Row| Some(1.0 / row.encode.cpu_seconds);
    let decode = |row: &Row| row.decode.map(|cost| 1.0 / cost.cpu_seconds);
    let with_reading = |cost: Cost| 1.0 / (cost.cpu_seconds + cost.reading_cpu_seconds);
    let encode_reading = |row: &Row| Some(with_reading(row.encode));
    let decode_reading = |row: &Row| row.decode.map(with_reading);
    let wall = |row: &Row| Some(row.encode.wall_seconds);
    let decode_wall = |row: &Row| row.decode.map(|cost| cost.wall_seconds);
    print_line("\n| geometric mean over the sets | ratio | wanted | worst | sets |\n| --- | --- | --- | --- | --- |");
    line("bytes, default / pf-3", "at most 0.60, none above 1.00", &ratios(rows, MINE, "pf-3", bytes), true);
    line("bytes, strongest / HDiffPatch", "at most 1.0", &ratios(rows, "dwcp strongest", "HDiffPatch", bytes), true);
    line("bytes, default / HDiffPatch", "", &ratios(rows, MINE, "HDiffPatch", bytes), true);
    line(
        "bytes, strongest / zstd -19 --patch-from",
        "",
        &ratios(rows, "dwcp strongest", "zstd -19 --patch-from", bytes),
        true,
    );
    line("bytes, default / xdelta3 -B", "", &ratios(rows, MINE, "xdelta3 -B", bytes), true);
    line("bytes, default / rsync -z", "", &ratios(rows, MINE, "rsync -z", bytes), true);
    line("bytes, default / casync", "", &ratios(rows, MINE, "casync", bytes), true);
    line("bytes, default / zstd -3", "", &ratios(rows, MINE, "zstd -3", bytes), true);
    line("encode per CPU s, default / pf-3", "at least 1.5", &ratios(rows, MINE, "pf-3", encode), false);
    line(
        "encode per CPU s, index kept / pf-3",
        "at least 2.5",
        &ratios(rows, "dwcp index kept", "pf-3", encode),
        false,
    );
    line("decode per CPU s, default / pf-3", "at least 4", &ratios(rows, MINE, "pf-3", decode), false);
    line("the same where pf-3 reads its inputs: encode", "", &ratios(rows, MINE, "pf-3", encode_reading), false);
    line("… encode, index kept", "", &ratios(rows, "dwcp index kept", "pf-3", encode_reading), false);
    line("… decode", "", &ratios(rows, MINE, "pf-3", decode_reading), false);
    line("encode wall, 1 thread / 2 threads", "at least 1.7", &ratios(rows, MINE, "dwcp 2 threads", wall), false);
    line("decode wall, 1 thread / 2 threads", "", &ratios(rows, MINE, "dwcp 2 threads", decode_wall), false);
    for (who, goal) in [(MINE, (121, 20)), ("dwcp 2 threads", (146, 40))] {
        let rows = rows.iter().filter(|row| row.contestant == who);
        let most = rows.fold([0; 4], |most: [u64; 4], row| {
            let decode = row.decode.unwrap_or_default();
            let here = [row.encode.heap, row.encode.resident, decode.heap, decode.resident];
            std::array::from_fn(|place| most[place].max(here[place]))
        });
        let [encode_heap, encode_resident, decode_heap, decode_resident] = most.map(megabytes);
        if encode_heap > 0.0 {
            print_line(&format!(
                "| {who}: most heap / resident, encode | {encode_heap:.0} / {encode_resident:.0} MB | {} / {} MB | | |\n\
                 | {who}: most heap / resident, decode | {decode_heap:.0} / {decode_resident:.0} MB | {} / {} MB | | |",
                goal.0,
                goal.0 + 64,
                goal.1,
                goal.1 + 64
            ));
        }
    }
    all_bytes(rows);
}

/// MB of each contestant by set, and its speeds.
fn all_bytes(rows: &[Row]) {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.contestant.as_str()) {
            names.push(&row.contestant);
        }
    }
    let mut sets: Vec<&str> = rows.iter().map(|row| row.set.as_str()).collect();
    sets.dedup();
    let columns = |cell: &dyn Fn(&Row) -> String| {
        print_line(&format!(
            "\n| set | new MB | {} |\n| --- | --- |{}",
            names.join(" | "),
            " --- |".repeat(names.len())
        ));
        for set in &sets {
            let find = |name: &&str| rows.iter().find(|row| row.set == *set && row.contestant == *name);
            let size = rows.iter().find(|row| row.set == *set).map_or(0, |row| row.new_bytes);
            let cells: Vec<String> = names.iter().map(|name| find(name).map(cell).unwrap_or_default()).collect();
            print_line(&format!("| {set} | {:.1} | {} |", megabytes(size), cells.join(" | ")));
        }
    };
    print_line("\nMB out:");
    columns(&|row| format!("{:.3}", megabytes(row.bytes)));
    print_line("\nEncode and decode, MB of the new version per CPU second:");
    columns(&|row| {
        let decode = row.decode.map_or(String::new(), |cost| format!(" / {:.0}", row.speed(cost)));
        format!("{:.0}{decode}", row.speed(row.encode))
    });
    print_line("\nEncode and decode, seconds:");
    columns(&|row| {
        let decode = row.decode.map_or(String::new(), |cost| format!(" / {:.2}", cost.wall_seconds));
        format!("{:.2}{decode}", row.encode.wall_seconds)
    });
}
