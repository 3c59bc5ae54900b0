//! The network between the nodes, and between clients and nodes: every message takes its own time, so that they overtake each other, and may be
//! lost in one direction or both. What has left may arrive although whoever sent it has given up or crashed meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use tidegate_cluster::{Abstention, MachineSnapshot, Member, Raft, TypeConfig, Vote};
use tidegate_engine::Clock;
use tidegate_persistence::NodeId;
use tidegate_stock::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::defect::Defect;
use crate::node::Witness;
use crate::snapshots::Image;
use crate::world::{Life, World};

/// How long a message is under way, in microseconds.
const DELAY_US: (u64, u64) = (100, 2_000);

/// One of a hundred takes this long instead.
const SPIKE_US: (u64, u64) = (5_000, 150_000);

/// How long the bytes of a snapshot take, in microseconds.
const TRANSFER_US: (u64, u64) = (2_000, 400_000);

/// How long an answer to entries or a snapshot is waited for at least.
const BULK_MIN: Duration = Duration::from_secs(2);

/// Pauses between two attempts to reach a node, in milliseconds.
const RECONNECT_MS: (u64, u64) = (20, 400);

/// What ails the way from some nodes to others.
#[derive(Debug, Clone)]
pub(crate) struct Ailment {
    /// From whom; everybody if from nobody named.
    pub(crate) from: Vec<NodeId>,
    /// To whom.
    pub(crate) to: Vec<NodeId>,
    /// Of a hundred messages so many are lost.
    pub(crate) lost_percent: u32,
    /// The others take so many microseconds more.
    pub(crate) slower_us: (u64, u64),
}

impl Ailment {
    fn concerns(&self, from: NodeId, to: NodeId) -> bool {
        self.from.contains(&from) && self.to.contains(&to)
    }
}

/// A node that can be reached.
struct Peer {
    life: Arc<Life>,
    consensus: Consensus,
    clock: Arc<dyn Clock>,
}

/// What a node's consensus is asked by.
#[derive(Clone)]
pub(crate) struct Consensus {
    pub(crate) raft: Raft<Witness>,
    pub(crate) abstention: Abstention,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    world: Arc<World>,
    wires: Mutex<Wires>,
}

#[derive(Default)]
struct Wires {
    peers: BTreeMap<NodeId, Peer>,
    ailments: BTreeMap<u64, Ailment>,
    next: u64,
}

/// Why no answer came.
enum Silence {
    /// Nobody is there: nothing was done.
    Refused,
    /// Nobody knows.
    Late,
}

impl Network {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self(Arc::new(Shared { world, wires: Mutex::default() }))
    }

    pub(crate) fn connect(&self, life: Arc<Life>, consensus: Consensus, clock: Arc<dyn Clock>) {
        self.0.wires.lock().peers.insert(life.node, Peer { life, consensus, clock });
    }

    pub(crate) fn disconnect(&self, node: NodeId) {
        self.0.wires.lock().peers.remove(&node);
    }

    /// Returns the number by which [`Self::heal`] knows it.
    pub(crate) fn ail(&self, ailment: Ailment) -> u64 {
        let wires = &mut *self.0.wires.lock();
        wires.next += 1;
        wires.ailments.insert(wires.next, ailment);
        wires.next
    }

    pub(crate) fn heal(&self, number: u64) {
        self.0.wires.lock().ailments.remove(&number);
    }

    pub(crate) fn heal_all(&self) {
        self.0.wires.lock().ailments.clear();
    }

    fn reach(&self, node: NodeId) -> Option<(Arc<Life>, Consensus)> {
        let wires = self.0.wires.lock();
        wires.peers.get(&node).filter(|peer| peer.life.is_alive()).map(|peer| (Arc::clone(&peer.life), peer.consensus.clone()))
    }

    /// How long a message takes that leaves now; `None` if it is lost.
    fn pass(&self, from: NodeId, to: NodeId) -> Option<Duration> {
        let world = &self.0.world;
        let wires = self.0.wires.lock();
        let (least, most) = if world.happens(1) { SPIKE_US } else { DELAY_US };
        let mut delay = world.delay(least, most);
        for ailment in wires.ailments.values().filter(|ailment| ailment.concerns(from, to)) {
            if world.happens(ailment.lost_percent) {
                return None;
            }
            if ailment.slower_us.1 > 0 {
                delay += world.delay(ailment.slower_us.0, ailment.slower_us.1);
            }
        }
        Some(delay)
    }

    /// What the clock of `to` shows, as `from` hears; `None` if question or answer are lost, or nobody is there.
    pub(crate) async fn ask_time(&self, from: NodeId, to: NodeId) -> Option<Timestamp> {
        sleep(self.pass(from, to)?).await;
        let now = {
            let wires = self.0.wires.lock();
            wires.peers.get(&to).filter(|peer| peer.life.is_alive())?.clock.now()
        };
        sleep(self.pass(to, from)?).await;
        Some(now)
    }

    /// Has `node` do `call`, and waits `limit` for the answer. It goes on by itself, whatever becomes of whoever waits.
    async fn carry<T, F>(
        &self,
        from: &Arc<Life>,
        node: NodeId,
        extra: Duration,
        limit: Duration,
        call: impl FnOnce(Consensus) -> F + Send + 'static,
    ) -> Result<T, Silence>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send,
    {
        let (sender, mut receiver) = oneshot::channel();
        let (network, from) = (self.clone(), Arc::clone(from));
        if !from.is_alive() {
            return Err(Silence::Refused);
        }
        tokio::spawn(async move {
            let Some(delay) = network.pass(from.node, node) else { return sleep(limit).await };
            sleep(delay + extra).await;
            let Some((life, consensus)) = network.reach(node) else {
                drop(sender.send(Err(Silence::Refused)));
                return;
            };
            let answer = call(consensus).await;
            let back = network.pass(node, from.node);
            let (Some(answer), Some(back), true) = (answer, back, life.is_alive()) else { return sleep(limit).await };
            sleep(back).await;
            drop(sender.send(Ok(answer)));
        });
        match timeout(limit, &mut receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Silence::Late),
        }
    }

    /// The way of a client's message to or from a node; `None` if it is lost. Clients are outside of what ails the network between nodes.
    pub(crate) fn pass_client(&self) -> Option<Duration> {
        let world = &self.0.world;
        if world.happens(2) {
            return None;
        }
        let (least, most) = if world.happens(2) { SPIKE_US } else { DELAY_US };
        Some(world.delay(least, most))
    }

    pub(crate) fn dialer(&self, life: Arc<Life>) -> Dialer {
        Dialer { network: self.clone(), life }
    }
}

/// One node's side of the network.
pub(crate) struct Dialer {
    network: Network,
    life: Arc<Life>,
}

impl RaftNetworkFactory<TypeConfig> for Dialer {
    type Network = Wire;

    async fn new_client(&mut self, target: NodeId, _: &Member) -> Wire {
        Wire { network: self.network.clone(), life: Arc::clone(&self.life), to: target }
    }
}

/// The way from one node to another.
pub(crate) struct Wire {
    network: Network,
    life: Arc<Life>,
    to: NodeId,
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Wire {
    fn silent(&self, silence: &Silence, action: RPCTypes, limit: Duration) -> RPCError<TypeConfig> {
        match silence {
            Silence::Refused => Unreachable::from_string(format!("node {} is not there", self.to)).into(),
            Silence::Late => Timeout { action, id: self.life.node, target: self.to, timeout: limit }.into(),
        }
    }

    async fn ask<T, F>(&self, action: RPCTypes, limit: Duration, call: impl FnOnce(Consensus) -> F + Send + 'static) -> Rpc<T>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send,
    {
        let carried = self.network.carry(&self.life, self.to, Duration::ZERO, limit, call).await;
        carried.map_err(|silence| self.silent(&silence, action, limit))
    }
}

impl RaftNetworkV2<TypeConfig> for Wire {
    type SnapshotData = MachineSnapshot<Arc<Image>>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let limit = if request.entries.is_empty() { option.soft_ttl() } else { option.hard_ttl().max(BULK_MIN) };
        let answer =
            self.ask(RPCTypes::AppendEntries, limit, |asked| async move { asked.raft.append_entries(request).await.ok() }).await;
        if self.network.0.world.has(Defect::CountUnreached) && matches!(answer, Err(RPCError::Timeout(_))) {
            return Ok(AppendEntriesResponse::Success);
        }
        answer
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask(RPCTypes::Vote, option.soft_ttl(), |asked| async move { asked.abstention.vote(&asked.raft, request).await.ok() })
            .await
    }

    async fn pre_vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask(
            RPCTypes::Vote,
            option.soft_ttl(),
            |asked| async move { asked.abstention.pre_vote(&asked.raft, request).await.ok() },
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Self::SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let world = &self.network.0.world;
        let (extra, limit) = (world.delay(TRANSFER_US.0, TRANSFER_US.1), option.hard_ttl().max(BULK_MIN));
        world.count("snapshots sent");
        let install = move |asked: Consensus| async move { asked.raft.install_full_snapshot(vote, snapshot).await.ok() };
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.network.carry(&self.life, self.to, extra, limit, install) => {
                sent.map_err(|silence| self.silent(&silence, RPCTypes::InstallSnapshot, limit).into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let limit = option.soft_ttl();
        self.ask(RPCTypes::TransferLeader, limit, |asked| async move { asked.raft.handle_transfer_leader(request).await.ok() })
            .await
    }

    fn backoff(&self) -> Option<Backoff> {
        let (least, most) = RECONNECT_MS;
        let pauses = (0_u32..).map(move |failures| Duration::from_millis(least.saturating_mul(1 << failures.min(16)).min(most)));
        Some(Backoff::new(pauses))
    }
}
