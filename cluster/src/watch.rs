//! Values that consensus' tasks watch: tokio's, and in a run from a seed tokio's with an order.
//!
//! tokio wakes whoever watches one value in an order that it draws, from randomness that nobody can seed. A simulation wants the same order
//! again. So on a thread that was given a seed ([`crate::seed_thread`]) whoever watches stands in a row, and is woken in that order. Everywhere
//! else this is tokio's watch and nothing more.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use openraft::OptionalSend;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::base::OptionalSync;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::runtime::is_seeded;

/// Makes values that are watched.
#[derive(Debug)]
pub struct OrderedWatch;

/// Whoever waits for one value, in order; none where tokio has them.
type Row = Option<Arc<Mutex<Vec<Waker>>>>;

/// Changes a value.
#[derive(Debug)]
pub struct Sender<T> {
    sender: watch::Sender<T>,
    row: Row,
}

/// Sees a value change.
#[derive(Debug)]
pub struct Receiver<T> {
    receiver: watch::Receiver<T>,
    row: Row,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), row: self.row.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { receiver: self.receiver.clone(), row: self.row.clone() }
    }
}

impl<T> Sender<T> {
    fn wake(&self) {
        if let Some(row) = &self.row {
            let waiting = std::mem::take(&mut *row.lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // It may be the last, which is a change too: so whoever waits looks again, behind this.
        self.wake();
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let row: Row = is_seeded().then(Arc::default);
        (Sender { sender, row: row.clone() }, Receiver { receiver, row })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        let sent = self.sender.send(value).map_err(|error| SendError(error.0));
        self.wake();
        sent
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let is_modified = self.sender.send_if_modified(modify);
        if is_modified {
            self.wake();
        }
        is_modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.sender.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { receiver: self.sender.subscribe(), row: self.row.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let Self { receiver, row } = self;
        let Some(row) = row else { return receiver.changed().await.map_err(|_| RecvError(())) };
        poll_fn(|context| match receiver.has_changed() {
            Ok(false) => {
                let waiting = &mut *row.lock();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
            // It is over at once: there is something to see, or nobody left to change it.
            Ok(true) | Err(_) => pin!(receiver.changed()).poll(context).map_err(|_| RecvError(())),
        })
        .await
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.receiver.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.receiver.borrow_and_update()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed_thread;

    /// The order in which eight tasks see a change that they wait for.
    fn order() -> Vec<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (sender, receiver) = OrderedWatch::channel(0);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let tasks: Vec<_> = (0..8)
                .map(|task| {
                    let (mut receiver, seen) = (receiver.clone(), Arc::clone(&seen));
                    tokio::spawn(async move {
                        receiver.changed().await.unwrap();
                        seen.lock().push(task);
                        // Nobody changes it any more.
                        assert!(receiver.changed().await.is_err());
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            sender.send(1).unwrap();
            tokio::task::yield_now().await;
            drop(sender);
            for task in tasks {
                task.await.unwrap();
            }
            seen.lock().clone()
        })
    }

    #[test]
    fn whoever_watches_on_a_thread_with_a_seed_is_woken_in_order_and_everybody_hears_of_the_end() {
        let ordered = std::thread::spawn(|| {
            seed_thread(1);
            order()
        });
        assert_eq!(ordered.join().unwrap(), (0..8).collect::<Vec<_>>());
        let mut other = order();
        other.sort_unstable();
        assert_eq!(other, (0..8).collect::<Vec<_>>());
    }
}
