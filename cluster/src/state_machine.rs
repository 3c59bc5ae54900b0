//! What is done with committed entries: groups go to the shard, if each continues the one before it.
//!
//! A leader decides ahead of the quorum. Consensus may refuse one of its groups and take the next, which was decided behind the refused one and
//! means nothing without it. So a group names the chain hash of its predecessor, and one whose predecessor is not the group applied last is set
//! aside, alike on every node and by the same rule by which the log records it ([`LogPosition::is_continued_by`]). Whoever proposed it is
//! told, and must take what it answered for unknown.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tidegate_persistence::{ChainHash, Group, LogIndex, LogPosition, NodeId, RecordHeader, RecordKind, Term};

use crate::log_store::PositionAt;
use crate::types::{
    Entry, LeaderId, LogId, Outcome, Proposal, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, log_id, log_index,
};

/// How far a shard has come, and what of it consensus needs to go on: part of every snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The last entry applied, and the chain up to it.
    pub position: LogPosition,
    /// The node that proposed that entry.
    pub leader: NodeId,
    /// The members, as of that entry.
    pub membership: StoredMembership,
}

impl Standing {
    /// In front of a log's first entry.
    pub fn genesis() -> Self {
        Self { position: LogPosition::GENESIS, leader: NodeId(0), membership: StoredMembership::default() }
    }

    fn last(&self) -> Option<LogId> {
        let LogPosition { index, term, .. } = self.position;
        (index > LogIndex(0)).then(|| log_id(term, self.leader, index))
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last(), last_membership: self.membership.clone() }
    }
}

/// A group that a quorum has, in its place.
#[derive(Debug, Clone)]
pub struct CommittedGroup {
    /// The group's place in the log, with its chain hash and the term it was proposed in.
    pub position: LogPosition,
    /// The node that proposed it.
    pub leader: NodeId,
    /// The chain hash of the group before it.
    pub predecessor: ChainHash,
    /// The group.
    pub group: Arc<Group>,
}

/// The shard, as consensus sees it. An error of any of its methods stops the consensus group: the node must stop.
pub trait Machine: Send + Sync + 'static {
    /// A snapshot of all of it, as it is handed to another node.
    type Snapshot: Clone + Send + Sync + 'static;

    /// Applies `group`, the next one. At return the next may come, whether this one's answers have left or not.
    fn apply(&mut self, group: CommittedGroup) -> impl Future<Output = io::Result<()>> + Send;

    /// Begins a snapshot of all that was applied, which is up to `standing`. What is applied later is not in it. The future that comes back
    /// ends when the snapshot is kept with its standing and will be found by [`Machine::current_snapshot`].
    fn begin_snapshot(&mut self, standing: Standing) -> impl Future<Output = SnapshotFuture<Self::Snapshot>> + Send;

    /// Takes `snapshot` for all that is known, and keeps it with its standing.
    fn install_snapshot(&mut self, standing: Standing, snapshot: Self::Snapshot) -> impl Future<Output = io::Result<()>> + Send;

    /// The newest snapshot that is kept, and its standing.
    fn current_snapshot(&mut self) -> impl Future<Output = io::Result<Option<(Standing, Self::Snapshot)>>> + Send;
}

/// A snapshot that is being made.
pub type SnapshotFuture<S> = Pin<Box<dyn Future<Output = io::Result<S>> + Send + Sync>>;

/// A machine's snapshot, with what openraft's own description of a snapshot has no room for.
#[derive(Debug, Clone)]
pub struct MachineSnapshot<S> {
    /// Where the chain stands with the snapshot's last entry.
    pub position: LogPosition,
    /// The machine's own.
    pub machine: S,
}

/// openraft's state machine around a shard's.
pub struct StateMachine<M> {
    machine: M,
    standing: Standing,
    /// Where it stood when it last took all that it knows from a snapshot.
    began_at: Arc<Mutex<LogPosition>>,
}

impl<M> fmt::Debug for StateMachine<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StateMachine").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl<M: Machine> StateMachine<M> {
    /// Goes on with `machine`, which has applied everything up to `standing`.
    pub fn new(machine: M, standing: Standing) -> Self {
        let began_at = Arc::new(Mutex::new(standing.position));
        Self { machine, standing, began_at }
    }

    /// The machine.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// How far it has come.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// For the log that it is fed from: what a log goes on behind that was given up for a snapshot.
    pub fn position_at(&self) -> PositionAt {
        let began_at = Arc::clone(&self.began_at);
        Arc::new(move |index| Some(*began_at.lock()).filter(|position| position.index == index))
    }

    async fn apply_entry(&mut self, entry: Entry) -> io::Result<Outcome> {
        let LeaderId { term, node_id: leader } = entry.log_id.leader_id;
        let at = LogPosition { index: log_index(entry.log_id.index), term: Term(term), ..self.standing.position };
        let (mut position, mut outcome) = (at, Outcome::NoGroup);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                self.standing.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            EntryPayload::Normal(Proposal { predecessor, group })
                if at.is_continued_by(predecessor, group.sequence, group.time) =>
            {
                let header = RecordHeader {
                    kind: RecordKind::Group,
                    term: at.term,
                    leader,
                    sequence: group.sequence,
                    predecessor,
                    time: group.time,
                };
                let chain = header.chain(&group.payload);
                position = LogPosition { sequence: group.sequence, chain, time: group.time, ..at };
                self.machine.apply(CommittedGroup { position, leader, predecessor, group }).await?;
                outcome = Outcome::Applied(chain);
            }
            EntryPayload::Normal(Proposal { group, .. }) => {
                tracing::warn!(index = %at.index, sequence = %group.sequence, "a group that does not continue the one before it is set aside");
                outcome = Outcome::SetAside;
            }
        }
        self.standing.position = position;
        self.standing.leader = leader;
        Ok(outcome)
    }
}

/// Makes one snapshot.
pub struct SnapshotMaker<S> {
    standing: Standing,
    making: SnapshotFuture<S>,
}

impl<S: Clone + Send + Sync + 'static> RaftSnapshotBuilder<TypeConfig> for SnapshotMaker<S> {
    type SnapshotData = MachineSnapshot<S>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<MachineSnapshot<S>>> {
        let machine = self.making.as_mut().await?;
        Ok(with_meta(&self.standing, machine))
    }
}

fn with_meta<S: Send + 'static>(standing: &Standing, machine: S) -> Snapshot<MachineSnapshot<S>> {
    Snapshot { meta: standing.meta(), snapshot: MachineSnapshot { position: standing.position, machine } }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateMachine<M> {
    type SnapshotData = MachineSnapshot<M::Snapshot>;
    type SnapshotBuilder = SnapshotMaker<M::Snapshot>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.standing.last(), self.standing.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = self.apply_entry(entry).await?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotMaker<M::Snapshot> {
        let making = self.machine.begin_snapshot(self.standing.clone()).await;
        SnapshotMaker { standing: self.standing.clone(), making }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: MachineSnapshot<M::Snapshot>) -> io::Result<()> {
        let standing = Standing {
            position: snapshot.position,
            leader: meta.last_log_id.map_or(NodeId(0), |last| last.leader_id.node_id),
            membership: meta.last_membership.clone(),
        };
        if standing.last() != meta.last_log_id {
            let what = format!("snapshot of {:?} is said to be of {:?}", standing.last(), meta.last_log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.machine.install_snapshot(standing.clone(), snapshot.machine).await?;
        *self.began_at.lock() = standing.position;
        self.standing = standing;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<MachineSnapshot<M::Snapshot>>>> {
        let current = self.machine.current_snapshot().await?;
        Ok(current.map(|(standing, machine)| with_meta(&standing, machine)))
    }
}
