//! Latencies, medians, and the bounds that figures are held against. Pure: what it is given is what it knows.

use std::time::Duration;

/// How far a figure may lie above what it is held against: by a factor, or by a difference that does not count on a busy machine,
/// whichever allows more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bound {
    pub(crate) factor: f64,
    /// In the unit of the figure.
    pub(crate) difference: f64,
}

impl Bound {
    /// The most that is allowed beside `base`.
    pub(crate) fn limit(self, base: f64) -> f64 {
        (base * self.factor).max(base + self.difference)
    }

    pub(crate) fn holds(self, base: f64, found: f64) -> bool {
        found <= self.limit(base)
    }
}

/// What a client may wait longer than before. A scheduler's tick is 4 ms, and all clients share the node's processors.
pub(crate) const LATENCY_MS: Bound = Bound { factor: 2.0, difference: 5.0 };

/// The same in the short forms, which run with every change, on machines that do other things meanwhile.
pub(crate) const LATENCY_BUSY_MS: Bound = Bound { factor: 2.0, difference: 50.0 };

/// What is allowed in the short form, or in the long one.
pub(crate) const fn latency_ms(is_short: bool) -> Bound {
    if is_short { LATENCY_BUSY_MS } else { LATENCY_MS }
}

/// The `percentile` of `latencies` in milliseconds, by the nearest rank: an observed one, not one between two. `None` of none.
pub(crate) fn percentile_ms(latencies: &mut [Duration], percentile: f64) -> Option<f64> {
    latencies.sort_unstable();
    let rank = (number(latencies.len() as u64) * percentile / 100.0).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank is between 0 and a length")]
    let place = (rank as usize).max(1) - 1;
    latencies.get(place).or(latencies.last()).map(|latency| latency.as_secs_f64() * 1e3)
}

/// The middle value, or the mean of the two in the middle; not a number of none, so that no bound holds.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

/// A count as a number to calculate with; counts of these runs are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts and bytes below 2^52 are exact")]
pub(crate) const fn number(count: u64) -> f64 {
    count as f64
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: f64) -> f64 {
    bytes / 1_048_576.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_allows_the_larger_of_factor_and_difference() {
        let bound = Bound { factor: 2.0, difference: 1.0 };
        assert!(bound.holds(0.2, 1.2) && !bound.holds(0.2, 1.3));
        assert!(bound.holds(5.0, 10.0) && !bound.holds(5.0, 10.1));
        assert!(!bound.holds(f64::NAN, 1.0) && !bound.holds(1.0, f64::NAN));
    }

    #[test]
    fn a_percentile_is_a_latency_that_was_observed() {
        let mut latencies: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&mut latencies, 50.0), Some(100.0));
        assert_eq!(percentile_ms(&mut latencies, 99.0), Some(198.0));
        assert_eq!(percentile_ms(&mut latencies, 100.0), Some(200.0));
        assert_eq!(percentile_ms(&mut latencies[..1], 99.0), Some(1.0));
        assert_eq!(percentile_ms(&mut [], 99.0), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_middle_of_the_two() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((median(&[9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}
