//! What goes wrong in a run. Each seed has its own mix: some faults often, some never, so that every few seeds are of a kind that a mean of all
//! would never be.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use tidegate_persistence::NodeId;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::network::Ailment;
use crate::world::note;

/// Pause between two faults, in microseconds.
const PAUSE_US: (u64, u64) = (100_000, 2_000_000);

/// How long what ails the network lasts, in microseconds.
const AILS_US: (u64, u64) = (100_000, 3_000_000);

/// How long a node stays down, in microseconds.
const DOWN_US: (u64, u64) = (20_000, 2_000_000);

/// How far a clock jumps, in milliseconds.
const JUMP_MS: i64 = 20_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Split,
    CutOffLeader,
    OneWay,
    Lossy,
    SlowLinks,
    Kill,
    KillLeader,
    PowerCut,
    SlowDisk,
    ClockJump,
    Snapshot,
    Join,
    Leave,
    HandOver,
}

const FAULTS: [Fault; 14] = [
    Fault::Split,
    Fault::CutOffLeader,
    Fault::OneWay,
    Fault::Lossy,
    Fault::SlowLinks,
    Fault::Kill,
    Fault::KillLeader,
    Fault::PowerCut,
    Fault::SlowDisk,
    Fault::ClockJump,
    Fault::Snapshot,
    Fault::Join,
    Fault::Leave,
    Fault::HandOver,
];

/// Goes on until `end`.
pub(crate) async fn run(cluster: Arc<Cluster>, end: Instant) {
    let world = Arc::clone(&cluster.world);
    let weights =
        world.draw(|random| FAULTS.map(|_| if random.random_range(0..3) > 0 { random.random_range(1..=8_u32) } else { 0 }));
    let total: u32 = weights.iter().sum();
    while Instant::now() < end {
        sleep(world.delay(PAUSE_US.0, PAUSE_US.1)).await;
        if total == 0 {
            continue;
        }
        let mut pick = world.draw(|random| random.random_range(0..total));
        let fault = FAULTS.iter().zip(weights).find(|(_, weight)| {
            let is_it = pick < *weight;
            pick = pick.saturating_sub(*weight);
            is_it
        });
        if let Some((fault, _)) = fault {
            happen(&cluster, *fault);
        }
    }
}

fn happen(cluster: &Arc<Cluster>, fault: Fault) {
    let world = &cluster.world;
    let nodes = cluster.sites();
    let Some(one) = world.draw(|random| nodes.choose(random).copied()) else { return };
    let others = |node: NodeId| nodes.iter().copied().filter(|other| *other != node).collect::<Vec<_>>();
    let lasts = world.delay(AILS_US.0, AILS_US.1);
    match fault {
        Fault::Split => {
            let mut mixed = nodes.clone();
            world.draw(|random| mixed.shuffle(random));
            let (left, right) = mixed.split_at(mixed.len() / 2);
            cut(cluster, "partitions", &[(left, right), (right, left)], lasts);
        }
        Fault::CutOffLeader => {
            let node = cluster.leader().unwrap_or(one);
            let (only, rest) = ([node], others(node));
            cut(cluster, "leaders cut off", &[(&only, &rest), (&rest, &only)], lasts);
        }
        Fault::OneWay => {
            let node = if world.happens(50) { cluster.leader().unwrap_or(one) } else { one };
            let (only, rest) = ([node], others(node));
            let way: (&[NodeId], &[NodeId]) = if world.happens(50) { (&only, &rest) } else { (&rest, &only) };
            cut(cluster, "one-way losses", &[way], lasts);
        }
        Fault::Lossy => {
            let lost_percent = world.draw(|random| random.random_range(5..60));
            ail(cluster, "lossy networks", nodes.clone(), nodes, lost_percent, (0, 0), lasts);
        }
        Fault::SlowLinks => ail(cluster, "slow links", vec![one], others(one), 0, (20_000, 900_000), lasts),
        Fault::Kill => down(cluster, "crashes", &[one]),
        Fault::KillLeader => down(cluster, "crashes of leaders", &[cluster.leader().unwrap_or(one)]),
        Fault::PowerCut => down(cluster, "power cuts of all nodes", &nodes),
        Fault::SlowDisk => {
            world.count("slow disks");
            note!(world, "the disk of node {one} is slow for {lasts:?}");
            let platter = cluster.platter(one);
            platter.set_slow(true);
            tokio::spawn(async move {
                sleep(lasts).await;
                platter.set_slow(false);
            });
        }
        Fault::ClockJump => {
            let by_ms = world.draw(|random| random.random_range(-JUMP_MS..=JUMP_MS));
            world.count("clock jumps");
            note!(world, "the clock of node {one} jumps by {by_ms} ms");
            cluster.jump(one, by_ms);
        }
        Fault::Snapshot => {
            let Some(node) = cluster.node(one) else { return };
            world.count("snapshots begun");
            tokio::spawn(async move {
                if node.upkeep.make().await.is_some() && node.life.is_alive() {
                    // A node that has stopped hears of it no more.
                    drop(node.raft.trigger().snapshot().await);
                }
            });
        }
        Fault::Join => {
            let cluster = Arc::clone(cluster);
            spawn_local(async move { cluster.join().await });
        }
        Fault::Leave => {
            let cluster = Arc::clone(cluster);
            spawn_local(async move { cluster.leave(one).await });
        }
        Fault::HandOver => {
            let Some(leader) = cluster.leader().and_then(|leader| cluster.node(leader)) else { return };
            world.count("leaderships handed over");
            note!(world, "node {} hands over to node {one}", leader.life.node);
            tokio::spawn(async move { leader.hand_over(one).await });
        }
    }
}

fn cut(cluster: &Arc<Cluster>, what: &'static str, ways: &[(&[NodeId], &[NodeId])], lasts: Duration) {
    cluster.world.count(what);
    note!(cluster.world, "{what}: {ways:?} for {lasts:?}");
    for (from, to) in ways {
        begin(cluster, Ailment { from: from.to_vec(), to: to.to_vec(), lost_percent: 100, slower_us: (0, 0) }, lasts);
    }
}

fn ail(
    cluster: &Arc<Cluster>,
    what: &'static str,
    from: Vec<NodeId>,
    to: Vec<NodeId>,
    lost_percent: u32,
    slower_us: (u64, u64),
    lasts: Duration,
) {
    cluster.world.count(what);
    note!(cluster.world, "{what}: {from:?} to {to:?}, {lost_percent} % lost, for {lasts:?}");
    begin(cluster, Ailment { from, to, lost_percent, slower_us }, lasts);
}

fn begin(cluster: &Arc<Cluster>, ailment: Ailment, lasts: Duration) {
    let network = cluster.network.clone();
    let number = network.ail(ailment);
    tokio::spawn(async move {
        sleep(lasts).await;
        network.heal(number);
    });
}

/// The power of `nodes` goes at once; it comes back to each in its own time.
fn down(cluster: &Arc<Cluster>, what: &'static str, nodes: &[NodeId]) {
    let hit: Vec<NodeId> = nodes.iter().copied().filter(|node| cluster.crash(*node)).collect();
    if hit.is_empty() {
        return;
    }
    cluster.world.count(what);
    for node in hit {
        let (cluster, lasts) = (Arc::clone(cluster), cluster.world.delay(DOWN_US.0, DOWN_US.1));
        spawn_local(async move {
            sleep(lasts).await;
            cluster.start(node).await;
        });
    }
}
