//! The quorum: each shard's log is replicated by a consensus group of its own, and openraft is that consensus.
//!
//! An entry of consensus is a record of the log: [`ReplicatedLog`] gives openraft the one log that [`tidegate_persistence`] keeps, and
//! [`StateMachine`] hands to a shard the groups that are committed. What a group's events mean is for the stock's rules, what a shard does with
//! them is for the engine. [`network`] is how nodes ask each other, over the connections of [`transport`]. This crate is the only door of openraft.

#[macro_use]
mod mutant;

mod abstention;
mod adopt;
mod clocks;
mod group;
mod log_reader;
mod log_store;
mod members;
pub mod network;
mod quorum_heard;
mod recovery;
mod runtime;
mod shard;
mod snapshot_files;
mod state_machine;
pub mod transport;
mod types;
mod watch;

pub use abstention::Abstention;
pub use adopt::adopt;
pub use clocks::{ClockMeasure, Clocks};
pub use group::{ChangeError, GroupMember, GroupParts, GroupStatus, GroupTimes, MemberChange, ShardGroup, group_config};
pub use log_reader::ReplicatedLogReader;
pub use log_store::{PositionAt, ReplicatedLog};
pub use members::{Member, MembersError};
pub use quorum_heard::{QuorumHeard, start_consensus};
pub use recovery::{MemberError, RecoveredMember, check_member, recover_member};
pub use runtime::{Runtime, seed_thread};
pub use shard::{Handover, LeaderError, ShardLeader, ShardLog, ShardMachine, Snapshots, shard_parts};
pub use snapshot_files::{FileIncoming, FileReader, FileSnapshot, SnapshotFileError, SnapshotFiles, SnapshotParts};
pub use state_machine::{
    CommittedGroup, Machine, MachineSnapshot, Memberships, SnapshotFuture, SnapshotMaker, Standing, StateMachine,
};
pub use types::{Entry, LeaderId, LogId, Membership, Outcome, Proposal, Raft, StoredMembership, TypeConfig, Vote};
