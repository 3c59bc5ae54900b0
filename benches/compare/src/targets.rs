//! What Tidegate is to reach beside these peers, and whether it did.

use serde::Serialize;
use tidegate_benches::figure::Percentiles;

use crate::compare::{Subject, median_within_runs, sides};
use crate::contest::{Entry, Outcome};

/// What latency may be above a multiple of a bare sync's, in microseconds.
const LATENCY_ABOVE_US: f64 = 300.0;

/// A target and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// What is compared with what.
    pub what: String,
    /// What was found.
    pub found: f64,
    /// What is to be reached.
    pub wanted: f64,
    /// Whether more is better; if not, no more than `wanted` is.
    pub at_least: bool,
}

impl Target {
    /// Whether it is reached.
    pub fn is_met(&self) -> bool {
        if self.at_least { self.found >= self.wanted } else { self.found <= self.wanted }
    }
}

/// The targets for which everything was measured.
pub fn targets(outcomes: &[Outcome]) -> Vec<Target> {
    let of = |subject: Subject| outcomes.iter().find(|outcome| outcome.contest == subject.name());
    let mut targets = Vec::new();
    if let Some(reserve) = of(Subject::Reserve) {
        targets.extend(over(reserve, sides::NGINX, "AOF always", 2.2));
        targets.extend(over(reserve, sides::NGINX, "none", 1.7));
        targets.extend(over(reserve, sides::AXUM, "-", 0.7));
    }
    if let Some(sold_out) = of(Subject::SoldOut) {
        targets.extend(over(sold_out, sides::AXUM, "-", 0.9));
        targets.extend(over(sold_out, sides::DICTIONARY, "none", 1.0));
    }
    if let Some(batches) = of(Subject::Batches) {
        for durability in ["AOF always", "none"] {
            let pipelines = batches.entries.iter().filter(|entry| entry.side == sides::REDIS && entry.durability == durability);
            let best = pipelines.max_by(|one, other| one.rate.total_cmp(&other.rate));
            targets.extend(best.and_then(|entry| over_entry(batches, entry, 10.0)));
        }
    }
    targets.extend(of(Subject::Latency).into_iter().flat_map(latency));
    targets
}

/// Tidegate's rate over that of the side's last entry, which is the one with most connections.
fn over(outcome: &Outcome, side: &str, durability: &str, wanted: f64) -> Option<Target> {
    let entry = outcome.entries.iter().rfind(|entry| entry.side == side && entry.durability == durability)?;
    over_entry(outcome, entry, wanted)
}

fn over_entry(outcome: &Outcome, entry: &Entry, wanted: f64) -> Option<Target> {
    let Entry { side, durability, load, .. } = entry;
    let what = format!("{}: Tidegate's rate over that of {side}, durability {durability}, {load}", outcome.contest);
    Some(Target { what, found: entry.tidegate_over?, wanted, at_least: true })
}

/// The latency as a share of what it may be, which follows the bare sync of the same run.
fn latency(outcome: &Outcome) -> Vec<Target> {
    let runs = |side: &str| outcome.entries.iter().find(|entry| entry.side == side).map(|entry| &entry.runs[..]);
    let (Some(tidegate), Some(sync)) = (runs(sides::TIDEGATE), runs(sides::SYNC)) else { return Vec::new() };
    let share = |name: &str, factor: f64, pick: fn(&Percentiles) -> f64| Target {
        what: format!("latency: {name} as a share of {factor} x a bare sync's and 0.3 ms"),
        found: median_within_runs(tidegate, sync, |own, sync| {
            pick(&own.latency) / (factor * pick(&sync.latency) + LATENCY_ABOVE_US)
        }),
        wanted: 1.0,
        at_least: false,
    };
    vec![share("p50", 2.0, |at| at.p50_us), share("p99", 3.0, |at| at.p99_us)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop::RunFigure;

    fn entry(side: &'static str, durability: &str, rate: f64, tidegate_over: Option<f64>, p50_us: f64) -> Entry {
        let latency = Percentiles { p50_us, p99_us: p50_us * 2.0, p999_us: p50_us * 3.0 };
        let run = RunFigure { rate, latency, server_cpu_us: 1.0, generator_cores: 0.5, buyers: 1, granted: 1 };
        let (durability, load) = (durability.to_owned(), "256 connections".to_owned());
        let (server_cpu_us, generator_cores, spread, runs) = (1.0, 0.5, 0.0, vec![run]);
        Entry { side, durability, load, rate, spread, latency, server_cpu_us, generator_cores, tidegate_over, runs }
    }

    #[test]
    fn the_best_pipeline_of_each_durability_is_what_counts() {
        let entries = vec![
            entry(sides::TIDEGATE, "power_loss", 900.0, None, 1.0),
            entry(sides::REDIS, "none", 50.0, Some(18.0), 1.0),
            entry(sides::REDIS, "none", 100.0, Some(9.0), 1.0),
            entry(sides::REDIS, "AOF always", 90.0, Some(10.0), 1.0),
        ];
        let found = targets(&[Outcome { contest: Subject::Batches.name(), unit: "", entries }]);
        assert_eq!(found.iter().map(|target| (target.found, target.is_met())).collect::<Vec<_>>(), [(10.0, true), (9.0, false)]);
    }

    #[test]
    fn latency_may_be_a_multiple_of_the_sync_and_a_little_more() {
        let entries =
            vec![entry(sides::TIDEGATE, "power_loss", 1.0, None, 600.0), entry(sides::SYNC, "power_loss", 1.0, None, 100.0)];
        let found = targets(&[Outcome { contest: Subject::Latency.name(), unit: "", entries }]);
        // 600 of 2 x 100 + 300, and 1,200 of 3 x 200 + 300.
        let shares: Vec<f64> = found.iter().map(|target| target.found).collect();
        assert!((shares[0] - 1.2).abs() < 1e-9 && (shares[1] - 1_200.0 / 900.0).abs() < 1e-9, "{shares:?}");
        assert!(!found[0].is_met() && !found[1].is_met());
    }
}
