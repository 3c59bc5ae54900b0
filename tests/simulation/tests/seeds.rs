//! Some hundred seeds, and whether the same seed is the same run.

use tidegate_simulation::{run_many, run_seed};

/// Seeds of every test run; the program runs more.
const SEEDS: u64 = 120;

#[test]
fn every_promise_holds_over_some_hundred_seeds() {
    let tally = run_many(1, SEEDS, None, 2, usize::MAX);
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(tally.seeds(), SEEDS);
    // What never happened would not have been tried.
    for what in [
        "calls acknowledged",
        "calls rejected",
        "calls unknown",
        "clock jumps",
        "crashes",
        "crashes of leaders",
        "leaders cut off",
        "leaderships given up for a clock",
        "lossy networks",
        "nodes joined",
        "nodes left",
        "one-way losses",
        "partitions",
        "power cuts of all nodes",
        "slow disks",
        "slow links",
        "snapshots installed",
        "snapshots made",
    ] {
        assert!(tally.count(what) > 0, "no {what} in {SEEDS} seeds:\n{tally}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=3 {
        let (one, other) = (run_seed(seed, None, true), run_seed(seed, None, true));
        let differs = one.trace.iter().zip(&other.trace).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.digest, other.digest, "seed {seed}");
    }
    assert_ne!(run_seed(1, None, false).digest, run_seed(2, None, false).digest);
}
