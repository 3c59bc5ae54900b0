//! Whether the simulation can fail: each deliberate defect is found within some seeds.

use tidegate_simulation::{Defect, run_many};

/// Seeds within which a defect must be found.
const SEEDS_MAX: u64 = 150;

fn is_found(defect: Defect) {
    let tally = run_many(1, SEEDS_MAX, Some(defect), 2, 1);
    assert!(tally.failed() > 0, "{defect:?} is not found in {SEEDS_MAX} seeds:\n{tally}");
}

#[test]
fn a_leader_that_counts_whom_it_has_not_reached_is_found() {
    is_found(Defect::CountUnreached);
}

#[test]
fn entries_that_count_before_their_sync_are_found() {
    is_found(Defect::SkipSync);
}

#[test]
fn a_forgotten_vote_is_found() {
    is_found(Defect::ForgetVote);
}

#[test]
fn a_deposed_leader_that_answers_is_found() {
    is_found(Defect::ServeDeposed);
}

#[test]
fn a_snapshot_that_counts_too_early_is_found() {
    is_found(Defect::SnapshotUncommitted);
}

#[test]
fn a_disk_that_loses_the_beginning_is_found() {
    is_found(Defect::LoseBeginning);
}
