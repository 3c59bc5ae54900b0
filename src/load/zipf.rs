//! Popularity of products: how likely each is by its rank, and draws that follow it. Pure; randomness is an argument.

use rand::Rng;

/// Ranks with probabilities in proportion to `1 / rank^exponent`, the first rank the most likely.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    /// The probability of each rank or a more popular one; the last is 1.
    up_to: Vec<f64>,
}

impl Zipf {
    /// `ranks` of them, at least one. An exponent of 0 makes all alike.
    pub(crate) fn new(ranks: u32, exponent: f64) -> Self {
        let weights = || (1..=ranks.max(1)).map(|rank| f64::from(rank).powf(-exponent));
        // The small ones first, so that they are not lost beside the large.
        let total: f64 = weights().rev().sum();
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = weights()
            .map(|weight| {
                sum += weight;
                sum / total
            })
            .collect();
        // Rounding must not leave a draw without a rank.
        *up_to.last_mut().expect("there is at least one rank") = 1.0;
        Self { up_to }
    }

    /// The probability of the rank, counted from 0.
    pub(crate) fn share(&self, rank: usize) -> f64 {
        let before = if rank == 0 { 0.0 } else { self.up_to[rank - 1] };
        self.up_to[rank] - before
    }

    /// A rank, counted from 0.
    pub(crate) fn draw(&self, random: &mut impl Rng) -> usize {
        let place: f64 = random.random();
        self.up_to.partition_point(|up_to| *up_to <= place)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn shares_are_the_closed_form() {
        // 1 + 1/2 + 1/3 + 1/4 = 25/12.
        let zipf = Zipf::new(4, 1.0);
        for (rank, expect) in [12.0 / 25.0, 6.0 / 25.0, 4.0 / 25.0, 3.0 / 25.0].into_iter().enumerate() {
            assert!((zipf.share(rank) - expect).abs() < 1e-12, "rank {rank}: {}", zipf.share(rank));
        }
        // 1 + 1/4 + 1/9 = 49/36.
        let zipf = Zipf::new(3, 2.0);
        for (rank, expect) in [36.0 / 49.0, 9.0 / 49.0, 4.0 / 49.0].into_iter().enumerate() {
            assert!((zipf.share(rank) - expect).abs() < 1e-12, "rank {rank}: {}", zipf.share(rank));
        }
        let even = Zipf::new(5, 0.0);
        assert!((0..5).all(|rank| (even.share(rank) - 0.2).abs() < 1e-12));
        assert!((Zipf::new(1, 1.0).share(0) - 1.0).abs() < 1e-12);
    }

    /// Pearson's statistic of `draws` draws against `1 / (rank^exponent * H)`, with the sum computed here.
    fn chi_square(ranks: u32, exponent: f64, draws: u32, seed: u64) -> f64 {
        let zipf = Zipf::new(ranks, exponent);
        let mut random = SmallRng::seed_from_u64(seed);
        let mut counts = vec![0_u32; ranks as usize];
        for _ in 0..draws {
            counts[zipf.draw(&mut random)] += 1;
        }
        let mut harmonic = 0.0;
        for rank in 1..=ranks {
            harmonic += 1.0 / f64::from(rank).powf(exponent);
        }
        (1..=ranks)
            .zip(counts)
            .map(|(rank, count)| {
                let expect = f64::from(draws) / (f64::from(rank).powf(exponent) * harmonic);
                (f64::from(count) - expect).powi(2) / expect
            })
            .sum()
    }

    #[test]
    fn draws_follow_the_shares() {
        // The 99.9 % point of chi-square with 49 degrees of freedom is 85.4; the 0.1 % point is 23.0.
        for (exponent, seed) in [(1.0, 1), (1.0, 2), (0.7, 3), (0.0, 4), (1.3, 5)] {
            let statistic = chi_square(50, exponent, 1_000_000, seed);
            assert!((23.0..85.4).contains(&statistic), "exponent {exponent}, seed {seed}: {statistic}");
        }
    }
}
