//! A scan of a log takes a bounded amount of memory, however long the log is. In a process of its own.
//!
//! Left to itself, sled keeps three quarters of a log of this length in memory, whatever its cache's capacity.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::fs;
use std::ops::ControlFlow;

use tidegate_persistence::{LogIndex, LogStore, RecordKey, SledStore, StreamId, VALUE_BYTES_MAX};

const fn key(index: u64) -> RecordKey {
    RecordKey { stream: StreamId(0), index: LogIndex(index), part: 0 }
}

/// What a scan may take, in bytes; the log is six times as long.
const RESIDENT_BYTES_MAX: u64 = 64 << 20;

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_scan_takes_a_bounded_amount_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (values, cache_bytes) = (64_000, 8 << 20);
    let store = SledStore::open(folder.path(), cache_bytes).unwrap();
    for index in 1..=values {
        store.append(key(index), &vec![0xa5; VALUE_BYTES_MAX]).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let store = SledStore::open(folder.path(), cache_bytes).unwrap();
    let (before, started) = (resident(), std::time::Instant::now());
    let (mut scanned, mut most) = (0_u64, before);
    store
        .scan(key(0), &mut |_, value| {
            scanned += value.len() as u64;
            if scanned.is_multiple_of(100 * VALUE_BYTES_MAX as u64) {
                most = most.max(resident());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(scanned, values * VALUE_BYTES_MAX as u64);
    let grown = most - before;
    println!(
        "{scanned} bytes scanned with a cache of {cache_bytes}: {grown} more resident, {before} before, {:?}",
        started.elapsed()
    );
    assert!(grown < RESIDENT_BYTES_MAX, "{grown} of {scanned} bytes");
}
