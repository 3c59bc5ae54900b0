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

#[test]
fn a_ledger_that_goes_wrong_by_one_unit_is_found_by_its_sum() {
    // Some runs sell out, and a grant of more than there is ends the node at once.
    let tally = run_many(1, 8, Some(Defect::MisapplyUnit), 2, usize::MAX);
    let by_sum = tally.findings().values().filter(|findings| findings.iter().any(|finding| finding.what.contains("Diverged")));
    assert!(by_sum.count() >= 4, "it is not found by the sum:\n{tally}");
}
