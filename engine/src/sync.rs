//! The primitives by which the engine's threads meet, and what stands in for them while a model checker drives the threads.
//!
//! Built as a product this is the standard library's, `parking_lot`'s and tokio's. The unit tests built with the feature `loom` get the
//! counterparts of [`crate::model`] under the same names: so what is checked over all schedules is the code that runs, not a copy of it.
//! A module whose threads meet in a way that is worth checking takes its primitives from here; the doors of foreign crates
//! (`wake.rs`, `ring.rs`) choose theirs by the same condition.

#[cfg(not(all(test, feature = "loom")))]
mod machine {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, fence};
    pub(crate) use std::sync::mpsc;
    pub(crate) use std::thread::yield_now;

    /// A cell that the order around it keeps to one thread at a time. Its lock never waits; the model checks that it has not to.
    pub(crate) use parking_lot::Mutex as Uncontended;
    /// Guards what threads set themselves up from, and orders nothing that is checked: the model does not see it.
    pub(crate) use parking_lot::Mutex as SetupMutex;
    pub(crate) use parking_lot::{Mutex, RwLock};
    pub(crate) use tokio::sync::{oneshot, watch};
}

#[cfg(all(test, feature = "loom"))]
use crate::model::machine;

pub(crate) use std::sync::atomic::Ordering;

pub(crate) use machine::*;
