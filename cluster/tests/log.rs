//! The replicated log by itself: what comes back after a restart, what comes from memory and what from the disk, and a log that a node alone
//! has written.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{LedgerMachine, Network, Node, Proposer, STREAM, at, chain, group, open_log, start_in, start_on};
use futures_util::StreamExt;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, ServerState};
use tidegate_cluster::{
    Entry, LeaderId, LogId, Member, Membership, Outcome, Proposal, ReplicatedLog, Standing, StateMachine, TypeConfig, Vote, adopt,
};
use tidegate_persistence::{
    Actor, ChainHash, DataDirectory, DirectoryOptions, GroupBuilder, GroupSequence, LogIndex, MemoryStore, NodeId, RecoveredStream,
    ReplicatedEntry, Wal, WalOptions,
};
use tidegate_stock::Event;

const NODE: NodeId = NodeId(1);

const fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: NODE }, index }
}

fn member() -> Member {
    Member::new("node-1:4100")
}

fn members() -> Membership {
    Membership::new(vec![BTreeSet::from([NODE])], BTreeMap::from([(NODE, member())])).unwrap()
}

fn blank(term: u64, index: u64) -> Entry {
    Entry::new_blank(id(term, index))
}

/// Entries of term 1 from `first` on, which are groups of about `bytes` bytes from sequence `first + 1` on.
fn large_groups(first: u64, count: u64, bytes: usize) -> Vec<Entry> {
    let mut predecessor = ChainHash::GENESIS;
    let entry = |index: u64| {
        let mut builder = GroupBuilder::new(GroupSequence(index + 1), at(index));
        builder.push(&Event::StockPaused { stock: common::STOCK }, &Actor::Clock, at(index), &vec![7; bytes]);
        let group = Arc::new(builder.finish());
        let proposal = Proposal { predecessor, group: Arc::clone(&group) };
        predecessor = chain(&group, predecessor, id(1, 0).leader_id);
        Entry::new_normal(id(1, index), proposal)
    };
    (first..first + count).map(entry).collect()
}

/// The log in `path`, opened.
fn open(path: &Path) -> (Wal, ReplicatedLog) {
    let (wal, replica) = start_in(path);
    let log = open_log(&wal, &replica, &StateMachine::new(LedgerMachine::default(), Standing::genesis()));
    (wal, log)
}

async fn read(log: &mut ReplicatedLog) -> Vec<Entry> {
    log.get_log_reader().await.try_get_log_entries(..).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, mut log) = open(folder.path());
    let proposal = Proposal { predecessor: ChainHash::GENESIS, group: Arc::new(group(1)) };
    let orphan = Proposal { predecessor: ChainHash([7; 16]), group: Arc::new(group(9)) };
    let entries = vec![
        Entry::new_membership(id(0, 0), members()),
        blank(1, 1),
        Entry::new_normal(id(1, 2), proposal),
        Entry::new_normal(id(1, 3), orphan),
        blank(2, 4),
    ];
    let vote = Vote::new_committed(2, NODE);
    log.blocking_append(entries.clone()).await.unwrap();
    log.save_vote(&vote).await.unwrap();
    log.purge(id(1, 1)).await.unwrap();
    drop(log);
    wal.stop().unwrap();

    let (wal, mut log) = open(folder.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 1)), Some(id(2, 4))));
    assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote));
    assert_eq!(read(&mut log).await, entries[2..]);
    // Purged for consensus, and still there for whoever reads groups.
    let mut oldest = None;
    let visit = |entry: &tidegate_persistence::RecoveredEntry<'_>| {
        oldest.get_or_insert(entry.index);
        Ok(ControlFlow::Continue(()))
    };
    wal.reader().read_entries(STREAM, LogIndex(1), LogIndex(9), visit).unwrap();
    assert_eq!(oldest, Some(LogIndex(1)));

    // From the disk and from memory at once.
    log.truncate_after(Some(id(1, 3))).await.unwrap();
    log.blocking_append([blank(3, 4), blank(3, 5)]).await.unwrap();
    assert_eq!(read(&mut log).await, [&entries[2..4], &[blank(3, 4), blank(3, 5)]].concat());
    drop(log);
    wal.stop().unwrap();
    let (wal, mut log) = open(folder.path());
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(3, 5)));
    assert_eq!(read(&mut log).await.len(), 4);
    drop(log);
    wal.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_readable_before_they_are_durable_and_many_are_read_in_pieces() {
    let store = MemoryStore::new();
    let entries = large_groups(0, 6, 3 * 1024 * 1024);
    for is_restarted in [false, true] {
        let (wal, replica) = start_on(store.clone(), NODE);
        let mut log = open_log(&wal, &replica, &StateMachine::new(LedgerMachine::default(), Standing::genesis()));
        let mut reader = log.get_log_reader().await;
        if !is_restarted {
            let (sender, flushed) = TypeConfig::oneshot();
            log.append(entries.clone(), IOFlushed::signal(sender)).await.unwrap();
            // Whether the log's thread has come to them or not.
            assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
            flushed.await.unwrap().unwrap();
        }
        let limited = reader.limited_get_log_entries(1, 6).await.unwrap();
        assert_eq!(limited, entries[1..3], "restarted: {is_restarted}");
        let streamed: Vec<Entry> = reader.entries_stream(1..6).await.map(Result::unwrap).collect().await;
        assert_eq!(streamed, entries[1..6], "restarted: {is_restarted}");
        assert_eq!(reader.try_get_log_entries(2..=4).await.unwrap(), entries[2..=4], "restarted: {is_restarted}");
        drop((log, reader));
        wal.stop().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_stopped_says_so() {
    let (wal, replica) = start_on(MemoryStore::new(), NODE);
    let mut log = open_log(&wal, &replica, &StateMachine::new(LedgerMachine::default(), Standing::genesis()));
    log.blocking_append([blank(1, 0), blank(1, 1)]).await.unwrap();
    wal.stop().unwrap();
    let (sender, flushed) = TypeConfig::oneshot();
    assert!(log.append([blank(1, 2)], IOFlushed::signal(sender)).await.is_err());
    assert!(flushed.await.unwrap().is_err());
    assert!(log.save_vote(&Vote::new(2, NODE)).await.is_err());
    assert!(log.truncate_after(Some(id(1, 0))).await.is_err());
    // What was not kept is not shown.
    assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_beyond_the_end_of_the_log_needs_a_snapshot() {
    let (wal, replica) = start_on(MemoryStore::new(), NODE);
    let mut log = open_log(&wal, &replica, &StateMachine::new(LedgerMachine::default(), Standing::genesis()));
    log.blocking_append([blank(1, 0)]).await.unwrap();
    assert!(log.purge(id(2, 9)).await.is_err());
    assert_eq!(read(&mut log).await, [blank(1, 0)]);
    wal.stop().unwrap();
}

fn entries_of(wal: &Wal) -> Vec<ReplicatedEntry> {
    let mut entries = Vec::new();
    let visit = |entry: &tidegate_persistence::RecoveredEntry<'_>| {
        entries.push(ReplicatedEntry::read(entry)?);
        Ok(ControlFlow::Continue(()))
    };
    wal.reader().read_entries(STREAM, LogIndex(1), LogIndex(u64::MAX), visit).unwrap();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_is_the_beginning_of_a_cluster_too() {
    let store = MemoryStore::new();
    let (wal, replica) = start_on(store.clone(), NODE);
    let mut log = open_log(&wal, &replica, &StateMachine::new(LedgerMachine::default(), Standing::genesis()));
    assert!(adopt(&mut log, NODE, member()).await.unwrap());
    assert!(!adopt(&mut log, NODE, member()).await.unwrap(), "once is enough");
    assert_eq!(read(&mut log).await, [Entry::new_membership(id(1, 0), members())]);
    drop(log);
    wal.stop().unwrap();

    let (wal, replica) = start_on(store.clone(), NODE);
    let network = Network::default();
    let node = Node::start_with(NODE, &network, store, LedgerMachine::default(), wal, &replica).await;
    node.wait("it leads itself", |metrics| metrics.state == ServerState::Leader).await;
    let mut proposer = Proposer::new(&node).await;
    assert_eq!((proposer.sequence, proposer.leader.term), (0, 2));
    let receiver = proposer.propose().await;
    assert_eq!(receiver.await.unwrap().unwrap().data, Outcome::Applied(proposer.predecessor));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_a_node_alone_is_the_first_member_of_a_cluster_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(folder.path(), &DirectoryOptions::new(at(0))).unwrap();
    let tails = [RecoveredStream::empty(STREAM)];
    let wal = Wal::start(directory, tails, WalOptions::default(), Arc::new(common::Deaf)).unwrap();
    for sequence in 1..=20 {
        wal.writer().append(STREAM, group(sequence));
    }
    wal.writer().sync().unwrap();
    let alone = entries_of(&wal);
    wal.stop().unwrap();

    let (wal, replica) = start_in(folder.path());
    let state_machine = StateMachine::new(LedgerMachine::default(), Standing::genesis());
    let mut log = open_log(&wal, &replica, &state_machine);
    assert!(adopt(&mut log, NodeId(2), member()).await.is_err(), "it is node 1's");
    assert!(adopt(&mut log, NODE, member()).await.unwrap());
    assert!(!adopt(&mut log, NODE, member()).await.unwrap(), "once is enough");
    assert!(matches!(read(&mut log).await.last().unwrap().payload, EntryPayload::Membership(_)));
    drop(log);
    wal.stop().unwrap();

    // It leads itself, applies what it had, and goes on in a term of its own.
    let (wal, replica) = start_in(folder.path());
    let network = Network::default();
    let node = Node::start_with(NODE, &network, MemoryStore::new(), LedgerMachine::default(), wal, &replica).await;
    node.wait("it leads itself", |metrics| metrics.state == ServerState::Leader).await;
    let mut proposer = Proposer::new(&node).await;
    assert_eq!((proposer.sequence, proposer.leader.term), (20, 2));
    let receiver = proposer.propose().await;
    assert_eq!(receiver.await.unwrap().unwrap().data, Outcome::Applied(proposer.predecessor));
    assert_eq!(node.machine.stock().unwrap().reserved, 20);
    node.stop().await;

    let directory = DataDirectory::open(folder.path(), &DirectoryOptions::new(at(0))).unwrap();
    let end = directory.replay(STREAM, |_| Ok(())).unwrap();
    assert_eq!((end.last_sequence, end.last_chain), (GroupSequence(21), proposer.predecessor));
    drop(directory);
    let (wal, _) = start_in(folder.path());
    assert_eq!(entries_of(&wal)[..20], alone, "what it had is untouched");
    wal.stop().unwrap();
}
