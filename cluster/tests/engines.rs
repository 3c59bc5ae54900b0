//! Three whole engines in one process, each shard's log kept by a quorum of them: buyers ask whichever node decides while leaders are cut off, and
//! in the end nothing that was answered is lost, nothing is sold twice, and all three hold the same ledger.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::members::{RULES, holds};
use common::{Dialer, Network, PATIENCE, config, start_on};
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tidegate_cluster::{
    Handover, LeaderError, Member, Raft, ReplicatedLog, ShardMachine, Snapshots, Standing, StateMachine, shard_parts,
    start_consensus,
};
use tidegate_engine::{
    Answer, CommitProgress, Content, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, Installed, Refusal, Sealing,
    ShardStart, Submission, SystemClock, partition_of, quorum_line,
};
use tidegate_persistence::{ActorName, ChainHash, GroupSequence, MemoryStore, NodeId, Wal};
use tidegate_stock::{Allotment, Command, HoldSeconds, IdempotencyKey, Ledger, Quantity, Rejection, Sku, StockTerms, UserId};
use tokio::task::JoinHandle;

const UNITS: u64 = 400;
const BUYERS: u64 = 600;

/// Nothing here is ever so far behind that it needs a snapshot.
#[derive(Clone)]
struct NoSnapshots;

impl Snapshots for NoSnapshots {
    type Snapshot = ();

    async fn install(&mut self, _: Standing, (): ()) -> io::Result<Installed> {
        Err(io::Error::other("no snapshot is taken in this test"))
    }

    async fn current(&mut self) -> io::Result<Option<(Standing, ())>> {
        Ok(None)
    }
}

type ClusterNetwork = Network<ShardMachine<NoSnapshots>>;

struct Node {
    id: NodeId,
    engine: Engine,
    raft: Raft<ShardMachine<NoSnapshots>>,
    handover: Handover,
    leader: JoinHandle<Result<(), LeaderError>>,
    wal: Wal,
    progress: Arc<CommitProgress>,
}

impl Node {
    async fn start(id: u64, network: &ClusterNetwork) -> Self {
        let id = NodeId(id);
        let (wal, replica) = start_on(MemoryStore::new(), id);
        let progress = CommitProgress::new(GroupSequence(0));
        let (voice, line) = quorum_line(&progress);
        let (log, machine, leader) = shard_parts(id, voice, ChainHash::GENESIS, NoSnapshots);
        let sealing = Sealing::new(&[7; 32]);
        let engine = Engine::start(EngineParts {
            options: EngineOptions::default(),
            clock: Arc::new(SystemClock),
            metrics: Arc::new(EngineMetrics::default()),
            disk_low: Arc::new(AtomicBool::new(false)),
            history: None,
            shards: vec![ShardStart {
                ledger: Ledger::new(RULES, sealing.table_seed()),
                log: Box::new(log),
                progress: Arc::clone(&progress),
                quorum: Some(line),
            }],
            sealing,
        });
        let machine = StateMachine::new(machine, Standing::genesis());
        let replicated = ReplicatedLog::open(wal.writer(), wal.reader(), &replica, machine.position_at()).unwrap();
        let dialer = Dialer { from: id, network: network.clone() };
        let (raft, heard) = start_consensus(id, config(), dialer, replicated, machine).await.unwrap();
        network.connect(id, raft.clone());
        let handover = leader.handover();
        let leader = tokio::spawn(leader.run(raft.clone(), heard));
        Self { id, engine: engine.unwrap(), raft, handover, leader, wal, progress }
    }

    async fn stop(self, network: &ClusterNetwork) {
        network.disconnect(self.id);
        self.engine.stop().await;
        self.raft.shutdown().await.unwrap();
        drop(self.raft);
        // Its proposals end with the engine, or consensus has stopped before that.
        let _ = self.leader.await.unwrap();
        self.wal.stop().unwrap();
    }
}

async fn within_patience<T>(what: &str, of: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, of).await.unwrap_or_else(|_| panic!("not within the tests' patience: {what}"))
}

fn actor() -> ActorName {
    ActorName::new("tests").unwrap()
}

fn lamp() -> Sku {
    Sku::new("lamp").unwrap()
}

fn create() -> Command {
    let hold_seconds = HoldSeconds::new(3_600).unwrap();
    Command::CreateStock {
        partition: partition_of(&lamp()),
        sku: lamp(),
        quantity: Allotment::new(UNITS).unwrap(),
        terms: StockTerms {
            per_user_limit: Some(Quantity::ONE),
            hold_seconds,
            hold_seconds_max: hold_seconds.default_max(),
            opens_at: None,
            closes_at: None,
        },
    }
}

fn reserve(buyer: u64) -> Command {
    Command::Reserve {
        sku: lamp(),
        user: UserId::new(&format!("buyer-{buyer}")).unwrap(),
        quantity: Quantity::ONE,
        hold_seconds: None,
        reference: None,
    }
}

/// Asks one node after the other until one says yes or no; what nobody knows is asked again with the same key.
async fn ask(nodes: &[Engine], command: Command, key: Option<&str>, unknown: &AtomicU64) -> Result<Answer, Rejection> {
    for turn in 0.. {
        let submission =
            Submission { command: command.clone(), key: key.map(|key| IdempotencyKey::new(key).unwrap()), actor: actor() };
        let outcome = match nodes[turn % nodes.len()].try_submit(submission) {
            Ok(pending) => pending.await,
            Err(refusal) => Err(refusal.into()),
        };
        match outcome {
            Ok(answer) => return Ok(answer),
            Err(Failure::Rejection(rejection)) => return Err(rejection),
            Err(Failure::Fault(_)) => drop(unknown.fetch_add(1, Ordering::Relaxed)),
            Err(Failure::Refusal(Refusal::NotLeader)) => tokio::task::yield_now().await,
            Err(failure) => panic!("{failure}"),
        }
    }
    unreachable!("it asks until it knows")
}

/// Waits until one of `nodes` decides, and returns its place.
async fn deciding(nodes: &[Node], except: Option<usize>) -> usize {
    let found = async {
        loop {
            let decides = |place: &usize| Some(*place) != except && nodes[*place].progress.leads();
            if let Some(place) = (0..nodes.len()).find(decides) {
                return place;
            }
            tokio::task::yield_now().await;
        }
    };
    within_patience("a node decides", found).await
}

async fn start() -> (ClusterNetwork, Vec<Node>) {
    let network = ClusterNetwork::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::start(id, &network).await);
    }
    let members: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, Member::new(format!("node-{}:4100", node.id)))).collect();
    nodes[0].raft.initialize(members).await.unwrap();
    (network, nodes)
}

/// Waits until all have applied what the first of them in the log has.
async fn settle(nodes: &[Node]) {
    let all = async {
        loop {
            let applied: BTreeSet<_> = nodes.iter().map(|node| node.raft.metrics().borrow_watched().last_applied).collect();
            let logs: BTreeSet<_> = nodes.iter().map(|node| node.raft.metrics().borrow_watched().last_log_index).collect();
            let groups: BTreeSet<_> = nodes.iter().map(|node| node.progress.committed()).collect();
            let is_whole = applied.iter().map(|id| id.map(|id| id.index)).eq(logs.iter().copied());
            if applied.len() == 1 && groups.len() == 1 && is_whole {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    within_patience("all nodes have applied all", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_goes_on_while_leaders_are_cut_off() {
    let (network, nodes) = start().await;
    let engines: Arc<Vec<Engine>> = Arc::new(nodes.iter().map(|node| node.engine.clone()).collect());
    let unknown = Arc::new(AtomicU64::new(0));
    deciding(&nodes, None).await;
    within_patience("the stock is there", ask(&engines, create(), None, &unknown)).await.unwrap();

    let bought: Arc<Mutex<BTreeMap<u64, (u64, String)>>> = Arc::default();
    let answered = Arc::new(AtomicU64::new(0));
    let buyers: Vec<_> = (0..8)
        .map(|first| {
            let (engines, unknown) = (Arc::clone(&engines), Arc::clone(&unknown));
            let (bought, answered) = (Arc::clone(&bought), Arc::clone(&answered));
            tokio::spawn(async move {
                for buyer in (first..BUYERS).step_by(8) {
                    let outcome = ask(&engines, reserve(buyer), Some(&format!("key-{buyer}")), &unknown).await;
                    match outcome {
                        Ok(Answer { content: Content::Reservation(view), .. }) => {
                            let before = bought.lock().insert(view.id.sequence.0, (buyer, view.user.to_string()));
                            assert_eq!(before, None, "grant {} went to two buyers", view.id.sequence.0);
                        }
                        Err(Rejection::SoldOut { .. }) => {}
                        other => panic!("buyer {buyer} was told {other:?}"),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // Whoever decides is cut off three times, at a third of the sale each.
    for share in 1..=3 {
        let reached = async {
            while answered.load(Ordering::Relaxed) < share * BUYERS / 4 {
                tokio::task::yield_now().await;
            }
        };
        within_patience("the sale goes on", reached).await;
        let leading = deciding(&nodes, None).await;
        network.cut_off(nodes[leading].id);
        deciding(&nodes, Some(leading)).await;
        let gives_up = async {
            while nodes[leading].progress.leads() {
                tokio::task::yield_now().await;
            }
        };
        within_patience("a leader without its quorum decides no longer", gives_up).await;
        network.heal();
    }
    for buyer in buyers {
        within_patience("every buyer is answered", buyer).await.unwrap();
    }
    settle(&nodes).await;

    let bought = bought.lock().clone();
    assert_eq!(bought.len() as u64, UNITS, "every unit is sold once");
    assert!(bought.keys().copied().eq(1..=UNITS), "grants are numbered without a gap");
    let first = holds(&nodes[0].engine).await;
    let (stocks, reservations, keys) = &first;
    assert_eq!((stocks[0].available, stocks[0].reserved, *keys as u64), (0, UNITS, UNITS));
    for reservation in reservations {
        let (_, user) = &bought[&reservation.id.sequence.0];
        assert_eq!(reservation.user.as_str(), user, "grant {}", reservation.id.sequence.0);
    }
    for node in &nodes[1..] {
        assert_eq!(holds(&node.engine).await, first, "node {}", node.id);
    }
    for node in nodes {
        node.stop(&network).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hands_over_takes_and_shows_nothing_more_from_that_moment_on() {
    let (network, nodes) = start().await;
    let engines: Vec<Engine> = nodes.iter().map(|node| node.engine.clone()).collect();
    let unknown = AtomicU64::new(0);
    within_patience("the stock is there", ask(&engines, create(), None, &unknown)).await.unwrap();
    let leading = deciding(&nodes, None).await;
    let (from, to) = (&nodes[leading], &nodes[(leading + 1) % 3]);
    // Nobody else is elected before the lease would be over: the one that is to lead hears nothing.
    network.cut_off(to.id);
    from.handover.to(&from.raft, to.id).await.unwrap();
    assert!(!from.progress.leads());
    let submission = Submission { command: reserve(1), key: None, actor: actor() };
    assert_eq!(from.engine.try_submit(submission).err(), Some(Refusal::NotLeader));
    network.heal();
    within_patience("the sale goes on", ask(&engines, reserve(2), None, &unknown)).await.unwrap();
    settle(&nodes).await;
    for node in nodes {
        node.stop(&network).await;
    }
}
