//! The ring in front of a shard. The door of disruptor and `thread_local`.
//!
//! Many threads publish, one actor polls. Each publishing thread has a producer of its own, made at its first use: cloning a producer
//! takes a lock, publishing takes none. A full ring refuses at once; nothing here ever spins or waits for a slot. Once the actor is gone,
//! whatever was or is published is dropped, so that nobody waits for what no one will do.

use std::cell::RefCell;
use std::sync::Arc;

#[cfg(not(all(test, feature = "loom")))]
use disruptor::{
    BusySpin, EventPoller, MultiProducer, MultiProducerBarrier, Polling, Producer, SingleConsumerBarrier, build_multi_producer,
};
#[cfg(not(all(test, feature = "loom")))]
use thread_local::ThreadLocal;

#[cfg(all(test, feature = "loom"))]
use crate::model::disruptor::{
    BusySpin, EventPoller, MultiProducer, MultiProducerBarrier, Polling, Producer, SingleConsumerBarrier, ThreadLocal,
    build_multi_producer,
};
use crate::sync::{AtomicBool, Mutex, Ordering, SetupMutex, Uncontended, fence};
use crate::wake::Wake;

/// Fewest slots the ring's availability map can describe.
pub(crate) const RING_SLOTS_MIN: usize = 64;

/// A slot. The poller only gets `&Slot`, so the item stands in a cell; by the ring's own order the cell is never contended.
type Slot<T> = Uncontended<Option<T>>;
type SlotProducer<T> = MultiProducer<Slot<T>, SingleConsumerBarrier>;
type SlotPoller<T> = EventPoller<Slot<T>, MultiProducerBarrier>;

/// The publishing side; shared by all threads.
pub(crate) struct RingSender<T: Send + 'static> {
    producers: ThreadLocal<RefCell<SlotProducer<T>>>,
    origin: SetupMutex<SlotProducer<T>>,
    wake: Arc<Wake>,
    end: Arc<End<T>>,
}

/// The polling side; owned by one actor.
pub(crate) struct RingReceiver<T: Send + 'static> {
    /// There until this is dropped.
    poller: Option<SlotPoller<T>>,
    end: Arc<End<T>>,
}

/// What is left of a polling side that was dropped.
struct End<T: Send + 'static> {
    is_reached: AtomicBool,
    poller: Mutex<Option<SlotPoller<T>>>,
}

/// The ring had no free slot; here is the item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingFull<T>(pub(crate) T);

/// A ring of `slots` slots, a power of two of at least [`RING_SLOTS_MIN`], whose publications notify `wake`.
pub(crate) fn ring<T: Send + 'static>(slots: usize, wake: Arc<Wake>) -> (RingSender<T>, RingReceiver<T>) {
    // The wait strategy is that of managed consumer threads, of which there are none.
    let (poller, builder) = build_multi_producer(slots, || Uncontended::new(None), BusySpin).new_event_poller();
    let end = Arc::new(End { is_reached: AtomicBool::new(false), poller: Mutex::new(None) });
    let sender =
        RingSender { producers: ThreadLocal::new(), origin: SetupMutex::new(builder.build()), wake, end: Arc::clone(&end) };
    (sender, RingReceiver { poller: Some(poller), end })
}

impl<T: Send + 'static> RingSender<T> {
    /// Publishes `item`, or gives it back when the ring is full. An item that nobody polls for any more is dropped.
    pub(crate) fn try_send(&self, item: T) -> Result<(), RingFull<T>> {
        let producer = self.producers.get_or(|| RefCell::new(self.origin.lock().clone()));
        let mut item = Some(item);
        // The closure must not panic: it would leave a hole at which the poller stops for ever. It only moves.
        let published = producer.borrow_mut().try_publish(|slot| *slot.get_mut() = item.take());
        if let (Err(_), Some(item)) = (published, item) {
            return Err(RingFull(item));
        }
        // Its fence stands between the publication and the look at the end, as the other side's between the end and its last look.
        self.wake.notify();
        if self.end.is_reached.load(Ordering::Relaxed) {
            self.end.drop_items();
        }
        Ok(())
    }
}

impl<T: Send + 'static> End<T> {
    /// Drops whatever waits. Items behind one that is still being published are left to whoever publishes that.
    fn drop_items(&self) {
        let mut poller = self.poller.lock();
        while poller.as_mut().is_some_and(|poller| take_from(poller, usize::MAX, drop) > 0) {}
    }
}

impl<T: Send + 'static> Drop for RingReceiver<T> {
    fn drop(&mut self) {
        *self.end.poller.lock() = self.poller.take();
        self.end.is_reached.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.end.drop_items();
    }
}

impl<T: Send + 'static> RingReceiver<T> {
    /// Whether at least one item waits. Costs a few loads.
    pub(crate) fn has_items(&self) -> bool {
        self.poller.as_ref().is_some_and(EventPoller::has_available)
    }

    /// How many items wait. Looks at the mark of each of them, so it is for whoever asks now and then.
    pub(crate) fn waiting(&mut self) -> usize {
        let Some(Ok(mut batch)) = self.poller.as_mut().map(EventPoller::poll) else { return 0 };
        let events = &mut batch;
        let waiting = events.len();
        // Dropped, it would free the slots of items that nobody has taken.
        std::mem::forget(batch);
        waiting
    }

    /// Hands up to `limit` waiting items to `take`, in the order of publication, then frees their slots. Returns how many there were.
    pub(crate) fn drain(&mut self, limit: usize, take: impl FnMut(T)) -> usize {
        self.poller.as_mut().map_or(0, |poller| take_from(poller, limit, take))
    }
}

fn take_from<T: Send + 'static>(poller: &mut SlotPoller<T>, limit: usize, mut take: impl FnMut(T)) -> usize {
    match poller.take(limit as u64) {
        Ok(mut batch) => {
            let mut taken = 0;
            for slot in &mut batch {
                if let Some(item) = slot.lock().take() {
                    take(item);
                    taken += 1;
                }
            }
            taken
        }
        Err(Polling::NoEvents | Polling::Shutdown) => 0,
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_and_stays_where_it_is() {
        let (sender, mut receiver) = ring(RING_SLOTS_MIN, Arc::default());
        assert_eq!(receiver.waiting(), 0);
        for item in 0..RING_SLOTS_MIN {
            sender.try_send(item).unwrap();
        }
        // Counting frees no slot.
        assert_eq!((receiver.waiting(), receiver.waiting()), (RING_SLOTS_MIN, RING_SLOTS_MIN));
        assert_eq!(sender.try_send(RING_SLOTS_MIN), Err(RingFull(RING_SLOTS_MIN)));
        let mut taken = Vec::new();
        assert_eq!(receiver.drain(10, |item| taken.push(item)), 10);
        assert_eq!(receiver.waiting(), RING_SLOTS_MIN - 10);
        receiver.drain(usize::MAX, |item| taken.push(item));
        assert_eq!(taken, (0..RING_SLOTS_MIN).collect::<Vec<_>>());
        assert_eq!(receiver.waiting(), 0);
    }
}
