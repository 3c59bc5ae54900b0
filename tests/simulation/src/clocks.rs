//! What a node of the simulation does about its clock: it asks the others for theirs over the simulated network, and follows the product's verdict as
//! the assembly of the program does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tidegate_cluster::{ClockMeasure, Clocks, Handover};
use tidegate_engine::Clock;
use tidegate_persistence::NodeId;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{Consensus, Network};
use crate::world::{Life, World, note};

/// How far clocks may be apart, in milliseconds. They begin closer than that, and a jump is mostly further.
pub(crate) const SKEW_MS_MAX: u64 = 1_000;

/// How often a node asks the others, how long it waits for an answer, and how long one counts.
const LOOK: Duration = Duration::from_millis(150);
const ANSWER_MAX: Duration = Duration::from_millis(100);
const COUNTS_FOR: Duration = Duration::from_millis(900);

/// Looks in a row at which a node must yield until it does.
const LOOKS_BEFORE: u32 = 3;

/// Looks again and again, until the node's life ends, whether its clock is off. `yields` says whether it is to lead nothing.
pub(crate) async fn watch(
    world: Arc<World>,
    network: Network,
    life: Arc<Life>,
    consensus: Consensus,
    handover: Handover,
    clock: Arc<dyn Clock>,
    yields: Arc<AtomicBool>,
) {
    let Consensus { raft, abstention } = consensus;
    let mut heard: BTreeMap<NodeId, (Instant, ClockMeasure)> = BTreeMap::new();
    let mut must_for = 0;
    while life.is_alive() {
        sleep(LOOK).await;
        let metrics = raft.metrics().borrow_watched().clone();
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        for node in voters.iter().filter(|node| **node != life.node) {
            let (asked, asked_at) = (clock.now().unix_ms(), Instant::now());
            if let Ok(Some(answered)) = timeout(ANSWER_MAX, network.ask_time(life.node, *node)).await {
                let took_ms = u64::try_from(asked_at.elapsed().as_millis()).unwrap_or(u64::MAX);
                heard.insert(*node, (Instant::now(), ClockMeasure::of(asked, took_ms, answered.unix_ms())));
            }
        }
        heard.retain(|_, (at, _)| at.elapsed() < COUNTS_FOR);
        let clocks = Clocks::new(life.node, SKEW_MS_MAX, heard.iter().map(|(node, (_, measure))| (*node, *measure)));
        must_for = if clocks.must_yield(&voters) { must_for + 1 } else { 0 };
        let is_sure = must_for >= LOOKS_BEFORE;
        yields.store(is_sure, Ordering::Relaxed);
        if !life.is_alive() {
            return;
        }
        raft.runtime_config().elect(!is_sure && abstention.is_over());
        let is_led = metrics.state == ServerState::Leader;
        let matched = |node: &NodeId| metrics.replication.as_ref().and_then(|known| known.get(node).copied().flatten());
        let next = clocks.agreeing(&voters).into_iter().max_by_key(|node| matched(node).map(|id| id.index));
        if let Some(next) = next.filter(|_| is_sure && is_led) {
            world.count("leaderships given up for a clock");
            note!(world, "node {}, whose clock is off, hands over to node {next}", life.node);
            drop(handover.to(&raft, next).await);
        }
    }
}
