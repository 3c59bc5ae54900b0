//! One node put together: the data directory, the ledgers recovered from it, the write-ahead log and the engine on top, and their
//! orderly end. Knows no door: who submits commands is not its concern.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tidegate_config::{Count, Settings};
use tidegate_engine::{
    Clock, Engine, EngineMetrics, EngineParts, Feed, HistoryStart, LocalCommits, LocalLog, OptionError, Sealing, ShardStart,
    SteadyClock, SystemClock,
};
use tidegate_persistence::{
    DIVERGENCE_FILE, DataDirectory, History, HistoryError, OpenError, PARTITIONS, RecoveredStream, SnapshotError, StreamId, Wal,
    WalError, noted_divergence, snapshots,
};
use tokio::runtime::Handle;

use crate::backup::{BackupParts, Backups, MemberBackup};
use crate::cluster::{self, ClusterMetrics, Member, MemberError, MemberFailure, MemberParts, StartedMember};
use crate::options::{directory_options, engine_options, history_options, rules, upkeep_options, wal_options};
use crate::parallel;
use crate::recovery::{RecoverError, StartProgress, recover, remove_unfinished};
use crate::upkeep::{Upkeep, UpkeepParts};
use crate::upkeep_metrics::UpkeepMetrics;

/// The folder of the data directory that holds the history.
pub(crate) const HISTORY_FOLDER: &str = "history";

/// Why a node did not start. Nothing was admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The data directory was not opened.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The shards could not be recovered.
    #[error(transparent)]
    Recovery(#[from] RecoverError),
    /// The log could not be started.
    #[error("the write-ahead log did not start")]
    Log(#[from] WalError),
    /// The snapshots could not be looked at.
    #[error("the snapshots could not be looked at")]
    Snapshots(#[from] SnapshotError),
    /// The history was not opened.
    #[error("the history was not opened")]
    History(#[from] HistoryError),
    /// The engine could not be started.
    #[error("the engine did not start")]
    Engine(#[from] OptionError),
    /// The member of a cluster could not be started.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The directory is no node's that stands alone.
    #[error(
        "the data directory belongs to a member of a cluster, which does not start alone: its log may end with what was never committed. \
         Set cluster.listen"
    )]
    NotAlone,
    /// The node stopped because its ledger was not that of the node that decided.
    #[error(
        "the ledger made of this data directory was damaged when the node last ran: {what}. {WHAT_TO_DO_DIVERGED} ({file} in the directory says so, and no start passes it over)"
    )]
    Diverged {
        /// What was noted.
        what: String,
        /// The file.
        file: &'static str,
    },
    /// Nobody knows whether it did.
    #[error("it cannot be read whether the node stopped because its ledger was not that of the node that decided")]
    Unread(#[source] std::io::Error),
}

/// What is to be done where a member's ledger is not that of the node that decided.
pub(crate) const WHAT_TO_DO_DIVERGED: &str = "If the other nodes go on, this one is damaged: remove it from the cluster, look for bad memory \
    in its machine, and join a clean directory under a new number. If several stopped at the same entry with the same sum, the one that \
    decided is: tidegate verify with all their directories says which, and the README how to go on without it";

/// Refuses the data directory at `path` if its node stopped because its ledger was not that of the node that decided.
fn refuse_diverged(path: &Path) -> Result<(), StartError> {
    match noted_divergence(path).map_err(StartError::Unread)? {
        None => Ok(()),
        Some(_) if mutant!(DivergedStartsAgain) => Ok(()),
        Some((_, what)) => Err(StartError::Diverged { what, file: DIVERGENCE_FILE }),
    }
}

/// What failed of a running node, so that it must stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeFailure {
    /// The log. [`Node::stop`] tells the error.
    Log,
    /// The history, with its error.
    History(String),
    /// Consensus, with its error.
    Consensus(String),
    /// A ledger that is not that of the node that decided.
    Diverged(String),
}

impl From<MemberFailure> for NodeFailure {
    fn from(failure: MemberFailure) -> Self {
        match failure {
            MemberFailure::Log => Self::Log,
            MemberFailure::History(what) => Self::History(what),
            MemberFailure::Consensus(what) => Self::Consensus(what),
            MemberFailure::Diverged(what) => Self::Diverged(what),
        }
    }
}

/// A running node.
pub(crate) struct Node {
    engine: Engine,
    wal: Wal,
    upkeep: Upkeep,
    /// None of a member of a cluster.
    backups: Backups,
    /// Of a node that stands alone, nothing.
    member: Option<Member>,
    recovered: Recovered,
}

/// Where a node counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeMetrics {
    pub(crate) engine: Arc<EngineMetrics>,
    pub(crate) upkeep: Arc<UpkeepMetrics>,
    pub(crate) cluster: Arc<ClusterMetrics>,
}

impl NodeMetrics {
    /// Adds every metric to `registry`, under the prefix that it carries.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.engine.register(registry);
        self.upkeep.register(registry);
        self.cluster.register(registry);
    }
}

/// What a node came back with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovered {
    /// Its number in its cluster.
    pub(crate) node: u64,
    /// How many shards it has.
    pub(crate) shards: usize,
    /// Groups replayed.
    pub(crate) groups: u64,
    /// Events in them.
    pub(crate) events: u64,
    /// Reservations that came from snapshots.
    pub(crate) from_snapshots: usize,
    /// How long everything took, from opening the directory to taking commands.
    pub(crate) elapsed: Duration,
}

/// Opens the data directory of `settings`, and makes it if it is missing. May take long on a large log.
pub(crate) fn open_directory(settings: &Settings) -> Result<DataDirectory, OpenError> {
    let mut options = directory_options(settings, SystemClock.now());
    match DataDirectory::open_existing(&settings.node.data_dir, &options) {
        Err(OpenError::NotFound { .. }) => {}
        opened => return opened,
    }
    if settings.node.shards == Count::Automatic {
        options.identity.shards = Some(shards_by_cores(parallel::cores()));
    }
    DataDirectory::open(&settings.node.data_dir, &options)
}

/// Shards of a new directory where none are set: half the cores, so that a shard's thread, the log's and the door's find their place.
fn shards_by_cores(cores: usize) -> u16 {
    u16::try_from(cores / 2).unwrap_or(u16::MAX).clamp(1, PARTITIONS)
}

/// Tells `metrics` of the newest snapshot of each of the `shards` of the data directory at `path`.
fn note_snapshots(path: &Path, shards: u16, metrics: &UpkeepMetrics) -> Result<(), SnapshotError> {
    for stream in (0..shards).map(StreamId::log) {
        if let Some(newest) = snapshots(path, stream)?.first() {
            metrics.note_snapshot(newest);
        }
    }
    Ok(())
}

impl Node {
    /// Opens the data directory of `settings`, recovers what it holds and starts the machine on it. Returns when every shard takes
    /// commands. Waits for the disk, and may take long on a large log: `progress` tells how far it is.
    ///
    /// `on_failure` is called when the log or the history fails while the node runs: stop the node then. The node asks things of itself
    /// on the runtime of `handle`.
    pub(crate) fn start(
        settings: &Settings,
        metrics: NodeMetrics,
        progress: &StartProgress,
        on_failure: impl Fn(NodeFailure) + Clone + Send + Sync + 'static,
        handle: Handle,
    ) -> Result<Self, StartError> {
        if let Some(membership) = cluster::membership(&settings.cluster) {
            return Self::start_member(settings, membership, metrics, progress, on_failure, handle);
        }
        let started_at = Instant::now();
        let directory = open_directory(settings)?;
        if cluster::has_votes(&directory)? {
            return Err(StartError::NotAlone);
        }
        refuse_diverged(directory.path())?;
        progress.watch(directory.progress());
        let (path, identity) = (directory.path().to_owned(), directory.identity().clone());
        remove_unfinished(&path)?;
        let sealing = Sealing::new(identity.secret.bytes());
        let shards = recover(&directory, rules(&settings.rules), sealing.table_seed(), progress)?;
        note_snapshots(&path, identity.shards, &metrics.upkeep)?;
        let history = Arc::new(History::open(&path.join(HISTORY_FOLDER), &history_options(settings))?);
        let tails: Vec<RecoveredStream> = shards.iter().map(|shard| shard.tail).collect();
        let recovered = Recovered {
            node: identity.node.0,
            shards: tails.len(),
            groups: tails.iter().map(|tail| tail.groups).sum(),
            events: tails.iter().map(|tail| tail.events).sum(),
            from_snapshots: shards.iter().map(|shard| shard.from_snapshot).sum(),
            elapsed: Duration::ZERO,
        };
        let log_bytes_replayed = directory.progress().bytes();
        let positions = tails.iter().map(|tail| (tail.stream, tail.last_sequence));
        let log_failed = on_failure.clone();
        let commits = Arc::new(LocalCommits::new(positions, Arc::clone(&metrics.engine), move |_| log_failed(NodeFailure::Log)));
        let wal = Wal::start(directory, tails.iter().copied(), wal_options(&settings.log), commits.clone())?;
        let clock = SteadyClock::default();
        for shard in &shards {
            clock.never_before(shard.ledger.last_applied());
        }
        let shards = shards
            .into_iter()
            .map(|shard| ShardStart {
                ledger: shard.ledger,
                log: Box::new(LocalLog::new(wal.writer(), shard.tail.stream)),
                progress: commits.progress(shard.tail.stream).expect("every recovered stream has a watermark"),
                quorum: None,
            })
            .collect();
        let engine = Engine::start(EngineParts {
            options: engine_options(settings),
            sealing,
            clock: Arc::new(clock),
            metrics: metrics.engine,
            disk_low: commits.disk_low_flag(),
            history: Some(HistoryStart {
                store: Arc::clone(&history),
                on_failure: Box::new(move |error| on_failure(NodeFailure::History(error.to_string()))),
            }),
            shards,
        })?;
        let upkeep = Upkeep::start(
            UpkeepParts {
                options: upkeep_options(settings),
                directory: path,
                identity: identity.clone(),
                engine: engine.clone(),
                log: wal.reader(),
                writer: wal.writer(),
                history: Arc::clone(&history),
                metrics: metrics.upkeep,
                log_bytes_replayed,
                member: None,
            },
            handle.clone(),
        );
        let backups = BackupParts {
            identity,
            history_range_seconds: history_options(settings).range_seconds,
            engine: engine.clone(),
            upkeep: upkeep.line(),
            log: wal.reader(),
            history,
            member: None,
        };
        let backups = Backups::new(backups, handle);
        let recovered = Recovered { elapsed: started_at.elapsed(), ..recovered };
        Ok(Self { engine, wal, upkeep, backups, member: None, recovered })
    }

    /// The same of a member of a cluster. At return it serves other nodes; before it serves anybody else, [`Member::caught_up`] is to be waited
    /// for.
    fn start_member(
        settings: &Settings,
        membership: cluster::Membership,
        metrics: NodeMetrics,
        progress: &StartProgress,
        on_failure: impl Fn(NodeFailure) + Clone + Send + Sync + 'static,
        handle: Handle,
    ) -> Result<Self, StartError> {
        let started_at = Instant::now();
        let options = directory_options(settings, SystemClock.now());
        let path = settings.node.data_dir.clone();
        let directory = DataDirectory::open_existing(&path, &options).map_err(|error| match error {
            OpenError::NotFound { .. } => StartError::Member(MemberError::NoDirectory(path.display().to_string())),
            error => error.into(),
        })?;
        refuse_diverged(&path)?;
        progress.watch(directory.progress());
        let read = directory.progress();
        let identity = directory.identity().clone();
        let history = Arc::new(History::open(&path.join(HISTORY_FOLDER), &history_options(settings))?);
        let parts = MemberParts {
            settings,
            membership,
            directory,
            history: Arc::clone(&history),
            metrics: metrics.engine,
            cluster_metrics: metrics.cluster,
        };
        let StartedMember { engine, wal, member, from_snapshots } =
            Member::start(parts, move |failure| on_failure(failure.into()))?;
        note_snapshots(&path, identity.shards, &metrics.upkeep)?;
        let upkeep = Upkeep::start(
            UpkeepParts {
                options: upkeep_options(settings),
                directory: path,
                identity: identity.clone(),
                engine: engine.clone(),
                log: wal.reader(),
                writer: wal.writer(),
                history: Arc::clone(&history),
                metrics: metrics.upkeep,
                log_bytes_replayed: read.bytes(),
                member: Some(member.snapshots()),
            },
            handle.clone(),
        );
        let backups = BackupParts {
            identity: identity.clone(),
            history_range_seconds: history_options(settings).range_seconds,
            engine: engine.clone(),
            upkeep: upkeep.line(),
            log: wal.reader(),
            history,
            member: Some(MemberBackup { writer: wal.writer(), snapshots: member.snapshots() }),
        };
        let backups = Backups::new(backups, handle);
        let recovered = Recovered {
            node: identity.node.0,
            shards: usize::from(identity.shards),
            groups: read.groups(),
            events: read.events(),
            from_snapshots,
            elapsed: started_at.elapsed(),
        };
        Ok(Self { engine, wal, upkeep, backups, member: Some(member), recovered })
    }

    /// The changes of the machine.
    pub(crate) fn feed(&self) -> Feed {
        Feed::new(self.engine.clone(), self.wal.reader())
    }

    /// Makes backups of it.
    pub(crate) fn backups(&self) -> Backups {
        self.backups.clone()
    }

    /// The member that it is of a cluster; a node that stands alone is none.
    pub(crate) const fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    /// The machine.
    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What it came back with.
    pub(crate) const fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Finishes what was admitted, syncs it, closes the log and releases the directory.
    ///
    /// # Errors
    /// When the log failed, now or before: what was not acknowledged then has an unknown outcome.
    pub(crate) async fn stop(self) -> Result<(), WalError> {
        self.engine.stop().await;
        let (wal, upkeep, member) = (self.wal, self.upkeep, self.member);
        let stopped = tokio::task::spawn_blocking(move || {
            upkeep.stop();
            if let Some(member) = member {
                member.stop();
            }
            wal.stop()
        });
        stopped.await.unwrap_or(Err(WalError::Panicked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_gets_half_the_cores_and_at_least_one_shard() {
        for (cores, shards) in [(1, 1), (2, 1), (3, 1), (4, 2), (64, 32), (100_000, 1_024)] {
            assert_eq!(shards_by_cores(cores), shards, "{cores} cores");
        }
    }
}
