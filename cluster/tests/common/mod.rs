//! What the tests need: a machine around a ledger, nodes that keep their log in memory or in a directory, and a network without sockets.

#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this")]

pub mod members;
pub mod wired;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::ProgressResponder;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, ClientWriteResult, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{Config, OptionalSend, RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tidegate_cluster::{
    CommittedGroup, LeaderId, LogId, Machine, MachineSnapshot, Member, Outcome, Proposal, Raft, ReplicatedLog, SnapshotFuture,
    Standing, StateMachine, TypeConfig, Vote,
};
use tidegate_persistence::{
    Actor, ChainHash, DataDirectory, DirectoryOptions, Group, GroupBuilder, GroupSequence, LogIndex, LogStore, MemoryStore, NodeId,
    RecordHeader, RecordKey, RecordKind, RecoveredReplica, RecoveryProgress, StreamId, SyncReport, Term, Wal, WalError,
    WalListener, WalOptions, recovery,
};
use tidegate_stock::{
    Allotment, Event, GrantSequence, HoldSeconds, Ledger, Partition, Quantity, Rules, Sku, StockId, StockNumber, StockTerms,
    StockView, Timestamp, UserId,
};

pub const STREAM: StreamId = StreamId::log(0);

/// Longer than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub const STOCK: StockId = StockId { partition: Partition(1), number: StockNumber(1) };

pub const fn at(milliseconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + milliseconds)
}

/// Group `sequence`: the first opens a stock, the others reserve a unit of it each.
pub fn group(sequence: u64) -> Group {
    let mut builder = GroupBuilder::new(GroupSequence(sequence), at(sequence));
    let event = match sequence {
        1 => Event::StockCreated {
            stock: STOCK,
            sku: Sku::new("shoe").unwrap(),
            quantity: Allotment::new(1_000).unwrap(),
            terms: StockTerms {
                per_user_limit: None,
                hold_seconds: HoldSeconds::new(600).unwrap(),
                hold_seconds_max: HoldSeconds::new(600).unwrap(),
                opens_at: None,
                closes_at: None,
            },
        },
        sequence => Event::Reserved {
            stock: STOCK,
            sequence: GrantSequence(sequence - 1),
            user: UserId::new(&format!("buyer-{sequence}")).unwrap(),
            quantity: Quantity::ONE,
            expires_at: at(sequence + 600_000),
            reference: None,
            idempotency: None,
        },
    };
    builder.push(&event, &Actor::Clock, at(sequence), b"");
    builder.finish()
}

/// The chain hash of `group`, proposed by `leader`.
pub fn chain(group: &Group, predecessor: ChainHash, leader: LeaderId) -> ChainHash {
    let header = RecordHeader {
        kind: RecordKind::Group,
        term: Term(leader.term),
        leader: leader.node_id,
        sequence: group.sequence,
        predecessor,
        time: group.time,
    };
    header.chain(&group.payload)
}

/// A ledger that is fed by consensus. Clones share it, so that a test can look.
#[derive(Clone)]
pub struct LedgerMachine(Arc<Mutex<Fed>>);

struct Fed {
    ledger: Ledger,
    groups: Vec<CommittedGroup>,
    snapshot: Option<(Standing, Arc<Vec<CommittedGroup>>)>,
    installed: u64,
}

fn new_ledger() -> Ledger {
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max: 1_000,
        retention_seconds: 86_400,
        reservations_in_memory_max: 10_000,
        users_in_memory_max: 10_000,
    };
    Ledger::new(rules, 1)
}

fn feed(ledger: &mut Ledger, group: &CommittedGroup) -> io::Result<()> {
    for entry in group.group.entries().map_err(io::Error::other)? {
        let entry = entry.map_err(io::Error::other)?;
        // It is committed.
        drop(ledger.apply(&entry.event, entry.at));
    }
    Ok(())
}

impl Default for LedgerMachine {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Fed { ledger: new_ledger(), groups: Vec::new(), snapshot: None, installed: 0 })))
    }
}

impl LedgerMachine {
    /// The chain hash of the last group applied.
    pub fn chain(&self) -> ChainHash {
        self.0.lock().groups.last().map_or(ChainHash::GENESIS, |group| group.position.chain)
    }

    pub fn sequence(&self) -> u64 {
        self.0.lock().groups.last().map_or(0, |group| group.position.sequence.0)
    }

    pub fn stock(&self) -> Option<StockView> {
        self.0.lock().ledger.stock(STOCK)
    }

    /// What a restart leaves of it: its snapshot.
    pub fn restarted(&self) -> Self {
        let machine = Self::default();
        machine.0.lock().snapshot.clone_from(&self.0.lock().snapshot);
        machine
    }

    /// How often a snapshot was installed.
    pub fn installed(&self) -> u64 {
        self.0.lock().installed
    }
}

impl Machine for LedgerMachine {
    type Snapshot = Arc<Vec<CommittedGroup>>;

    async fn apply(&mut self, group: CommittedGroup) -> io::Result<()> {
        let fed = &mut *self.0.lock();
        feed(&mut fed.ledger, &group)?;
        fed.groups.push(group);
        Ok(())
    }

    async fn begin_snapshot(&mut self, applied: Standing) -> Option<SnapshotFuture<Self::Snapshot>> {
        let groups = Arc::new(self.0.lock().groups.clone());
        let fed = Arc::clone(&self.0);
        Some(Box::pin(async move {
            fed.lock().snapshot = Some((applied.clone(), Arc::clone(&groups)));
            Ok((applied, groups))
        }))
    }

    async fn install_snapshot(&mut self, standing: Standing, snapshot: Self::Snapshot) -> io::Result<()> {
        let fed = &mut *self.0.lock();
        fed.ledger = new_ledger();
        for group in snapshot.iter() {
            feed(&mut fed.ledger, group)?;
        }
        fed.groups.clone_from(&snapshot);
        fed.snapshot = Some((standing, snapshot));
        fed.installed += 1;
        Ok(())
    }

    async fn current_snapshot(&mut self) -> io::Result<Option<(Standing, Self::Snapshot)>> {
        Ok(self.0.lock().snapshot.clone())
    }
}

/// Whatever the log tells but a failure is of no interest.
pub struct Deaf;

impl WalListener for Deaf {
    fn committed(&self, _: StreamId, _: GroupSequence) {}

    fn synced(&self, _: &SyncReport) {}

    fn disk_low(&self, _: bool) {}

    fn failed(&self, error: &WalError) {
        panic!("the log failed: {error}");
    }
}

pub fn recover(store: &dyn LogStore) -> RecoveredReplica {
    recovery::recover_replica(store, 0, None, &|_| None, &RecoveryProgress::default()).unwrap()
}

/// Starts the log on `store` as it is.
pub fn start_on(store: MemoryStore, node: NodeId) -> (Wal, RecoveredReplica) {
    let replica = recover(&store);
    let wal = Wal::start_on(Box::new(store), node, [replica.log, replica.votes], WalOptions::default(), Arc::new(Deaf));
    (wal.unwrap(), replica)
}

/// Starts the log of the directory at `path`.
pub fn start_in(path: &Path) -> (Wal, RecoveredReplica) {
    let directory = DataDirectory::open(path, &DirectoryOptions::new(at(0))).unwrap();
    let replica = directory.recover_replica(0, None).unwrap();
    let wal = Wal::start(directory, [replica.log, replica.votes], WalOptions::default(), Arc::new(Deaf));
    (wal.unwrap(), replica)
}

pub fn values(store: &dyn LogStore, stream: StreamId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut values = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        values.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    store.scan(RecordKey { stream, index: LogIndex(0), part: 0 }, visit).unwrap();
    values
}

/// Calls from node to node within the process. A node that is cut off reaches nobody and is reached by nobody.
pub struct Network<M: Machine = LedgerMachine>(Arc<Mutex<Wires<M>>>);

struct Wires<M: Machine> {
    nodes: BTreeMap<NodeId, Raft<M>>,
    cut_off: BTreeSet<NodeId>,
}

impl<M: Machine> Clone for Network<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Machine> Default for Network<M> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Wires { nodes: BTreeMap::new(), cut_off: BTreeSet::new() })))
    }
}

impl<M: Machine> Network<M> {
    pub fn cut_off(&self, node: NodeId) {
        self.0.lock().cut_off.insert(node);
    }

    pub fn heal(&self) {
        self.0.lock().cut_off.clear();
    }

    pub fn connect(&self, node: NodeId, raft: Raft<M>) {
        self.0.lock().nodes.insert(node, raft);
    }

    pub fn disconnect(&self, node: NodeId) {
        self.0.lock().nodes.remove(&node);
    }
}

pub struct Dialer<M: Machine = LedgerMachine> {
    pub from: NodeId,
    pub network: Network<M>,
}

pub struct Wire<M: Machine> {
    from: NodeId,
    to: NodeId,
    network: Network<M>,
}

impl<M: Machine> Wire<M> {
    fn reach(&self) -> Result<Raft<M>, Unreachable<TypeConfig>> {
        let wires = self.network.0.lock();
        let is_cut = [self.from, self.to].iter().any(|node| wires.cut_off.contains(node));
        let node = wires.nodes.get(&self.to).filter(|_| !is_cut).cloned();
        node.ok_or_else(|| Unreachable::from_string(format!("node {} does not reach node {}", self.from, self.to)))
    }

    /// An answer that comes back after the wire was cut is lost.
    fn answer<T, E: std::error::Error + 'static>(&self, answer: Result<T, E>) -> Result<T, Unreachable<TypeConfig>> {
        self.reach()?;
        answer.map_err(|error| Unreachable::new(&error))
    }
}

impl<M: Machine> RaftNetworkFactory<TypeConfig> for Dialer<M> {
    type Network = Wire<M>;

    async fn new_client(&mut self, target: NodeId, _: &Member) -> Wire<M> {
        Wire { from: self.from, to: target, network: self.network.clone() }
    }
}

impl<M: Machine> RaftNetworkV2<TypeConfig> for Wire<M> {
    type SnapshotData = MachineSnapshot<M::Snapshot>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.reach()?.append_entries(request).await;
        Ok(self.answer(answer)?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.reach()?.vote(request).await;
        Ok(self.answer(answer)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, Self::SnapshotData>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let answer = self.reach()?.install_full_snapshot(vote, snapshot).await;
        Ok(self.answer(answer)?)
    }
}

/// A node of a cluster.
pub struct Node {
    pub id: NodeId,
    pub raft: Raft<LedgerMachine>,
    pub machine: LedgerMachine,
    /// What is left of it when it is stopped.
    pub store: MemoryStore,
    network: Network,
    wal: Wal,
}

pub fn config() -> Arc<Config> {
    let config = Config {
        // Far above what a busy machine delays a heartbeat by.
        heartbeat_interval: 100,
        election_timeout_min: 1_500,
        election_timeout_max: 3_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    Arc::new(config.validate().unwrap())
}

/// Opens what `wal` and `replica` are of, for a machine that has applied nothing.
pub fn open_log(wal: &Wal, replica: &RecoveredReplica, machine: &StateMachine<LedgerMachine>) -> ReplicatedLog {
    ReplicatedLog::open(wal.writer(), wal.reader(), replica, machine.position_at()).unwrap()
}

impl Node {
    /// Starts node `id` with a log that `store` holds, and with the snapshots of `machine`, which has applied nothing.
    pub async fn start(id: u64, network: &Network, store: MemoryStore, machine: LedgerMachine) -> Self {
        let (wal, replica) = start_on(store.clone(), NodeId(id));
        Self::start_with(NodeId(id), network, store, machine, wal, &replica).await
    }

    /// Starts node `id` with the log that `wal` runs.
    pub async fn start_with(
        id: NodeId,
        network: &Network,
        store: MemoryStore,
        machine: LedgerMachine,
        wal: Wal,
        replica: &RecoveredReplica,
    ) -> Self {
        let state_machine = StateMachine::new(machine.clone(), Standing::genesis());
        let log = open_log(&wal, replica, &state_machine);
        let dialer = Dialer { from: id, network: network.clone() };
        let raft = Raft::new(id, config(), dialer, log, state_machine).await.unwrap();
        network.connect(id, raft.clone());
        Self { id, raft, machine, store, network: network.clone(), wal }
    }

    /// Stops it; what it has stored is left.
    pub async fn stop(self) -> MemoryStore {
        self.network.disconnect(self.id);
        self.raft.shutdown().await.unwrap();
        drop(self.raft);
        self.wal.stop().unwrap();
        self.store
    }

    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    pub async fn wait(&self, what: &str, is_so: impl Fn(&RaftMetrics<TypeConfig>) -> bool + Send) -> RaftMetrics<TypeConfig> {
        self.raft.wait(Some(PATIENCE)).metrics(is_so, what).await.unwrap()
    }

    pub async fn wait_applied(&self, index: u64) {
        self.raft.wait(Some(PATIENCE)).applied_index_at_least(Some(index), "applied").await.unwrap();
    }
}

pub type Receiver = openraft::type_config::alias::OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>;

/// Proposes groups one behind the other, without waiting, as the leader that it was made for.
pub struct Proposer {
    pub raft: Raft<LedgerMachine>,
    pub leader: LeaderId,
    pub predecessor: ChainHash,
    pub sequence: u64,
}

impl Proposer {
    /// A proposer for `node`, which leads, behind everything that is committed.
    pub async fn new(node: &Node) -> Self {
        node.raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex).await.unwrap();
        let leader = node.raft.as_leader().unwrap().to_committed_leader_id();
        Self { raft: node.raft.clone(), leader, predecessor: node.machine.chain(), sequence: node.machine.sequence() }
    }

    /// Proposes the next group.
    pub async fn propose(&mut self) -> Receiver {
        let group = Arc::new(group(self.sequence + 1));
        let proposal = Proposal { predecessor: self.predecessor, group: Arc::clone(&group) };
        self.predecessor = chain(&group, self.predecessor, self.leader);
        self.sequence += 1;
        self.send(proposal).await
    }

    pub async fn send(&self, proposal: Proposal) -> Receiver {
        let (responder, receiver) = ProgressResponder::complete_only();
        self.raft.write(proposal).with_leader(self.leader).responder(responder).await.unwrap();
        receiver
    }
}

/// Waits until `observer` knows of a leader other than `except`, and that one of itself. Returns its place among `nodes`.
pub async fn leader(nodes: &[impl Borrow<Node>], observer: usize, except: Option<NodeId>) -> usize {
    let is_known = |leader: Option<NodeId>| leader.is_some() && leader != except;
    let metrics = nodes[observer].borrow().wait("a leader is known", |metrics| is_known(metrics.current_leader)).await;
    let leader = nodes.iter().position(|node| Some(node.borrow().id) == metrics.current_leader).unwrap();
    nodes[leader].borrow().wait("it knows of itself", |metrics| metrics.state == ServerState::Leader).await;
    leader
}

/// Proposes `count` groups without waiting in between, and waits until all are applied. Returns the last of them.
pub async fn commit(proposer: &mut Proposer, count: usize) -> LogId {
    let mut waiting = Vec::new();
    for _ in 0..count {
        let receiver = proposer.propose().await;
        waiting.push((receiver, proposer.predecessor));
    }
    let mut last = None;
    for (receiver, chain) in waiting {
        let response = receiver.await.unwrap().unwrap();
        assert_eq!(response.data, Outcome::Applied(chain));
        last = Some(response.log_id);
    }
    last.unwrap()
}

/// Waits until every node has applied `last`.
pub async fn settle(nodes: &[impl Borrow<Node>], last: LogId) {
    for node in nodes {
        node.borrow().wait_applied(last.index).await;
    }
}
