//! A node in process: one shard with its real log and, where asked for, a history, on a folder of its own. Knows no HTTP and no upkeep.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tidegate_engine::{
    Clock, Engine, EngineMetrics, EngineOptions, EngineParts, HistoryStart, LocalCommits, LocalLog, Pending, Refusal, Sealing,
    ShardNumber, ShardReport, ShardStart, Submission, SystemClock,
};
use tidegate_persistence::{
    ActorName, DataDirectory, DirectoryOptions, Durability, History, HistoryOptions, Identity, RecoveredStream,
    SEGMENT_BYTES_MAX_DEFAULT, StreamId, Wal, WalOptions,
};
use tidegate_stock::{Command, IdempotencyKey, Ledger, Rules};

use crate::error::BenchError;
use crate::heard::Tally;
use crate::machine::temporary_directory;
use crate::sample::{RULES, START, actor, secret};
use crate::wait::block_on;

/// The only shard's log.
pub const STREAM: StreamId = ShardNumber(0).stream();

/// What a node is made of.
#[derive(Clone)]
pub struct NodeParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// What an answer survives.
    pub durability: Durability,
    /// The machine's limits.
    pub options: EngineOptions,
    /// The rules.
    pub rules: Rules,
    /// Bytes of a segment of the log.
    pub segment_bytes_max: u64,
    /// Whether resolved reservations leave memory.
    pub has_history: bool,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
}

impl NodeParameters {
    /// Default settings, with a history, on the system's clock.
    pub fn new(directory: Option<PathBuf>, durability: Durability) -> Self {
        Self {
            directory,
            durability,
            options: EngineOptions::default(),
            rules: RULES,
            segment_bytes_max: SEGMENT_BYTES_MAX_DEFAULT,
            has_history: true,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A running node. Stop it; one that is dropped leaves its threads to the process's end.
pub struct Node {
    /// Its engine.
    pub engine: Engine,
    /// Its log.
    pub wal: Wal,
    /// What the log says.
    pub tally: Arc<Tally>,
    /// Its history.
    pub history: Option<Arc<History>>,
    /// What its directory says of itself.
    pub identity: Identity,
    /// The data directory.
    pub data: PathBuf,
    actor: ActorName,
}

impl Node {
    /// A new node in a new folder, which goes when it is dropped: keep it for as long as the node.
    pub fn start(parameters: &NodeParameters) -> Result<(Self, TempDir), BenchError> {
        let folder = temporary_directory(parameters.directory.as_ref())?;
        let directory = open(parameters, &folder.path().join("data"))?;
        let ledger = Ledger::new(parameters.rules, Sealing::new(&secret()).table_seed());
        let node = Self::on(parameters, directory, ledger, RecoveredStream::empty(STREAM))?;
        Ok((node, folder))
    }

    /// The node of a directory from which `ledger` was recovered, up to `tail`.
    pub fn on(
        parameters: &NodeParameters,
        directory: DataDirectory,
        ledger: Ledger,
        tail: RecoveredStream,
    ) -> Result<Self, BenchError> {
        let metrics = Arc::new(EngineMetrics::default());
        let (data, identity) = (directory.path().to_owned(), directory.identity().clone());
        let history = if parameters.has_history {
            Some(Arc::new(History::open(&data.join("history"), &HistoryOptions::default()).map_err(BenchError::wrong)?))
        } else {
            None
        };
        let commits = LocalCommits::new([(STREAM, tail.last_sequence)], Arc::clone(&metrics), |_| ());
        let progress = commits.progress(STREAM).ok_or_else(|| BenchError::wrong("the shard has no watermark"))?;
        let disk_low = commits.disk_low_flag();
        let options = WalOptions { durability: parameters.durability, ..WalOptions::default() };
        let tally = Arc::new(Tally::new(commits));
        let listener = Arc::<Tally>::clone(&tally);
        let wal = Wal::start(directory, [tail], options, listener).map_err(BenchError::wrong)?;
        let engine = Engine::start(EngineParts {
            options: parameters.options,
            sealing: Sealing::new(&secret()),
            clock: Arc::clone(&parameters.clock),
            metrics,
            disk_low,
            history: history.clone().map(|store| HistoryStart { store, on_failure: Box::new(|_| ()) }),
            shards: vec![ShardStart { ledger, log: Box::new(LocalLog::new(wal.writer(), STREAM)), progress, quorum: None }],
        });
        Ok(Self { engine: engine.map_err(BenchError::wrong)?, wal, tally, history, identity, data, actor: actor() })
    }

    /// A command as it comes through a door.
    pub fn submission(&self, command: Command, key: Option<IdempotencyKey>) -> Submission {
        Submission { command, key, actor: self.actor.clone() }
    }

    /// Hands a command over.
    pub fn try_submit(&self, command: Command) -> Result<Pending, Refusal> {
        self.engine.try_submit(self.submission(command, None))
    }

    /// Has a command done that must be accepted.
    pub fn accept(&self, command: Command) -> Result<(), BenchError> {
        let pending = self.try_submit(command).map_err(BenchError::wrong)?;
        block_on(pending).map(drop).map_err(BenchError::wrong)
    }

    /// What the shard says of itself.
    pub fn report(&self) -> Result<ShardReport, BenchError> {
        block_on(self.engine.inspect()).pop().ok_or_else(|| BenchError::wrong("the shard has stopped"))
    }

    /// Stops it in order.
    pub fn stop(self) -> Result<(), BenchError> {
        block_on(self.engine.stop());
        self.wal.stop().map_err(BenchError::wrong)
    }
}

/// Opens or makes the data directory at `path`.
pub fn open(parameters: &NodeParameters, path: &Path) -> Result<DataDirectory, BenchError> {
    let segment_bytes_max = parameters.segment_bytes_max;
    DataDirectory::open(path, &DirectoryOptions { segment_bytes_max, ..DirectoryOptions::new(START) }).map_err(BenchError::wrong)
}
