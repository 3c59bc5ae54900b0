//! Whoever listens for commits misses none that he does not see for himself.

use std::sync::Arc;

use loom::future::block_on;
use tidegate_persistence::GroupSequence;

use crate::changes::Changes;
use crate::commit::CommitProgress;
use crate::model::{Check, spawn};

pub(super) const HEARD: Check =
    Check { name: "who begins to listen hears of a commit that he does not see", preemptions: 3, body: || listen(listen_and_look) };

/// Begins to listen and waits until the first group is committed.
type Listen = fn(&Changes, &CommitProgress);

fn listen_and_look(changes: &Changes, progress: &CommitProgress) {
    let mut heard = changes.listen();
    while progress.committed() < GroupSequence(1) {
        block_on(heard.changed());
    }
}

fn look_and_listen(changes: &Changes, progress: &CommitProgress) {
    if progress.committed() < GroupSequence(1) {
        block_on(changes.listen().changed());
    }
}

/// The log commits, the shard sees it and tells, somebody begins to listen.
fn listen(listen: Listen) {
    let progress = CommitProgress::new(GroupSequence(0));
    let changes = Arc::new(Changes::default());
    {
        let progress = Arc::clone(&progress);
        spawn(move || progress.commit(GroupSequence(1)));
    }
    {
        let (progress, changes) = (Arc::clone(&progress), Arc::clone(&changes));
        spawn(move || {
            while progress.committed() < GroupSequence(1) {
                loom::thread::yield_now();
            }
            changes.tell();
        });
    }
    spawn(move || listen(&changes, &progress));
}

#[test]
fn who_listens_hears_of_what_he_does_not_see() {
    HEARD.holds();
}

#[test]
fn who_looks_before_he_listens_waits_for_ever() {
    Check { name: "wrong: a look before the listening", preemptions: 2, body: || listen(look_and_listen) }.fails_with("deadlock");
}
