//! A node: the product's engine, its consensus and its log on a simulated disk, clock and network, started and crashed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use rand::Rng;
use tidegate_cluster::{
    Abstention, CommittedGroup, GroupTimes, Handover, Machine, Raft, ReplicatedLog, ShardMachine, SnapshotFuture, Standing,
    StateMachine, TypeConfig, group_config, shard_parts, start_consensus,
};
use tidegate_engine::{
    Clock, CommitProgress, Engine, EngineMetrics, EngineOptions, EngineParts, Feed, Sealing, ShardStart, SteadyClock, quorum_line,
};
use tidegate_persistence::{
    GroupBuilder, LogIndex, LogReader, NodeId, Purged, RecoveryProgress, SteppedWal, StreamId, SyncReport, WalError, WalListener,
    WalOptions, recovery,
};
use tidegate_stock::{Event, Ledger, Quantity, Rules, Timestamp};
use tokio::task::JoinHandle;

use crate::clocks;
use crate::defect::Defect;
use crate::disk::{Disk, Platter, SimulatedLog};
use crate::evidence::Applied;
use crate::network::{Consensus, Network};
use crate::snapshots::{Image, Shelf, SimulatedSnapshots, Upkeep};
use crate::world::{Life, World, note};

/// The rules of every ledger.
pub(crate) const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 100_000,
    retention_seconds: 86_400,
    reservations_in_memory_max: 100_000,
    users_in_memory_max: 100_000,
};

/// The seed of every ledger's tables.
pub(crate) const TABLE_SEED: u64 = 1;

/// When a leader is taken for gone: short, so that much happens in a run.
pub(crate) const TIMES: GroupTimes = GroupTimes { heartbeat_ms: 60, election_ms_min: 300, election_ms_max: 600 };

/// The wall time at which every run begins, in milliseconds since 1970.
const BEGAN_UNIX_MS: u64 = 1_800_000_000_000;

/// A machine's clock, which may be wrong and jump.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    ahead_ms: AtomicI64,
}

impl WallClock {
    pub(crate) fn jump(&self, by_ms: i64) {
        self.ahead_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// What it shows when the run has lasted for `passed`.
    fn time(&self, passed: Duration) -> Timestamp {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_unix_ms((BEGAN_UNIX_MS + passed_ms).saturating_add_signed(ahead_ms))
    }
}

/// What outlives a node's crash, and what is known of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Site {
    pub(crate) platter: Platter,
    pub(crate) shelf: Shelf,
    pub(crate) clock: Arc<WallClock>,
    pub(crate) lives: u64,
}

/// The shard's machine, watched: what consensus has it apply is noted as it comes.
pub(crate) struct Witness {
    machine: ShardMachine<SimulatedSnapshots>,
    world: Arc<World>,
    life: Arc<Life>,
    has_misapplied: AtomicBool,
}

impl Witness {
    /// `group`, or with the quantity of its first grant off by one where that is a node's first that could be. A shard finds its own proposals
    /// by their chain hashes and has applied them long since, so this goes wrong on who follows alone.
    fn misapplied(&self, mut group: CommittedGroup) -> CommittedGroup {
        if self.life.node != NodeId(2) {
            return group;
        }
        let entries: Result<Vec<_>, _> = group.group.entries().and_then(Iterator::collect);
        let mut entries = entries.expect("a committed group can be read");
        let grant = entries.iter_mut().find_map(|entry| match &mut entry.event {
            Event::Reserved { quantity, .. } => Some(quantity),
            _ => None,
        });
        let Some(quantity) = grant else { return group };
        if self.has_misapplied.swap(true, Ordering::Relaxed) {
            return group;
        }
        *quantity = Quantity::new(u64::from(quantity.units()) + 1).expect("a quantity");
        let mut made = GroupBuilder::new(group.group.sequence, group.group.time);
        for entry in &entries {
            made.push(&entry.event, &entry.actor, entry.at, entry.image);
        }
        group.group = Arc::new(made.finish());
        group
    }
}

impl Machine for Witness {
    type Snapshot = Arc<Image>;

    async fn apply(&mut self, group: CommittedGroup) -> io::Result<()> {
        if self.life.is_alive() {
            self.world.applied(
                Applied {
                    node: self.life.node,
                    life: self.life.number,
                    sequence: group.position.sequence,
                    chain: group.position.chain,
                    predecessor: group.predecessor,
                },
                &group.group,
            );
        }
        let group = if self.world.has(Defect::MisapplyUnit) { self.misapplied(group) } else { group };
        self.machine.apply(group).await
    }

    async fn begin_snapshot(&mut self, applied: Standing) -> Option<SnapshotFuture<Arc<Image>>> {
        self.machine.begin_snapshot(applied).await
    }

    async fn install_snapshot(&mut self, standing: Standing, snapshot: Arc<Image>) -> io::Result<()> {
        self.machine.install_snapshot(standing, snapshot).await
    }

    async fn current_snapshot(&mut self) -> io::Result<Option<(Standing, Arc<Image>)>> {
        self.machine.current_snapshot().await
    }
}

/// Whatever the log tells is told by its steps.
struct Deaf;

impl WalListener for Deaf {
    fn committed(&self, _: StreamId, _: tidegate_persistence::GroupSequence) {}

    fn synced(&self, _: &SyncReport) {}

    fn disk_low(&self, _: bool) {}

    fn failed(&self, _: &WalError) {}
}

/// A node that runs.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) life: Arc<Life>,
    pub(crate) engine: Engine,
    pub(crate) raft: Raft<Witness>,
    handover: Handover,
    pub(crate) progress: Arc<CommitProgress>,
    pub(crate) upkeep: Upkeep,
    pub(crate) log: LogReader,
    /// Whether its clock is off, so that it is to lead nothing.
    pub(crate) yields: Arc<AtomicBool>,
    disk: Arc<Disk>,
    leader: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Node {
    /// Starts node `id` with what `site` has of it.
    pub(crate) async fn start(world: &Arc<World>, network: &Network, id: NodeId, site: &mut Site) -> Result<Self, String> {
        site.lives += 1;
        let life = Life::new(id, site.lives);
        let stream = StreamId::log(0);
        let snapshots = SimulatedSnapshots { world: Arc::clone(world), life: Arc::clone(&life), shelf: site.shelf.clone() };
        let newest = site.shelf.newest();
        let begin = newest.as_ref().map(|(standing, _)| Purged { leader: standing.leader, position: standing.position });
        let begin = begin.filter(|_| site.platter.first(stream).is_some_and(|first| first > LogIndex(1)));
        let store = site.platter.store();
        let replica = recovery::recover_replica(&*store, 0, begin, &|_| None, &RecoveryProgress::default());
        let mut replica = replica.map_err(|error| format!("its log cannot be recovered: {error}"))?;
        if world.has(Defect::ForgetVote) {
            replica.promises.vote = None;
        }
        let (standing, ledger) = match newest {
            Some((standing, image)) => {
                let ledger = image.ledger().map_err(|error| format!("its snapshot makes no ledger: {error}"))?;
                (standing, ledger)
            }
            None => (Standing::genesis(), Ledger::new(RULES, TABLE_SEED)),
        };
        let purged = replica.promises.base().index;
        if purged > standing.position.index {
            return Err(format!("its log was purged up to {purged}, and its snapshot stands at {}", standing.position.index));
        }
        let wal = SteppedWal::open_on(store, id, [replica.log, replica.votes], WalOptions::default(), Arc::new(Deaf));
        let wal = wal.map_err(|error| format!("its log does not start: {error}"))?;
        let (writer, log) = (wal.writer(), wal.reader());
        let disk = Disk::new(Arc::clone(world), Arc::clone(&life), site.platter.clone(), wal);

        let progress = CommitProgress::new(standing.position.sequence);
        let (voice, told) = quorum_line(&progress);
        let (shard_log, machine, leader) = shard_parts(id, voice, standing.position.chain, snapshots.clone());
        let (wall, origin) = (Arc::clone(&site.clock), world.trace.began());
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::following(move || wall.time(origin.elapsed()), move || origin.elapsed()));
        let options = EngineOptions {
            ring_slots: 64,
            batch_commands_max: world.draw(|random| random.random_range(1..=16)),
            groups_in_flight_max: world.draw(|random| random.random_range(1..=8)),
            known_filter_bytes_max: 4_096,
            sum_groups: 8,
            sum_seconds: 1,
            ..EngineOptions::default()
        };
        let engine = Engine::start_local(EngineParts {
            options,
            sealing: Sealing::new(&[7; 32]),
            clock: Arc::clone(&clock),
            metrics: Arc::new(EngineMetrics::default()),
            disk_low: Arc::new(AtomicBool::new(false)),
            history: None,
            shards: vec![ShardStart { ledger, log: Box::new(shard_log), progress: Arc::clone(&progress), quorum: Some(told) }],
        });
        let engine = engine.map_err(|error| format!("its engine does not start: {error}"))?;
        let witness =
            Witness { machine, world: Arc::clone(world), life: Arc::clone(&life), has_misapplied: AtomicBool::new(false) };
        let machine = StateMachine::new(witness, standing);
        let memberships = machine.memberships();
        let entries = ReplicatedLog::open_in_memory(writer, log.clone(), &replica, machine.position_at());
        let entries = entries.map_err(|error| format!("its log does not open: {error}"))?;
        let simulated = SimulatedLog { log: entries, disk: Arc::clone(&disk) };
        disk.hand_over();
        let abstention = Abstention::of(id, replica.promises.vote, TIMES.election_ms_max);
        let config =
            group_config(0, TIMES, world.draw(|random| random.random_range(0..10)), false).map_err(|error| error.to_string())?;
        let config = openraft::Config { enable_elect: abstention.is_over(), ..config };
        // The least that consensus may keep, so that whoever was away for a moment needs a snapshot.
        let started = start_consensus(id, Arc::new(config), network.dialer(Arc::clone(&life)), simulated, machine).await;
        let (raft, heard) = started.map_err(|error| format!("its consensus does not start: {error}"))?;
        let handover = leader.handover();
        let consensus = Consensus { raft: raft.clone(), abstention };
        network.connect(Arc::clone(&life), consensus.clone(), Arc::clone(&clock));
        let yields = Arc::new(AtomicBool::new(false));
        tokio::spawn(clocks::watch(
            Arc::clone(world),
            network.clone(),
            Arc::clone(&life),
            consensus,
            handover.clone(),
            Arc::clone(&clock),
            Arc::clone(&yields),
        ));
        let upkeep = Upkeep { snapshots, engine: engine.clone(), log: log.clone(), disk: Arc::clone(&disk), memberships };
        let leading = tokio::spawn({
            let (world, life, raft) = (Arc::clone(world), Arc::clone(&life), raft.clone());
            async move {
                let ended = leader.run(raft, heard).await;
                if life.is_alive() {
                    world.find("the node goes on", format!("node {} stops by itself: {ended:?}", life.node));
                }
            }
        });
        note!(world, "node {id} starts its life {}", life.number);
        Ok(Self { life, engine, raft, handover, progress, upkeep, log, yields, disk, leader: Arc::new(Mutex::new(Some(leading))) })
    }

    /// Ends it at once. What was not synced is lost.
    pub(crate) fn crash(&self, network: &Network) {
        self.life.end();
        network.disconnect(self.life.node);
        self.disk.crash();
        // What is left of it within this process ends too; nobody hears of it.
        if let Some(leader) = self.leader.lock().take() {
            leader.abort();
        }
        self.progress.fail();
        let raft = self.raft.clone();
        tokio::spawn(async move { drop(raft.shutdown().await) });
    }

    /// Has `node` lead in this one's place, if this one leads.
    pub(crate) async fn hand_over(&self, node: NodeId) {
        // A node that has stopped leads nothing.
        drop(self.handover.to(&self.raft, node).await);
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// All that its feed shows, from as far back as its log goes.
    pub(crate) fn feed(&self) -> Result<Vec<tidegate_engine::FeedEvent>, String> {
        let page = Feed::new(self.engine.clone(), self.log.clone()).read(None, usize::MAX >> 8);
        page.map(|page| page.events).map_err(|error| error.to_string())
    }
}
