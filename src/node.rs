//! One node put together: the data directory, the ledgers recovered from it, the write-ahead log and the engine on top, and their
//! orderly end. Knows no door: who submits commands is not its concern.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate_config::{Count, Settings};
use tidegate_engine::{
    Clock, Engine, EngineMetrics, EngineParts, LocalCommits, LocalLog, OptionError, Sealing, ShardNumber, ShardStart, SystemClock,
};
use tidegate_persistence::{
    DataDirectory, OpenError, PARTITIONS, RecoveredStream, RecoveryError, RecoveryProgress, StreamId, Wal, WalError,
};
use tidegate_stock::{Ledger, Rules};

use crate::options::{directory_options, engine_options, rules, wal_options};
use crate::parallel;

/// Why a node did not start. Nothing was admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The data directory was not opened.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The log could not be replayed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The log could not be started.
    #[error("the write-ahead log did not start")]
    Log(#[from] WalError),
    /// The engine could not be started.
    #[error("the engine did not start")]
    Engine(#[from] OptionError),
}

/// A running node.
pub(crate) struct Node {
    engine: Engine,
    wal: Wal,
    recovered: Recovered,
}

/// What a node came back with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovered {
    /// How many shards it has.
    pub(crate) shards: usize,
    /// Groups replayed.
    pub(crate) groups: u64,
    /// Events in them.
    pub(crate) events: u64,
    /// How long everything took, from opening the directory to taking commands.
    pub(crate) elapsed: Duration,
}

/// Opens the data directory of `settings`, and makes it if it is missing. May take long on a large log.
fn open_directory(settings: &Settings) -> Result<DataDirectory, OpenError> {
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

impl Node {
    /// Opens the data directory of `settings`, recovers what it holds and starts the machine on it. Returns when every shard takes
    /// commands. Waits for the disk, and may take long on a large log: once reading has begun, `progress` counts how much was read.
    ///
    /// `on_log_failure` is called at most once, on the log's thread, if the log fails while the node runs: stop the node then.
    pub(crate) fn start(
        settings: &Settings,
        metrics: Arc<EngineMetrics>,
        progress: &OnceLock<Arc<RecoveryProgress>>,
        on_log_failure: impl Fn(&WalError) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let started_at = Instant::now();
        let directory = open_directory(settings)?;
        progress.get_or_init(|| directory.progress());
        let sealing = Sealing::new(directory.identity().secret.bytes());
        let rules = rules(&settings.rules);
        let shards = recover(&directory, rules, sealing.table_seed())?;
        let tails: Vec<RecoveredStream> = shards.iter().map(|shard| shard.tail).collect();
        let positions = tails.iter().map(|tail| (tail.stream, tail.last_sequence));
        let commits = Arc::new(LocalCommits::new(positions, Arc::clone(&metrics), on_log_failure));
        let wal = Wal::start(directory, tails.iter().copied(), wal_options(&settings.log), commits.clone())?;
        let shards = shards
            .into_iter()
            .map(|shard| ShardStart {
                ledger: shard.ledger,
                log: Box::new(LocalLog::new(wal.writer(), shard.tail.stream)),
                progress: commits.progress(shard.tail.stream).expect("every recovered stream has a watermark"),
            })
            .collect();
        let engine = Engine::start(EngineParts {
            options: engine_options(&settings.engine),
            sealing,
            clock: Arc::new(SystemClock),
            metrics,
            disk_low: commits.disk_low_flag(),
            shards,
        })?;
        let recovered = Recovered {
            shards: tails.len(),
            groups: tails.iter().map(|tail| tail.groups).sum(),
            events: tails.iter().map(|tail| tail.events).sum(),
            elapsed: started_at.elapsed(),
        };
        Ok(Self { engine, wal, recovered })
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
        let wal = self.wal;
        tokio::task::spawn_blocking(move || wal.stop()).await.unwrap_or(Err(WalError::Panicked))
    }
}

/// A shard as the log left it.
struct RecoveredShard {
    ledger: Ledger,
    tail: RecoveredStream,
}

/// Replays the log of every shard, several at a time.
fn recover(directory: &DataDirectory, rules: Rules, seed: u64) -> Result<Vec<RecoveredShard>, RecoveryError> {
    let streams: Vec<StreamId> = (0..directory.identity().shards).map(|shard| ShardNumber(shard).stream()).collect();
    parallel::map(&streams, |stream| recover_shard(directory, *stream, rules, seed)).into_iter().collect()
}

fn recover_shard(directory: &DataDirectory, stream: StreamId, rules: Rules, seed: u64) -> Result<RecoveredShard, RecoveryError> {
    let mut ledger = Ledger::new(rules, seed);
    let tail = directory.replay(stream, |group| {
        let mut events = 0;
        for entry in group.entries()? {
            let entry = entry?;
            // What is in the log happened: nothing of it is ever undone.
            drop(ledger.apply(&entry.event, entry.at));
            events += 1;
        }
        // A group adds at most one key an event, so keys whose time is over never gather.
        ledger.forget_keys(group.time, 2 * events);
        Ok(())
    })?;
    if tail.discarded_tail_parts > 0 {
        tracing::info!(%stream, parts = tail.discarded_tail_parts, "an unfinished group at the log's end was never acknowledged and is dropped");
    }
    Ok(RecoveredShard { ledger, tail })
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
