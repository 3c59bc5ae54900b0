//! What is put into an inbox is taken out once.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;

use crate::inbox::Inbox;
use crate::model::{Check, spawn};
use crate::wake::Wake;

pub(super) const TAKEN: Check =
    Check { name: "what two threads put into an inbox is taken once, and soon", preemptions: 2, body: two_threads_put };

fn two_threads_put() {
    let wake = Arc::new(Wake::default());
    let inbox = Inbox::new(Arc::clone(&wake));
    for item in 0..2 {
        let inbox = Arc::clone(&inbox);
        spawn(move || inbox.put(item));
    }
    spawn(move || {
        let mut taken = Vec::new();
        block_on(poll_fn(|context| {
            loop {
                taken.extend(inbox.take());
                if taken.len() >= 2 {
                    return Poll::Ready(());
                }
                wake.prepare_sleep(context.waker());
                if !inbox.has_items() {
                    return Poll::Pending;
                }
                wake.cancel_sleep();
            }
        }));
        taken.sort_unstable();
        assert_eq!(taken, [0, 1]);
    });
}

#[test]
fn what_is_put_in_is_taken_once() {
    TAKEN.holds();
}
