//! The log of a node that stands alone: a group is committed when this node's disk has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_persistence::{Group, GroupSequence, StreamId, SyncReport, Term, WalError, WalListener, WalWriter};

use crate::commit::{CommitLog, CommitProgress};
use crate::metrics::EngineMetrics;

/// Proposes a shard's groups to the node's write-ahead log.
pub struct LocalLog {
    writer: WalWriter,
    stream: StreamId,
}

impl LocalLog {
    /// The log of the shard that owns `stream`.
    pub const fn new(writer: WalWriter, stream: StreamId) -> Self {
        Self { writer, stream }
    }
}

impl CommitLog for LocalLog {
    fn propose(&mut self, _: Term, group: Group) {
        self.writer.append(self.stream, group);
    }
}

/// Hears from the write-ahead log and tells the shards.
pub struct LocalCommits {
    shards: BTreeMap<StreamId, Arc<CommitProgress>>,
    disk_low: Arc<AtomicBool>,
    metrics: Arc<EngineMetrics>,
    on_failure: Box<dyn Fn(&WalError) + Send + Sync>,
}

impl LocalCommits {
    /// Listens for the streams in `recovered`, each with the newest group that recovery found. `on_failure` is called once, on the
    /// log's own thread, if the log fails: the node must stop.
    pub fn new(
        recovered: impl IntoIterator<Item = (StreamId, GroupSequence)>,
        metrics: Arc<EngineMetrics>,
        on_failure: impl Fn(&WalError) + Send + Sync + 'static,
    ) -> Self {
        let shards = recovered.into_iter().map(|(stream, sequence)| (stream, CommitProgress::new(sequence))).collect();
        Self { shards, disk_low: Arc::default(), metrics, on_failure: Box::new(on_failure) }
    }

    /// The watermark of the shard that owns `stream`, if it was among the recovered.
    pub fn progress(&self, stream: StreamId) -> Option<Arc<CommitProgress>> {
        self.shards.get(&stream).cloned()
    }

    /// True while the disk has less free space than its minimum.
    pub fn disk_low_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.disk_low)
    }
}

impl WalListener for LocalCommits {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        if let Some(progress) = self.shards.get(&stream) {
            progress.commit(sequence);
        }
    }

    fn synced(&self, report: &SyncReport) {
        self.metrics.observe_sync(report);
    }

    fn disk_low(&self, low: bool) {
        self.disk_low.store(low, Ordering::Release);
        self.metrics.disk_low.set(i64::from(low));
    }

    fn failed(&self, error: &WalError) {
        tracing::error!(%error, "the write-ahead log failed; the node must stop");
        for progress in self.shards.values() {
            progress.fail();
        }
        (self.on_failure)(error);
    }
}
