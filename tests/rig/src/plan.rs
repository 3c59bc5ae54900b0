//! When to crash: a seeded list of moments in the lives of directories.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::site::Cut;

/// Powers of two, in microseconds, between which the delay lies after the writer has said that it opens the directory.
const OPENING_DELAY_LOG2: (u32, u32) = (5, 18);
/// The same, after the acknowledgement that is waited for: within the next groups' appends and syncs.
const RUNNING_DELAY_LOG2: (u32, u32) = (0, 14);
/// Acknowledged groups waited for: up to this power of two, and at most so many in the first moments of a directory.
const GROUPS_LOG2: u32 = 8;
const FIRST_GROUPS_MAX: u64 = 5;

/// What the writer is doing when it is crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// It makes the directory.
    Creating,
    /// It has just made the directory and writes its first groups.
    FirstGroups,
    /// It opens and replays a directory that was crashed before.
    Recovering,
    /// It writes.
    Writing,
}

impl Moment {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Creating, Self::FirstGroups, Self::Recovering, Self::Writing];

    /// Its name in a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::FirstGroups => "first groups",
            Self::Recovering => "recovering",
            Self::Writing => "writing",
        }
    }
}

/// One crash to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) moment: Moment,
    /// What is lost, where power is cut.
    pub(crate) cut: Cut,
    /// Groups acknowledged to the writer to wait for first; none while the directory is being opened.
    pub(crate) groups: u64,
    /// Then the writer goes on for so long.
    pub(crate) delay: Duration,
}

impl Plan {
    /// Whether it needs a new directory.
    pub(crate) const fn is_fresh(&self) -> bool {
        matches!(self.moment, Moment::Creating | Moment::FirstGroups)
    }
}

/// Makes plans from a seed.
#[derive(Debug)]
pub(crate) struct Planner {
    random: SmallRng,
    /// Crashes that the directory still has before it.
    left: u32,
}

impl Planner {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), left: 0 }
    }

    /// A crash on a new directory once groups are acknowledged: where something can be lost.
    pub(crate) fn next_writing(&mut self) -> Plan {
        Plan { moment: Moment::FirstGroups, ..self.writing() }
    }

    /// The next crash; on a new directory if `is_fresh` or if the directory has had its share.
    pub(crate) fn next(&mut self, is_fresh: bool) -> Plan {
        if is_fresh || self.left == 0 {
            // Many directories die young: that is where the names of files may get lost.
            self.left =
                if self.random.random_bool(0.4) { self.random.random_range(0..=1) } else { self.random.random_range(6..=11) };
            return if self.random.random_bool(0.6) {
                self.plan(Moment::Creating, 0)
            } else {
                let groups = self.random.random_range(1..=FIRST_GROUPS_MAX);
                self.plan(Moment::FirstGroups, groups)
            };
        }
        self.left -= 1;
        if self.random.random_bool(0.2) { self.plan(Moment::Recovering, 0) } else { self.writing() }
    }

    fn writing(&mut self) -> Plan {
        let most = 1 << self.random.random_range(0..=GROUPS_LOG2);
        let groups = self.random.random_range(most / 2 + 1..=most);
        self.plan(Moment::Writing, groups)
    }

    fn plan(&mut self, moment: Moment, groups: u64) -> Plan {
        let cut = Cut::ALL[self.random.random_range(0..Cut::ALL.len())];
        let delay = self.delay(if groups == 0 { OPENING_DELAY_LOG2 } else { RUNNING_DELAY_LOG2 });
        Plan { moment, cut, groups, delay }
    }

    fn delay(&mut self, (from, to): (u32, u32)) -> Duration {
        let most = 1 << self.random.random_range(from..=to);
        Duration::from_micros(self.random.random_range(most / 2..=most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_plans_hold_every_moment_and_the_same_seed_gives_the_same() {
        let plans = |seed| {
            let mut planner = Planner::new(seed);
            (0..100).map(|_| planner.next(false)).collect::<Vec<_>>()
        };
        for seed in 0..20 {
            let plans = plans(seed);
            assert!(plans[0].is_fresh(), "there is no directory to begin with");
            for moment in Moment::ALL {
                assert!(plans.iter().any(|plan| plan.moment == moment), "seed {seed} never crashes while {}", moment.name());
            }
            for cut in Cut::ALL {
                assert!(plans.iter().any(|plan| plan.cut == cut), "seed {seed} never loses {}", cut.name());
            }
        }
        assert_eq!(plans(1), plans(1));
        assert_ne!(plans(1), plans(2));
    }

    #[test]
    fn a_fresh_directory_is_given_where_it_is_asked_for() {
        let mut planner = Planner::new(3);
        assert!((0..50).all(|_| planner.next(true).is_fresh()));
        assert!((0..50).map(|_| planner.next_writing()).all(|plan| plan.is_fresh() && plan.groups > 0));
    }
}
