//! What other threads have for a shard beside its ring: answers of the history. Small, and never full: whoever asked is bounded.

use std::sync::Arc;

use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::wake::Wake;

/// A box that any thread puts into and one shard empties.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    items: Mutex<Vec<T>>,
    /// Whether a look into the box is worth while. The lock orders what is in it, and the wake's fences order the looks of one who sleeps.
    has_items: AtomicBool,
    wake: Arc<Wake>,
}

impl<T> Inbox<T> {
    pub(crate) fn new(wake: Arc<Wake>) -> Arc<Self> {
        Arc::new(Self { items: Mutex::new(Vec::new()), has_items: AtomicBool::new(false), wake })
    }

    /// Puts `item` in, and wakes the shard.
    pub(crate) fn put(&self, item: T) {
        {
            let mut items = self.items.lock();
            items.push(item);
            self.has_items.store(true, Ordering::Relaxed);
        }
        self.wake.notify();
    }

    /// Whether there is anything. Costs one load.
    pub(crate) fn has_items(&self) -> bool {
        self.has_items.load(Ordering::Relaxed)
    }

    /// Everything that is there.
    pub(crate) fn take(&self) -> Vec<T> {
        if !self.has_items() {
            return Vec::new();
        }
        let mut items = self.items.lock();
        self.has_items.store(false, Ordering::Relaxed);
        std::mem::take(&mut items)
    }
}
