//! Whether a node stood more than it can do: figures in, broken promises out. Pure.

use crate::figures::{Bound, latency_ms};

/// How much more than the peak is offered.
pub(crate) const FACTOR: f64 = 3.0;

/// Longest that one of a hundred refusals may take, in milliseconds.
pub(crate) const REFUSAL_MS_MAX: f64 = 50.0;

/// What one of a hundred admitted requests may take: twice what it takes at the peak, or 50 ms, whichever is more.
pub(crate) const ADMITTED_FACTOR: f64 = 2.0;
pub(crate) const ADMITTED_MS: f64 = 50.0;

/// What depends on how much else the machine does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The share of the peak that must go on being admitted.
    pub(crate) admitted_share: f64,
    /// What a healthy client may wait a second after the end, beside what it waited before the overload, in milliseconds.
    pub(crate) normal: Bound,
}

impl Terms {
    /// Those of the short form, or of the long one. In a short run the disk may be half as fast as in the peak before it.
    pub(crate) const fn of(is_short: bool) -> Self {
        Self { admitted_share: if is_short { 0.5 } else { 0.9 }, normal: latency_ms(is_short) }
    }
}

/// The generator kept its schedule if 99 of 100 requests were sent no later than this, in milliseconds,
pub(crate) const LATE_MS_MAX: f64 = 10.0;

/// and if no more than this share found no connection free.
pub(crate) const WAITED_SHARE_MAX: f64 = 0.01;

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Admitted in a second at the peak, closed loop: the median of its seconds before and after the overload.
    pub(crate) peak_per_second: f64,
    pub(crate) peak_p99_ms: f64,
    /// What was due in a second, and what of it was answered at all.
    pub(crate) offered_per_second: f64,
    pub(crate) answered_share: f64,
    /// How late one of a hundred was sent, and the share that had to wait for a connection.
    pub(crate) late_p99_ms: f64,
    pub(crate) waited_share: f64,
    /// The median of the seconds of the overload.
    pub(crate) admitted_per_second: f64,
    pub(crate) admitted_p99_ms: f64,
    pub(crate) refused: u64,
    pub(crate) refused_p99_ms: f64,
    /// Answers that are neither a grant nor a refusal with its `retry-after`.
    pub(crate) other: u64,
    /// The p99 of the healthy client before, and from one second behind the end on.
    pub(crate) healthy_p99_ms: (f64, f64),
    pub(crate) healthy_failed: u64,
}

/// Why a run says nothing about the node; `None` if it does.
pub(crate) fn invalid(seen: &Seen) -> Option<String> {
    if seen.late_p99_ms > LATE_MS_MAX {
        return Some(format!("the generator was late: one of 100 requests was sent {:.1} ms after its time", seen.late_p99_ms));
    }
    if seen.waited_share > WAITED_SHARE_MAX {
        return Some(format!("{:.1} % of all requests found no connection free", seen.waited_share * 100.0));
    }
    // A little less is the randomness of the arrivals.
    if seen.offered_per_second < seen.peak_per_second * (FACTOR - 0.3) {
        return Some(format!(
            "{:.0} requests/s were offered where the peak is {:.0}: that is no overload of {FACTOR} times",
            seen.offered_per_second, seen.peak_per_second
        ));
    }
    None
}

/// The promises that are broken, in words with their figures.
pub(crate) fn broken(seen: &Seen, terms: Terms) -> Vec<String> {
    let mut broken = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            broken.push(what);
        }
    };
    hold(seen.refused > 0, "nothing was refused".to_owned());
    hold(seen.refused_p99_ms <= REFUSAL_MS_MAX, format!("one of 100 refusals took {:.1} ms", seen.refused_p99_ms));
    let limit = (seen.peak_p99_ms * ADMITTED_FACTOR).max(ADMITTED_MS);
    hold(
        seen.admitted_p99_ms <= limit,
        format!(
            "one of 100 admitted requests took {:.1} ms where it is {:.1} ms at the peak",
            seen.admitted_p99_ms, seen.peak_p99_ms
        ),
    );
    hold(
        seen.admitted_per_second >= seen.peak_per_second * terms.admitted_share,
        format!("{:.0}/s were admitted where the peak is {:.0}/s", seen.admitted_per_second, seen.peak_per_second),
    );
    hold(seen.other == 0, format!("{} answers were neither a grant nor a refusal with retry-after", seen.other));
    hold(seen.answered_share >= 1.0, format!("{:.3} % of the requests were never answered", (1.0 - seen.answered_share) * 100.0));
    let (before, after) = seen.healthy_p99_ms;
    hold(
        terms.normal.holds(before, after),
        format!("a second after the end the healthy client's p99 is {after:.2} ms where it was {before:.2} ms"),
    );
    hold(seen.healthy_failed == 0, format!("{} requests of the healthy client failed before or after", seen.healthy_failed));
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Seen = Seen {
        peak_per_second: 2_000.0,
        peak_p99_ms: 40.0,
        offered_per_second: 5_960.0,
        answered_share: 1.0,
        late_p99_ms: 1.5,
        waited_share: 0.0,
        admitted_per_second: 1_950.0,
        admitted_p99_ms: 60.0,
        refused: 40_000,
        refused_p99_ms: 8.0,
        other: 0,
        healthy_p99_ms: (1.0, 1.2),
        healthy_failed: 0,
    };

    #[track_caller]
    fn finds(seen: Seen, what: &str) {
        let found = broken(&seen, Terms::of(false));
        assert!(found.len() == 1 && found[0].contains(what), "{found:?} where {what:?} alone was due");
        assert_eq!(invalid(&seen), None);
    }

    #[test]
    fn a_node_that_refuses_at_once_and_goes_on_has_broken_nothing() {
        assert_eq!(broken(&GOOD, Terms::of(false)), Vec::<String>::new());
        assert_eq!(invalid(&GOOD), None);
    }

    #[test]
    fn each_promise_is_named() {
        finds(Seen { refused: 0, ..GOOD }, "nothing was refused");
        finds(Seen { refused_p99_ms: 51.0, ..GOOD }, "one of 100 refusals took 51.0 ms");
        finds(Seen { refused_p99_ms: f64::NAN, ..GOOD }, "one of 100 refusals");
        finds(Seen { admitted_p99_ms: 81.0, ..GOOD }, "one of 100 admitted requests took 81.0 ms where it is 40.0 ms");
        finds(Seen { admitted_per_second: 1_799.0, ..GOOD }, "1799/s were admitted where the peak is 2000/s");
        finds(Seen { other: 1, ..GOOD }, "1 answers were neither");
        finds(Seen { answered_share: 0.999, ..GOOD }, "0.100 % of the requests were never answered");
        finds(Seen { healthy_p99_ms: (1.0, 6.1), ..GOOD }, "6.10 ms where it was 1.00 ms");
        finds(Seen { healthy_failed: 2, ..GOOD }, "2 requests of the healthy client failed");
    }

    #[test]
    fn a_quick_peak_allows_fifty_milliseconds() {
        let quick = Seen { peak_p99_ms: 5.0, admitted_p99_ms: 50.0, ..GOOD };
        assert_eq!(broken(&quick, Terms::of(false)), Vec::<String>::new());
        finds(Seen { admitted_p99_ms: 50.1, ..quick }, "admitted requests took 50.1 ms");
    }

    #[test]
    fn a_run_in_which_less_was_offered_is_none() {
        for (seen, what) in [
            (Seen { late_p99_ms: 10.5, ..GOOD }, "the generator was late"),
            (Seen { waited_share: 0.02, ..GOOD }, "found no connection free"),
            (Seen { offered_per_second: 5_300.0, ..GOOD }, "that is no overload"),
        ] {
            assert!(invalid(&seen).is_some_and(|why| why.contains(what)), "{seen:?}");
        }
    }
}
