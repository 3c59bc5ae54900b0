//! Figures as people and programs read them.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::figure::{Detail, Figure};
use crate::machine::Machine;

/// Figures with what they were measured on.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Where randomness and secrets came from.
    pub seed: u64,
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Report {
    /// The report as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts always make JSON")
    }
}

const HEADINGS: [&str; 8] = ["what", "durability", "events a group", "rate", "spread", "p50 / p99 / p99.9", "beside", "more"];

impl fmt::Display for Report {
    /// Two lines for the machine, then one markdown table.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, memory_mib, kernel, file_system, load_before } = &self.machine;
        writeln!(formatter, "{processor}, {cores} cores, {memory_mib} MiB, Linux {kernel}, data on {file_system}")?;
        writeln!(formatter, "load before: {load_before:.2}, seed: {:#x}\n", self.seed)?;
        let rows: Vec<[String; 8]> = self.figures.iter().map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
        line(formatter, &HEADINGS.map(str::to_owned), &widths)?;
        for width in &widths {
            write!(formatter, "|{}", "-".repeat(width + 2))?;
        }
        writeln!(formatter, "|")?;
        rows.iter().try_for_each(|row| line(formatter, row, &widths))
    }
}

fn line(formatter: &mut fmt::Formatter<'_>, cells: &[String; 8], widths: &[usize]) -> fmt::Result {
    for (cell, width) in cells.iter().zip(widths) {
        write!(formatter, "| {cell:<width$} ")?;
    }
    writeln!(formatter, "|")
}

fn row(figure: &Figure) -> [String; 8] {
    let runs =
        if figure.runs == 1 { "1 run".to_owned() } else { format!("{:.0} % of {} runs", figure.spread * 100.0, figure.runs) };
    [
        format!("{}: {}", figure.bench, figure.what),
        figure.durability.clone(),
        figure.group_events.map_or_else(|| "-".to_owned(), amount),
        format!("{} {}", amount(figure.rate), figure.unit),
        runs,
        figure
            .latency
            .map_or_else(|| "-".to_owned(), |latency| [latency.p50_us, latency.p99_us, latency.p999_us].map(duration).join(" / ")),
        figure.against.as_ref().map_or_else(|| "-".to_owned(), |against| format!("{:.2} x {}", against.ratio, against.floor)),
        details(&figure.more),
    ]
}

fn details(more: &[Detail]) -> String {
    let mut text = String::new();
    for detail in more {
        let separator = if text.is_empty() { "" } else { ", " };
        write!(text, "{separator}{} {}", detail.name, amount(detail.value)).expect("writing to a text does not fail");
    }
    text
}

/// Three significant digits for small numbers, whole ones with separators for large.
pub fn amount(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

/// A time with the unit that suits it.
pub fn duration(microseconds: f64) -> String {
    match microseconds {
        short if short < 1.0 => format!("{:.0} ns", short * 1e3),
        short if short < 1_000.0 => format!("{} us", amount(short)),
        long => format!("{} ms", amount(long / 1e3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_readable() {
        let cases = [(0.0, "0"), (0.754, "0.75"), (12.34, "12.3"), (999.6, "1,000"), (1_234_567.0, "1,234,567"), (123.0, "123")];
        for (value, text) in cases {
            assert_eq!(amount(value), text);
        }
    }

    #[test]
    fn durations_carry_their_unit() {
        for (microseconds, text) in [(0.25, "250 ns"), (12.0, "12.0 us"), (2_500.0, "2.50 ms")] {
            assert_eq!(duration(microseconds), text);
        }
    }
}
