//! What is done with committed entries: groups go to the shard, if each continues the one before it.
//!
//! A leader decides ahead of the quorum. Consensus may refuse one of its groups and take the next, which was decided behind the refused one and
//! means nothing without it. So a group names the chain hash of its predecessor, and one whose predecessor is not the group applied last is set
//! aside, alike on every node and by the same rule by which the log records it ([`LogPosition::is_continued_by`]). Whoever proposed it is
//! told, and must take what it answered for unknown.

use std::collections::VecDeque;
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

    /// Begins a snapshot, where all was applied up to `applied`. The future that comes back ends when the snapshot is kept and will be found by
    /// [`Machine::current_snapshot`], with the standing that it really has: at a committed entry, `applied` or one before it, and of nothing
    /// behind that entry. `None` when there is none to be had now; then nothing of the log is purged for it.
    fn begin_snapshot(&mut self, applied: Standing) -> impl Future<Output = Option<SnapshotFuture<Self::Snapshot>>> + Send;

    /// Takes `snapshot` for all that is known, and keeps it with its standing. At return it is durable.
    fn install_snapshot(&mut self, standing: Standing, snapshot: Self::Snapshot) -> impl Future<Output = io::Result<()>> + Send;

    /// The newest snapshot that is kept, and its standing.
    fn current_snapshot(&mut self) -> impl Future<Output = io::Result<Option<(Standing, Self::Snapshot)>>> + Send;
}

/// A snapshot that is being made, and its standing.
pub type SnapshotFuture<S> = Pin<Box<dyn Future<Output = io::Result<(Standing, S)>> + Send + Sync>>;

/// Changes of the members that are remembered for whoever makes a snapshot, which may be of an entry some time ago.
const MEMBERSHIPS_KEPT: usize = 64;

/// Who the members were as of entries that were applied not long ago. Clones share it.
#[derive(Debug, Clone)]
pub struct Memberships(Arc<Mutex<VecDeque<StoredMembership>>>);

impl Memberships {
    fn new(membership: StoredMembership) -> Self {
        Self(Arc::new(Mutex::new(VecDeque::from([membership]))))
    }

    /// The members as of entry `index`, which was applied; `None` when that was too many changes ago to be remembered.
    pub fn at(&self, index: LogIndex) -> Option<StoredMembership> {
        let is_by_then = |membership: &&StoredMembership| membership.log_id().is_none_or(|of| log_index(of.index) <= index);
        self.0.lock().iter().rfind(is_by_then).cloned()
    }

    fn push(&self, membership: StoredMembership) {
        let mut kept = self.0.lock();
        kept.push_back(membership);
        if kept.len() > MEMBERSHIPS_KEPT {
            kept.pop_front();
        }
    }

    fn begin_at(&self, membership: StoredMembership) {
        *self.0.lock() = VecDeque::from([membership]);
    }
}

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
    memberships: Memberships,
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
        let memberships = Memberships::new(standing.membership.clone());
        Self { machine, standing, began_at, memberships }
    }

    /// The machine.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// How far it has come.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Who the members were, for whoever makes snapshots of the machine.
    pub fn memberships(&self) -> Memberships {
        self.memberships.clone()
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
                self.memberships.push(self.standing.membership.clone());
            }
            EntryPayload::Normal(Proposal { predecessor, group })
                if at.is_continued_by(predecessor, group.sequence, group.time) || mutant!(UnchainedTaken) =>
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
pub struct SnapshotMaker<S>(SnapshotFuture<S>);

impl<S: Clone + Send + Sync + 'static> RaftSnapshotBuilder<TypeConfig> for SnapshotMaker<S> {
    type SnapshotData = MachineSnapshot<S>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<MachineSnapshot<S>>> {
        let (standing, machine) = self.0.as_mut().await?;
        Ok(with_meta(&standing, machine))
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

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotMaker<M::Snapshot>> {
        let making = self.machine.begin_snapshot(self.standing.clone()).await;
        // Asked for like this at a start alone, where the log was purged and nothing says what had been in it.
        let none = || -> SnapshotFuture<M::Snapshot> {
            Box::pin(async {
                Err(io::Error::new(io::ErrorKind::NotFound, "the log was purged, and no snapshot of what it held is there"))
            })
        };
        making.or_else(|| force.then(none)).map(SnapshotMaker)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotMaker<M::Snapshot> {
        self.try_create_snapshot_builder(true).await.expect("one is made when it must be")
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
        self.memberships.begin_at(standing.membership.clone());
        self.standing = standing;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<MachineSnapshot<M::Snapshot>>>> {
        let current = self.machine.current_snapshot().await?;
        Ok(current.map(|(standing, machine)| with_meta(&standing, machine)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::Member;
    use crate::types::Membership;

    /// Members that consist of node `node`, of entry `index` if of any.
    fn membership(node: u64, index: Option<u64>) -> StoredMembership {
        let members = BTreeMap::from([(NodeId(node), Member::default())]);
        let members = Membership::new(vec![BTreeSet::from([NodeId(node)])], members).unwrap();
        StoredMembership::new(index.map(|index| log_id(Term(1), NodeId(1), LogIndex(index))), members)
    }

    #[test]
    fn members_are_those_as_of_an_entry_while_they_are_remembered() {
        let memberships = Memberships::new(membership(1, None));
        for change in 1..MEMBERSHIPS_KEPT as u64 {
            memberships.push(membership(change + 1, Some(10 * change)));
        }
        let of = |index, node| assert_eq!(memberships.at(LogIndex(index)), node, "entry {index}");
        of(1, Some(membership(1, None)));
        of(9, Some(membership(1, None)));
        of(10, Some(membership(2, Some(10))));
        of(39, Some(membership(4, Some(30))));
        of(10_000, Some(membership(64, Some(630))));
        // One change more than are remembered.
        memberships.push(membership(65, Some(640)));
        of(9, None);
        of(10, Some(membership(2, Some(10))));
        of(640, Some(membership(65, Some(640))));
        memberships.begin_at(membership(7, Some(700)));
        of(699, None);
        of(700, Some(membership(7, Some(700))));
    }
}
