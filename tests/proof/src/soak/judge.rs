//! Whether what a node takes stays level: slices of time in, broken promises out. Pure.

use std::ops::Range;

use crate::figures::{Bound, median, mib};

/// Slices of a run.
pub(crate) const SLICES: usize = 10;

/// The part that the last one is held against: by then everything that comes round has come round. Two slices each, and of what was seen
/// in them the median, so that neither a moment nor the machine's other work decides.
pub(crate) const EARLY: Range<usize> = 3..5;
pub(crate) const LATE: Range<usize> = 8..10;

const MIB: f64 = 1_048_576.0;

/// How much more the last part may take than the early one.
pub(crate) const MEMORY: Bound = Bound { factor: 1.1, difference: 24.0 * MIB };
pub(crate) const LOG: Bound = Bound { factor: 1.25, difference: 16.0 * MIB };
pub(crate) const HISTORY: Bound = Bound { factor: 1.5, difference: 32.0 * MIB };
pub(crate) const FILES: Bound = Bound { factor: 1.1, difference: 16.0 };

/// What was seen in one slice: looks at the node, and the healthy client's percentiles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slice {
    /// In bytes, at each look.
    pub(crate) memory: Vec<f64>,
    pub(crate) log: Vec<f64>,
    pub(crate) history: Vec<f64>,
    pub(crate) files: Vec<f64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Commands decided in a second.
    pub(crate) commands_per_second: f64,
}

/// What came round, and how often it must at least.
#[derive(Debug, Clone)]
pub(crate) struct Cycle {
    pub(crate) name: &'static str,
    pub(crate) count: u64,
    pub(crate) least: u64,
}

/// The promises that are broken, in words with their figures. What the history takes is level only in runs that are longer than its
/// retention. `latency` is what a client may wait longer.
pub(crate) fn broken(slices: &[Slice], cycles: &[Cycle], with_history: bool, latency: Bound) -> Vec<String> {
    let mut broken = Vec::new();
    let looks = |part: Range<usize>, pick: fn(&Slice) -> &[f64]| -> f64 {
        median(&slices.get(part).unwrap_or_default().iter().flat_map(pick).copied().collect::<Vec<_>>())
    };
    let mut hold = |what: &str, unit: &str, bound: Bound, (early, late): (f64, f64), shown: fn(f64) -> f64| {
        if !bound.holds(early, late) {
            broken.push(format!("{what} is {:.1} {unit} in the last part where it was {:.1}", shown(late), shown(early)));
        }
    };
    let parts = |pick: fn(&Slice) -> &[f64]| (looks(EARLY, pick), looks(LATE, pick));
    hold("memory", "MiB", MEMORY, parts(|slice| &slice.memory), mib);
    hold("the log with its snapshots", "MiB", LOG, parts(|slice| &slice.log), mib);
    if with_history {
        hold("the history", "MiB", HISTORY, parts(|slice| &slice.history), mib);
    }
    hold("open files", "files", FILES, parts(|slice| &slice.files), |files| files);
    let latencies = |pick: fn(&Slice) -> f64| {
        let of = |part: Range<usize>| median(&slices.get(part).unwrap_or_default().iter().map(pick).collect::<Vec<_>>());
        (of(EARLY), of(LATE))
    };
    hold("the p50", "ms", latency, latencies(|slice| slice.p50_ms), |ms| ms);
    hold("the p99", "ms", latency, latencies(|slice| slice.p99_ms), |ms| ms);
    for Cycle { name, count, least } in cycles {
        if count < least {
            broken.push(format!("{name}: {count} times, where less than {least} shows nothing"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::LATENCY_MS;

    /// Ten slices in which nothing moves.
    fn level() -> Vec<Slice> {
        let slice = Slice {
            memory: vec![100.0 * MIB; 8],
            log: vec![40.0 * MIB; 8],
            history: vec![80.0 * MIB; 8],
            files: vec![60.0; 8],
            p50_ms: 0.5,
            p99_ms: 3.0,
            commands_per_second: 5_000.0,
        };
        vec![slice; SLICES]
    }

    fn growing(per_slice: f64, grow: fn(&mut Slice, f64)) -> Vec<Slice> {
        let mut slices = level();
        let mut more = 0.0;
        for slice in &mut slices {
            grow(slice, more);
            more += per_slice;
        }
        slices
    }

    #[track_caller]
    fn finds(slices: &[Slice], what: &str) {
        let found = broken(slices, &[], true, LATENCY_MS);
        assert!(found.len() == 1 && found[0].contains(what), "{found:?} where {what:?} alone was due");
    }

    #[test]
    fn a_level_run_has_broken_nothing() {
        assert_eq!(broken(&level(), &[Cycle { name: "snapshots", count: 5, least: 5 }], true, LATENCY_MS), Vec::<String>::new());
    }

    #[test]
    fn what_grows_all_the_time_is_named() {
        finds(&growing(6.0 * MIB, |slice, more| slice.memory.iter_mut().for_each(|look| *look += more)), "memory is 151.0 MiB");
        finds(&growing(4.0 * MIB, |slice, more| slice.log.iter_mut().for_each(|look| *look += more)), "the log with its snapshots");
        finds(&growing(20.0 * MIB, |slice, more| slice.history.iter_mut().for_each(|look| *look += more)), "the history is");
        finds(&growing(4.0, |slice, more| slice.files.iter_mut().for_each(|look| *look += more)), "open files is 94.0");
        finds(&growing(3.0, |slice, more| slice.p99_ms += more), "the p99 is 28.5 ms in the last part where it was 13.5");
        finds(&growing(1.5, |slice, more| slice.p50_ms += more), "the p50");
    }

    #[test]
    fn moments_and_small_differences_are_noise() {
        let mut slices = growing(2.0 * MIB, |slice, more| slice.memory.iter_mut().for_each(|look| *look += more));
        slices[9].log[0] = 4_000.0 * MIB;
        slices[8].files[3] = 900.0;
        slices[9].p99_ms = 7.9;
        assert_eq!(broken(&slices, &[], true, LATENCY_MS), Vec::<String>::new());
    }

    #[test]
    fn a_history_younger_than_its_retention_may_grow() {
        let slices = growing(20.0 * MIB, |slice, more| slice.history.iter_mut().for_each(|look| *look += more));
        assert_eq!(broken(&slices, &[], false, LATENCY_MS), Vec::<String>::new());
    }

    #[test]
    fn a_cycle_that_hardly_came_round_shows_nothing() {
        let found = broken(&level(), &[Cycle { name: "snapshots", count: 1, least: 5 }], true, LATENCY_MS);
        assert_eq!(found, ["snapshots: 1 times, where less than 5 shows nothing"]);
    }

    #[test]
    fn a_run_that_was_cut_short_is_not_level() {
        assert_eq!(broken(&level()[..7], &[], true, LATENCY_MS).len(), 6);
    }
}
