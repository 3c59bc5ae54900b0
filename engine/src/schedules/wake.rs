//! A task that sleeps hears of all work that was made for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::future::block_on;

use crate::model::{Check, spawn};
use crate::sync::{AtomicBool, Ordering};
use crate::wake::Wake;

/// Makes ready to sleep; whether the task may. The last argument is a look for work.
type Sleep = fn(&Wake, &Waker, &dyn Fn() -> bool) -> bool;

pub(super) const HEARD: Check = Check {
    name: "a task that sleeps hears of two threads' work",
    preemptions: 3,
    body: || two_threads_make_work(as_the_shard_does),
};

/// The shard's loop does it so.
fn as_the_shard_does(wake: &Wake, waker: &Waker, has_work: &dyn Fn() -> bool) -> bool {
    wake.prepare_sleep(waker);
    if has_work() {
        wake.cancel_sleep();
        return false;
    }
    true
}

fn without_a_last_look(wake: &Wake, waker: &Waker, _: &dyn Fn() -> bool) -> bool {
    wake.prepare_sleep(waker);
    true
}

fn with_the_flag_after_the_last_look(wake: &Wake, waker: &Waker, has_work: &dyn Fn() -> bool) -> bool {
    if has_work() {
        return false;
    }
    wake.prepare_sleep(waker);
    true
}

/// Two threads make work, of which nothing but the wake's own order tells the task.
fn two_threads_make_work(sleep: Sleep) {
    let wake = Arc::new(Wake::default());
    let work = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    for place in 0..2 {
        let (wake, work) = (Arc::clone(&wake), Arc::clone(&work));
        spawn(move || {
            work[place].store(true, Ordering::Relaxed);
            wake.notify();
        });
    }
    spawn(move || {
        let seen = || work.iter().filter(|made| made.load(Ordering::Relaxed)).count();
        block_on(poll_fn(|context| {
            loop {
                let before = seen();
                if before == work.len() {
                    return Poll::Ready(());
                }
                if sleep(&wake, context.waker(), &|| seen() > before) {
                    return Poll::Pending;
                }
            }
        }));
    });
}

#[test]
fn a_sleeping_task_hears_of_work() {
    HEARD.holds();
}

#[test]
fn a_task_that_does_not_look_once_more_sleeps_for_ever() {
    let wrong = Check { name: "wrong: no last look", preemptions: 2, body: || two_threads_make_work(without_a_last_look) };
    wrong.fails_with("deadlock");
}

#[test]
fn a_task_that_sets_its_flag_after_the_last_look_sleeps_for_ever() {
    let body = || two_threads_make_work(with_the_flag_after_the_last_look);
    Check { name: "wrong: the flag set after the last look", preemptions: 2, body }.fails_with("deadlock");
}
