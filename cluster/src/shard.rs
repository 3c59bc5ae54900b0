//! A shard of the engine as a member of its consensus group.
//!
//! What the shard decides is proposed here, one group behind the other, each naming the chain hash of the one before it. What is committed comes back
//! by the state machine in one order, whoever proposed it, and goes to the shard, which finds its own proposals among it. In between stands who
//! leads:
//!
//! - The shard decides once its node leads *and* all that was proposed before is settled: the leader's own blank entry is committed and applied,
//!   and with it whatever stands before it. So the shard begins with the newest ledger there is.
//! - It stops as soon as the node leads no longer or has not heard of its quorum for longer than its lease (whoever is about to read or decide
//!   looks at the clock for that: after a freeze this task may be the last to have its turn), and when consensus refuses one of its
//!   proposals or sets one aside: what was decided behind that means nothing. It may begin again in the same term, once all is settled.
//! - Before leadership is handed over the lease is given up ([`Handover`]), because the election that follows waits for no lease. What is in
//!   flight is still answered.
//!
//! What the shard is told and which of its proposals are still its own are under one lock, so that they have one order.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::{RaftMetrics, ReadPolicy, ServerState};
use parking_lot::Mutex;
use tidegate_engine::{CommitLog, Diverged, Installed, QuorumVoice, Room, Told};
use tidegate_persistence::{ChainHash, Group, NodeId, RecordHeader, RecordKind, Term};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::quorum_heard::QuorumHeard;
use crate::state_machine::{CommittedGroup, Machine, SnapshotFuture, Standing};
use crate::types::{LeaderId, Outcome, Proposal, Raft, TypeConfig};

/// How long a node waits before it tries again to find out whether it may decide.
const RETRY: Duration = Duration::from_millis(50);

/// Keeps a shard's snapshots, and makes ledgers of those of others. They are made by the node's upkeep, which tells consensus of each by
/// openraft's `trigger().snapshot()`.
pub trait Snapshots: Send + Sync + 'static {
    /// A snapshot, as it is handed to another node.
    type Snapshot: Clone + Send + Sync + 'static;

    /// Keeps `snapshot` with its standing, and makes a ledger of it. At return it is durable, and what had left memory by then is in the
    /// history. The shard hands nothing to the history meanwhile.
    fn install(&mut self, standing: Standing, snapshot: Self::Snapshot) -> impl Future<Output = io::Result<Installed>> + Send;

    /// As [`Machine::current_snapshot`].
    fn current(&mut self) -> impl Future<Output = io::Result<Option<(Standing, Self::Snapshot)>>> + Send;
}

/// Between a shard and its consensus group.
struct Line {
    voice: QuorumVoice,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In which term the shard has been told to lead, unless it was told to follow since.
    leads: Option<Term>,
    /// The chain hash of the group applied last.
    applied: ChainHash,
    /// The chain hash of the newest proposal, or of the group applied last.
    head: ChainHash,
    /// The chain hashes of what is proposed and not applied, oldest first.
    pending: VecDeque<ChainHash>,
    /// Until when the shard may lead without hearing of its quorum, as was heard last; `None` for ever.
    lease_end: Option<Instant>,
    /// Whether the shard, which leads, takes nothing new because leadership is handed over.
    is_resigned: bool,
    /// Hand-overs that are under way.
    handing_over: usize,
    /// How often a hand-over has begun or ended. Whoever asked before the last of these whether the node may decide does not know.
    turns: u64,
}

impl Line {
    /// Tells the shard to lead. All that was proposed before must be settled, by a question that was asked at `turn`. Says whether it leads: not
    /// where leadership has been handed over since.
    fn lead(&self, term: Term, turn: u64) -> bool {
        let mut state = self.state.lock();
        if state.handing_over > 0 || state.turns != turn {
            return false;
        }
        state.pending.clear();
        (state.leads, state.head, state.is_resigned) = (Some(term), state.applied, false);
        self.voice.set_lease(state.lease_end);
        self.voice.tell(Told::Lead(term));
        true
    }

    /// The quorum of `term` has been heard of, so that this node may lead until `end`; `None` for ever.
    fn hear_quorum(&self, term: Term, end: Option<Instant>) {
        let mut state = self.state.lock();
        state.lease_end = end;
        // Who leads in an older term is about to be told to follow, and other nodes may have decided since.
        if state.leads == Some(term) && !state.is_resigned {
            self.voice.set_lease(end);
        }
    }

    /// When it is asked whether the node may decide.
    fn turn(&self) -> u64 {
        self.state.lock().turns
    }

    /// Tells the shard to follow, if it leads. What it proposed is its own no more.
    fn give_up(&self) {
        self.give_up_locked(&mut self.state.lock());
    }

    fn give_up_locked(&self, state: &mut State) {
        if state.leads.take().is_some() {
            state.pending.clear();
            // The shard hears of it later than whoever asks it for something to read.
            self.voice.give_up_lease();
            self.voice.tell(Told::Follow);
        }
    }

    /// Takes nothing new from now on, and does not lead until what comes back is dropped.
    fn resign(&self) -> Resigning<'_> {
        let mut state = self.state.lock();
        state.handing_over += 1;
        state.turns += 1;
        state.is_resigned = state.leads.is_some() && !mutant!(HandedOverUnresigned);
        if state.is_resigned {
            self.voice.give_up_lease();
        }
        Resigning(self)
    }

    /// Whether the shard has resigned and been answered all that it proposed.
    fn is_finished(&self) -> bool {
        let state = self.state.lock();
        state.is_resigned && state.handing_over == 0 && state.pending.is_empty()
    }

    fn leads(&self) -> Option<Term> {
        self.state.lock().leads
    }

    /// The proposal of `group`, if the shard leads in `term`, as `leader`.
    fn proposal(&self, term: Term, leader: NodeId, group: Group) -> Option<Proposal> {
        let mut state = self.state.lock();
        if state.leads != Some(term) {
            // The shard has been told, or will be before anything else.
            return None;
        }
        let predecessor = state.head;
        let header =
            RecordHeader { kind: RecordKind::Group, term, leader, sequence: group.sequence, predecessor, time: group.time };
        state.head = header.chain(&group.payload);
        let head = state.head;
        state.pending.push_back(head);
        Some(Proposal { predecessor, group: Arc::new(group) })
    }

    fn committed(&self, room: Room, committed: CommittedGroup) {
        let mut state = self.state.lock();
        let chain = committed.position.chain;
        let is_own = state.pending.front() == Some(&chain);
        if is_own {
            state.pending.pop_front();
        } else {
            // Nobody else proposes while this shard leads: it leads no more, and has not heard of it yet.
            self.give_up_locked(&mut state);
        }
        state.applied = chain;
        self.voice.tell_committed(room, committed.group, committed.position.index, is_own);
    }

    fn installed(&self, installed: Installed, chain: ChainHash) {
        let mut state = self.state.lock();
        self.give_up_locked(&mut state);
        state.applied = chain;
        self.voice.tell(Told::Install(Box::new(installed)));
    }
}

/// While leadership is being handed over.
struct Resigning<'a>(&'a Line);

impl Drop for Resigning<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.handing_over -= 1;
        state.turns += 1;
    }
}

/// Hands the leadership of a shard over. Cheap to clone.
#[derive(Clone)]
pub struct Handover(Arc<Line>);

impl fmt::Debug for Handover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Handover").field(&*self.0.state.lock()).finish()
    }
}

impl Handover {
    /// Has `raft`, this node's consensus, make `node`, a voter, lead in this node's place, if this one leads. From then on the shard takes nothing new
    /// and is not read; what it proposed before is answered. That the other node leads is not waited for. Where it never comes to lead,
    /// whoever is elected next does: this node tells nobody any more that it is there.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn to<M: Machine>(&self, raft: &Raft<M>, node: NodeId) -> io::Result<()> {
        // Whoever asks consensus afterwards whether this node may decide is told that it may not; whoever asked before does not count.
        let resigning = self.0.resign();
        let asked = raft.trigger().transfer_leader(node).await;
        drop(resigning);
        asked.map_err(|fatal| io::Error::other(fatal.to_string()))
    }
}

/// A shard's machine: hands what is committed to the shard.
pub struct ShardMachine<S> {
    line: Arc<Line>,
    snapshots: S,
}

impl<S> fmt::Debug for ShardMachine<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShardMachine").field("state", &*self.line.state.lock()).finish_non_exhaustive()
    }
}

impl<S: Snapshots> Machine for ShardMachine<S> {
    type Snapshot = S::Snapshot;

    async fn apply(&mut self, group: CommittedGroup) -> io::Result<()> {
        let room = self.line.voice.room().await;
        self.line.committed(room, group);
        Ok(())
    }

    // The shard's ledger may be ahead of what is committed, and the snapshots that are kept are not.
    async fn begin_snapshot(&mut self, _: Standing) -> Option<SnapshotFuture<S::Snapshot>> {
        match self.snapshots.current().await {
            Ok(current) => current.map(|current| -> SnapshotFuture<S::Snapshot> { Box::pin(ready(Ok(current))) }),
            Err(error) => Some(Box::pin(ready(Err(error)))),
        }
    }

    async fn install_snapshot(&mut self, standing: Standing, snapshot: S::Snapshot) -> io::Result<()> {
        if !self.line.voice.prepare_install().await {
            return Err(io::Error::other("the shard is gone that a snapshot was to be installed in"));
        }
        let chain = standing.position.chain;
        let installed = self.snapshots.install(standing, snapshot).await?;
        self.line.installed(installed, chain);
        Ok(())
    }

    async fn current_snapshot(&mut self) -> io::Result<Option<(Standing, S::Snapshot)>> {
        self.snapshots.current().await
    }
}

/// The shard's log: what it decides goes to its [`ShardLeader`].
#[derive(Debug)]
pub struct ShardLog(mpsc::UnboundedSender<(Term, Group)>);

impl CommitLog for ShardLog {
    // The shard bounds what is in flight.
    fn propose(&mut self, term: Term, group: Group) {
        // Nobody takes it any more: the node is stopping, and the shard is told to follow.
        drop(self.0.send((term, group)));
    }
}

/// Proposes what a shard decides, and has it lead or follow.
pub struct ShardLeader {
    node: NodeId,
    line: Arc<Line>,
    proposals: mpsc::UnboundedReceiver<(Term, Group)>,
}

/// Why a node must stop.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Consensus has stopped.
    #[error(transparent)]
    Consensus(#[from] io::Error),
    /// The shard's ledger is not that of the node that decided. The shard applies nothing more.
    #[error("the shard's ledger is not that of the node that decided: {0:?}")]
    Diverged(Diverged),
}

/// The parts of a shard of `node` that has applied all up to the group with chain hash `applied`: its log, its machine, which keeps snapshots in
/// `snapshots`, and what has it lead.
pub fn shard_parts<S: Snapshots>(
    node: NodeId,
    voice: QuorumVoice,
    applied: ChainHash,
    snapshots: S,
) -> (ShardLog, ShardMachine<S>, ShardLeader) {
    let state = State {
        leads: None,
        applied,
        head: applied,
        pending: VecDeque::new(),
        lease_end: None,
        is_resigned: false,
        handing_over: 0,
        turns: 0,
    };
    let line = Arc::new(Line { voice, state: Mutex::new(state) });
    let (sender, proposals) = mpsc::unbounded_channel();
    (ShardLog(sender), ShardMachine { line: Arc::clone(&line), snapshots }, ShardLeader { node, line, proposals })
}

/// The answer to a proposal, and in which term it was made.
type Answer = (Term, Result<ClientWriteResult<TypeConfig>, io::Error>);

/// How a leader stands to its quorum.
struct Quorum {
    /// Whether it is all of it.
    is_alone: bool,
    /// When it was asked what it has answered since.
    heard: Option<Instant>,
}

/// The question whether a node may decide.
struct Question {
    /// In which term.
    term: Term,
    /// After which hand-overs.
    turn: u64,
    asked: Instant,
    settled: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
}

impl ShardLeader {
    /// What hands over what this leads.
    pub fn handover(&self) -> Handover {
        Handover(Arc::clone(&self.line))
    }

    /// Works until the shard is gone or consensus has stopped; the shard follows then. `heard` is what came with `raft`
    /// ([`crate::start_consensus`]).
    ///
    /// # Errors
    /// Why consensus has stopped, or that the shard's ledger is not that of the node that decided: the node must stop.
    pub async fn run<M: Machine>(self, raft: Raft<M>, heard: QuorumHeard) -> Result<(), LeaderError> {
        let line = Arc::clone(&self.line);
        let end = tokio::select! {
            end = self.lead_and_follow(raft, heard) => end.map_err(LeaderError::Consensus),
            () = line.voice.stopped_by_divergence() => Ok(()),
        };
        line.give_up();
        // A shard that stops for that is gone as well, and either may have been seen first.
        line.voice.divergence().map_or(end, |diverged| Err(LeaderError::Diverged(diverged)))
    }

    async fn lead_and_follow<M: Machine>(mut self, raft: Raft<M>, heard: QuorumHeard) -> io::Result<()> {
        let lease = Duration::from_millis(raft.config().election_timeout_max);
        let mut metrics = raft.metrics();
        let mut look = interval(lease / 8);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers: FuturesOrdered<Pin<Box<dyn Future<Output = Answer> + Send>>> = FuturesOrdered::new();
        let mut asked: Option<Question> = None;
        let mut ask_at = Instant::now();
        loop {
            let led = {
                let metrics = metrics.borrow_watched();
                if let Err(fatal) = &metrics.running_state {
                    return Err(io::Error::other(fatal.to_string()));
                }
                let quorum = self.quorum(&metrics, &heard);
                let end = quorum.heard.map(|heard| heard + lease).filter(|end| *end > Instant::now());
                let leads = metrics.state == ServerState::Leader && (quorum.is_alone || end.is_some());
                let led = leads.then_some(Term(metrics.current_term));
                if let Some(term) = led {
                    self.line.hear_quorum(term, end.filter(|_| !quorum.is_alone));
                }
                led
            };
            let leads = self.line.leads();
            if leads.is_some() && (leads != led || self.line.is_finished()) {
                self.line.give_up();
            }
            if asked.as_ref().is_some_and(|question| Some(question.term) != led) {
                asked = None;
            }
            if let Some(term) = led.filter(|term| self.line.leads() != Some(*term))
                && asked.is_none()
                // What is not answered is not settled: it may still be committed.
                && answers.is_empty()
                && ask_at <= Instant::now()
            {
                let raft = raft.clone();
                let question = async move {
                    if mutant!(DecidedUnsettled) {
                        // So that time passes where the node is told at once that it was wrong.
                        sleep(Duration::from_millis(1)).await;
                        return Ok(());
                    }
                    raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map(drop).map_err(|error| error.to_string())
                };
                asked = Some(Question { term, turn: self.line.turn(), asked: Instant::now(), settled: Box::pin(question) });
            }
            let retries = led.is_some() && asked.is_none() && ask_at > Instant::now();
            let settled = async {
                match &mut asked {
                    Some(question) => (&mut question.settled).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = metrics.changed() => {
                    changed.map_err(|_| io::Error::other("consensus has stopped"))?;
                }
                Some((term, answer)) = answers.next(), if !answers.is_empty() => self.hear(term, answer),
                answer = settled => {
                    // By its own count, too, the quorum must have been heard of since.
                    let newest = self.quorum(&metrics.borrow_watched(), &heard).heard;
                    let is_heard = |asked: Instant| newest.is_some_and(|newest| newest >= asked) || mutant!(DecidedUnsettled);
                    let asked = asked.take().filter(|question| answer.is_ok() && is_heard(question.asked));
                    if !asked.is_some_and(|question| self.line.lead(question.term, question.turn)) {
                        tracing::debug!(node = %self.node, ?answer, "not settled yet who decides");
                        ask_at = Instant::now() + RETRY;
                    }
                }
                proposal = self.proposals.recv() => {
                    let Some((term, group)) = proposal else { return Ok(()) };
                    if let Some(proposal) = self.line.proposal(term, self.node, group) {
                        answers.push_back(Box::pin(propose(&raft, term, self.node, proposal).await?));
                    }
                }
                _ = look.tick() => {}
                () = sleep_until(ask_at), if retries => {}
            }
        }
    }

    fn quorum(&self, metrics: &RaftMetrics<TypeConfig>, heard: &QuorumHeard) -> Quorum {
        // Who alone is counted asks nobody, so nothing tells it again and again that its quorum is there.
        let is_alone = metrics.membership_config.voter_ids().all(|voter| voter == self.node);
        let quorums = metrics.membership_config.membership().get_joint_config();
        let heard = if is_alone { Some(Instant::now()) } else { heard.since(self.node, Term(metrics.current_term), quorums) };
        Quorum { is_alone, heard }
    }

    fn hear(&self, term: Term, answer: Result<ClientWriteResult<TypeConfig>, io::Error>) {
        let refused = match answer {
            Ok(Ok(response)) => match response.data {
                Outcome::Applied(_) => return,
                outcome => format!("{outcome:?}"),
            },
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => "the node leads no more".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if self.line.leads() == Some(term) {
            tracing::info!(node = %self.node, %term, %refused, "a proposal is refused: what was decided behind it is taken back");
            self.line.give_up();
        }
    }
}

/// Proposes; the future that comes back ends with what became of it.
async fn propose<M: Machine>(
    raft: &Raft<M>,
    term: Term,
    node: NodeId,
    proposal: Proposal,
) -> io::Result<impl Future<Output = Answer> + Send + use<M>> {
    let (responder, receiver): (_, OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>) =
        ProgressResponder::complete_only();
    let leader = LeaderId { term: term.0, node_id: node };
    let proposed = raft.write(proposal).with_leader(leader).responder(responder).await;
    proposed.map_err(|fatal| io::Error::other(fatal.to_string()))?;
    Ok(async move { (term, receiver.await.map_err(io::Error::other)) })
}
