//! The counterpart of disruptor's ring for many producers and one poller, as far as `ring.rs` uses it, and of `thread_local`'s store of
//! producers. A slot's round is one bit, as there; all bits stand in one word, so there are at most 64 slots.

use std::marker::PhantomData;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard};

use super::atomics::{AtomicI64, AtomicU64};

/// The wait strategy that `ring.rs` names and that nobody uses.
pub(crate) struct BusySpin;

#[derive(Debug)]
pub(crate) struct MultiProducerBarrier;

#[derive(Debug)]
pub(crate) struct SingleConsumerBarrier;

/// Why a poll gives nothing.
#[derive(Debug)]
pub(crate) enum Polling {
    NoEvents,
    #[expect(dead_code, reason = "the model's ring does not shut down, but its user must expect it")]
    Shutdown,
}

/// No slot is free.
#[derive(Debug)]
pub(crate) struct RingBufferFull;

#[derive(Debug)]
struct Ring<E> {
    /// The newest sequence that a producer has claimed.
    claimed: AtomicI64,
    /// The newest that was read.
    read: AtomicI64,
    /// A bit for each slot: whether it was published last in an odd round.
    published: AtomicU64,
    /// Locked by whoever is at the slot, without waiting: the ring's order keeps others away.
    slots: Vec<Mutex<E>>,
}

impl<E> Ring<E> {
    fn size(&self) -> i64 {
        i64::try_from(self.slots.len()).expect("at most 64")
    }

    fn slot(&self, sequence: i64) -> MutexGuard<'_, E> {
        let place = usize::try_from(sequence % self.size()).expect("sequences of slots are not negative");
        self.slots[place].try_lock().expect("two threads are at one slot")
    }

    /// The newest sequence up to which all from `first` on are published; the one before `first` if that is not.
    fn published_up_to(&self, first: i64) -> i64 {
        let mut bits = self.published.load(Acquire);
        let mut next = first;
        loop {
            let (round, place) = (next / self.size(), next % self.size());
            if place == 0 && next != first {
                bits = self.published.load(Acquire);
            }
            if i64::from((bits >> place) & 1 == 1) != round & 1 {
                return next - 1;
            }
            next += 1;
        }
    }
}

pub(crate) struct Builder<E>(Arc<Ring<E>>);

pub(crate) fn build_multi_producer<E>(slots: usize, mut empty: impl FnMut() -> E, _: BusySpin) -> Builder<E> {
    assert!(slots.is_power_of_two() && slots <= 64, "{slots} slots in the model's ring");
    Builder(Arc::new(Ring {
        claimed: AtomicI64::new(-1),
        read: AtomicI64::new(-1),
        published: AtomicU64::new(u64::MAX),
        slots: (0..slots).map(|_| Mutex::new(empty())).collect(),
    }))
}

impl<E> Builder<E> {
    pub(crate) fn new_event_poller(self) -> (EventPoller<E, MultiProducerBarrier>, Self) {
        (EventPoller(Arc::clone(&self.0), PhantomData), self)
    }

    pub(crate) fn build(self) -> MultiProducer<E, SingleConsumerBarrier> {
        MultiProducer(self.0, PhantomData)
    }
}

pub(crate) struct MultiProducer<E, C>(Arc<Ring<E>>, PhantomData<C>);

impl<E, C> Clone for MultiProducer<E, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

pub(crate) trait Producer<E> {
    fn try_publish(&mut self, update: impl FnOnce(&mut E)) -> Result<i64, RingBufferFull>;
}

impl<E, C> Producer<E> for MultiProducer<E, C> {
    fn try_publish(&mut self, update: impl FnOnce(&mut E)) -> Result<i64, RingBufferFull> {
        let ring = &*self.0;
        let mut newest = ring.claimed.load(Acquire);
        loop {
            if newest - ring.read.load(Acquire) >= ring.size() {
                return Err(RingBufferFull);
            }
            match ring.claimed.compare_exchange(newest, newest + 1, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(other) => newest = other,
            }
        }
        let sequence = newest + 1;
        update(&mut ring.slot(sequence));
        ring.published.fetch_xor(1 << (sequence % ring.size()), Release);
        Ok(sequence)
    }
}

pub(crate) struct EventPoller<E, B>(Arc<Ring<E>>, PhantomData<B>);

impl<E, B> EventPoller<E, B> {
    pub(crate) fn has_available(&self) -> bool {
        let next = self.0.read.load(Acquire) + 1;
        self.0.published_up_to(next) >= next
    }

    pub(crate) fn poll(&mut self) -> Result<EventGuard<'_, E>, Polling> {
        self.take(u64::MAX)
    }

    pub(crate) fn take(&mut self, limit: u64) -> Result<EventGuard<'_, E>, Polling> {
        let ring = &*self.0;
        let read = ring.read.load(Acquire);
        let available = ring.published_up_to(read + 1).min(read.saturating_add_unsigned(limit));
        if available <= read {
            return Err(Polling::NoEvents);
        }
        Ok(EventGuard { ring, next: read + 1, available })
    }
}

/// Frees its slots when it is dropped.
pub(crate) struct EventGuard<'p, E> {
    ring: &'p Ring<E>,
    next: i64,
    available: i64,
}

impl<'p, E> Iterator for &mut EventGuard<'p, E> {
    type Item = MutexGuard<'p, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let sequence = self.next;
        (sequence <= self.available).then(|| {
            self.next += 1;
            self.ring.slot(sequence)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.available + 1 - self.next).expect("not negative");
        (left, Some(left))
    }
}

impl<E> ExactSizeIterator for &mut EventGuard<'_, E> {}

impl<E> Drop for EventGuard<'_, E> {
    fn drop(&mut self) {
        self.ring.read.store(self.available, Release);
    }
}

/// A store that has kept nothing for anybody yet.
pub(crate) struct ThreadLocal<T>(PhantomData<fn() -> T>);

impl<T> ThreadLocal<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }

    #[expect(clippy::unused_self, reason = "the face of the store that keeps them")]
    pub(crate) fn get_or(&self, make: impl FnOnce() -> T) -> T {
        make()
    }
}
