//! Three nodes that ask each other over sockets: they elect and commit, one comes back after it was away, by entries and by a snapshot.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::wired::{Authority, MemoryTransfer, WiredNode, endpoint, in_time, listener};
use common::{LedgerMachine, Proposer, commit, leader, recover, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tidegate_cluster::Member;
use tidegate_cluster::network::Endpoint;
use tidegate_cluster::transport::{ClusterTls, node_name};
use tidegate_persistence::{MemoryStore, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the hello of a handshake names the lane, what it is for entries, and where the handshake has ended for sure.
const LANE_AT: usize = 24;
const LANE_OF_ENTRIES: u8 = 2;
const HANDSHAKE_BYTES: usize = 128;

/// Carries what comes to `listener` to `address` and back. On the way there one bit is flipped in each of the first `noisy` connections for
/// entries, somewhere behind the handshake; how many were is counted in `flipped`.
async fn carry(listener: TcpListener, address: SocketAddr, noisy: u64, flipped: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(address.port().into());
    loop {
        let (from, to) = (listener.accept().await.unwrap().0, TcpStream::connect(address).await);
        let Ok(to) = to else { continue };
        let at = random.random_range(HANDSHAKE_BYTES..4 * HANDSHAKE_BYTES);
        let flipped = Arc::clone(&flipped);
        tokio::spawn(async move {
            let ((mut here, mut back), (mut answers, mut there)) = (from.into_split(), to.into_split());
            let answering = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
            let (mut seen, mut is_noisy, mut bytes) = (0, false, vec![0; 4096]);
            while let Ok(count @ 1..) = here.read(&mut bytes).await {
                if (seen..seen + count).contains(&LANE_AT) {
                    is_noisy = bytes[LANE_AT - seen] == LANE_OF_ENTRIES && flipped.load(Ordering::SeqCst) < noisy;
                }
                if is_noisy && (seen..seen + count).contains(&at) {
                    bytes[at - seen] ^= 1 << (at % 8);
                    flipped.fetch_add(1, Ordering::SeqCst);
                }
                seen += count;
                if there.write_all(&bytes[..count]).await.is_err() {
                    break;
                }
            }
            answering.abort();
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_wire_costs_connections_and_nothing_else() {
    const NOISY: u64 = 10;
    let (mut nodes, mut members) = (Vec::new(), BTreeMap::new());
    let flipped = Arc::new(AtomicU64::new(0));
    for id in 1..=3 {
        let node = start(id, listener().await.0, None).await;
        let (front, address) = listener().await;
        tokio::spawn(carry(front, node.server.address(), NOISY, Arc::clone(&flipped)));
        members.insert(node.id, Member::new(address.to_string()));
        nodes.push(node);
    }
    nodes[0].raft.initialize(members).await.unwrap();
    let leading = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let mut groups = 0;
    // As many as it takes until the noise is over, and then some.
    in_time("the noise is over", async {
        while flipped.load(Ordering::SeqCst) < NOISY {
            assert!(groups < 900, "the stock is not sold out meanwhile");
            let last = commit(&mut proposer, 5).await;
            groups += 5;
            settle(&nodes, last).await;
        }
    })
    .await;
    let last = commit(&mut proposer, 20).await;
    settle(&nodes, last).await;
    end_alike(nodes, groups + 20).await;
}

/// Node `id` on `listener`, which has nothing yet.
async fn start(id: u64, listener: TcpListener, tls: Option<ClusterTls>) -> WiredNode {
    WiredNode::start(listener, endpoint(id, tls), MemoryStore::new(), LedgerMachine::default(), MemoryTransfer::default()).await
}

async fn three_nodes(tls: [Option<ClusterTls>; 3]) -> Vec<WiredNode> {
    let mut nodes = Vec::new();
    for (id, tls) in (1..).zip(tls) {
        nodes.push(start(id, listener().await.0, tls).await);
    }
    let members: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, node.member())).collect();
    nodes[0].raft.initialize(members).await.unwrap();
    nodes
}

/// What is left of a node that was stopped.
struct Away {
    id: u64,
    address: String,
    store: MemoryStore,
    machine: LedgerMachine,
}

async fn stop(node: WiredNode) -> Away {
    let (id, address, machine) = (node.id.0, node.member().address, node.machine.restarted());
    Away { id, address, store: node.stop().await, machine }
}

/// Starts it again, where it was.
async fn restart(away: Away, endpoint: Endpoint, transfer: MemoryTransfer) -> WiredNode {
    let listener = TcpListener::bind(&away.address).await.unwrap();
    WiredNode::start(listener, endpoint, away.store, away.machine, transfer).await
}

/// Stops all, whose logs are whole, and which have applied the same `groups` groups.
async fn end_alike(nodes: Vec<WiredNode>, groups: u64) {
    let (chain, stock) = (nodes[0].machine.chain(), nodes[0].machine.stock());
    for node in nodes {
        assert_eq!((node.machine.sequence(), node.machine.chain()), (groups, chain), "node {}", node.id);
        assert_eq!(node.machine.stock(), stock);
        assert_eq!(node.transfer.unfinished.load(Ordering::SeqCst), 0);
        let replica = recover(&node.stop().await);
        assert_eq!((replica.log.last_sequence.0, replica.log.last_chain), (groups, chain));
    }
}

/// They commit, one of them is stopped, the others go on, and it has everything once it is back.
async fn lose_and_find_a_follower(tls: [Option<ClusterTls>; 3]) {
    let mut nodes = three_nodes(tls.clone()).await;
    let leading = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let last = commit(&mut proposer, 50).await;
    settle(&nodes, last).await;

    let absent = (leading + 1) % 3;
    let away = stop(nodes.remove(absent)).await;
    let last = commit(&mut proposer, 50).await;
    settle(&nodes, last).await;

    let back = restart(away, endpoint(absent as u64 + 1, tls[absent].clone()), MemoryTransfer::default()).await;
    nodes.insert(absent, back);
    nodes[absent].wait_applied(last.index).await;
    assert_eq!(nodes[absent].machine.installed(), 0, "by entries alone");
    let leading = leader(&nodes, absent, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let last = commit(&mut proposer, 20).await;
    settle(&nodes, last).await;
    // The first group opens the stock, the others take a unit each.
    let stock = nodes[0].machine.stock().unwrap();
    assert_eq!((stock.reserved, stock.available), (119, 881));
    end_alike(nodes, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_catches_up_over_its_socket() {
    lose_and_find_a_follower([None, None, None]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_tls_do_the_same() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let tls = |node| {
        let files = authority.certify(folder.path(), &node_name(NodeId(node)), &authority);
        Some(ClusterTls::read(&files).unwrap())
    };
    lose_and_find_a_follower([tls(1), tls(2), tls(3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_gone_is_replaced() {
    let mut nodes = three_nodes([None, None, None]).await;
    let first = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[first]).await;
    let last = commit(&mut proposer, 10).await;
    settle(&nodes, last).await;
    let id = nodes[first].id;
    let away = stop(nodes.remove(first)).await;

    let second = leader(&nodes, 0, Some(id)).await;
    let mut proposer = Proposer::new(&nodes[second]).await;
    let last = commit(&mut proposer, 10).await;
    let back = restart(away, endpoint(id.0, None), MemoryTransfer::default()).await;
    nodes.push(back);
    settle(&nodes, last).await;
    end_alike(nodes, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let nodes = three_nodes([None, None, None]).await;
    let first = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[first]).await;
    let last = commit(&mut proposer, 5).await;
    settle(&nodes, last).await;
    let next = (first + 1) % 3;
    nodes[first].raft.trigger().transfer_leader(nodes[next].id).await.unwrap();
    assert_eq!(leader(&nodes, first, Some(nodes[first].id)).await, next);
    let mut proposer = Proposer::new(&nodes[next]).await;
    let last = commit(&mut proposer, 5).await;
    settle(&nodes, last).await;
    end_alike(nodes, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_over_while_the_leader_leads_on() {
    let mut nodes = three_nodes([None, None, None]).await;
    let leading = leader(&nodes, 0, None).await;
    let mut proposer = Proposer::new(&nodes[leading]).await;
    let last = commit(&mut proposer, 5).await;
    settle(&nodes, last).await;
    let absent = (leading + 1) % 3;
    let away = stop(nodes.remove(absent)).await;
    let last = commit(&mut proposer, 20).await;
    settle(&nodes, last).await;
    let leading = leader(&nodes, 0, None).await;
    nodes[leading].raft.trigger().snapshot().await.unwrap();
    // Nothing is kept of what the snapshot covers.
    nodes[leading].wait("the log is purged", |metrics| metrics.purged == Some(last)).await;

    // It takes the snapshot's first part, and no further one until it is allowed to.
    let transfer = MemoryTransfer::default();
    transfer.gate.send_replace(false);
    let id = NodeId(away.id);
    let back = restart(away, endpoint(id.0, None), transfer).await;
    let before = nodes[leading].metrics();
    in_time("a snapshot begins", back.transfer.begun.subscribe().wait_for(|begun| *begun > 0)).await.unwrap();
    // Meanwhile groups are committed, and the node that waits for its snapshot answers heartbeats.
    let heard = |metrics: &openraft::RaftMetrics<tidegate_cluster::TypeConfig>| {
        metrics.heartbeat.as_ref().and_then(|heartbeats| heartbeats.get(&id).copied().flatten().map(|heard| *heard))
    };
    let behind = heard(&nodes[leading].metrics());
    let last = commit(&mut proposer, 20).await;
    nodes[leading].wait("heartbeats are answered", |metrics| heard(metrics) > behind).await;
    assert_eq!(back.machine.installed(), 0);
    back.transfer.gate.send_replace(true);

    back.wait_applied(last.index).await;
    assert!(back.machine.installed() >= 1);
    let after = nodes[leading].metrics();
    assert_eq!((before.current_term, before.current_leader), (after.current_term, after.current_leader));
    nodes.push(back);
    settle(&nodes, last).await;
    end_alike(nodes, 45).await;
}
