//! What a node that starts again owes to a leader that it had followed.
//!
//! A leader reads and decides for as long as its lease lasts after it has heard of its quorum, because everybody of the quorum has promised to elect
//! nobody else meanwhile. Consensus keeps that promise in memory. A node that is started again knows from its log whom it followed, and not
//! since when, so it abstains from elections for a whole lease from its start on: it does not vote, and stands for no election. Where a
//! leader hands its leadership over, which it does once it reads no more, the node takes part at once.

use std::time::Duration;

use openraft::errors::RaftError;
use openraft::raft::{VoteRequest, VoteResponse};
use tidegate_persistence::{NodeId, Vote};
use tokio::time::{Instant, sleep_until};

use crate::state_machine::Machine;
use crate::types::{Raft, TypeConfig};

/// Until when a node abstains from elections. Cheap to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abstention(Option<Instant>);

impl Abstention {
    /// A node that has followed nobody need not abstain.
    pub const NONE: Self = Self(None);

    /// That of `node`, which starts now with `vote` as its newest, in a group whose leases last `lease_ms` milliseconds.
    pub fn of(node: NodeId, vote: Option<Vote>, lease_ms: u64) -> Self {
        // Who led has promised nothing to anybody else, and leads no longer.
        let has_followed = vote.is_some_and(|vote| vote.is_granted && vote.leader != node);
        let abstains = has_followed && !mutant!(VotesAtOnce);
        Self(abstains.then(|| Instant::now() + Duration::from_millis(lease_ms)))
    }

    /// Whether the node may vote and stand for election by now.
    pub fn is_over(&self) -> bool {
        self.0.is_none_or(|until| until <= Instant::now())
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        if let Some(until) = self.0 {
            sleep_until(until).await;
        }
    }

    /// What the node, whose consensus `raft` is, answers to whoever asks for its vote.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn vote<M: Machine>(
        &self,
        raft: &Raft<M>,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        if self.is_over() || request.leadership_transfer { raft.vote(request).await } else { refused(raft).await }
    }

    /// What the node, whose consensus `raft` is, answers to whoever asks whether it would vote.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn pre_vote<M: Machine>(
        &self,
        raft: &Raft<M>,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        if self.is_over() { raft.pre_vote(request).await } else { refused(raft).await }
    }
}

/// A no. Where the node's log ends is of use to nobody who is told it now.
async fn refused<M: Machine>(raft: &Raft<M>) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await.map_err(RaftError::Fatal)?;
    Ok(VoteResponse::new(vote, None, false))
}

#[cfg(test)]
mod tests {
    use tidegate_persistence::Term;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_has_followed_another_node_abstains_for_a_lease() {
        let (own, other) = (NodeId(1), NodeId(2));
        let vote = |leader, is_granted| Some(Vote { term: Term(3), leader, is_granted });
        for vote in [None, vote(own, true), vote(own, false), vote(other, false)] {
            assert!(Abstention::of(own, vote, 900).is_over(), "{vote:?}");
        }
        let abstention = Abstention::of(own, vote(other, true), 900);
        tokio::time::advance(Duration::from_millis(899)).await;
        assert!(!abstention.is_over());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(abstention.is_over());
        abstention.over().await;
    }
}
