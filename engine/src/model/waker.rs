//! The counterpart of atomic-waker: its whole protocol, with the cell checked for accesses that nothing orders.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::task::Waker;

use super::atomics::{AtomicUsize, Uncontended};

/// Nobody is at the cell.
const WAITING: usize = 0;
/// The one who sleeps is at the cell.
const REGISTERING: usize = 0b01;
/// Somebody wakes: at the cell, or, together with the other bit, in want of it.
const WAKING: usize = 0b10;

/// Wakes the task that was registered last.
#[derive(Debug)]
pub(crate) struct AtomicWaker {
    state: AtomicUsize,
    waker: Uncontended<Option<Waker>>,
}

impl Default for AtomicWaker {
    fn default() -> Self {
        Self { state: AtomicUsize::new(WAITING), waker: Uncontended::new(None) }
    }
}

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        match self.state.compare_exchange(WAITING, REGISTERING, Acquire, Acquire) {
            Ok(_) => {
                *self.waker.lock() = Some(waker.clone());
                if self.state.compare_exchange(REGISTERING, WAITING, AcqRel, Acquire).is_err() {
                    // Somebody came to wake meanwhile and left that to this thread.
                    let woken = self.waker.lock().take();
                    self.state.swap(WAITING, AcqRel);
                    if let Some(woken) = woken {
                        woken.wake();
                    }
                }
            }
            // Somebody wakes whoever was registered before: this is at once awake again, and so on until the other is done.
            Err(WAKING) => {
                waker.wake_by_ref();
                loom::thread::yield_now();
            }
            Err(_) => unreachable!("one task registers"),
        }
    }

    pub(crate) fn wake(&self) {
        if self.state.fetch_or(WAKING, AcqRel) == WAITING {
            let woken = self.waker.lock().take();
            self.state.fetch_and(!WAKING, Release);
            if let Some(woken) = woken {
                woken.wake();
            }
        }
    }
}
