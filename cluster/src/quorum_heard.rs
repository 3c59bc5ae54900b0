//! When a leader last heard of its quorum: the moment at which it asked what a majority has answered since.
//!
//! Its lease is counted from there, because whoever answers elects nobody else for a while, and has got the question no earlier than it was asked. So
//! each answer must count for its own question alone. openraft counts, too, and takes an answer that shows a follower to have everything up to
//! some entry for one to every question that says nothing of later entries: with an answer that was under way for long, as before a freeze, a
//! question counts that the follower has never got. So here it is counted again, between openraft and the network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{Fatal, RPCError, ReplicationClosed, StreamingError};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::RaftLogStorage;
use openraft::{Config, OptionalSend};
use parking_lot::Mutex;
use tidegate_persistence::{NodeId, Term};
use tokio::time::Instant;

use crate::members::Member;
use crate::state_machine::{Machine, MachineSnapshot, StateMachine};
use crate::types::{Raft, Snapshot, TypeConfig, Vote};

/// When the newest question that a node has answered to a leader was asked, and in which term that led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Answered {
    term: Term,
    asked: Instant,
}

impl Answered {
    /// What is to be noted of `request`, which is about to be asked, once it is answered.
    fn if_asked_now(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Self { term: Term(request.vote.leader_id.term), asked: Instant::now() }
    }
}

/// What the other nodes of a group have answered to this one while it led. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct QuorumHeard(Arc<Mutex<BTreeMap<NodeId, Answered>>>);

impl QuorumHeard {
    fn note(&self, node: NodeId, answered: Answered) {
        let mut all = self.0.lock();
        let known = all.entry(node).or_insert(answered);
        // Answers of several connections come in any order.
        *known = answered.max(*known);
    }

    /// Since when `own`, which leads in `term`, has everybody's word that a majority of each of `quorums` needs: the moment at which the oldest of the
    /// questions was asked that it takes. `None` where too few have answered in that term. `own` has its own word.
    pub(crate) fn since(&self, own: NodeId, term: Term, quorums: &[BTreeSet<NodeId>]) -> Option<Instant> {
        let all = self.0.lock();
        let of_quorum = |voters: &BTreeSet<NodeId>| {
            let needed = voters.len() / 2 + 1 - usize::from(voters.contains(&own));
            let others = voters.iter().filter(|voter| **voter != own).filter_map(|voter| all.get(voter));
            let mut asked: Vec<Instant> = others.filter(|answered| answered.term == term).map(|answered| answered.asked).collect();
            asked.sort_unstable_by(|one, other| other.cmp(one));
            if needed == 0 { Some(Instant::now()) } else { asked.get(needed - 1).copied() }
        };
        quorums.iter().map(of_quorum).min().flatten()
    }
}

/// Starts consensus of a group on `node`, which asks other nodes by `network`, and what it hears from them.
///
/// # Errors
/// When consensus cannot start.
pub async fn start_consensus<M, F, L>(
    node: NodeId,
    config: Arc<Config>,
    network: F,
    log: L,
    machine: StateMachine<M>,
) -> Result<(Raft<M>, QuorumHeard), Fatal<TypeConfig>>
where
    M: Machine,
    F: RaftNetworkFactory<TypeConfig>,
    F::Network: RaftNetworkV2<TypeConfig, SnapshotData = MachineSnapshot<M::Snapshot>>,
    L: RaftLogStorage<TypeConfig>,
{
    let heard = QuorumHeard::default();
    let raft = Raft::new(node, config, Listening { network, heard: heard.clone() }, log, machine).await?;
    Ok((raft, heard))
}

/// A network whose answers are noted.
struct Listening<F> {
    network: F,
    heard: QuorumHeard,
}

/// One node, whose answers are noted.
struct Listener<N> {
    network: N,
    node: NodeId,
    heard: QuorumHeard,
}

impl<F> Listening<F> {
    fn listen<N>(&self, network: N, node: NodeId) -> Listener<N> {
        Listener { network, node, heard: self.heard.clone() }
    }
}

impl<F> RaftNetworkFactory<TypeConfig> for Listening<F>
where
    F: RaftNetworkFactory<TypeConfig>,
    F::Network: RaftNetworkV2<TypeConfig>,
{
    type Network = Listener<F::Network>;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Self::Network {
        let network = self.network.new_client(target, node).await;
        self.listen(network, target)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Self::Network {
        let network = self.network.new_heartbeat_client(target, node).await;
        self.listen(network, target)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> Self::Network {
        let network = self.network.new_snapshot_client(target, node).await;
        self.listen(network, target)
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl<N: RaftNetworkV2<TypeConfig>> RaftNetworkV2<TypeConfig> for Listener<N> {
    type SnapshotData = N::SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let answered = Answered::if_asked_now(&request);
        let response = self.network.append_entries(request, option).await;
        if matches!(&response, Ok(response) if !matches!(response, AppendEntriesResponse::HigherVote(_))) {
            self.heard.note(self.node, answered);
        }
        response
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Rpc<BoxStream<'_, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // Answers come in the order of the questions.
        let asked: Arc<Mutex<VecDeque<Answered>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let input = input.inspect(move |request| {
            noted.lock().push_back(Answered::if_asked_now(request));
        });
        let (node, heard) = (self.node, self.heard.clone());
        let answers = self.network.stream_append(input, option);
        Box::pin(async move {
            let answers = answers.await?.inspect(move |answer| {
                let answered = asked.lock().pop_front();
                // A log that does not fit is that of a node which follows all the same.
                if let (Some(answered), Ok(Ok(_) | Err(StreamAppendError::Conflict(_)))) = (answered, answer) {
                    heard.note(node, answered);
                }
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.network.vote(request, option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.network.pre_vote(request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Self::SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.network.full_snapshot(vote, snapshot, cancel, option).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.network.transfer_leader(request, option).await
    }

    fn backoff(&self) -> Option<Backoff> {
        self.network.backoff()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use futures_util::stream;

    use super::*;
    use crate::types::LeaderId;

    const OWN: NodeId = NodeId(1);

    fn voters(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// What a node in term 7 hears of by `answers`, each a node, the term that was asked in, and when; as those milliseconds.
    fn since(answers: &[(u64, u64, u64)], quorums: &[&[u64]]) -> Option<u64> {
        let (began, heard) = (Instant::now(), QuorumHeard::default());
        for (node, term, at_ms) in answers {
            heard.note(NodeId(*node), Answered { term: Term(*term), asked: began + Duration::from_millis(*at_ms) });
        }
        let quorums: Vec<_> = quorums.iter().map(|nodes| voters(nodes)).collect();
        let since = heard.since(OWN, Term(7), &quorums)?;
        Some(u64::try_from((since - began).as_millis()).unwrap())
    }

    #[test]
    fn a_quorum_has_been_heard_of_since_the_oldest_question_that_it_takes() {
        let three: &[&[u64]] = &[&[1, 2, 3]];
        assert_eq!(since(&[], three), None);
        assert_eq!(since(&[(2, 7, 10)], three), Some(10));
        assert_eq!(since(&[(2, 7, 10), (3, 7, 30)], three), Some(30), "one other is enough");
        assert_eq!(since(&[(2, 7, 10), (2, 7, 5)], three), Some(10), "a late answer takes nothing back");
        assert_eq!(since(&[(2, 6, 50)], three), None, "it was another term's");
        assert_eq!(
            since(&[(2, 7, 10), (2, 8, 60)], three),
            None,
            "and this is of a later one, which this node has not come to know"
        );
        assert_eq!(since(&[(4, 7, 50)], three), None, "it is not counted");
        let five: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        assert_eq!(since(&[(2, 7, 10)], five), None);
        assert_eq!(since(&[(2, 7, 10), (3, 7, 40), (4, 7, 20)], five), Some(20));
        // Whoever leads may be counted no more.
        assert_eq!(since(&[(2, 7, 10)], &[&[2, 3]]), None);
        assert_eq!(since(&[(2, 7, 10), (3, 7, 20)], &[&[2, 3]]), Some(10));
        // Amid a change a majority of both is needed.
        assert_eq!(since(&[(2, 7, 10), (3, 7, 20)], &[&[1, 2, 3], &[1, 2, 4]]), Some(10));
        assert_eq!(since(&[(3, 7, 20)], &[&[1, 2, 3], &[1, 2, 4]]), None);
    }

    /// Answers the first of two questions once it has both, and the second never.
    struct Late;

    impl RaftNetworkV2<TypeConfig> for Late {
        type SnapshotData = ();

        async fn append_entries(
            &mut self,
            _: AppendEntriesRequest<TypeConfig>,
            _: RPCOption,
        ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
            pending().await
        }

        fn stream_append<S>(
            &mut self,
            mut input: S,
            _: RPCOption,
        ) -> BoxFuture<'_, Rpc<BoxStream<'_, Rpc<StreamAppendResult<TypeConfig>>>>>
        where
            S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
        {
            let first = async move {
                let _ = (input.next().await, input.next().await);
                Ok(Ok(None))
            };
            Box::pin(async move { Ok(stream::once(first).chain(stream::pending()).boxed()) })
        }

        async fn vote(&mut self, _: VoteRequest<TypeConfig>, _: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
            pending().await
        }

        async fn full_snapshot(
            &mut self,
            _: Vote,
            _: Snapshot<()>,
            _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
            _: RPCOption,
        ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_its_own_question_alone() {
        let vote = Vote { leader_id: LeaderId { term: 7, node_id: OWN }, committed: true };
        let heard = QuorumHeard::default();
        let mut listener = Listener { network: Late, node: NodeId(2), heard: heard.clone() };
        let began = Instant::now();
        // Both show the same of a log, so that the answer to the first is all that could be said to the second.
        let questions = stream::unfold(0, move |asked| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (asked < 2)
                .then_some((AppendEntriesRequest { vote, prev_log_id: None, leader_commit: None, entries: Vec::new() }, asked + 1))
        });
        let mut answers = listener.stream_append(Box::pin(questions), RPCOption::new(Duration::from_secs(1))).await.unwrap();
        assert!(matches!(answers.next().await, Some(Ok(Ok(None)))));
        assert_eq!(began.elapsed(), Duration::from_millis(200));
        let since = heard.since(OWN, Term(7), &[voters(&[1, 2, 3])]).unwrap();
        assert_eq!(since - began, Duration::from_millis(100));
    }
}
