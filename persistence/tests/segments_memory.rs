//! Memory does not grow with the number of segments of a log, neither while they are written nor when all of them are read. In a process
//! of its own.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tidegate_persistence::{LogIndex, LogStore, RecordKey, SegmentOptions, SegmentedLog, StreamId};

const STREAM: StreamId = StreamId::log(0);
const SEGMENT_BYTES: u64 = 6 << 20;
const VALUE_BYTES: usize = 2_048;
const SEGMENTS: usize = 40;

/// What 40 segments may take beyond what two take, in bytes. Each held 8 MiB and more when it stayed open.
const MORE_BYTES_MAX: u64 = 64 << 20;

const PATIENCE: Duration = Duration::from_mins(1);

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Appends until so many segments hold something, and waits until those that were left are sealed.
fn write(store: &SegmentedLog, log: &std::path::Path, next: &mut u64, segments: usize) {
    while store.segments().iter().filter(|segment| !segment.last.is_empty()).count() < segments {
        for _ in 0..100 {
            store.append(RecordKey { stream: STREAM, index: LogIndex(*next), part: 0 }, &[0xa5; VALUE_BYTES]).unwrap();
            *next += 1;
        }
        store.sync().unwrap();
        store.between_groups().unwrap();
    }
    let started = Instant::now();
    while !(1..segments).all(|number| log.join(format!("{number:010}/sealed")).exists()) {
        assert!(started.elapsed() < PATIENCE, "a seal does not come");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn scan(store: &SegmentedLog) -> (u64, u64) {
    let (mut scanned, mut most) = (0, 0);
    store
        .scan(RecordKey { stream: STREAM, index: LogIndex(0), part: 0 }, &mut |_, value| {
            assert_eq!(value.len(), VALUE_BYTES);
            scanned += 1;
            if scanned % 1_000 == 0 {
                most = most.max(resident());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    (scanned, most)
}

#[test]
fn forty_segments_take_hardly_more_memory_than_two() {
    let folder = tempfile::tempdir().unwrap();
    let options = SegmentOptions { cache_bytes: 8 << 20, segment_bytes_max: SEGMENT_BYTES };
    let store = SegmentedLog::open(folder.path(), options).unwrap();
    let mut next = 1;
    write(&store, folder.path(), &mut next, 2);
    let (_, _) = scan(&store);
    let two = resident();
    write(&store, folder.path(), &mut next, SEGMENTS);
    let written = resident();
    let started = Instant::now();
    let (scanned, most) = scan(&store);
    let took = started.elapsed();
    assert_eq!(scanned, next - 1);
    drop(store);
    let started = Instant::now();
    let store = SegmentedLog::open(folder.path(), options).unwrap();
    let (opened, again) = (started.elapsed(), scan(&store).1);
    println!(
        "{two} resident with two segments, {written} after {SEGMENTS}, {most} at most in a scan of {} MB in {took:?}, \
         {again} at most in one after an opening that took {opened:?}",
        scanned * VALUE_BYTES as u64 / 1_000_000
    );
    for (what, bytes) in [("written", written), ("scanned", most), ("opened and scanned", again)] {
        assert!(bytes.saturating_sub(two) < MORE_BYTES_MAX, "{bytes} after {SEGMENTS} segments were {what}, {two} with two");
    }
}
