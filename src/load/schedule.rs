//! When requests are due in an open loop: a sequence of offsets from the start, whatever becomes of those before. Pure.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Nanoseconds of a second.
const SECOND_NS: f64 = 1e9;

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spacing {
    /// Independent buyers: the gaps are exponential, so that some come close together
    Poisson,
    /// One every 1/rate seconds
    Constant,
}

/// One thread's part of the arrivals: offsets in nanoseconds from the start, never falling, below the end.
#[derive(Debug)]
pub(crate) struct Arrivals {
    spacing: Spacing,
    /// Nanoseconds between two arrivals of this part, on average.
    gap_ns: f64,
    /// Where the part's first constant arrival stands.
    first_ns: f64,
    count: u64,
    /// The sum of the gaps drawn so far.
    drawn_ns: f64,
    end_ns: u64,
    random: SmallRng,
}

impl Arrivals {
    /// Part `part` of `parts` of `rate` arrivals a second until `end_ns`. All parts together come at the rate, constant ones evenly
    /// spaced among each other; independent parts of a Poisson process add up to one.
    pub(crate) fn new(spacing: Spacing, rate: u32, (part, parts): (u32, u32), end_ns: u64, seed: u64) -> Self {
        let all_ns = SECOND_NS / f64::from(rate);
        Self {
            spacing,
            gap_ns: all_ns * f64::from(parts),
            first_ns: all_ns * f64::from(part),
            count: 0,
            drawn_ns: 0.0,
            end_ns,
            random: SmallRng::seed_from_u64(seed),
        }
    }
}

impl Iterator for Arrivals {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let at = match self.spacing {
            // From the count, so that no error adds up.
            Spacing::Constant => self.first_ns + self.gap_ns * count_as_f64(self.count),
            Spacing::Poisson => {
                self.drawn_ns -= self.gap_ns * (1.0 - self.random.random::<f64>()).ln();
                self.drawn_ns
            }
        };
        let at = whole_ns(at);
        if at >= self.end_ns {
            return None;
        }
        self.count += 1;
        Some(at)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of arrivals are far below 2^52")]
fn count_as_f64(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "offsets are positive and within days")]
fn whole_ns(offset: f64) -> u64 {
    offset.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn constant_arrivals_stand_at_their_multiples() {
        let at: Vec<u64> = Arrivals::new(Spacing::Constant, 4, (0, 1), SECOND, 1).collect();
        assert_eq!(at, [0, 250_000_000, 500_000_000, 750_000_000]);
        // A rate that no whole number of nanoseconds divides: arrival 2,999,999 of 3 a second stands 999,999.6667 s after the first.
        let last = Arrivals::new(Spacing::Constant, 3, (0, 1), 1_000_000 * SECOND, 1).last();
        assert_eq!(last, Some(999_999_666_666_667));
    }

    #[test]
    fn constant_parts_interleave_to_the_whole() {
        let mut all: Vec<u64> = (0..3).flat_map(|part| Arrivals::new(Spacing::Constant, 12, (part, 3), SECOND, 1)).collect();
        all.sort_unstable();
        // Twelfths of a second, in whole nanoseconds.
        let expect = [
            0,
            83_333_333,
            166_666_667,
            250_000_000,
            333_333_333,
            416_666_667,
            500_000_000,
            583_333_333,
            666_666_667,
            750_000_000,
            833_333_333,
            916_666_667,
        ];
        assert_eq!(all, expect);
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let at: Vec<u64> = Arrivals::new(Spacing::Poisson, 1_000, (0, 1), 1_000 * SECOND, 7).collect();
        assert!(at.is_sorted());
        // A million are expected; four standard deviations of a Poisson count are 4 * sqrt(10^6).
        assert!((996_000..=1_004_000).contains(&at.len()), "{}", at.len());
        let gaps: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // Of exponential gaps with a mean of 1 ms, e^-x are longer than x ms: here in millionths.
        for (longer_than_us, expect) in [(500, 606_531), (1_000, 367_879), (2_000, 135_335), (5_000, 6_738)] {
            let count = gaps.iter().filter(|gap| **gap > longer_than_us * 1_000).count();
            let millionths = count * 1_000_000 / gaps.len();
            assert!(millionths.abs_diff(expect) < 2_000, "longer than {longer_than_us} us: {millionths} and not {expect}");
        }
    }

    #[test]
    fn poisson_parts_add_up_to_the_rate_and_differ() {
        let part = |part: u32| Arrivals::new(Spacing::Poisson, 10_000, (part, 4), 10 * SECOND, u64::from(part)).collect::<Vec<_>>();
        let parts: Vec<Vec<u64>> = (0..4).map(part).collect();
        let total: usize = parts.iter().map(Vec::len).sum();
        // 100,000 expected, standard deviation 316.
        assert!((98_700..=101_300).contains(&total), "{total}");
        assert!(parts.iter().all(|part| (24_300..=25_700).contains(&part.len())));
        assert_ne!(parts[0], parts[1]);
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        let at = |seed| Arrivals::new(Spacing::Poisson, 100, (0, 1), SECOND, seed).collect::<Vec<_>>();
        assert_eq!(at(3), at(3));
        assert_ne!(at(3), at(4));
    }
}
