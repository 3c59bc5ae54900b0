//! One shard's consensus on one node: started, looked at, and its members changed. What openraft calls things ends here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Config, RaftMetrics, ServerState, SnapshotPolicy};
use tidegate_persistence::{LogIndex, NodeId, Term};

use crate::abstention::Abstention;
use crate::log_store::ReplicatedLog;
use crate::members::Member;
use crate::network::{Links, Shards, SnapshotTransfer};
use crate::quorum_heard::{QuorumHeard, start_consensus};
use crate::shard::{Handover, LeaderError, ShardLeader, ShardMachine, Snapshots};
use crate::state_machine::StateMachine;
use crate::types::{Raft, TypeConfig, log_index};

/// When consensus takes a leader for gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupTimes {
    /// How often a leader says that it is there, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a node hears of no leader before it stands for election, at the earliest, in milliseconds; more than `heartbeat_ms`.
    pub election_ms_min: u64,
    /// The same at the latest; more than `election_ms_min`. Also how long a leader decides on that hears of no quorum.
    pub election_ms_max: u64,
}

/// How consensus of `shard` is run. `late_entries_kept` and `may_revert` are those of [`GroupParts`].
///
/// # Errors
/// When the times contradict each other.
pub fn group_config(shard: u16, times: GroupTimes, late_entries_kept: u64, may_revert: bool) -> io::Result<Config> {
    let config = Config {
        cluster_name: format!("shard-{shard}"),
        heartbeat_interval: times.heartbeat_ms,
        election_timeout_min: times.election_ms_min,
        election_timeout_max: times.election_ms_max,
        // A snapshot is made when it is asked for.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: late_entries_kept,
        // A node that led before it was restarted does not know any more what was committed then. Only a term of its own, with an entry of
        // its own behind everything before, tells.
        enable_leader_restore: Some(false),
        // Whoever comes back and could not win does not disturb a leader that is there.
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(may_revert),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}

/// A member of a group, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its number.
    pub node: NodeId,
    /// Where other nodes reach it.
    pub address: String,
    /// The highest number that a member has had, as far as it is noted with this one.
    pub numbers_given: u64,
    /// Whether it is counted for a quorum; who is not gets the log all the same.
    pub is_voter: bool,
    /// How far its log is known to be that of the group; this node knows only while it leads.
    pub matched: Option<LogIndex>,
}

/// How a group stands, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Who leads.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: Term,
    /// The end of this node's log; 0 when it is empty.
    pub last: LogIndex,
    /// What this node knows to be committed by the group.
    pub committed: LogIndex,
    /// Up to where this node has handed what is committed to its shard.
    pub applied: LogIndex,
    /// Everybody, by number; nobody while this node belongs to no cluster.
    pub members: Vec<GroupMember>,
    /// Whether the members are those of a change between whose two steps it stands.
    pub is_changing: bool,
}

impl GroupStatus {
    /// The members that are counted for a quorum.
    pub fn voters(&self) -> Vec<NodeId> {
        self.members.iter().filter(|member| member.is_voter).map(|member| member.node).collect()
    }
}

/// A change of a group's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// Another node, which other nodes reach at this address, gets the log, and is not counted for a quorum yet.
    Add(NodeId, String),
    /// It is counted from now on.
    Promote(NodeId),
    /// It is no member any more.
    Remove(NodeId),
    /// A change that a leader before has left half done is finished.
    Finish,
    /// A member is reached at this address from now on.
    Move(NodeId, String),
    /// It is noted with a member that numbers up to this have been given.
    Note(NodeId, u64),
}

/// Why members were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another node leads, or none. Nothing was changed.
    #[error("this node does not lead the shard{}", .0.map_or_else(String::new, |leader| format!(", node {leader} does")))]
    NotLeader(Option<NodeId>),
    /// Another change is under way. Nothing was changed.
    #[error("another change of the members is under way")]
    UnderWay,
    /// The change is impossible. Nothing was changed.
    #[error("{0}")]
    Impossible(String),
    /// Nobody knows whether it was done.
    #[error("it is not known whether the members were changed: {0}")]
    Unknown(String),
}

/// The consensus group of one shard on one node. Cheap to clone.
pub struct ShardGroup<S: Snapshots> {
    node: NodeId,
    raft: Raft<ShardMachine<S>>,
    heard: QuorumHeard,
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    handover: Handover,
    abstention: Abstention,
    /// Whether it stands for election once its abstention is over.
    stands: Arc<AtomicBool>,
}

impl<S: Snapshots> Clone for ShardGroup<S> {
    fn clone(&self) -> Self {
        Self {
            node: self.node,
            raft: self.raft.clone(),
            heard: self.heard.clone(),
            metrics: self.metrics.clone(),
            handover: self.handover.clone(),
            abstention: self.abstention,
            stands: Arc::clone(&self.stands),
        }
    }
}

impl<S: Snapshots> fmt::Debug for ShardGroup<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShardGroup").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What a group is started with.
pub struct GroupParts<S: Snapshots, T> {
    /// This node.
    pub node: NodeId,
    /// The shard's number.
    pub shard: u16,
    /// When a leader is taken for gone.
    pub times: GroupTimes,
    /// Entries before a snapshot that are not purged for it.
    pub late_entries_kept: u64,
    /// The shard's log.
    pub log: ReplicatedLog,
    /// The shard's machine, at where it stands.
    pub machine: StateMachine<ShardMachine<S>>,
    /// What hands over the leadership of the shard.
    pub handover: Handover,
    /// How snapshots go from node to node.
    pub transfer: Arc<T>,
    /// Whether what a node's log had may be gone when it comes back, because the log's durability is below the loss of power. Where it may not
    /// be, a leader that sees it happen stops, because what it counted on was not so.
    pub may_revert: bool,
}

impl<S: Snapshots> ShardGroup<S> {
    /// Starts the group on the runtime of whoever calls, asks other nodes by `links`, and lets them ask by `shards`. A node whose log is empty
    /// and that belongs to no cluster waits for others to make it a member.
    ///
    /// # Errors
    /// When the times contradict each other, or consensus cannot start.
    pub async fn start<T>(parts: GroupParts<S, T>, links: &Links, shards: &Shards<ShardMachine<S>, T>) -> io::Result<Self>
    where
        T: SnapshotTransfer<Snapshot = S::Snapshot>,
    {
        let GroupParts { node, shard, times, late_entries_kept, log, machine, handover, transfer, may_revert } = parts;
        let config = group_config(shard, times, late_entries_kept, may_revert)?;
        let abstention = Abstention::of(node, log.promises().vote, config.election_timeout_max);
        let dialer = links.dialer(shard, Arc::clone(&transfer));
        let config = Arc::new(Config { enable_elect: abstention.is_over(), ..config });
        let (raft, heard) = start_consensus(node, config, dialer, log, machine).await.map_err(io::Error::other)?;
        shards.insert(shard, raft.clone(), abstention, transfer);
        let metrics = raft.metrics();
        let group = Self { node, raft, heard, metrics, handover, abstention, stands: Arc::new(AtomicBool::new(true)) };
        tokio::spawn({
            let group = group.clone();
            async move {
                group.abstention.over().await;
                group.stand_if_it_may();
            }
        });
        Ok(group)
    }

    /// Has `leader` propose to this group, until consensus stops.
    ///
    /// # Errors
    /// As [`ShardLeader::run`].
    pub async fn lead(&self, leader: ShardLeader) -> Result<(), LeaderError> {
        leader.run(self.raft.clone(), self.heard.clone()).await
    }

    /// How the group stands.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.metrics.borrow_watched();
        let index = |id: Option<u64>| id.map_or(LogIndex(0), log_index);
        let stored = &metrics.membership_config;
        let voters: BTreeSet<NodeId> = stored.voter_ids().collect();
        let matched = |node: &NodeId| {
            let replication = metrics.replication.as_ref()?.get(node)?;
            Some(index(replication.as_ref().map(|id| id.index)))
        };
        let members = stored.nodes().map(|(node, member)| GroupMember {
            node: *node,
            address: member.address.clone(),
            numbers_given: member.numbers_given,
            is_voter: voters.contains(node),
            matched: if *node == self.node { None } else { matched(node) },
        });
        let mut members: Vec<GroupMember> = members.collect();
        members.sort_by_key(|member| member.node);
        GroupStatus {
            leader: metrics.current_leader,
            term: Term(metrics.current_term),
            last: index(metrics.last_log_index),
            committed: index(metrics.cluster_committed.map(|id| id.index)),
            applied: index(metrics.last_applied.map(|id| id.index)),
            members,
            is_changing: stored.membership().get_joint_config().len() > 1,
        }
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader_and_term().map(|(leader, _)| leader)
    }

    /// The newest term that this node knows.
    pub fn term(&self) -> Term {
        Term(self.metrics.borrow_watched().current_term)
    }

    /// Who leads, and in which term, as far as this node knows.
    pub fn leader_and_term(&self) -> Option<(NodeId, Term)> {
        let metrics = self.metrics.borrow_watched();
        metrics.current_leader.map(|leader| (leader, Term(metrics.current_term)))
    }

    /// Where other nodes reach `node`, if it is a member.
    pub fn address(&self, node: NodeId) -> Option<String> {
        let metrics = self.metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node).map(|member| member.address.clone())
    }

    /// Waits until the group stands otherwise than when this was asked before, or than when the group was started. Ends, too, when consensus has.
    pub async fn changed(&mut self) {
        // Consensus that has ended changes nothing any more, and is told by `lead`.
        let _ = self.metrics.changed().await;
    }

    /// Has consensus look for a newer snapshot in what [`Snapshots::current`] gives, and purge the log before it. What comes of that is not waited
    /// for.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn note_snapshot(&self) -> io::Result<()> {
        self.raft.trigger().snapshot().await.map_err(|fatal| io::Error::other(fatal.to_string()))
    }

    /// Changes the members, if this node leads. At return the change is committed. Does nothing where it is done already.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change(&self, change: MemberChange) -> Result<(), ChangeError> {
        let status = self.status();
        // On top of one that is half done it could leave a leader that is no member.
        if status.is_changing && change != MemberChange::Finish {
            return Err(ChangeError::UnderWay);
        }
        let member = |node: NodeId| status.members.iter().find(|member| member.node == node);
        let stranger = |node: NodeId| ChangeError::Impossible(format!("node {node} is no member"));
        let only = |node| BTreeSet::from([node]);
        let (changes, retain) = match change {
            MemberChange::Add(node, address) => match member(node) {
                Some(known) if known.address == address => return Ok(()),
                Some(known) => {
                    let what = format!("node {node} is a member already, at {}", known.address);
                    return Err(ChangeError::Impossible(what));
                }
                None => {
                    self.propose(ChangeMembers::AddNodes(BTreeMap::from([(node, Member::new(address.clone()))])), true).await?;
                    // Of two who ask for one number at once only the first has got it.
                    let status = self.status();
                    return match status.members.iter().find(|member| member.node == node) {
                        Some(known) if known.address != address => {
                            Err(ChangeError::Impossible(format!("node {node} is a member already, at {}", known.address)))
                        }
                        _ => Ok(()),
                    };
                }
            },
            MemberChange::Promote(node) => match member(node) {
                Some(known) if known.is_voter => return Ok(()),
                Some(_) => (ChangeMembers::AddVoterIds(only(node)), true),
                None => return Err(stranger(node)),
            },
            MemberChange::Remove(node) => match member(node) {
                None => return Ok(()),
                Some(known) if known.is_voter => (ChangeMembers::RemoveVoters(only(node)), false),
                Some(_) => (ChangeMembers::RemoveNodes(only(node)), false),
            },
            // Whoever was to go does not stay as one that is not counted.
            MemberChange::Finish => (ChangeMembers::AddVoterIds(BTreeSet::new()), false),
            MemberChange::Move(node, address) => {
                let known = member(node).ok_or_else(|| stranger(node))?;
                if known.address == address {
                    return Ok(());
                }
                let moved = Member { address, numbers_given: known.numbers_given };
                (ChangeMembers::SetNodes(BTreeMap::from([(node, moved)])), true)
            }
            MemberChange::Note(node, given) => {
                let known = member(node).ok_or_else(|| stranger(node))?;
                if known.numbers_given >= given {
                    return Ok(());
                }
                let noted = Member { address: known.address.clone(), numbers_given: given };
                (ChangeMembers::SetNodes(BTreeMap::from([(node, noted)])), true)
            }
        };
        self.propose(changes, retain).await
    }

    async fn propose(&self, changes: ChangeMembers<NodeId, Member>, retain: bool) -> Result<(), ChangeError> {
        let error = match self.raft.change_membership(changes, retain).await {
            Ok(_) => return Ok(()),
            Err(RaftError::Fatal(fatal)) => return Err(ChangeError::Unknown(fatal.to_string())),
            Err(RaftError::APIError(error)) => error,
        };
        Err(match error {
            ClientWriteError::ForwardToLeader(forward) => ChangeError::NotLeader(forward.leader_id),
            ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            ) => ChangeError::UnderWay,
            ClientWriteError::ChangeMembershipError(error) => ChangeError::Impossible(error.to_string()),
            error => ChangeError::Unknown(error.to_string()),
        })
    }

    /// Has `node`, a voter, lead in this node's place, as [`Handover::to`], if this node leads, and waits until it is not the leader any more, at
    /// most `limit`. Says whether it is not.
    pub async fn hand_over(&self, node: NodeId, limit: Duration) -> bool {
        if !self.is_leader() {
            return true;
        }
        if self.handover.to(&self.raft, node).await.is_err() {
            return false;
        }
        let handed = async {
            let mut metrics = self.metrics.clone();
            while self.is_leader() {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, handed).await.is_ok()
    }

    /// Whether this node stands for election from now on when it hears of no leader, its [`Abstention`] being over. It votes for others and takes what
    /// is handed over either way.
    pub fn stand_for_election(&self, stands: bool) {
        self.stands.store(stands, Ordering::Relaxed);
        self.stand_if_it_may();
    }

    fn stand_if_it_may(&self) {
        self.raft.runtime_config().elect(self.abstention.is_over() && self.stands.load(Ordering::Relaxed));
    }

    fn is_leader(&self) -> bool {
        self.metrics.borrow_watched().state == ServerState::Leader
    }

    /// Ends consensus on this node. What it has not told the shard is not told any more.
    pub async fn stop(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::error!("a task of consensus ended by a panic");
        }
    }
}
