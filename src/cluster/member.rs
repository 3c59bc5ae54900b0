//! A node as a member of a cluster: a consensus group for each shard on the node's one log, one listener for all of them, and what keeps the
//! members as they should be.
//!
//! A member that starts begins with its newest snapshots and applies its log behind them again, as far as the quorum says that it is committed.
//! Nobody is served until it has, for every shard, what whoever leads it had committed after this node started: so nothing is shown that was
//! written here and never committed, and nothing is missing that was ever acknowledged.
//!
//! Everything of the cluster runs on a runtime of its own, so that neither callers nor signals keep a heartbeat waiting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_api::{Answering, Door};
use tidegate_cluster::network::{Links, Server, Shards};
use tidegate_cluster::{
    ClockMeasure, Clocks, GroupMember, GroupParts, GroupStatus, LeaderError, MemberError as ReplicaError, Memberships,
    RecoveredMember, ReplicatedLog, ShardGroup, ShardLeader, ShardMachine, SnapshotFiles, SnapshotParts, Standing as LogStanding,
    StateMachine, recover_member, shard_parts,
};
use tidegate_config::{Durability, Settings};
use tidegate_engine::{
    Clock, CommitProgress, Diverged, Engine, EngineMetrics, EngineParts, HistoryStart, LocalCommits, OptionError, Sealing,
    ShardStart, SteadyClock, quorum_line,
};
use tidegate_persistence::{
    DIVERGENCE_FILE, DataDirectory, Divergence, History, Identity, NodeId, OpenError, RecoveredReplica, SnapshotError, StreamId,
    Wal, WalError, note_divergence, snapshots,
};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::agreement;
use super::desk::MemberDesk;
use super::endpoint::{EndpointFault, Membership, endpoint};
use super::keeper::{self, hear};
use super::metrics::ClusterMetrics;
use super::snapshots::MemberSnapshots;
use super::talk::{ShardStanding, Standing};
use crate::options::{engine_options, history_options, rules, wal_options};
use crate::parallel;
use crate::recovery::remove_unfinished;

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
    /// The snapshots cannot be looked at.
    #[error("the snapshots could not be looked at")]
    Snapshots(#[from] SnapshotError),
    /// A shard could not be recovered.
    #[error(transparent)]
    Recovery(#[from] ReplicaError),
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
    pub(super) groups: Vec<ShardGroup<SnapshotFiles>>,
    /// By shard.
    pub(super) snapshots: Vec<SnapshotsOfShard>,
    /// By shard.
    pub(super) progress: Vec<Arc<CommitProgress>>,
    pub(super) links: Links,
    pub(super) clock: Arc<dyn Clock>,
    /// What other nodes last said of themselves.
    pub(super) heard: Mutex<BTreeMap<NodeId, Heard>>,
    /// By shard: when this node last knew who decides for it.
    pub(super) led: Mutex<Vec<Instant>>,
    /// What answers requests that other nodes send on, once this node serves.
    pub(super) answering: OnceLock<Answering>,
    pub(super) engine: Engine,
    /// Whether this node is to lead nothing. A start ends it.
    pub(super) is_draining: AtomicBool,
    /// Whether its disk has too little free space, so that it takes no changes.
    pub(super) disk_low: Arc<AtomicBool>,
    /// Whether everything is there that was committed before this node started. Once it is, it stays.
    pub(super) caught_up: watch::Sender<bool>,
    pub(super) handle: Handle,
    pub(super) metrics: Arc<ClusterMetrics>,
    /// How far clocks may be apart, in milliseconds.
    pub(super) clock_skew_ms_max: u64,
    /// The settings that should be those of all members, by name.
    pub(super) settings: BTreeMap<String, u64>,
}

/// What a shard's snapshots are made with.
#[derive(Debug, Clone)]
pub(super) struct SnapshotsOfShard {
    pub(super) files: SnapshotFiles,
    pub(super) memberships: Memberships,
}

/// What a node said of itself.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) standing: Standing,
    /// How its clock stands to this node's.
    pub(super) clock: ClockMeasure,
}

impl Heard {
    /// Whether it is taken for granted still.
    pub(super) fn is_recent(&self) -> bool {
        self.at.elapsed() < HEARD_MAX
    }

    /// Whether the node was there lately, and may be given what others lead.
    fn may_lead(&self) -> bool {
        self.is_recent() && !self.standing.is_draining
    }
}

/// What a member is started with.
pub(crate) struct MemberParts<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) membership: Membership,
    pub(crate) directory: DataDirectory,
    pub(crate) history: Arc<History>,
    pub(crate) metrics: Arc<EngineMetrics>,
    pub(crate) cluster_metrics: Arc<ClusterMetrics>,
}

/// A member and what it stands on.
pub(crate) struct StartedMember {
    pub(crate) engine: Engine,
    pub(crate) wal: Wal,
    pub(crate) member: Member,
    /// Reservations that came from snapshots.
    pub(crate) from_snapshots: usize,
}

/// What failed of a running member, so that its node must stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberFailure {
    /// The log.
    Log,
    /// The history, with its error.
    History(String),
    /// A shard's consensus, with its error.
    Consensus(String),
    /// A ledger is not that of the node that decided, and the directory says so.
    Diverged(String),
}

/// Whether `directory` belongs to a member of a cluster that has voted or been asked to.
pub(crate) fn has_votes(directory: &DataDirectory) -> Result<bool, OpenError> {
    Ok(directory.streams()?.iter().any(|stream| *stream == StreamId::votes(stream.shard())))
}

/// Whether `directory` has anything of a shard: a log, or a snapshot. One that was made to join a cluster has nothing.
fn has_shards(directory: &DataDirectory) -> Result<bool, MemberError> {
    if !directory.streams()?.is_empty() {
        return Ok(true);
    }
    for shard in 0..directory.identity().shards {
        if !snapshots(directory.path(), StreamId::log(shard))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Recovers every shard of `directory`, several at a time, and removes what snapshots that were never finished have left.
pub(super) fn recover(settings: &Settings, directory: &DataDirectory) -> Result<Vec<RecoveredMember>, MemberError> {
    remove_unfinished(directory.path())?;
    let identity = directory.identity();
    let (rules, seed) = (rules(&settings.rules), Sealing::new(identity.secret.bytes()).table_seed());
    let shards: Vec<u16> = (0..identity.shards).collect();
    let recovered = parallel::map(&shards, |shard| recover_member(directory, *shard, rules, seed));
    Ok(recovered.into_iter().collect::<Result<_, ReplicaError>>()?)
}

/// Notes in the data directory at `path` that the ledger of `shard` is another than that of the node that decided, before anybody hears of it.
fn note_diverged(path: &Path, shard: u16, diverged: Diverged) -> MemberFailure {
    let Diverged { index, sequence, logged, own } = diverged;
    let divergence = Divergence { shard, index: index.0, group: sequence.0, logged, own };
    if let Err(error) = note_divergence(path, &divergence) {
        tracing::error!(%error, file = DIVERGENCE_FILE, "the data directory could not be marked, and must not be started again");
    }
    MemberFailure::Diverged(divergence.to_string())
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
        let MemberParts { settings, membership, directory, history, metrics, cluster_metrics } = parts;
        let identity = directory.identity().clone();
        // The log of a node alone has groups and no votes. One that joins has neither.
        if !has_votes(&directory)? && has_shards(&directory)? {
            return Err(MemberError::Alone);
        }
        let endpoint = endpoint(&settings.cluster, &identity)?;
        let listen_error = |source| MemberError::Listen { address: membership.listen, source };
        let listener = std::net::TcpListener::bind(membership.listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let path = directory.path().to_owned();
        let recovered = recover(settings, &directory)?;
        let from_snapshots = recovered.iter().map(|shard| shard.ledger.reservation_count()).sum();
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("cluster").enable_all().build();
        let runtime = runtime.map_err(MemberError::Consensus)?;

        let progress: Vec<_> = recovered.iter().map(|shard| CommitProgress::new(shard.standing.position.sequence)).collect();
        let (failed, failing) = (on_failure.clone(), progress.clone());
        // It names no stream: what is on this disk is not committed by that.
        let commits = Arc::new(LocalCommits::new([], Arc::clone(&metrics), move |_| {
            for progress in &failing {
                progress.fail();
            }
            failed(MemberFailure::Log);
        }));
        let tails = recovered.iter().flat_map(|shard| [shard.replica.log, shard.replica.votes]);
        let wal = Wal::start(directory, tails, wal_options(&settings.log), commits.clone())?;

        let sealing = Sealing::new(identity.secret.bytes());
        let clock = SteadyClock::default();
        let (mut starts, mut replicas) = (Vec::new(), Vec::new());
        for ((shard, recovered), progress) in (0_u16..).zip(recovered).zip(&progress) {
            let RecoveredMember { ledger, standing, replica, .. } = recovered;
            clock.never_before(ledger.last_applied());
            let files = SnapshotFiles::new(SnapshotParts {
                directory: path.clone(),
                identity: identity.clone(),
                shard,
                rules: rules(&settings.rules),
                seed: sealing.table_seed(),
                history: Some(Arc::clone(&history)),
                log: wal.reader(),
                writer: wal.writer(),
                disk_free_bytes_min: settings.log.disk_free_bytes_min,
            });
            let (voice, line) = quorum_line(progress);
            let (log, machine, leader) = shard_parts(identity.node, voice, standing.position.chain, files.clone());
            starts.push(ShardStart { ledger, log: Box::new(log), progress: Arc::clone(progress), quorum: Some(line) });
            replicas.push(Replica { recovered: replica, standing, files, machine, leader });
        }
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let failed = on_failure.clone();
        let engine = Engine::start(EngineParts {
            options: engine_options(settings),
            sealing,
            clock: Arc::clone(&clock),
            metrics,
            disk_low: commits.disk_low_flag(),
            history: Some(HistoryStart {
                store: history,
                on_failure: Box::new(move |error| failed(MemberFailure::History(error.to_string()))),
            }),
            shards: starts,
        })?;
        let started = runtime.block_on(start_groups(settings, &membership, &identity, &wal, replicas, endpoint, listener));
        let Started { groups, snapshots, leaders, links, shards, listener, endpoint } = started.map_err(MemberError::Consensus)?;
        let now = Instant::now();
        let shared = Arc::new(Shared {
            led: Mutex::new(vec![now; groups.len()]),
            answering: OnceLock::new(),
            engine: engine.clone(),
            groups,
            snapshots,
            progress,
            links,
            clock,
            heard: Mutex::default(),
            is_draining: AtomicBool::new(false),
            disk_low: commits.disk_low_flag(),
            caught_up: watch::channel(false).0,
            handle: runtime.handle().clone(),
            identity,
            membership,
            history_range_seconds: history_options(settings).range_seconds,
            metrics: cluster_metrics,
            clock_skew_ms_max: settings.cluster.clock_skew_ms_max,
            settings: settings.same_across_cluster(),
        });
        shared.metrics.watch(&shared);
        let (leaders, keepers, server) = runtime.block_on(async {
            let leaders = (0_u16..).zip(leaders).zip(shared.groups.clone()).map(|((shard, leader), group)| {
                let (on_failure, path) = (on_failure.clone(), path.clone());
                tokio::spawn(async move {
                    match group.lead(leader).await {
                        Ok(()) => {}
                        Err(LeaderError::Consensus(error)) => on_failure(MemberFailure::Consensus(error.to_string())),
                        Err(LeaderError::Diverged(diverged)) => on_failure(note_diverged(&path, shard, diverged)),
                    }
                })
            });
            let keepers = vec![
                tokio::spawn(keeper::listen(Arc::clone(&shared))),
                tokio::spawn(keeper::tend(Arc::clone(&shared))),
                tokio::spawn(keeper::spread(Arc::clone(&shared))),
                tokio::spawn(agreement::watch(Arc::clone(&shared))),
            ];
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
        Ok(StartedMember { engine, wal, member: Self { shared, server, leaders, keepers, runtime }, from_snapshots })
    }

    /// What it shares.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// What its upkeep makes snapshots with.
    pub(crate) fn snapshots(&self) -> MemberSnapshots {
        MemberSnapshots(self.shared())
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

    /// As [`Shared::hand_over`].
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

/// A shard of this node, before its consensus is started.
struct Replica {
    recovered: RecoveredReplica,
    standing: LogStanding,
    files: SnapshotFiles,
    machine: ShardMachine<SnapshotFiles>,
    leader: ShardLeader,
}

/// Consensus of every shard, before anybody may ask.
struct Started {
    groups: Vec<ShardGroup<SnapshotFiles>>,
    snapshots: Vec<SnapshotsOfShard>,
    leaders: Vec<ShardLeader>,
    links: Links,
    shards: Shards<ShardMachine<SnapshotFiles>, SnapshotFiles>,
    listener: tokio::net::TcpListener,
    endpoint: tidegate_cluster::network::Endpoint,
}

async fn start_groups(
    settings: &Settings,
    membership: &Membership,
    identity: &Identity,
    wal: &Wal,
    replicas: Vec<Replica>,
    endpoint: tidegate_cluster::network::Endpoint,
    listener: std::net::TcpListener,
) -> io::Result<Started> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (links, shards) = (Links::new(endpoint.clone()), Shards::default());
    let (mut groups, mut snapshots, mut leaders) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, Replica { recovered, standing, files, machine, leader }) in (0_u16..).zip(replicas) {
        let machine = StateMachine::new(machine, standing);
        let memberships = machine.memberships();
        let log = ReplicatedLog::open(wal.writer(), wal.reader(), &recovered, machine.position_at()).map_err(io::Error::other)?;
        let parts = GroupParts {
            node: identity.node,
            shard,
            times: membership.times,
            late_entries_kept: settings.cluster.late_entries_kept,
            log,
            machine,
            handover: leader.handover(),
            transfer: Arc::new(files.clone()),
            may_revert: settings.log.durability != Durability::PowerLoss,
        };
        groups.push(ShardGroup::start(parts, &links, &shards).await?);
        snapshots.push(SnapshotsOfShard { files, memberships });
        leaders.push(leader);
    }
    Ok(Started { groups, snapshots, leaders, links, shards, listener, endpoint })
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
            let heard = heard.get(node).filter(|heard| heard.is_recent());
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
        Standing {
            unix_ms: self.clock.now().unix_ms(),
            shards: shards.collect(),
            is_draining: self.is_to_lead_nothing(),
            settings: self.settings.clone(),
        }
    }

    /// Whether others should lead: this node is drained, or it would refuse every change for want of space.
    pub(super) fn is_to_lead_nothing(&self) -> bool {
        self.is_draining.load(Ordering::Acquire) || self.disk_low.load(Ordering::Acquire)
    }

    /// The clocks, as far as they are known.
    pub(super) fn clocks(&self) -> Clocks {
        let heard = self.heard.lock();
        let recent = heard.iter().filter(|(_, heard)| heard.is_recent()).map(|(node, heard)| (*node, heard.clock));
        Clocks::new(self.node(), self.clock_skew_ms_max, recent)
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

    /// Has other nodes lead what this one leads, as far as they can. Takes no longer than two elections, and as long as silent nodes are waited for.
    pub(super) async fn hand_over(self: &Arc<Self>) {
        let mut handing = tokio::task::JoinSet::new();
        for (shard, group) in self.groups.iter().enumerate() {
            let status = group.status();
            if status.leader != Some(self.node()) {
                continue;
            }
            // Those that were not able when they were last heard may be by now.
            let able: BTreeSet<NodeId> = self.able_to_lead(&status).into_iter().map(|member| member.node).collect();
            let mut others: Vec<&GroupMember> =
                status.members.iter().filter(|member| member.is_voter && member.node != self.node()).collect();
            others.sort_by_key(|member| Reverse((able.contains(&member.node), member.matched)));
            handing.spawn(Arc::clone(self).hand_over_one(shard, others.into_iter().map(|member| member.node).collect()));
        }
        while handing.join_next().await.is_some() {}
    }

    /// Has the first of `candidates` that answers, and is not drained, lead `shard`, which this node leads. What was heard of a node a moment ago
    /// does not say that it is there still, and handed to one that is not, the shard would have no leader until the others have elected one.
    pub(super) async fn hand_over_one(self: Arc<Self>, shard: usize, candidates: Vec<NodeId>) {
        for next in candidates {
            if hear(&self, next).await && self.heard.lock().get(&next).is_some_and(Heard::may_lead) {
                let is_handed = self.groups[shard].hand_over(next, self.election_max()).await;
                tracing::info!(shard, to = next.0, is_handed, "leadership is handed over");
                return;
            }
        }
    }

    /// Within this, members that are there have elected a leader.
    fn election_max(&self) -> Duration {
        2 * Duration::from_millis(self.membership.times.election_ms_max)
    }

    /// The members other than this node that could lead a shard: they are counted, there, and not being drained themselves. Those whose clocks
    /// are off are left out, if any other is left.
    pub(super) fn able_to_lead(&self, status: &GroupStatus) -> Vec<GroupMember> {
        let heard = self.heard.lock().clone();
        let is_able = |member: &&GroupMember| {
            member.is_voter && member.node != self.node() && heard.get(&member.node).is_some_and(Heard::may_lead)
        };
        let able: Vec<GroupMember> = status.members.iter().filter(is_able).cloned().collect();
        let (clocks, voters) = (self.clocks(), status.voters());
        let agreeing: Vec<GroupMember> = able.iter().filter(|member| !clocks.is_off(member.node, &voters)).cloned().collect();
        if agreeing.is_empty() { able } else { agreeing }
    }

    /// Whether this node is to lead nothing, and the members that could lead a shard make a majority by themselves. So among them is one that has
    /// everything committed, and their votes are enough for it.
    pub(super) fn leaves_to_others(&self, status: &GroupStatus) -> bool {
        self.is_to_lead_nothing() && 2 * self.able_to_lead(status).len() > status.voters().len()
    }

    /// Whether nobody has decided for `shard` for so long that whoever was to be elected cannot be, as far as this node knows.
    pub(super) fn is_orphaned(&self, shard: usize) -> bool {
        // However short elections are, it is not heard at once who decides.
        self.led.lock()[shard].elapsed() > HEARD_MAX.max(self.election_max())
    }

    /// The shards that this node leads in the eyes of consensus, whether it decides for them or not.
    pub(super) fn led_here(&self) -> Vec<u16> {
        let leads = |(_, group): &(u16, &ShardGroup<SnapshotFiles>)| group.leader() == Some(self.node());
        (0_u16..).zip(&self.groups).filter(leads).map(|(shard, _)| shard).collect()
    }
}
