//! The port to the log: where a shard's groups go, and how it learns that they are committed.

use std::sync::Arc;

use tidegate_persistence::{Group, GroupSequence, Term};

use crate::leadership::Leadership;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::wake::Wake;

/// Takes a shard's groups, in order, and makes them last. One node's log is one implementation, a replicated log another.
pub trait CommitLog: Send + 'static {
    /// Proposes the shard's next group, which it decided in `term`. Never blocks. That it is committed, or that the log has failed, is told
    /// through the shard's [`CommitProgress`], by a quorum through the shard's line; groups of one shard are committed in the order proposed.
    fn propose(&mut self, term: Term, group: Group);
}

/// The committed watermark of one shard. Written by the log, read by the shard.
#[derive(Debug)]
pub struct CommitProgress {
    committed: AtomicU64,
    failed: AtomicBool,
    /// Whether the shard decides; for those who ask it, and it looks again itself.
    leadership: Arc<Leadership>,
    /// How often the shard has taken back what it decided.
    taken_back: AtomicU64,
    wake: Arc<Wake>,
}

impl CommitProgress {
    /// A watermark that stands at `committed`: everything recovered.
    pub fn new(committed: GroupSequence) -> Arc<Self> {
        Arc::new(Self {
            committed: AtomicU64::new(committed.0),
            failed: AtomicBool::new(false),
            leadership: Arc::new(Leadership::new()),
            taken_back: AtomicU64::new(0),
            wake: Arc::default(),
        })
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

    /// Whether the shard decides: always, unless a quorum has another node's shard do so, or may by now. What is read or decided here afterwards
    /// is no older than everything that was answered before this was asked: nobody else can have decided by then.
    pub fn leads(&self) -> bool {
        self.leadership.decides()
    }

    /// How often groups were taken back that had been numbered. Read behind [`Self::committed`] it is as new as that.
    pub(crate) fn taken_back(&self) -> u64 {
        self.taken_back.load(Ordering::Relaxed)
    }

    /// Groups behind the watermark are taken back, and others will have their numbers. Only the shard's thread calls this.
    pub(crate) fn note_taken_back(&self) {
        self.taken_back.store(self.taken_back() + 1, Ordering::Relaxed);
    }

    pub(crate) const fn leadership(&self) -> &Arc<Leadership> {
        &self.leadership
    }

    pub(crate) const fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }
}
