//! A sweep as a chart: throughput, latency and processor time, memory where a node grows, and the conditions below.

use super::{Point, Sample, Subject, Sweep};
use crate::chart::{Chart, Mark, Panel, Scale, Series, Unit};
use crate::figure::{Percentiles, median};
use crate::machine::Machine;
use crate::report::amount;

/// What is along the common axis.
pub(super) const fn varied(subject: Subject) -> &'static str {
    match subject {
        Subject::Connections => "connections",
        Subject::Batch => "commands in a batch",
        Subject::Products => "products",
        Subject::Open => "open reservations",
        Subject::History => "reservations in the history",
    }
}

const fn title(subject: Subject) -> &'static str {
    match subject {
        Subject::Connections => "Reserving, by the number of connections",
        Subject::Batch => "Reserving, by the number of commands in a batch",
        Subject::Products => "Reserving, by the number of products",
        Subject::Open => "Reserving, by the number of open reservations",
        Subject::History => "Reserving, by the number of reservations in the history on the disk",
    }
}

/// How places, rates and processor time become lengths. What should rise is shown by powers; what should be flat from zero on, so that
/// nothing looks flatter than it is.
const fn scales(subject: Subject) -> (Scale, Scale) {
    match subject {
        Subject::Connections | Subject::Batch => (Scale::Log, Scale::Log),
        Subject::Products => (Scale::Log, Scale::Linear),
        Subject::Open | Subject::History => (Scale::Linear, Scale::Linear),
    }
}

/// The chart of `sweep`, which was measured on `machine`.
pub(super) fn chart(sweep: &Sweep, machine: &Machine) -> Chart {
    let (x_scale, cost_scale) = scales(sweep.subject);
    let mut rates = vec![series("reserved", sweep, |point| Some(point.rate), |run| Some(run.rate))];
    if sweep.subject == Subject::History {
        let moved = |point: &Point| point.runs.iter().map(|run| run.moved_rate).collect::<Option<Vec<_>>>();
        let moved = |point: &Point| moved(point).map(|rates| median(&rates));
        rates.push(series("reserved, lapsed and in the history", sweep, moved, |run| run.moved_rate));
    }
    let percentile = |name: &'static str, pick: fn(&Percentiles) -> f64| {
        series(name, sweep, |point| Some(pick(&point.latency)), |run| Some(pick(&run.latency)))
    };
    let latencies = vec![
        percentile("p50", |latency| latency.p50_us),
        percentile("p99", |latency| latency.p99_us),
        percentile("p99.9", |latency| latency.p999_us),
    ];
    let cost = match sweep.subject {
        Subject::History => "Node's processor time for one, until it left memory",
        _ => "Node's processor time for one reservation",
    };
    let costs = vec![series("", sweep, |point| Some(point.server_cpu_us), |run| Some(run.server_cpu_us))];
    let mut panels = vec![
        Panel { title: "Throughput, reservations a second".to_owned(), scale: cost_scale, unit: Unit::Count, series: rates },
        Panel { title: latency_title(sweep.subject).to_owned(), scale: Scale::Log, unit: Unit::Microseconds, series: latencies },
        Panel { title: cost.to_owned(), scale: cost_scale, unit: Unit::Microseconds, series: costs },
    ];
    if matches!(sweep.subject, Subject::Open | Subject::History) {
        let memory = vec![series("", sweep, |point| Some(point.resident_mib), |run| Some(run.resident_mib))];
        let (title, scale) = ("Node's resident memory".to_owned(), Scale::Linear);
        panels.push(Panel { title, scale, unit: Unit::Mebibytes, series: memory });
    }
    let caption = caption(sweep, machine);
    Chart { title: title(sweep.subject).to_owned(), x_label: varied(sweep.subject), x_scale, panels, caption }
}

const fn latency_title(subject: Subject) -> &'static str {
    match subject {
        Subject::Connections => "Latency of a request",
        _ => "Latency of a batch",
    }
}

fn series(
    name: &'static str,
    sweep: &Sweep,
    of_point: impl Fn(&Point) -> Option<f64>,
    of_run: impl Fn(&Sample) -> Option<f64>,
) -> Series {
    let mark = |point: &Point| {
        let y = of_point(point)?;
        let seen = point.runs.iter().filter_map(&of_run);
        let (low, high) = seen.fold((y, y), |(low, high), value| (low.min(value), high.max(value)));
        Some(Mark { x: point.at, y, low, high })
    };
    Series { name, marks: sweep.points.iter().filter_map(mark).collect() }
}

fn caption(sweep: &Sweep, machine: &Machine) -> Vec<String> {
    let runs = sweep.points.first().map_or(0, |point| point.runs.len());
    let Machine { processor, cores, memory_mib, kernel, file_system, load_before } = machine;
    let mut caption = vec![
        format!("Load: over HTTP on the loopback, closed loop, {}.", sweep.load),
        format!("Durability: {}; the node has default settings, and is a new one for every run.", sweep.durability),
        format!(
            "Machine: {processor}, {cores} cores that node and load generator share, {memory_mib} MiB, Linux {kernel}, data on \
             {file_system}; load before {load_before:.2}."
        ),
        format!("Dots: medians of {runs} runs; whiskers: least and most of them."),
    ];
    if let Some(flat) = &sweep.flatness {
        let from = match sweep.flat_from {
            0 | 1 => "over the whole width".to_owned(),
            from => format!("from {from} {} on", varied(sweep.subject)),
        };
        caption.push(format!(
            "Flat {from}? The last point there beside the first: rate {} x (least {} x), processor time {} x (most {} x).",
            amount(flat.rate_last),
            amount(flat.rate_least),
            amount(flat.server_cpu_last),
            amount(flat.server_cpu_most)
        ));
    }
    caption
}
