//! A node as a member of a cluster: a consensus group for each shard on the node's one log, one listener for all of them, and what keeps the
//! members as they should be.
//!
//! A member that starts applies its whole log again, as far as the quorum says that it is committed, and knows nothing before. Nobody is served
//! until it has, for every shard, what whoever leads it had committed after this node started: so nothing is shown that was written here
//! and never committed, and nothing is missing that was ever acknowledged.
//!
//! Everything of the cluster runs on a runtime of its own, so that neither callers nor signals keep a heartbeat waiting.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_api::{Answering, Door};
use tidegate_cluster::network::{Links, Server, Shards};
use tidegate_cluster::{
    GroupParts, GroupStatus, ReplicatedLog, ShardGroup, ShardLeader, ShardMachine, Standing as LogStanding, StateMachine,
    shard_parts,
};
use tidegate_config::{Durability, Settings};
use tidegate_engine::{
    Clock, CommitProgress, Engine, EngineMetrics, EngineParts, LocalCommits, OptionError, Sealing, ShardStart, SteadyClock,
    quorum_line,
};
use tidegate_persistence::{
    ChainHash, DataDirectory, GroupSequence, Identity, NodeId, OpenError, RecoveredReplica, RecoveryError, StreamId, Wal, WalError,
};
use tidegate_stock::Ledger;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::desk::MemberDesk;
use super::endpoint::{EndpointFault, Membership, endpoint};
use super::keeper;
use super::metrics::ClusterMetrics;
use super::no_snapshots::NoSnapshots;
use super::talk::{ShardStanding, Standing};
use crate::options::{engine_options, history_options, rules, wal_options};
use crate::parallel;

/// Threads that serve other nodes and consensus.
const THREADS: usize = 2;

/// How long the runtime's last tasks may take when the node stops.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(2);

/// How long it is taken for granted that a node still is what it last said.
pub(super) const HEARD_MAX: Duration = Duration::from_secs(3);

/// Why a member does not start, or no member can be made of a directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemberError {
    /// There is no directory, and a member's is never made by starting.
    #[error(
        "{0} is no data directory: make it with tidegate cluster join where there is a cluster, or with tidegate cluster init, \
         which begins one"
    )]
    NoDirectory(String),
    /// The directory belongs to a node that stands alone.
    #[error(
        "the data directory belongs to a node that stands alone: tidegate cluster init makes it the first member of a cluster; \
         without cluster.listen the node goes on alone"
    )]
    Alone,
    /// The beginning of the log is gone.
    #[error(
        "the beginning of the log was given back (feed.retention_seconds, feed.retention_bytes), and a member of a cluster needs all of \
         it in this version"
    )]
    LogCompacted,
    /// What other nodes are to know of it cannot be had.
    #[error(transparent)]
    Endpoint(#[from] EndpointFault),
    /// The nodes' port cannot be listened on.
    #[error("cannot listen on cluster.listen {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The directory cannot be looked at.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// The log could not be started.
    #[error("the write-ahead log did not start")]
    Wal(#[from] WalError),
    /// The engine could not be started.
    #[error("the engine did not start")]
    Engine(#[from] OptionError),
    /// Consensus could not be started.
    #[error("consensus did not start: {0}")]
    Consensus(#[source] io::Error),
}

/// A running member.
pub(crate) struct Member {
    shared: Arc<Shared>,
    server: Server,
    leaders: Vec<JoinHandle<()>>,
    keepers: Vec<JoinHandle<()>>,
    runtime: Runtime,
}

/// What all that a member does for the cluster shares.
pub(crate) struct Shared {
    pub(super) identity: Identity,
    pub(super) membership: Membership,
    /// What a new member's history is made with.
    pub(super) history_range_seconds: u32,
    /// By shard.
    pub(super) groups: Vec<ShardGroup<NoSnapshots>>,
    /// By shard.
    pub(super) progress: Vec<Arc<CommitProgress>>,
    pub(super) links: Links,
    pub(super) clock: Arc<dyn Clock>,
    /// What other nodes last said of themselves.
    pub(super) heard: Mutex<BTreeMap<NodeId, Heard>>,
    /// By shard: when this node last knew who decides for it.
    pub(super) led: Mutex<Vec<Instant>>,
    /// By shard: the newest group that another node had committed when it answered in place of this one.
    pub(super) seen: Vec<AtomicU64>,
    /// What answers requests that other nodes send on, once this node serves.
    pub(super) answering: OnceLock<Answering>,
    /// Whether everything is there that was committed before this node started. Once it is, it stays.
    pub(super) caught_up: watch::Sender<bool>,
    pub(super) handle: Handle,
    pub(super) metrics: Arc<ClusterMetrics>,
}

/// What a node said of itself.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) standing: Standing,
    /// How far its clock is ahead of this node's, in milliseconds, give or take half the time that the question took.
    pub(super) clock_ahead_ms: i64,
}

/// What a member is started with.
pub(crate) struct MemberParts<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) membership: Membership,
    pub(crate) directory: DataDirectory,
    pub(crate) metrics: Arc<EngineMetrics>,
    pub(crate) cluster_metrics: Arc<ClusterMetrics>,
}

/// A member and what it stands on.
pub(crate) struct StartedMember {
    pub(crate) engine: Engine,
    pub(crate) wal: Wal,
    pub(crate) member: Member,
}

/// What failed of a running member, so that its node must stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberFailure {
    /// The log.
    Log,
    /// A shard's consensus, with its error.
    Consensus(String),
}

/// Whether `directory` belongs to a member of a cluster that has voted or been asked to.
pub(crate) fn has_votes(directory: &DataDirectory) -> Result<bool, OpenError> {
    Ok(directory.streams()?.iter().any(|stream| *stream == StreamId::votes(stream.shard())))
}

/// Checks that `directory` can be a member's: all of its log is there.
pub(super) fn check_whole(directory: &DataDirectory) -> Result<(), MemberError> {
    match directory.segments().first() {
        Some(oldest) if oldest.number > 1 => Err(MemberError::LogCompacted),
        _ => Ok(()),
    }
}

/// Reads what consensus has of every shard of `directory`, several at a time.
pub(super) fn recover(directory: &DataDirectory) -> Result<Vec<RecoveredReplica>, RecoveryError> {
    let shards: Vec<u16> = (0..directory.identity().shards).collect();
    parallel::map(&shards, |shard| directory.recover_replica(*shard, None)).into_iter().collect()
}

impl Member {
    /// Starts the member that `parts.directory` belongs to. At return consensus is running, and other nodes may ask; nothing is known yet
    /// of what is committed. Waits for the disk, and may take long on a large log. Not to be called in a runtime's own threads.
    ///
    /// `on_failure` is called when the log or consensus fails while the node runs: stop the node then.
    pub(crate) fn start(
        parts: MemberParts<'_>,
        on_failure: impl Fn(MemberFailure) + Clone + Send + Sync + 'static,
    ) -> Result<StartedMember, MemberError> {
        let MemberParts { settings, membership, directory, metrics, cluster_metrics } = parts;
        let identity = directory.identity().clone();
        check_whole(&directory)?;
        let endpoint = endpoint(&settings.cluster, &identity)?;
        let listen_error = |source| MemberError::Listen { address: membership.listen, source };
        let listener = std::net::TcpListener::bind(membership.listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let replicas = recover(&directory)?;
        // The log of a node alone has groups and no votes. One that joins has neither.
        if !has_votes(&directory)? && replicas.iter().any(|replica| replica.log.last_index.0 > 0) {
            return Err(MemberError::Alone);
        }
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("cluster").enable_all().build();
        let runtime = runtime.map_err(MemberError::Consensus)?;

        let progress: Vec<_> = replicas.iter().map(|_| CommitProgress::new(GroupSequence(0))).collect();
        let (failed, failing) = (on_failure.clone(), progress.clone());
        // It names no stream: what is on this disk is not committed by that.
        let commits = Arc::new(LocalCommits::new([], Arc::clone(&metrics), move |_| {
            for progress in &failing {
                progress.fail();
            }
            failed(MemberFailure::Log);
        }));
        let tails = replicas.iter().flat_map(|replica| [replica.log, replica.votes]);
        let wal = Wal::start(directory, tails, wal_options(&settings.log), commits.clone())?;

        let sealing = Sealing::new(identity.secret.bytes());
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::default());
        let (mut starts, mut halves) = (Vec::new(), Vec::new());
        for progress in &progress {
            let (voice, line) = quorum_line(progress);
            let (log, machine, leader) = shard_parts(identity.node, voice, ChainHash::GENESIS, NoSnapshots);
            let ledger = Ledger::new(rules(&settings.rules), sealing.table_seed());
            starts.push(ShardStart { ledger, log: Box::new(log), progress: Arc::clone(progress), quorum: Some(line) });
            halves.push((machine, leader));
        }
        let engine = Engine::start(EngineParts {
            options: engine_options(&settings.engine),
            sealing,
            clock: Arc::clone(&clock),
            metrics,
            disk_low: commits.disk_low_flag(),
            // What has left one node's memory may not have left another's, and what one decides must be applied by all.
            history: None,
            shards: starts,
        })?;
        let started = runtime.block_on(start_groups(settings, &membership, &identity, &wal, &replicas, halves, endpoint, listener));
        let Started { groups, leaders, links, shards, listener, endpoint } = started.map_err(MemberError::Consensus)?;
        let now = Instant::now();
        let shared = Arc::new(Shared {
            led: Mutex::new(vec![now; groups.len()]),
            seen: groups.iter().map(|_| AtomicU64::new(0)).collect(),
            answering: OnceLock::new(),
            groups,
            progress,
            links,
            clock,
            heard: Mutex::default(),
            caught_up: watch::channel(false).0,
            handle: runtime.handle().clone(),
            identity,
            membership,
            history_range_seconds: history_options(settings).range_seconds,
            metrics: cluster_metrics,
        });
        shared.metrics.watch(&shared);
        let (leaders, keepers, server) = runtime.block_on(async {
            let leaders = leaders.into_iter().zip(shared.groups.clone()).map(|(leader, group)| {
                let on_failure = on_failure.clone();
                tokio::spawn(async move {
                    if let Err(error) = group.lead(leader).await {
                        on_failure(MemberFailure::Consensus(error.to_string()));
                    }
                })
            });
            let keepers = vec![tokio::spawn(keeper::listen(Arc::clone(&shared))), tokio::spawn(keeper::tend(Arc::clone(&shared)))];
            let desk = Arc::new(MemberDesk(Arc::clone(&shared)));
            let server = Server::start(listener, endpoint, shards, desk).map_err(MemberError::Consensus)?;
            Ok::<_, MemberError>((leaders.collect(), keepers, server))
        })?;
        tracing::info!(
            node = shared.identity.node.0,
            cluster = shared.identity.cluster,
            listen = %server.address(),
            advertise = shared.membership.advertise,
            "a member of a cluster"
        );
        Ok(StartedMember { engine, wal, member: Self { shared, server, leaders, keepers, runtime } })
    }

    /// What it shares.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Waits until everything is there that was committed before this node started.
    pub(crate) async fn caught_up(&self) {
        // Its sender lives as long as this.
        let _ = self.shared.caught_up.subscribe().wait_for(|is_caught_up| *is_caught_up).await;
    }

    /// Requests that other nodes send on are answered by `door` from now on.
    pub(crate) fn answer_by(&self, door: Arc<Door>) {
        // A node has one door.
        let _ = self.shared.answering.set(Answering::new(door));
    }

    /// What it waits for until then.
    pub(crate) fn lacks(&self) -> Option<String> {
        self.shared.lacks()
    }

    /// Has other nodes lead what this one leads, as far as they can. Takes no longer than two elections.
    pub(crate) async fn hand_over(&self) {
        let shared = self.shared();
        // On the runtime whose timers and tasks it is about.
        let handed = self.runtime.spawn(async move { shared.hand_over().await });
        if handed.await.is_err() {
            tracing::error!("handing leadership over ended by a panic");
        }
    }

    /// Ends everything of the cluster; the engine must have stopped. Blocks; not to be called in a runtime's own threads.
    pub(crate) fn stop(self) {
        let Self { shared, server, leaders, keepers, runtime } = self;
        runtime.block_on(async {
            keepers.iter().for_each(JoinHandle::abort);
            for group in &shared.groups {
                group.stop().await;
            }
            server.stop().await;
            shared.links.close();
            for leader in leaders {
                // It has panicked, or consensus has stopped.
                let _ = leader.await;
            }
        });
        drop(shared);
        runtime.shutdown_timeout(RUNTIME_STOP_MAX);
    }
}

/// Consensus of every shard, before anybody may ask.
struct Started {
    groups: Vec<ShardGroup<NoSnapshots>>,
    leaders: Vec<ShardLeader>,
    links: Links,
    shards: Shards<ShardMachine<NoSnapshots>, NoSnapshots>,
    listener: tokio::net::TcpListener,
    endpoint: tidegate_cluster::network::Endpoint,
}

#[expect(clippy::too_many_arguments, reason = "it is the middle of a start, and no more")]
async fn start_groups(
    settings: &Settings,
    membership: &Membership,
    identity: &Identity,
    wal: &Wal,
    replicas: &[RecoveredReplica],
    halves: Vec<(ShardMachine<NoSnapshots>, ShardLeader)>,
    endpoint: tidegate_cluster::network::Endpoint,
    listener: std::net::TcpListener,
) -> io::Result<Started> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (links, shards) = (Links::new(endpoint.clone()), Shards::default());
    let (mut groups, mut leaders) = (Vec::new(), Vec::new());
    for ((shard, replica), (machine, leader)) in (0_u16..).zip(replicas).zip(halves) {
        let machine = StateMachine::new(machine, LogStanding::genesis());
        let log = ReplicatedLog::open(wal.writer(), wal.reader(), replica, machine.position_at()).map_err(io::Error::other)?;
        let (times, transfer) = (membership.times, Arc::new(NoSnapshots));
        let may_revert = settings.log.durability != Durability::PowerLoss;
        let parts = GroupParts { node: identity.node, shard, times, log, machine, transfer, may_revert };
        groups.push(ShardGroup::start(parts, &links, &shards).await?);
        leaders.push(leader);
    }
    Ok(Started { groups, leaders, links, shards, listener, endpoint })
}

impl Shared {
    /// This node.
    pub(super) const fn node(&self) -> NodeId {
        self.identity.node
    }

    /// How every shard stands in consensus, as this node knows it.
    pub(super) fn statuses(&self) -> Vec<GroupStatus> {
        self.groups.iter().map(ShardGroup::status).collect()
    }

    /// Every other member of any shard, and where it is.
    pub(super) fn others(&self) -> BTreeMap<NodeId, String> {
        let members = self.statuses().into_iter().flat_map(|status| status.members);
        members.filter(|member| member.node != self.node()).map(|member| (member.node, member.address)).collect()
    }

    /// Who decides for each shard, as far as this node knows: itself, or who has said so not long ago.
    pub(super) fn deciding(&self) -> Vec<Option<NodeId>> {
        let heard = self.heard.lock();
        let says_so = |node: &NodeId, shard: usize| {
            let heard = heard.get(node).filter(|heard| heard.at.elapsed() < HEARD_MAX);
            heard.and_then(|heard| heard.standing.shards.get(shard)).is_some_and(|standing| standing.leads)
        };
        let of_shard = |(shard, status): (usize, GroupStatus)| {
            if self.progress[shard].leads() {
                return Some(self.node());
            }
            status.leader.filter(|leader| *leader != self.node() && says_so(leader, shard))
        };
        self.statuses().into_iter().enumerate().map(of_shard).collect()
    }

    /// How this node stands.
    pub(super) fn standing(&self) -> Standing {
        let shards =
            self.progress.iter().map(|progress| ShardStanding { leads: progress.leads(), committed: progress.committed().0 });
        Standing { unix_ms: self.clock.now().unix_ms(), shards: shards.collect() }
    }

    /// What this node waits for before it may serve; `None` once there is nothing.
    pub(super) fn lacks(&self) -> Option<String> {
        let heard = self.heard.lock();
        for ((shard, status), progress) in self.statuses().into_iter().enumerate().zip(&self.progress) {
            if status.members.is_empty() {
                return Some("the node is no member of its cluster yet: tidegate cluster join makes it one".to_owned());
            }
            if progress.leads() {
                continue;
            }
            let committed = progress.committed().0;
            // Everything heard was said after this node began.
            let target = heard.values().filter_map(|heard| heard.standing.shards.get(shard));
            let target = target.filter(|standing| standing.leads).map(|standing| standing.committed).max();
            match target {
                None => {
                    return Some(format!("shard {shard} has no leader that is heard of: a majority of its nodes must be there"));
                }
                Some(target) if committed < target => {
                    return Some(format!("shard {shard} has applied {committed} of {target} groups that are committed"));
                }
                Some(_) => {}
            }
        }
        None
    }

    async fn hand_over(&self) {
        let limit = Duration::from_millis(self.membership.times.election_ms_max);
        let mut handing = tokio::task::JoinSet::new();
        for (shard, group) in self.groups.iter().enumerate() {
            let status = group.status();
            if status.leader != Some(self.node()) {
                continue;
            }
            let heard = self.heard.lock();
            let is_there = |node: &NodeId| heard.get(node).is_some_and(|heard| heard.at.elapsed() < HEARD_MAX);
            let able =
                status.members.iter().filter(|member| member.is_voter && member.node != self.node() && is_there(&member.node));
            let Some(next) = able.max_by_key(|member| member.matched).map(|member| member.node) else { continue };
            drop(heard);
            let group = group.clone();
            handing.spawn(async move {
                let is_handed = group.hand_over(next, 2 * limit).await;
                tracing::info!(shard, to = next.0, is_handed, "leadership is handed over before the node stops");
            });
        }
        while handing.join_next().await.is_some() {}
    }
}
