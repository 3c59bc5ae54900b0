//! Three nodes in one process: they elect, commit, lose their leader, go on, and end with the same log, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{LedgerMachine, Network, Node, Proposer, STREAM, commit, group, leader, recover, settle, values};
use openraft::errors::ClientWriteError;
use openraft::raft::VoteRequest;
use tidegate_cluster::{Abstention, LeaderId, LogId, Member, Outcome, Proposal};
use tidegate_persistence::{ChainHash, LogIndex, LogStore, MemoryStore, RecordKey, StreamId};

async fn three_nodes() -> (Network, Vec<Node>) {
    let network = Network::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::start(id, &network, MemoryStore::new(), LedgerMachine::default()).await);
    }
    let members: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, Member::new(format!("node-{}:4100", node.id)))).collect();
    nodes[0].raft.initialize(members).await.unwrap();
    (network, nodes)
}

/// The records of `store` up to `last`.
fn records(store: &MemoryStore, last: LogId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = values(store, STREAM);
    records.retain(|(key, _)| RecordKey::decode(key).unwrap().index <= LogIndex(last.index + 1));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_lose_their_leader_and_end_with_the_same_log() {
    let (network, nodes) = three_nodes().await;
    let first = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[first]).await;
    let committed = commit(&mut proposer, 50).await;
    settle(&nodes, committed).await;

    // A leader that reaches nobody goes on deciding. None of that is ever committed.
    network.cut_off(nodes[first].id);
    let mut unheard = Vec::new();
    for _ in 0..5 {
        unheard.push(proposer.propose().await);
    }
    nodes[first].wait("it has them in its log", |metrics| metrics.last_log_index == Some(committed.index + 5)).await;

    let second = leader(&nodes, (first + 1) % 3, Some(nodes[first].id)).await;
    assert_ne!(first, second);
    let mut successor = Proposer::new(&nodes[second]).await;
    assert_eq!(successor.sequence, 50);
    let last = commit(&mut successor, 30).await;

    network.heal();
    settle(&nodes, last).await;
    for receiver in unheard {
        // Taken back, and whoever asked is told that nobody knows.
        let answer = receiver.await.unwrap();
        assert!(matches!(answer, Err(ClientWriteError::LogEntryDiscarded(_))), "{answer:?}");
    }
    for node in &nodes {
        assert_eq!((node.machine.sequence(), node.machine.chain()), (80, successor.predecessor), "node {}", node.id);
        assert_eq!(node.machine.stock(), nodes[0].machine.stock());
    }
    // The first group opens the stock, the others take a unit each.
    let stock = nodes[0].machine.stock().unwrap();
    assert_eq!((stock.reserved, stock.available), (79, 921));

    let mut stores = Vec::new();
    for node in nodes {
        stores.push(node.stop().await);
    }
    let expected = records(&stores[0], last);
    assert_eq!(expected.len() as u64, last.index + 1, "one value an entry");
    for store in &stores[1..] {
        assert_eq!(records(store, last), expected);
    }
    for store in &stores {
        // The log of each is whole, and says what the node has promised.
        let replica = recover(store);
        assert!(replica.log.groups == 80 && replica.promises.vote.is_some(), "{replica:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_continues_nothing_is_set_aside_on_every_node() {
    let (_network, nodes) = three_nodes().await;
    let leading = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let first = proposer.propose().await;
    let after_first = proposer.predecessor;
    // Decided behind a group that consensus never took: nothing that follows it may count.
    let orphan = Proposal { predecessor: ChainHash([7; 16]), group: Arc::new(group(3)) };
    let orphan = proposer.send(orphan).await;
    let second = proposer.propose().await;
    // The right predecessor is not enough.
    let repeated = proposer.send(Proposal { predecessor: proposer.predecessor, group: Arc::new(group(2)) }).await;
    assert_eq!(first.await.unwrap().unwrap().data, Outcome::Applied(after_first));
    assert_eq!(orphan.await.unwrap().unwrap().data, Outcome::SetAside);
    assert_eq!(second.await.unwrap().unwrap().data, Outcome::Applied(proposer.predecessor));
    let repeated = repeated.await.unwrap().unwrap();
    assert_eq!(repeated.data, Outcome::SetAside);

    let last = repeated.log_id;
    settle(&nodes, last).await;
    for node in &nodes {
        assert_eq!((node.machine.sequence(), node.machine.chain()), (2, proposer.predecessor), "node {}", node.id);
    }
    let mut stores = Vec::new();
    for node in nodes {
        stores.push(node.stop().await);
    }
    let expected = records(&stores[0], last);
    for store in &stores {
        assert_eq!(records(store, last), expected);
        let log = recover(store).log;
        assert_eq!((log.groups, log.last_sequence.0, log.last_chain), (2, 2, proposer.predecessor));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_too_long_goes_on_from_a_snapshot() {
    let (network, mut nodes) = three_nodes().await;
    let leading = leader(&nodes, 0, None).await;
    let away = (leading + 1) % 3;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let last = commit(&mut proposer, 5).await;
    settle(&nodes, last).await;

    network.cut_off(nodes[away].id);
    let last = commit(&mut proposer, 20).await;
    nodes[leading].wait_applied(last.index).await;
    nodes[leading].raft.trigger().snapshot().await.unwrap();
    // Nothing is kept of what the snapshot covers.
    nodes[leading].wait("the log is purged", |metrics| metrics.purged == Some(last)).await;

    network.heal();
    nodes[away].wait_applied(last.index).await;
    assert_eq!((nodes[away].machine.installed(), nodes[away].machine.sequence()), (1, 25));
    let leading = leader(&nodes, leading, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let next = commit(&mut proposer, 5).await;
    settle(&nodes, next).await;

    // It holds nothing of what lies before the snapshot, and starts again from that and from what lies behind.
    let node = nodes.remove(away);
    let (id, machine) = (node.id, node.machine.restarted());
    let store = node.stop().await;
    let oldest = RecordKey::decode(&values(&store, STREAM)[0].0).unwrap().index;
    assert_eq!(oldest, LogIndex(last.index + 2));
    assert!(store.streams().unwrap().contains(&StreamId::votes(0)));
    nodes.insert(away, Node::start(id.0, &network, store, machine).await);
    let leading = leader(&nodes, away, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let next = commit(&mut proposer, 5).await;
    settle(&nodes, next).await;
    for node in &nodes {
        assert_eq!((node.machine.sequence(), node.machine.chain()), (35, proposer.predecessor), "node {}", node.id);
        assert_eq!(node.machine.stock(), nodes[leading].machine.stock());
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_again_votes_for_nobody_but_whom_a_leader_has_chosen() {
    let (network, mut nodes) = three_nodes().await;
    let leading = leader(&nodes, 0, None).await;
    let committed = commit(&mut Proposer::new(&nodes[leading]).await, 1).await;
    settle(&nodes, committed).await;
    let (followed, candidate) = (nodes[leading].id, nodes[(leading + 2) % 3].id);
    let node = nodes.remove((leading + 1) % 3);
    let (id, machine) = (node.id, node.machine.restarted());
    // It hears of nobody but by what is asked here.
    network.cut_off(id);
    let store = node.stop().await;
    let vote = recover(&store).promises.vote;
    assert_eq!(vote.map(|vote| (vote.leader, vote.is_granted)), Some((followed, true)));
    let node = Node::start(id.0, &network, store, machine).await;
    node.raft.runtime_config().elect(false);
    let abstention = Abstention::of(id, vote, 3_600_000);
    let newest_vote = || async { node.raft.with_raft_state(|state| *state.vote_ref()).await.unwrap() };
    let before = newest_vote().await;
    let ask = |term, leadership_transfer| {
        let vote = tidegate_cluster::Vote { leader_id: LeaderId { term, node_id: candidate }, committed: false };
        VoteRequest { vote, last_log_id: Some(committed), leadership_transfer }
    };
    let told = abstention.pre_vote(&node.raft, ask(90, false)).await.unwrap();
    assert_eq!((told.vote_granted, told.vote), (false, before));
    let told = abstention.vote(&node.raft, ask(90, false)).await.unwrap();
    assert_eq!((told.vote_granted, told.vote), (false, before));
    assert_eq!(newest_vote().await, before);
    // It could: its consensus does not know any more that it heard of a leader just now.
    let could = Abstention::NONE.pre_vote(&node.raft, ask(90, false)).await.unwrap();
    assert!(could.vote_granted);
    let chosen = ask(91, true);
    let told = abstention.vote(&node.raft, chosen.clone()).await.unwrap();
    assert_eq!((told.vote_granted, told.vote), (true, chosen.vote));
}
