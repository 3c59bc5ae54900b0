//! One life of a node in one process: the engine over a log in memory and a history on the disk, begun from what the last life left.
//! Knows nothing of the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use tidegate_engine::{
    Engine, EngineMetrics, EngineOptions, EngineParts, Feed, HistoryStart, LocalCommits, LocalLog, ManualClock, Sealing,
    ShardStart, snapshot_items,
};
use tidegate_persistence::{
    GroupSequence, History, HistoryOptions, LogPosition, MemoryStore, NodeId, RecoveredStream, RecoveryProgress, StreamId, Wal,
    WalOptions, recovery,
};
use tidegate_stock::{Event, Ledger, Loader, Rules};

/// What outlives a node.
pub(crate) struct Ground {
    pub(crate) rules: Rules,
    pub(crate) shards: u16,
    pub(crate) options: EngineOptions,
    pub(crate) value_bytes_max: Option<usize>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: MemoryStore,
    pub(crate) history: Arc<History>,
    pub(crate) snapshots: BTreeMap<StreamId, Snapshot>,
    _folder: TempDir,
}

/// A copy of a shard's ledger, and the place in its log where that stood.
pub(crate) struct Snapshot {
    pub(crate) position: LogPosition,
    blocks: Vec<Vec<u8>>,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) feed: Feed,
    wal: Wal,
}

impl Ground {
    pub(crate) fn new(
        rules: Rules,
        shards: u16,
        options: EngineOptions,
        value_bytes_max: Option<usize>,
        clock: Arc<ManualClock>,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let history = History::open(folder.path(), &HistoryOptions { range_seconds: 5, ..HistoryOptions::default() }).unwrap();
        Self {
            rules,
            shards,
            options,
            value_bytes_max,
            clock,
            store: MemoryStore::new(),
            history: Arc::new(history),
            snapshots: BTreeMap::new(),
            _folder: folder,
        }
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> + use<> {
        (0..self.shards).map(StreamId::log)
    }

    /// A shard's ledger from its log behind `snapshot`, and where the log ends; and how many reservations came back by events.
    pub(crate) fn recover(&self, stream: StreamId, snapshot: Option<&Snapshot>) -> (Ledger, RecoveredStream, u64) {
        let mut ledger = snapshot.map_or_else(|| Ledger::new(self.rules, 7), |snapshot| snapshot.ledger(self.rules));
        let mut recalled = 0;
        let start = snapshot.map(|snapshot| &snapshot.position);
        let tail = recovery::replay(&self.store, stream, start, None, &RecoveryProgress::default(), &mut |group| {
            for entry in group.entries()? {
                let entry = entry?;
                drop(ledger.apply(&entry.event, entry.at));
                recalled += u64::from(matches!(entry.event, Event::Recalled { .. }));
            }
            ledger.tidy(group.time, 8);
            Ok(())
        });
        (ledger, tail.unwrap(), recalled)
    }

    /// A node that goes on from `shards`.
    pub(crate) fn start(&self, shards: Vec<(Ledger, RecoveredStream)>) -> Node {
        let metrics = Arc::new(EngineMetrics::default());
        let ends = shards.iter().map(|(_, tail)| (tail.stream, tail.last_sequence));
        let on_failure = |error: &_| panic!("the log failed: {error}");
        let commits = Arc::new(LocalCommits::new(ends, Arc::clone(&metrics), on_failure));
        let options = WalOptions { value_bytes_max: self.value_bytes_max, ..WalOptions::default() };
        let tails = shards.iter().map(|(_, tail)| *tail);
        let wal = Wal::start_on(Box::new(self.store.clone()), NodeId(1), tails, options, commits.clone()).unwrap();
        let shards = shards
            .into_iter()
            .map(|(ledger, tail)| ShardStart {
                ledger,
                log: Box::new(LocalLog::new(wal.writer(), tail.stream)),
                progress: commits.progress(tail.stream).unwrap(),
                quorum: None,
            })
            .collect();
        let engine = Engine::start(EngineParts {
            options: self.options,
            sealing: Sealing::new(&[7; 32]),
            clock: Arc::<ManualClock>::clone(&self.clock),
            metrics,
            disk_low: commits.disk_low_flag(),
            history: Some(HistoryStart {
                store: Arc::clone(&self.history),
                on_failure: Box::new(|error| panic!("the history failed: {error}")),
            }),
            shards,
        })
        .unwrap();
        assert!(!commits.disk_low_flag().load(Ordering::Acquire));
        let feed = Feed::new(engine.clone(), wal.reader());
        Node { engine, feed, wal }
    }
}

impl Snapshot {
    fn ledger(&self, rules: Rules) -> Ledger {
        let mut loader = Loader::new(rules, 11);
        for block in &self.blocks {
            for item in snapshot_items(block) {
                loader.add(item.unwrap()).unwrap();
            }
        }
        loader.finish().unwrap()
    }
}

impl Node {
    /// A copy of a shard's ledger, made while it works. It must not be used before what it holds is committed.
    pub(crate) async fn copy(&self, stream: StreamId) -> (GroupSequence, Vec<Vec<u8>>) {
        let mut copy = self.engine.copy_ledger(stream).await.unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = copy.next_block().unwrap() {
            blocks.push(block.bytes);
        }
        (copy.at(), blocks)
    }

    /// A snapshot of a copy whose groups are committed by now.
    pub(crate) fn snapshot(&self, stream: StreamId, (at, blocks): (GroupSequence, Vec<Vec<u8>>)) -> Snapshot {
        assert!(self.engine.committed(stream).unwrap() >= at, "all that was asked for is answered, so it is committed");
        let position = self.wal.reader().position(stream, at).unwrap().unwrap_or(LogPosition::GENESIS);
        Snapshot { position, blocks }
    }

    pub(crate) async fn stop(self) {
        self.engine.stop().await;
        self.wal.stop().unwrap();
    }
}
