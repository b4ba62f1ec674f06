//! `ptxsim run --stats` and `--lines`.

use super::table::{grouped, percent, rate, table};
use ptxsim::launch_file::LaunchFile;
use ptxsim::machine::{Class, Counters, Outcome};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Most lines of a listing for people; the JSON has all.
const MAX_LINES: usize = 40;
/// Bytes of a sector.
const SECTOR: u64 = 32;

/// The counters of a launch, for people.
pub fn text(outcome: &Outcome) -> String {
    let total = &outcome.statistics.total;
    let mut text = table(&instructions(total, outcome.seconds));
    text.push('\n');
    text += &table(&global(total));
    text.push('\n');
    if !outcome.statistics.traffic.is_empty() {
        text += &table(&traffic(outcome));
        text.push('\n');
    }
    text + &table(&others(total))
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn instructions(total: &Counters, seconds: f64) -> Vec<Vec<String>> {
    let sum = total.instructions;
    let mut rows = vec![row(&["warp instructions", &grouped(sum), &rate(sum, seconds)])];
    for (class, count) in Class::ALL.into_iter().zip(total.by_class) {
        if count > 0 {
            let name = format!("  {}", name(class));
            rows.push(row(&[&name, &grouped(count), &percent(count, sum)]));
        }
    }
    rows
}

fn global(total: &Counters) -> Vec<Vec<String>> {
    let sums = [total.global_bytes(), total.global_sectors()].map(grouped);
    let read = [total.global_bytes_read, total.global_sectors_read].map(grouped);
    let written = [total.global_bytes_written, total.global_sectors_written].map(grouped);
    let ideal = total.global_sectors_ideal;
    vec![
        row(&["global memory", "bytes", "sectors", "ideal", "coalesced"]),
        row(&["  read", &read[0], &read[1]]),
        row(&["  written", &written[0], &written[1]]),
        row(&[
            "  sum",
            &sums[0],
            &sums[1],
            &grouped(ideal),
            &percent(ideal, total.global_sectors()),
        ]),
    ]
}

/// What each allocation would cost in DRAM if every sector came once.
fn traffic(outcome: &Outcome) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["distinct sectors", "read", "written", "bytes"])];
    for allocation in &outcome.statistics.traffic {
        let (read, written) = (allocation.sectors_read, allocation.sectors_written);
        let name = format!("  {}", allocation.allocation);
        let bytes = grouped((read + written) * SECTOR);
        rows.push(row(&[&name, &grouped(read), &grouped(written), &bytes]));
    }
    rows
}

fn others(total: &Counters) -> Vec<Vec<String>> {
    let ideal = total.shared_wavefronts_ideal;
    vec![
        row(&["tensor FLOPs", &grouped(total.tensor_flops)]),
        row(&["mma instructions", &grouped(total.tensor_instructions)]),
        row(&["shared wavefronts", &grouped(total.shared_wavefronts)]),
        row(&[
            "  without bank conflicts",
            &grouped(ideal),
            &percent(ideal, total.shared_wavefronts),
        ]),
        row(&["barriers", &grouped(total.barriers)]),
        row(&["divergent branches", &grouped(total.divergent_branches)]),
    ]
}

/// What a class is called, as in JSON.
fn name(class: Class) -> String {
    json!(class).as_str().unwrap_or_default().to_owned()
}

/// The counters of each CUDA line, or PTX line where the PTX does not name its source; the busiest first.
pub fn lines_text(outcome: &Outcome, launch: &LaunchFile) -> String {
    let lines = by_line(outcome, launch);
    let sum = outcome.statistics.total.instructions;
    let mut rows = vec![row(&[
        "line",
        "instructions",
        "",
        "sectors",
        "ideal",
        "wavefronts",
        "ideal",
    ])];
    for (name, counters) in lines.iter().take(MAX_LINES) {
        rows.push(row(&[
            name,
            &grouped(counters.instructions),
            &percent(counters.instructions, sum),
            &grouped(counters.global_sectors()),
            &grouped(counters.global_sectors_ideal),
            &grouped(counters.shared_wavefronts),
            &grouped(counters.shared_wavefronts_ideal),
        ]));
    }
    let more = match lines.len().saturating_sub(MAX_LINES) {
        0 => String::new(),
        more => format!("and {more} more lines, which --format json lists\n"),
    };
    table(&rows) + &more
}

fn by_line(outcome: &Outcome, launch: &LaunchFile) -> Vec<(String, Counters)> {
    let sources = launch.kernel().source_lines();
    let mut lines: BTreeMap<String, Counters> = BTreeMap::new();
    for (line, counters) in &outcome.statistics.lines {
        let name = match sources.get(line) {
            Some(source) => source.to_string(),
            None => format!("{line} | {}", launch.ptx_line(*line).unwrap_or_default()),
        };
        lines.entry(name).or_default().add(counters);
    }
    let mut lines: Vec<(String, Counters)> = lines.into_iter().collect();
    lines.sort_by_key(|(_, counters)| std::cmp::Reverse(counters.instructions));
    lines
}

/// The counters of a launch, under the names that other tools read.
pub fn json(outcome: &Outcome) -> Map<String, Value> {
    let mut fields = counters(&outcome.statistics.total);
    fields.insert("seconds".to_owned(), json!(outcome.seconds));
    let per_second = outcome.statistics.total.instructions as f64 / outcome.seconds.max(1e-9);
    fields.insert("instructions_per_second".to_owned(), json!(per_second));
    fields.insert("traffic".to_owned(), json!(outcome.statistics.traffic));
    fields
}

/// The counters of each PTX line.
pub fn lines_json(outcome: &Outcome, launch: &LaunchFile) -> Value {
    let sources = launch.kernel().source_lines();
    let line = |(line, count): (&u32, &Counters)| {
        let mut fields = counters(count);
        fields.insert("ptx_line".to_owned(), json!(line));
        fields.insert("source".to_owned(), json!(sources.get(line)));
        Value::Object(fields)
    };
    outcome.statistics.lines.iter().map(line).collect()
}

fn counters(counters: &Counters) -> Map<String, Value> {
    // Its own fields, and the sums that stand in the contract.
    let mut fields = match json!(counters) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let classes = Class::ALL.into_iter().map(name).zip(counters.by_class);
    let classes: Map<String, Value> = classes.map(|(name, count)| (name, json!(count))).collect();
    fields.insert("by_class".to_owned(), Value::Object(classes));
    fields.insert("global_bytes".to_owned(), json!(counters.global_bytes()));
    fields.insert("global_sectors".to_owned(), json!(counters.global_sectors()));
    fields
}
