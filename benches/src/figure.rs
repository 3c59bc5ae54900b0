//! What a bench gives back: figures, each with what one must know to read it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_mins(1);

/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// One measured thing.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which bench it is of.
    pub bench: &'static str,
    /// What was done, with the parameters that tell it from its neighbours.
    pub what: String,
    /// What an answer survives: the log's setting, or `-` where no log takes part.
    pub durability: String,
    /// Mean number of events in a group of the log, where groups take part.
    pub group_events: Option<f64>,
    /// What is counted in a second.
    pub unit: &'static str,
    /// How many of it: the median of the runs.
    pub rate: f64,
    /// How many runs.
    pub runs: usize,
    /// Fastest less slowest run, as a share of the median; 0 with one run.
    pub spread: f64,
    /// Latency of one of it: the medians of the runs.
    pub latency: Option<Percentiles>,
    /// The same beside a floor that was measured in the same run.
    pub against: Option<Against>,
    /// What else was seen, by name with its unit.
    pub more: Vec<Detail>,
}

/// A floor or ceiling, and how a figure stands to it.
#[derive(Debug, Clone, Serialize)]
pub struct Against {
    /// What it is.
    pub floor: &'static str,
    /// The figure's rate divided by the floor's: the median over pairs of neighbouring runs.
    pub ratio: f64,
}

/// A further number of a figure.
#[derive(Debug, Clone, Serialize)]
pub struct Detail {
    /// What it is, unit last.
    pub name: &'static str,
    /// The number.
    pub value: f64,
}

/// Latency in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50_us: f64,
    /// 99 of 100 are below.
    pub p99_us: f64,
    /// 999 of 1,000 are below.
    pub p999_us: f64,
}

/// Latencies of one run. Belongs to one thread; runs of several are added up.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let nanoseconds = u64::try_from(LATENCY_MAX.as_nanos()).expect("a minute has fewer than 2^64 nanoseconds");
        Self(Histogram::new_with_bounds(1, nanoseconds, LATENCY_DIGITS).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// Counts one; those over a minute as a minute.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts those of `other` too.
    pub fn add(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The longest of what was counted, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        number(self.0.max()) / 1e6
    }

    /// The percentiles of what was counted.
    pub fn percentiles(&self) -> Percentiles {
        let at = |percentile| number(self.0.value_at_percentile(percentile)) / 1_000.0;
        Percentiles { p50_us: at(50.0), p99_us: at(99.0), p999_us: at(99.9) }
    }
}

/// What one run gave.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// How many in a second.
    pub rate: f64,
    /// Latency of one.
    pub latency: Percentiles,
}

/// The medians of several runs: rate, spread, latency.
pub fn medians(runs: &[Run]) -> (f64, f64, Percentiles) {
    let rates: Vec<f64> = runs.iter().map(|run| run.rate).collect();
    let rate = median(&rates);
    let (slowest, fastest) = rates.iter().fold((f64::MAX, 0.0_f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
    let of = |pick: fn(&Percentiles) -> f64| median(&runs.iter().map(|run| pick(&run.latency)).collect::<Vec<_>>());
    let latency = Percentiles { p50_us: of(|at| at.p50_us), p99_us: of(|at| at.p99_us), p999_us: of(|at| at.p999_us) };
    (rate, if rate > 0.0 { (fastest - slowest) / rate } else { 0.0 }, latency)
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => 0.0,
    }
}

/// A count as a number to calculate with; counts of these benches are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds below 2^52 are exact")]
pub const fn number(count: u64) -> f64 {
    count as f64
}

/// `count` in `elapsed`, as a rate.
pub fn per_second(count: u64, elapsed: Duration) -> f64 {
    number(count) / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// `part / whole`, 0 of nothing.
pub fn mean(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / number(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_middle_of_the_two() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((median(&[9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut latencies = Latencies::default();
        for microseconds in 1..=1_000 {
            latencies.record(Duration::from_micros(microseconds));
        }
        let at = latencies.percentiles();
        assert!((at.p50_us - 500.0).abs() < 1.0, "{at:?}");
        assert!((at.p99_us - 990.0).abs() < 2.0, "{at:?}");
        assert!((at.p999_us - 999.0).abs() < 2.0, "{at:?}");
    }
}
