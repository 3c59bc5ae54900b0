//! The model under which the engine's threads are checked over all their schedules: counterparts of the primitives that
//! [`crate::sync`] names, made of loom's, and of the foreign crates behind the doors `wake.rs` and `ring.rs`; and the means to explore a
//! check. What is checked is in [`crate::schedules`]. Knows no rule of the engine.
//!
//! # What the model proves, and what not
//!
//! loom runs a check once for every schedule of its threads and for every value that a load may see under the memory model of C11, with at
//! most the given number of preemptions. Its fences are somewhat stronger than the standard's: a sequentially consistent fence also
//! publishes all that its thread has written. Its atomics keep the newest seven values.
//!
//! Counterparts of foreign crates follow the orderings of the crate's source, of the version that `Cargo.lock` pins. That the crates do as
//! their source says is not proved here; the stress test `tests/stress.rs` runs the crates themselves.
//!
//! - `AtomicWaker`: the whole of atomic-waker's protocol.
//! - `disruptor`: claiming, publishing, polling and freeing of slots, for up to 64 of them. Not: the ring's shutdown, waiting
//!   strategies, a producer that remembers what was free before (`thread_local` gives a new one for each publication).
//! - `oneshot`, `watch`, `mpsc`: what the engine uses of them. A lock stands in for the lists of tokio and the standard library.
//! - actix is not there: a check polls the shard's loop itself, wherever a task could be polled, and now and then without a cause.
//! - Time stands still, and nobody reads a disk.

mod atomics;
mod channels;
/// What `ring.rs` uses of disruptor and `thread_local`.
pub(crate) mod disruptor;
mod explore;
mod waker;

/// What [`crate::sync`] hands on.
pub(crate) mod machine {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::thread::yield_now;
    pub(crate) use parking_lot::Mutex as SetupMutex;

    pub(crate) use super::atomics::{AtomicBool, AtomicU64, Mutex, RwLock, Uncontended, fence};
    pub(crate) use super::channels::{mpsc, oneshot, watch};
}

pub(crate) use explore::{Check, Weakened, spawn};
pub(crate) use waker::AtomicWaker;
