//! Figures as people and programs read them.

use std::fmt;

use serde::Serialize;
use tidegate_benches::machine::Machine;
use tidegate_benches::report::{amount, duration};

use crate::contest::{Entry, Outcome};
use crate::targets::Target;

/// Everything with what it was measured on.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// What the peers say of their versions.
    pub versions: Vec<String>,
    /// What was left out, and why.
    pub skipped: Vec<String>,
    /// The figures.
    pub outcomes: Vec<Outcome>,
    /// What was to be reached.
    pub targets: Vec<Target>,
}

impl Report {
    /// The report as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts always make JSON")
    }
}

const HEADINGS: [&str; 8] =
    ["side", "durability", "asked by", "rate", "spread", "p50 / p99 / p99.9", "server CPU, us", "Tidegate over it"];

const TARGET_HEADINGS: [&str; 4] = ["target", "found", "wanted", ""];

impl fmt::Display for Report {
    /// The machine and the versions, then a markdown table for each contest, then the targets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, memory_mib, kernel, file_system, load_before } = &self.machine;
        writeln!(formatter, "{processor}, {cores} cores, {memory_mib} MiB, Linux {kernel}, data on {file_system}")?;
        writeln!(formatter, "load before: {load_before:.2}")?;
        self.versions.iter().chain(&self.skipped).try_for_each(|line| writeln!(formatter, "{line}"))?;
        for outcome in &self.outcomes {
            writeln!(formatter, "\n{} ({}):\n", outcome.contest, outcome.unit)?;
            table(formatter, &HEADINGS, &outcome.entries.iter().map(row).collect::<Vec<_>>())?;
        }
        if !self.targets.is_empty() {
            writeln!(formatter)?;
            table(formatter, &TARGET_HEADINGS, &self.targets.iter().map(target_row).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

fn row(entry: &Entry) -> [String; 8] {
    let runs = entry.runs.len();
    let Entry { latency, server_cpu_us, tidegate_over, .. } = entry;
    [
        entry.side.to_owned(),
        entry.durability.clone(),
        entry.load.clone(),
        amount(entry.rate),
        if runs == 1 { "1 run".to_owned() } else { format!("{:.0} % of {runs} runs", entry.spread * 100.0) },
        [latency.p50_us, latency.p99_us, latency.p999_us].map(duration).join(" / "),
        if *server_cpu_us > 0.0 { amount(*server_cpu_us) } else { "-".to_owned() },
        tidegate_over.map_or_else(|| "-".to_owned(), |ratio| format!("{} x", amount(ratio))),
    ]
}

fn target_row(target: &Target) -> [String; 4] {
    let bound = if target.at_least { "at least" } else { "at most" };
    let word = if target.is_met() { "reached" } else { "missed" };
    [target.what.clone(), amount(target.found), format!("{bound} {}", amount(target.wanted)), word.to_owned()]
}

fn table<const COLUMNS: usize>(
    formatter: &mut fmt::Formatter<'_>,
    headings: &[&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> fmt::Result {
    let headings = headings.map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&headings]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let rule = widths.map(|width| "-".repeat(width));
    for row in [&headings, &rule].into_iter().chain(rows) {
        for (cell, width) in row.iter().zip(widths) {
            write!(formatter, "| {cell:<width$} ")?;
        }
        writeln!(formatter, "|")?;
    }
    Ok(())
}
