//! When to crash the server: a seeded list of moments for each directory's life.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::site::Cut;

/// Crashes of one directory.
const LIFE: std::ops::RangeInclusive<usize> = 5..=12;

/// Powers of two, in microseconds, between which the delay behind each moment lies.
const WRITING_LOG2: (u32, u32) = (0, 14);
const SNAPSHOT_LOG2: (u32, u32) = (4, 20);
const COMPACTION_LOG2: (u32, u32) = (0, 12);
const STARTING_LOG2: (u32, u32) = (10, 19);

/// Answers to wait for first: up to this power of two.
const ANSWERS_LOG2: (u32, u32) = (6, 14);

/// Moments of as many crashes that follow each other, in any order.
const MOMENTS: [Moment; 6] =
    [Moment::Starting, Moment::Writing, Moment::Snapshot, Moment::Snapshot, Moment::Compaction, Moment::Compaction];

/// What the node is doing when it is crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// It starts: makes the directory, or recovers it.
    Starting,
    /// It answers.
    Writing,
    /// It writes a snapshot too.
    Snapshot,
    /// It gives space of the log back too.
    Compaction,
}

impl Moment {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Starting, Self::Writing, Self::Snapshot, Self::Compaction];

    /// Its name in a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Writing => "writing",
            Self::Snapshot => "snapshot",
            Self::Compaction => "compaction",
        }
    }
}

/// One crash to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) moment: Moment,
    /// What is lost, where power is cut.
    pub(crate) cut: Cut,
    /// Answers to wait for first.
    pub(crate) answers: u64,
    /// Once the moment is there the node goes on for so long.
    pub(crate) delay: Duration,
}

/// Makes plans from a seed.
#[derive(Debug)]
pub(crate) struct Planner {
    random: SmallRng,
    /// Moments that are still to come of the [`MOMENTS`].
    moments: Vec<Moment>,
}

impl Planner {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), moments: Vec::new() }
    }

    /// The crashes of one directory's life.
    pub(crate) fn life(&mut self) -> Vec<Plan> {
        let crashes = self.random.random_range(LIFE);
        (0..crashes).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Plan {
        if self.moments.is_empty() {
            self.moments = MOMENTS.to_vec();
            self.moments.shuffle(&mut self.random);
        }
        let moment = self.moments.pop().expect("it was filled");
        self.plan(
            moment,
            match moment {
                Moment::Starting => STARTING_LOG2,
                Moment::Writing => WRITING_LOG2,
                Moment::Snapshot => SNAPSHOT_LOG2,
                Moment::Compaction => COMPACTION_LOG2,
            },
        )
    }

    /// A crash of a node that answers.
    pub(crate) fn writing(&mut self) -> Plan {
        self.plan(Moment::Writing, WRITING_LOG2)
    }

    fn plan(&mut self, moment: Moment, delay: (u32, u32)) -> Plan {
        let cut = Cut::ALL[self.random.random_range(0..Cut::ALL.len())];
        let answers = self.below_a_power_of_two(ANSWERS_LOG2);
        Plan { moment, cut, answers, delay: Duration::from_micros(self.below_a_power_of_two(delay)) }
    }

    fn below_a_power_of_two(&mut self, (from, to): (u32, u32)) -> u64 {
        let most = 1 << self.random.random_range(from..=to);
        self.random.random_range(most / 2..=most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_lives_hold_every_moment_and_every_cut_and_the_same_seed_gives_the_same() {
        let plans = |seed| {
            let mut planner = Planner::new(seed);
            (0..20).flat_map(|_| planner.life()).collect::<Vec<_>>()
        };
        for seed in 0..20 {
            let plans = plans(seed);
            let first: Vec<_> = plans.iter().take(MOMENTS.len()).map(|plan| plan.moment).collect();
            assert!(Moment::ALL.iter().all(|moment| first.contains(moment)), "seed {seed} begins with {first:?}");
            for moment in Moment::ALL {
                for cut in Cut::ALL {
                    let is_there = plans.iter().any(|plan| (plan.moment, plan.cut) == (moment, cut));
                    assert!(is_there, "seed {seed} never loses {} while {}", cut.name(), moment.name());
                }
            }
        }
        assert_eq!(plans(1), plans(1));
        assert_ne!(plans(1), plans(2));
    }
}
