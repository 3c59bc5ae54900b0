//! What openraft is told of our types, and how its entries and the records of our log are one.
//!
//! openraft counts entries from 0, the log from 1: openraft's entry `n` is the log's entry `n + 1`. A leader is a term *and* a node, as in a
//! record's header, so that an identity of openraft's and a record say the same. Of an entry only what it holds and its identity travel; the
//! rest of its header follows from the entries before it.

use std::fmt;
use std::io;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::type_config::alias;
use openraft::{EntryPayload, declare_raft_types};
use tidegate_persistence::{ChainHash, EntryContent, Group, LogIndex, NodeId, ReplicatedEntry, Term};

use crate::members::{Member, decode_membership, encode_membership};
use crate::runtime::Runtime;
use crate::state_machine::StateMachine;

declare_raft_types!(
    /// Consensus as it is used here.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = NodeId,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>,
        AsyncRuntime = Runtime,
);

/// A node of the consensus group of one shard, with machine `M`.
pub type Raft<M> = openraft::Raft<TypeConfig, StateMachine<M>>;

/// Who led: a term and a node.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;

/// The identity of an entry.
pub type LogId = alias::LogIdOf<TypeConfig>;

/// A vote.
pub type Vote = alias::VoteOf<TypeConfig>;

/// An entry.
pub type Entry = alias::EntryOf<TypeConfig>;

/// The members of a cluster.
pub type Membership = openraft::Membership<NodeId, Member>;

/// The members of a cluster, with the entry that made them so.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;

/// What a snapshot of machine data `D` is to openraft.
pub(crate) type Snapshot<D> = alias::SnapshotOf<TypeConfig, D>;

/// What openraft knows of a snapshot.
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// A group as a leader proposes it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The chain hash of the group that it was decided behind: it counts only if that is the last one applied before it.
    pub predecessor: ChainHash,
    /// The group.
    pub group: Arc<Group>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "group {} of {} events", self.group.sequence, self.group.events)
    }
}

/// What became of an entry that is committed. Alike on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its group is applied. The chain hash is the group's own: the predecessor of the next.
    Applied(ChainHash),
    /// Its group does not continue the one applied last, and counts for nothing. What it answered is unknown to whoever asked.
    SetAside,
    /// It holds no group.
    NoGroup,
}

/// The place in our log of openraft's entry `index`.
pub(crate) const fn log_index(index: u64) -> LogIndex {
    LogIndex(index + 1)
}

/// The identity of the entry at `index` of our log, which is at least 1.
pub(crate) const fn log_id(term: Term, leader: NodeId, index: LogIndex) -> LogId {
    LogId { leader_id: LeaderId { term: term.0, node_id: leader }, index: index.0 - 1 }
}

/// What the log is to keep of `entry`.
pub(crate) fn to_record(entry: &Entry) -> io::Result<ReplicatedEntry> {
    let content = match &entry.payload {
        EntryPayload::Blank => EntryContent::Blank,
        EntryPayload::Normal(Proposal { predecessor, group }) => {
            EntryContent::Group { predecessor: *predecessor, group: Arc::clone(group) }
        }
        EntryPayload::Membership(membership) => EntryContent::Membership(encode_membership(membership).map_err(io::Error::other)?),
    };
    let LeaderId { term, node_id: leader } = entry.log_id.leader_id;
    Ok(ReplicatedEntry { index: log_index(entry.log_id.index), term: Term(term), leader, content })
}

/// The entry that the log keeps as `record`.
pub(crate) fn to_entry(record: ReplicatedEntry) -> io::Result<Entry> {
    let payload = match record.content {
        EntryContent::Blank => EntryPayload::Blank,
        EntryContent::Group { predecessor, group } => EntryPayload::Normal(Proposal { predecessor, group }),
        EntryContent::Membership(bytes) => {
            EntryPayload::Membership(decode_membership(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?)
        }
    };
    Ok(Entry::new(log_id(record.term, record.leader, record.index), payload))
}
