//! Whose clock is off, as one node sees it: from how far the clocks of the others are ahead of its own, to what that means for who leads.
//!
//! A clock is off when it differs by more than is allowed from those of more than half of the other members that are counted, whatever is not known
//! for sure going in its favour. Whoever is off gives up leadership, and stands for no election, only while members whose clocks are not off
//! make a majority by themselves: among them is one that has everything committed, and the others' votes are enough for it. So clocks alone leave
//! no shard without a leader, however much they all differ.
//!
//! It reads no clock and knows no network.

use std::collections::BTreeMap;

use tidegate_persistence::NodeId;

/// How another node's clock stands to this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockMeasure {
    /// How far it is ahead, in milliseconds.
    pub ahead_ms: i64,
    /// By how much that may be wrong at most, in milliseconds: half of the time that question and answer took.
    pub error_ms: u64,
}

impl ClockMeasure {
    /// This node's own clock.
    const OWN: Self = Self { ahead_ms: 0, error_ms: 0 };

    /// What follows from an answer with the time `answered_ms`, to a question that was asked at `asked_ms` of this node's clock and took `took_ms`
    /// until the answer was there. All in milliseconds.
    pub fn of(asked_ms: u64, took_ms: u64, answered_ms: u64) -> Self {
        // At about the middle of the time that it took; half a millisecond more for what the clocks do not show.
        let error_ms = took_ms.div_ceil(2).saturating_add(1);
        let middle = i128::from(asked_ms) + i128::from(took_ms / 2);
        let ahead_ms = i64::try_from(i128::from(answered_ms) - middle).unwrap_or(i64::MAX);
        Self { ahead_ms, error_ms }
    }

    /// Whether it differs from `other` by more than `skew_ms_max` for sure.
    fn differs(self, other: Self, skew_ms_max: u64) -> bool {
        let apart = u128::from(self.ahead_ms.abs_diff(other.ahead_ms));
        apart > u128::from(skew_ms_max) + u128::from(self.error_ms) + u128::from(other.error_ms)
    }
}

/// The clocks of a cluster, as one node knows them.
#[derive(Debug, Clone)]
pub struct Clocks {
    node: NodeId,
    skew_ms_max: u64,
    known: BTreeMap<NodeId, ClockMeasure>,
}

impl Clocks {
    /// What `node` knows of others that it has heard of lately. `skew_ms_max` is how far clocks may be apart.
    pub fn new(node: NodeId, skew_ms_max: u64, heard: impl IntoIterator<Item = (NodeId, ClockMeasure)>) -> Self {
        let mut known: BTreeMap<_, _> = heard.into_iter().collect();
        known.insert(node, ClockMeasure::OWN);
        Self { node, skew_ms_max, known }
    }

    /// Whether the clock of `node` is off among `voters`. Of one that was not heard of lately nothing is said.
    pub fn is_off(&self, node: NodeId, voters: &[NodeId]) -> bool {
        let Some(own) = self.known.get(&node) else { return false };
        let others = || voters.iter().filter(|voter| **voter != node);
        let differs = |voter: &&NodeId| self.known.get(*voter).is_some_and(|of| own.differs(*of, self.skew_ms_max));
        2 * others().filter(differs).count() > others().count()
    }

    /// The members of `voters` that were heard of and whose clocks are not off, this node included.
    pub fn agreeing(&self, voters: &[NodeId]) -> Vec<NodeId> {
        let agrees = |voter: &&NodeId| self.known.contains_key(*voter) && !self.is_off(**voter, voters);
        voters.iter().filter(agrees).copied().collect()
    }

    /// Whether this node should lead nothing and stand for no election: its clock is off, and those of a majority are not.
    pub fn must_yield(&self, voters: &[NodeId]) -> bool {
        self.is_off(self.node, voters) && 2 * self.agreeing(voters).len() > voters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clocks as node 1 knows them: node, how far ahead, and the error.
    fn clocks(heard: &[(u64, i64, u64)]) -> Clocks {
        let measure = |(node, ahead_ms, error_ms): &(u64, i64, u64)| {
            (NodeId(*node), ClockMeasure { ahead_ms: *ahead_ms, error_ms: *error_ms })
        };
        Clocks::new(NodeId(1), 500, heard.iter().map(measure))
    }

    fn voters(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    /// The nodes whose clocks are off, and whether node 1 must yield.
    fn verdict(count: u64, heard: &[(u64, i64, u64)]) -> (Vec<u64>, bool) {
        let (clocks, voters) = (clocks(heard), voters(count));
        let off = voters.iter().filter(|voter| clocks.is_off(**voter, &voters)).map(|voter| voter.0).collect();
        (off, clocks.must_yield(&voters))
    }

    #[test]
    fn an_answer_is_of_the_middle_of_the_time_that_it_took() {
        assert_eq!(ClockMeasure::of(1_000, 10, 1_005), ClockMeasure { ahead_ms: 0, error_ms: 6 });
        assert_eq!(ClockMeasure::of(1_000, 11, 2_000), ClockMeasure { ahead_ms: 995, error_ms: 7 });
        assert_eq!(ClockMeasure::of(9_000, 0, 1_000), ClockMeasure { ahead_ms: -8_000, error_ms: 1 });
        assert_eq!(ClockMeasure::of(0, u64::MAX, u64::MAX).error_ms, 1 << 63 | 1);
    }

    #[test]
    fn whoever_differs_from_most_is_off_and_yields_to_a_majority_that_agrees() {
        for (what, count, heard, off, yields) in [
            ("all agree", 3, &[(2, 400, 1), (3, -100, 1)][..], &[][..], false),
            ("this node is off", 3, &[(2, 900, 1), (3, 1_100, 1)], &[1], true),
            ("another is off", 3, &[(2, 9_000, 1), (3, 10, 1)], &[2], false),
            ("what may be an error counts for it", 3, &[(2, 900, 400), (3, 900, 400)], &[], false),
            ("exactly as far as is allowed", 3, &[(2, 501, 1), (3, 501, 1)], &[], false),
            ("a millisecond more", 3, &[(2, 502, 1), (3, 502, 1)], &[1], true),
            ("one of two was heard, which is not most", 3, &[(2, 9_000, 1)], &[], false),
            ("all three differ: nobody has to whom to yield", 3, &[(2, 9_000, 1), (3, -9_000, 1)], &[1, 2, 3], false),
            ("of two nobody knows which is right", 2, &[(2, 9_000, 1)], &[1, 2], false),
            ("alone", 1, &[], &[], false),
            ("in a row each differs from the next but one", 3, &[(2, -400, 1), (3, 400, 1)], &[], false),
            ("two against three", 5, &[(2, 20, 1), (3, 5_000, 1), (4, 5_000, 1), (5, 5_000, 1)], &[1, 2], true),
            ("two against three of whom two are heard", 5, &[(2, 20, 1), (3, 5_000, 1), (4, 5_000, 1)], &[], false),
            ("off, and too few agree", 5, &[(2, 3_000, 1), (3, 3_000, 1), (4, 6_000, 1), (5, 9_000, 1)], &[1, 2, 3, 4, 5], false),
            ("the ends of time", 3, &[(2, i64::MAX, 1), (3, i64::MIN, 1)], &[1, 2, 3], false),
        ] {
            assert_eq!(verdict(count, heard), (off.to_vec(), yields), "{what}");
        }
    }

    #[test]
    fn a_node_that_is_not_counted_is_held_against_all_that_are() {
        let clocks = clocks(&[(2, 0, 1), (3, 0, 1), (4, 3_000, 1)]);
        let voters = [NodeId(1), NodeId(2), NodeId(3)];
        assert!(clocks.is_off(NodeId(4), &voters) && !clocks.is_off(NodeId(2), &voters));
        assert!(!clocks.is_off(NodeId(5), &voters), "it was not heard");
        assert_eq!(clocks.agreeing(&voters), voters);
    }
}
