//! What goes into a ring comes out once and in order, also at its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;

use crate::model::{Check, spawn};
use crate::ring::{RingFull, RingReceiver, RingSender, ring};
use crate::sync::oneshot;
use crate::wake::Wake;

const TAKEN: Check =
    Check { name: "what two threads publish is taken once, and soon", preemptions: 1, body: || publish_and_take(2, 1) };

const TAKEN_IN_ORDER: Check =
    Check { name: "more than a ring has slots is taken once, in order, and soon", preemptions: 1, body: || publish_and_take(1, 3) };

pub(super) const ENDED: Check =
    Check { name: "what is published to a ring at its end is dropped", preemptions: 3, body: || publish_at_the_end(1) };

const ENDED_BETWEEN: Check =
    Check { name: "what two threads publish to a ring at its end is dropped", preemptions: 1, body: || publish_at_the_end(2) };

/// Threads publish `each` items into two slots; one task takes them.
fn publish_and_take(publishers: usize, each: u32) {
    let wake = Arc::new(Wake::default());
    let (sender, mut receiver) = ring::<(usize, u32)>(2, Arc::clone(&wake));
    let sender = Arc::new(sender);
    for publisher in 0..publishers {
        let sender = Arc::clone(&sender);
        spawn(move || (0..each).for_each(|number| publish(&sender, (publisher, number))));
    }
    spawn(move || {
        let mut next = vec![0; publishers];
        block_on(poll_fn(|context| {
            loop {
                receiver.drain(usize::MAX, |(publisher, number)| {
                    assert_eq!(number, next[publisher], "lost, doubled or out of order");
                    next[publisher] += 1;
                });
                if next.iter().all(|next| *next == each) {
                    return Poll::Ready(());
                }
                wake.prepare_sleep(context.waker());
                if !receiver.has_items() {
                    return Poll::Pending;
                }
                wake.cancel_sleep();
            }
        }));
    });
}

fn publish<T: Send + 'static>(sender: &RingSender<T>, item: T) {
    let mut refused = sender.try_send(item);
    while let Err(RingFull(item)) = refused {
        loom::thread::yield_now();
        refused = sender.try_send(item);
    }
}

/// Threads publish while the one that took goes. Each waits until its item is dropped; one that stays in the ring is waited for for ever,
/// because the ring itself lasts as long as a sender.
fn publish_at_the_end(publishers: usize) {
    let (sender, receiver): (_, RingReceiver<oneshot::Sender<()>>) = ring(2, Arc::default());
    let sender = Arc::new(sender);
    for _ in 0..publishers {
        let sender = Arc::clone(&sender);
        spawn(move || {
            let (item, dropped) = oneshot::channel();
            publish(&sender, item);
            assert!(block_on(dropped).is_err());
        });
    }
    spawn(move || drop(receiver));
}

#[test]
fn what_is_published_is_taken_once_and_in_order() {
    TAKEN.holds();
    TAKEN_IN_ORDER.holds();
}

#[test]
fn what_is_published_at_the_end_is_dropped() {
    ENDED.holds();
    ENDED_BETWEEN.holds();
}
