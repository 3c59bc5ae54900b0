//! The ring in front of a shard. The door of disruptor and `thread_local`.
//!
//! Many threads publish, one actor polls. Each publishing thread has a producer of its own, made at its first use: cloning a producer
//! takes a lock, publishing takes none. A full ring refuses at once; nothing here ever spins or waits for a slot.

use std::cell::RefCell;
use std::sync::Arc;

use disruptor::{BusySpin, EventPoller, MultiProducer, MultiProducerBarrier, Polling, Producer, SingleConsumerBarrier};
use parking_lot::Mutex;
use thread_local::ThreadLocal;

use crate::wake::Wake;

/// Fewest slots the ring's availability map can describe.
pub(crate) const RING_SLOTS_MIN: usize = 64;

/// A slot. The poller only gets `&Slot`, so the item stands in a cell; by the ring's own order the cell is never contended.
type Slot<T> = Mutex<Option<T>>;
type SlotProducer<T> = MultiProducer<Slot<T>, SingleConsumerBarrier>;

/// The publishing side; shared by all threads.
pub(crate) struct RingSender<T: Send + 'static> {
    producers: ThreadLocal<RefCell<SlotProducer<T>>>,
    origin: Mutex<SlotProducer<T>>,
    wake: Arc<Wake>,
}

/// The polling side; owned by one actor.
pub(crate) struct RingReceiver<T: Send + 'static> {
    poller: EventPoller<Slot<T>, MultiProducerBarrier>,
}

/// The ring had no free slot; here is the item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingFull<T>(pub(crate) T);

/// A ring of `slots` slots, a power of two of at least [`RING_SLOTS_MIN`], whose publications notify `wake`.
pub(crate) fn ring<T: Send + 'static>(slots: usize, wake: Arc<Wake>) -> (RingSender<T>, RingReceiver<T>) {
    // The wait strategy is that of managed consumer threads, of which there are none.
    let (poller, builder) = disruptor::build_multi_producer(slots, || Mutex::new(None), BusySpin).new_event_poller();
    let sender = RingSender { producers: ThreadLocal::new(), origin: Mutex::new(builder.build()), wake };
    (sender, RingReceiver { poller })
}

impl<T: Send + 'static> RingSender<T> {
    /// Publishes `item`, or gives it back when the ring is full.
    pub(crate) fn try_send(&self, item: T) -> Result<(), RingFull<T>> {
        let producer = self.producers.get_or(|| RefCell::new(self.origin.lock().clone()));
        let mut item = Some(item);
        // The closure must not panic: it would leave a hole at which the poller stops for ever. It only moves.
        let published = producer.borrow_mut().try_publish(|slot| *slot.get_mut() = item.take());
        if let (Err(_), Some(item)) = (published, item) {
            return Err(RingFull(item));
        }
        self.wake.notify();
        Ok(())
    }
}

impl<T: Send + 'static> RingReceiver<T> {
    /// Whether at least one item waits. Costs a few loads.
    pub(crate) fn has_items(&self) -> bool {
        self.poller.has_available()
    }

    /// How many items wait. Looks at the mark of each of them, so it is for whoever asks now and then.
    pub(crate) fn waiting(&mut self) -> usize {
        let Ok(mut batch) = self.poller.poll() else { return 0 };
        let events = &mut batch;
        let waiting = events.len();
        // Dropped, it would free the slots of items that nobody has taken.
        std::mem::forget(batch);
        waiting
    }

    /// Hands up to `limit` waiting items to `take`, in the order of publication, then frees their slots. Returns how many there were.
    pub(crate) fn drain(&mut self, limit: usize, mut take: impl FnMut(T)) -> usize {
        match self.poller.take(limit as u64) {
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
}

#[cfg(test)]
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
