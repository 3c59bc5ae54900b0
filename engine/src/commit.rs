//! The port to the log: where a shard's groups go, and how it learns that they are committed.

use std::sync::Arc;

use tidegate_persistence::{Group, GroupSequence};

use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::wake::Wake;

/// Takes a shard's groups, in order, and makes them last. One node's log is one implementation, a replicated log another.
pub trait CommitLog: Send + 'static {
    /// Proposes the shard's next group. Never blocks. That it is committed, or that the log has failed, is told through the shard's
    /// [`CommitProgress`]; groups of one shard are committed in the order proposed.
    fn propose(&mut self, group: Group);
}

/// The committed watermark of one shard. Written by the log, read by the shard.
#[derive(Debug)]
pub struct CommitProgress {
    committed: AtomicU64,
    failed: AtomicBool,
    wake: Arc<Wake>,
}

impl CommitProgress {
    /// A watermark that stands at `committed`: everything recovered.
    pub fn new(committed: GroupSequence) -> Arc<Self> {
        Arc::new(Self { committed: AtomicU64::new(committed.0), failed: AtomicBool::new(false), wake: Arc::default() })
    }

    /// Every group up to `sequence` is committed. Wakes the shard.
    pub fn commit(&self, sequence: GroupSequence) {
        self.committed.store(sequence.0, Ordering::Release);
        self.wake.notify();
    }

    /// The log has failed: no further group will be committed. Wakes the shard.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.wake.notify();
    }

    /// The newest committed group.
    pub fn committed(&self) -> GroupSequence {
        GroupSequence(self.committed.load(Ordering::Acquire))
    }

    /// Whether the log has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) const fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }
}
