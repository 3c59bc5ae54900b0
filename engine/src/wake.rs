//! Waking a parked shard without a lock and without a lost wake-up. The door of atomic-waker.

use std::task::Waker;

#[cfg(not(all(test, feature = "loom")))]
use atomic_waker::AtomicWaker;

#[cfg(all(test, feature = "loom"))]
use crate::model::AtomicWaker;
use crate::sync::{AtomicBool, Ordering, fence};

/// A flag that says that the shard sleeps, and how to wake it.
///
/// The protocol is the classic one of two sides that each write, fence, and then read what the other wrote: the sleeper sets the flag
/// and then looks for work once more; the waker makes work and then looks at the flag. At least one of them sees the other.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    sleeping: AtomicBool,
    waker: AtomicWaker,
}

impl Wake {
    /// Called by the shard before its last look for work. After it, every [`Self::notify`] wakes `waker`'s task.
    pub(crate) fn prepare_sleep(&self, waker: &Waker) {
        self.waker.register(waker);
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the shard when its last look found work after all.
    pub(crate) fn cancel_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Called by any thread after it has made work visible. Costs one fence and one load while the shard is awake.
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        if mutant!(WakeLost) {
            return;
        }
        // The swap only picks one of several to wake: that it finds the waker is in the order of the waker's own cell.
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}
