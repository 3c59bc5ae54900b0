//! The judge of hostility, held against made-up figures: what is broken is named, and noise is not.

use super::judge::{Round, Row, Terms, broken};
use crate::figures::{LATENCY_BUSY_MS, LATENCY_MS};

const MIB: u64 = 1_048_576;
const TERMS: Terms = Terms { connections: 1_000, memory_granted: 0, is_crowded: false, latency: LATENCY_MS };
const GOOD: Round = Round {
    kept_ms: (0.8, 1.1),
    new_ms: (1.0, 1.4),
    failed: 0,
    memory: (60 * MIB, 90 * MIB, 62 * MIB),
    files: (40, 40),
    back_ms: 20.0,
};

#[track_caller]
fn finds(rounds: &[Round], terms: Terms, what: &str) {
    let found = broken(rounds, terms);
    assert!(found.len() == 1 && found[0].contains(what), "{found:?} where {what:?} alone was due");
}

#[test]
fn a_node_that_stands_it_has_broken_nothing() {
    assert_eq!(broken(&[GOOD; 3], TERMS), Vec::<String>::new());
}

#[test]
fn one_bad_round_of_three_is_noise_and_two_are_not() {
    let slow = Round { kept_ms: (0.8, 40.0), ..GOOD };
    assert_eq!(broken(&[GOOD, slow, GOOD], TERMS), Vec::<String>::new());
    finds(&[slow, GOOD, slow], TERMS, "the p99 of a kept connection is 40.00 ms where it was 0.80 ms");
}

#[test]
fn latency_may_double_or_rise_by_a_tick() {
    let at = |before, beside| [Round { kept_ms: (before, beside), ..GOOD }; 3];
    assert!(broken(&at(0.5, 5.4), TERMS).is_empty() && broken(&at(20.0, 39.0), TERMS).is_empty());
    finds(&at(0.5, 5.6), TERMS, "kept connection");
    finds(&at(20.0, 41.0), TERMS, "kept connection");
    let busy = Terms { latency: LATENCY_BUSY_MS, ..TERMS };
    assert!(broken(&at(0.5, 50.4), busy).is_empty());
    finds(&at(0.5, 50.6), busy, "kept connection");
}

#[test]
fn newcomers_wait_for_a_place_only_where_all_are_taken() {
    let waits = [Round { new_ms: (1.0, 1_200.0), ..GOOD }; 3];
    finds(&waits, TERMS, "the p99 of new connections is 1200.00 ms");
    let crowded = Terms { is_crowded: true, ..TERMS };
    assert!(broken(&waits, crowded).is_empty());
    finds(&[Round { new_ms: (1.0, 3_100.0), ..GOOD }; 3], crowded, "new connections");
    // Not one got through, so there is no figure.
    finds(&[Round { new_ms: (1.0, f64::NAN), ..GOOD }; 3], crowded, "new connections");
}

#[test]
fn every_failure_of_a_healthy_request_counts() {
    finds(&[GOOD, Round { failed: 1, ..GOOD }, GOOD], TERMS, "1 requests of the healthy client failed");
}

#[test]
fn memory_is_bounded_for_each_connection_beside_what_is_granted() {
    let grows = |mib: u64| [Round { memory: (60 * MIB, (60 + mib) * MIB, 62 * MIB), ..GOOD }; 3];
    // 1,000 connections may take 62.5 MiB, and 16 MiB are nobody's.
    assert!(broken(&grows(78), TERMS).is_empty());
    finds(&grows(79), TERMS, "memory grew by 82838 bytes for each connection");
    assert!(broken(&grows(86), Terms { memory_granted: 8 << 20, ..TERMS }).is_empty());
    let row = Row::of(&grows(79), TERMS);
    assert!((row.connection_bytes - 82_837.504).abs() < 0.01, "{row:?}");
}

#[test]
fn memory_and_files_come_back() {
    let left = |memory, files| [GOOD, GOOD, Round { memory: (60 * MIB, 90 * MIB, memory * MIB), files: (40, files), ..GOOD }];
    assert!(broken(&left(110, 40), TERMS).is_empty());
    finds(&left(111, 40), TERMS, "116391936 bytes of memory are held where it were 62914560");
    finds(&left(62, 41), TERMS, "41 files are open where it were 40");
}

#[test]
fn memory_comes_back_behind_every_round() {
    let first = |memory| [Round { memory: (60 * MIB, 90 * MIB, memory * MIB), ..GOOD }, GOOD, GOOD];
    assert!(broken(&first(110), TERMS).is_empty());
    finds(&first(111), TERMS, "116391936 bytes of memory are held where it were 62914560");
}
