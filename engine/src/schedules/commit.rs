//! Who sees the watermark sees what stands behind it.

use std::sync::Arc;

use tidegate_persistence::GroupSequence;

use crate::commit::CommitProgress;
use crate::model::{Check, spawn};
use crate::sync::{AtomicU64, Ordering};

pub(super) const DURABLE: Check = Check {
    name: "whoever sees a group committed sees it durable",
    preemptions: 3,
    body: || log_of_two_groups(commit_what_is_durable),
};

pub(super) const FAILURE: Check =
    Check { name: "whoever sees the log failed sees all that was committed before", preemptions: 3, body: fail_after_a_commit };

/// What the log does of one group; the cell is the newest durable one.
type Commit = fn(&AtomicU64, &CommitProgress, u64);

fn commit_what_is_durable(durable: &AtomicU64, progress: &CommitProgress, group: u64) {
    durable.store(group, Ordering::Relaxed);
    progress.commit(GroupSequence(group));
}

fn commit_before_it_is_durable(durable: &AtomicU64, progress: &CommitProgress, group: u64) {
    progress.commit(GroupSequence(group));
    durable.store(group, Ordering::Relaxed);
}

fn log_of_two_groups(commit: Commit) {
    let progress = CommitProgress::new(GroupSequence(0));
    let durable = Arc::new(AtomicU64::new(0));
    {
        let (progress, durable) = (Arc::clone(&progress), Arc::clone(&durable));
        spawn(move || (1..=2).for_each(|group| commit(&durable, &progress, group)));
    }
    spawn(move || {
        let mut last = 0;
        for _ in 0..2 {
            let committed = progress.committed().0;
            assert!(committed >= last, "the watermark runs backwards");
            last = committed;
            let durable = durable.load(Ordering::Relaxed);
            assert!(durable >= committed, "an early commit: {committed} where {durable} is durable");
        }
    });
}

fn fail_after_a_commit() {
    let progress = CommitProgress::new(GroupSequence(0));
    {
        let progress = Arc::clone(&progress);
        spawn(move || {
            progress.commit(GroupSequence(1));
            progress.fail();
        });
    }
    spawn(move || {
        if progress.has_failed() {
            assert_eq!(progress.committed(), GroupSequence(1), "a commit is lost by the failure after it");
        }
    });
}

#[test]
fn what_is_committed_is_durable() {
    DURABLE.holds();
}

#[test]
fn what_was_committed_before_a_failure_is_seen_with_it() {
    FAILURE.holds();
}

#[test]
fn a_commit_before_it_is_durable_is_found_out() {
    let body = || log_of_two_groups(commit_before_it_is_durable);
    Check { name: "wrong: committed before it is durable", preemptions: 2, body }.fails_with("an early commit");
}
