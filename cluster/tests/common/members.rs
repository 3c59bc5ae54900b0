//! Whole members of a cluster in directories: an engine that lets go of what is over, its history, snapshots as files, and sockets between them.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use tidegate_cluster::network::{Links, NoDesk, Server, Shards};
use tidegate_cluster::{
    Abstention, LeaderError, Member, Memberships, Raft, RecoveredMember, ReplicatedLog, ShardMachine, SnapshotFiles, SnapshotParts,
    StateMachine, TypeConfig, recover_member, shard_parts, start_consensus,
};
use tidegate_engine::{
    Answer, CommitProgress, Content, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, HistoryStart, Refusal, Sealing,
    ShardStart, Submission, SystemClock, partition_of, quorum_line, snapshot_items,
};
use tidegate_persistence::{
    ActorName, DataDirectory, DirectoryOptions, GroupSequence, History, HistoryOptions, Identity, IdentityExpectation, LogIndex,
    LogReader, NodeId, SnapshotInfo, SnapshotWriter, Wal, WalOptions, remove_older, remove_unfinished, snapshots,
};
use tidegate_stock::{
    Allotment, Command, HoldSeconds, IdempotencyKey, Loader, Quantity, Rejection, ReservationId, ReservationView, Rules, Sku,
    StockTerms, StockView, UserId,
};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_blocking};

use super::wired::{SHARD, endpoint};
use super::{Deaf, PATIENCE, STREAM, at, config};

pub const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 100_000,
    retention_seconds: 86_400,
    reservations_in_memory_max: 100_000,
    users_in_memory_max: 100_000,
};

/// Stocks, reservations in memory, and how many keys.
pub type Holds = (Vec<StockView>, Vec<ReservationView>, usize);

/// What the ledger of `engine` holds, by a copy of it.
pub async fn holds(engine: &Engine) -> Holds {
    let mut copy = engine.copy_ledger(STREAM).await.unwrap();
    assert_eq!(copy.is_committed(), Ok(true));
    let load = move || {
        let mut loader = Loader::new(RULES, 99);
        while let Some(block) = copy.next_block().unwrap() {
            snapshot_items(&block.bytes).for_each(|item| loader.add(item.unwrap()).unwrap());
        }
        let ledger = loader.finish().unwrap();
        (ledger.stocks().collect(), ledger.reservations().collect(), ledger.key_count())
    };
    spawn_blocking(load).await.unwrap()
}

/// The secret that all members have in common.
const SECRET: [u8; 32] = [7; 32];

pub fn directory_options(id: u64) -> DirectoryOptions {
    let identity = IdentityExpectation { cluster: Some("shop".to_owned()), node: Some(NodeId(id)), shards: Some(1) };
    DirectoryOptions { identity, segment_bytes_max: 64 * 1024, ..DirectoryOptions::new(at(0)) }
}

/// A member that runs.
pub struct Running {
    pub id: NodeId,
    pub engine: Engine,
    pub raft: Raft<ShardMachine<SnapshotFiles>>,
    pub progress: Arc<CommitProgress>,
    pub files: SnapshotFiles,
    pub history: Arc<History>,
    pub log: LogReader,
    memberships: Memberships,
    path: std::path::PathBuf,
    identity: Identity,
    address: String,
    leader: JoinHandle<Result<(), LeaderError>>,
    server: Server,
    links: Links,
    wal: Wal,
}

impl Running {
    /// Starts member `id` in the directory at `path`, as the disk left it.
    pub async fn start(path: &Path, id: u64, listener: TcpListener) -> Self {
        let node = NodeId(id);
        let directory = DataDirectory::open(path, &directory_options(id)).unwrap();
        remove_unfinished(path).unwrap();
        let sealing = Sealing::new(&SECRET);
        let seed = sealing.table_seed();
        let RecoveredMember { ledger, standing, replica, .. } = recover_member(&directory, SHARD, RULES, seed).unwrap();
        let identity = directory.identity().clone();
        let wal = Wal::start(directory, [replica.log, replica.votes], WalOptions::default(), Arc::new(Deaf)).unwrap();
        let history = Arc::new(History::open(&path.join("history"), &HistoryOptions::default()).unwrap());
        let files = SnapshotFiles::new(SnapshotParts {
            directory: path.to_owned(),
            identity: identity.clone(),
            shard: SHARD,
            rules: RULES,
            seed,
            history: Some(Arc::clone(&history)),
            log: wal.reader(),
            writer: wal.writer(),
            disk_free_bytes_min: 0,
        });
        let progress = CommitProgress::new(standing.position.sequence);
        let (voice, line) = quorum_line(&progress);
        let (log, machine, leader) = shard_parts(node, voice, standing.position.chain, files.clone());
        let on_failure = Box::new(|error: &_| panic!("the history failed: {error}"));
        let engine = Engine::start(EngineParts {
            // What is over leaves memory at once.
            options: EngineOptions { resolved_in_memory_max: 0, ..EngineOptions::default() },
            clock: Arc::new(SystemClock),
            metrics: Arc::new(EngineMetrics::default()),
            disk_low: Arc::new(AtomicBool::new(false)),
            history: Some(HistoryStart { store: Arc::clone(&history), on_failure }),
            shards: vec![ShardStart { ledger, log: Box::new(log), progress: Arc::clone(&progress), quorum: Some(line) }],
            sealing,
        });
        let machine = StateMachine::new(machine, standing);
        let memberships = machine.memberships();
        let replicated = ReplicatedLog::open(wal.writer(), wal.reader(), &replica, machine.position_at()).unwrap();
        let endpoint = endpoint(id, None);
        let links = Links::new(endpoint.clone());
        let dialer = links.dialer(SHARD, Arc::new(files.clone()));
        let (raft, heard) = start_consensus(node, config(), dialer, replicated, machine).await.unwrap();
        let shards = Shards::default();
        shards.insert(SHARD, raft.clone(), Abstention::NONE, Arc::new(files.clone()));
        let server = Server::start(listener, endpoint, shards, Arc::new(NoDesk)).unwrap();
        Self {
            id: node,
            engine: engine.unwrap(),
            leader: tokio::spawn(leader.run(raft.clone(), heard)),
            raft,
            progress,
            files,
            history,
            log: wal.reader(),
            memberships,
            path: path.to_owned(),
            identity,
            address: server.address().to_string(),
            server,
            links,
            wal,
        }
    }

    /// Starts it again, where it was.
    pub async fn restart(path: &Path, id: u64, address: &str) -> Self {
        Self::start(path, id, TcpListener::bind(address).await.unwrap()).await
    }

    pub fn member(&self) -> Member {
        Member::new(self.address.clone())
    }

    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    pub async fn wait(&self, what: &str, is_so: impl Fn(&RaftMetrics<TypeConfig>) -> bool + Send) -> RaftMetrics<TypeConfig> {
        self.raft.wait(Some(PATIENCE)).metrics(is_so, what).await.unwrap()
    }

    /// Makes a snapshot as a node's upkeep does, and has consensus told of it. `None` where the shard gave the copy up.
    pub async fn snapshot(&self) -> Option<SnapshotInfo> {
        let mut copy = self.engine.copy_ledger(STREAM).await.ok()?;
        while !copy.is_committed().ok()? {
            tokio::task::yield_now().await;
        }
        let (files, memberships, path) = (self.files.clone(), self.memberships.clone(), self.path.clone());
        let history = Arc::clone(&self.history);
        let made = spawn_blocking(move || {
            let header = files.header(&memberships, copy.at()).unwrap()?;
            let mut file = SnapshotWriter::create(&path, &header, u64::MAX).unwrap();
            while let Some(block) = copy.next_block().ok()? {
                file.block(&block.bytes, block.items).unwrap();
            }
            history.persist().unwrap();
            let made = file.finish().unwrap();
            remove_older(&path, STREAM, 2).unwrap();
            Some(made)
        });
        let made = made.await.unwrap()?;
        self.raft.trigger().snapshot().await.unwrap();
        Some(made)
    }

    /// Makes a snapshot and waits until all of the log up to it is purged.
    pub async fn purge(&self) -> LogIndex {
        let made = within_patience("a snapshot is made", async {
            loop {
                if let Some(made) = self.snapshot().await {
                    return made;
                }
            }
        });
        let made = made.await;
        let (files, memberships) = (self.files.clone(), self.memberships.clone());
        let header = spawn_blocking(move || files.header(&memberships, made.group_sequence).unwrap().unwrap()).await.unwrap();
        let index = header.position.index;
        self.wait("its log is purged", |metrics| metrics.purged.is_some_and(|purged| purged.index + 1 >= index.0)).await;
        index
    }

    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// The groups that its snapshots stand at, newest first.
    pub fn snapshots(&self) -> Vec<GroupSequence> {
        snapshots(&self.path, STREAM).unwrap().iter().map(|snapshot| snapshot.group_sequence).collect()
    }

    /// What its ledger holds.
    pub async fn holds(&self) -> Holds {
        holds(&self.engine).await
    }

    /// Waits until so many reservations are in memory.
    pub async fn until_in_memory(&self, count: usize) {
        within_patience("what is over leaves memory", async {
            while self.engine.inspect().await[0].reservations != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Stops it, and gives its address.
    pub async fn stop(self) -> String {
        self.server.stop().await;
        self.links.close();
        self.engine.stop().await;
        self.raft.shutdown().await.unwrap();
        drop(self.raft);
        // Its proposals end with the engine, or consensus has stopped before that.
        let _ = self.leader.await.unwrap();
        self.wal.stop().unwrap();
        self.address
    }
}

pub async fn within_patience<T>(what: &str, of: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, of).await.unwrap_or_else(|_| panic!("not within the tests' patience: {what}"))
}

/// Makes the first of `nodes` begin a cluster of all of them.
pub async fn begin(nodes: &[Running]) {
    let members: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, node.member())).collect();
    nodes[0].raft.initialize(members).await.unwrap();
}

/// Waits until one of `nodes` decides, and returns its place.
pub async fn deciding(nodes: &[Running]) -> usize {
    within_patience("a node decides", async {
        loop {
            if let Some(place) = nodes.iter().position(|node| node.progress.leads()) {
                return place;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Has `to` decide.
pub async fn hand_over(nodes: &[Running], to: usize) {
    within_patience("leadership is handed over", async {
        while !nodes[to].progress.leads() {
            let from = deciding(nodes).await;
            if from != to {
                // Refused where it is just being handed over: then it is asked again.
                drop(nodes[from].raft.trigger().transfer_leader(nodes[to].id).await);
                let until = tokio::time::Instant::now() + std::time::Duration::from_secs(2);
                while !nodes[to].progress.leads() && tokio::time::Instant::now() < until {
                    tokio::task::yield_now().await;
                }
            }
        }
    })
    .await;
}

/// Waits until all have applied what is in the log of each.
pub async fn settle(nodes: &[Running]) {
    within_patience("all have applied all", async {
        loop {
            let ends: Vec<_> = nodes
                .iter()
                .map(|node| (node.metrics().last_applied, node.metrics().last_log_index, node.progress.committed()))
                .collect();
            let is_whole =
                |(applied, last, _): &(Option<tidegate_cluster::LogId>, Option<u64>, _)| applied.map(|id| id.index) == *last;
            if ends.iter().all(|end| *end == ends[0] && is_whole(end)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub fn lamp() -> Sku {
    Sku::new("lamp").unwrap()
}

pub fn create(units: u64) -> Command {
    let hold_seconds = HoldSeconds::new(3_600).unwrap();
    Command::CreateStock {
        partition: partition_of(&lamp()),
        sku: lamp(),
        quantity: Allotment::new(units).unwrap(),
        terms: StockTerms {
            per_user_limit: None,
            hold_seconds,
            hold_seconds_max: hold_seconds.default_max(),
            opens_at: None,
            closes_at: None,
        },
    }
}

pub fn reserve(buyer: u64, units: u64) -> Command {
    Command::Reserve {
        sku: lamp(),
        user: UserId::new(&format!("buyer-{buyer}")).unwrap(),
        quantity: Quantity::new(units).unwrap(),
        hold_seconds: None,
        reference: None,
    }
}

/// Asks one engine after the other until one says yes or no; what nobody knows is asked again with the same key.
pub async fn ask(engines: &[Engine], command: Command, key: Option<&str>) -> Result<Answer, Rejection> {
    for turn in 0.. {
        let submission = Submission {
            command: command.clone(),
            key: key.map(|key| IdempotencyKey::new(key).unwrap()),
            actor: ActorName::new("tests").unwrap(),
        };
        let outcome = match engines[turn % engines.len()].try_submit(submission) {
            Ok(pending) => pending.await,
            Err(refusal) => Err(refusal.into()),
        };
        match outcome {
            Ok(answer) => return Ok(answer),
            Err(Failure::Rejection(rejection)) => return Err(rejection),
            Err(Failure::Fault(_) | Failure::Refusal(Refusal::NotLeader | Refusal::Stopping)) => tokio::task::yield_now().await,
            Err(failure) => panic!("{failure}"),
        }
    }
    unreachable!("it asks until it knows")
}

pub fn reservation(answer: Result<Answer, Rejection>) -> ReservationView {
    match answer {
        Ok(Answer { content: Content::Reservation(view), .. }) => view,
        other => panic!("a reservation was expected, not {other:?}"),
    }
}

/// Has a buyer buy `units` lamps: reserved and confirmed, so that it is over.
pub async fn buy(engines: &[Engine], buyer: u64, units: u64) -> ReservationId {
    let id = reservation(ask(engines, reserve(buyer, units), Some(&format!("reserve-{buyer}"))).await).id;
    let confirm = Command::Confirm { reservation: id, quantity: None };
    let sold = reservation(ask(engines, confirm, Some(&format!("confirm-{buyer}"))).await);
    assert_eq!(u64::from(sold.confirmed), units);
    id
}

/// Has a buyer give one lamp back.
pub async fn give_one_back(engines: &[Engine], id: ReservationId, key: &str) -> ReservationView {
    reservation(ask(engines, Command::Return { reservation: id, quantity: Some(Quantity::ONE) }, Some(key)).await)
}

pub async fn read(engines: &[Engine], id: ReservationId) -> ReservationView {
    reservation(ask(engines, Command::ReadReservation { reservation: id }, None).await)
}
