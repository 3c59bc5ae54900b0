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

/// The ring had no free slot; the item is gone with the attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingFull;

/// A ring of `slots` slots, a power of two of at least [`RING_SLOTS_MIN`], whose publications notify `wake`.
pub(crate) fn ring<T: Send + 'static>(slots: usize, wake: Arc<Wake>) -> (RingSender<T>, RingReceiver<T>) {
    // The wait strategy is that of managed consumer threads, of which there are none.
    let (poller, builder) = disruptor::build_multi_producer(slots, || Mutex::new(None), BusySpin).new_event_poller();
    let sender = RingSender { producers: ThreadLocal::new(), origin: Mutex::new(builder.build()), wake };
    (sender, RingReceiver { poller })
}

impl<T: Send + 'static> RingSender<T> {
    /// Publishes `item`, or drops it when the ring is full.
    pub(crate) fn try_send(&self, item: T) -> Result<(), RingFull> {
        let producer = self.producers.get_or(|| RefCell::new(self.origin.lock().clone()));
        // The closure must not panic: it would leave a hole at which the poller stops for ever. It only moves.
        let published = producer.borrow_mut().try_publish(|slot| *slot.get_mut() = Some(item));
        published.map_err(|_| RingFull)?;
        self.wake.notify();
        Ok(())
    }
}

impl<T: Send + 'static> RingReceiver<T> {
    /// Whether at least one item waits. Costs a few loads.
    pub(crate) fn has_items(&self) -> bool {
        self.poller.has_available()
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
