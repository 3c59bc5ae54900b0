//! The history: what is put is found, in order, until it is removed, and what was made durable is there after a reopening or a copy.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tidegate_persistence::{History, HistoryError, HistoryKey, HistoryOptions, HistoryRange, HistoryRecord};
use tidegate_stock::{GrantSequence, Partition, StockId, StockNumber, Timestamp};

const SEED: u64 = 20_260_731;
const LAMP: StockId = StockId { partition: Partition(7), number: StockNumber(3) };
/// The stock right behind the lamp's, in the order of keys.
const SHOE: StockId = StockId { partition: Partition(7), number: StockNumber(4) };
const END: GrantSequence = GrantSequence(u64::MAX);
const RANGE_SECONDS: u32 = 100;
const RANGE_MS: u64 = 100_000;

fn options() -> HistoryOptions {
    HistoryOptions { range_seconds: RANGE_SECONDS, ..HistoryOptions::default() }
}

fn open(directory: &Path) -> History {
    History::open(directory, &options()).unwrap()
}

fn key(stock: StockId, sequence: u64) -> HistoryKey {
    HistoryKey { stock, sequence: GrantSequence(sequence) }
}

fn record<'a>(stock: StockId, sequence: u64, user: &'a str, at: u64, value: &'a str) -> HistoryRecord<'a> {
    HistoryRecord { key: key(stock, sequence), user, resolved_at: Timestamp::from_unix_ms(at), value: value.as_bytes() }
}

fn newest(history: &History, stock: StockId, before: GrantSequence, user: Option<&str>) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut visit = |key: HistoryKey, value: &[u8]| {
        assert_eq!(key.stock, stock);
        found.push((key.sequence.0, String::from_utf8(value.to_vec()).unwrap()));
        ControlFlow::Continue(())
    };
    history.newest(stock, before, user, &mut visit).unwrap();
    found
}

fn texts(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(sequence, value)| (*sequence, (*value).to_owned())).collect()
}

fn text(history: &History, key: HistoryKey) -> Option<String> {
    history.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

/// Key, user, time of resolution and value of a record.
type Told = (HistoryKey, String, u64, Vec<u8>);

/// Every record as whoever backs up sees it.
fn everything(history: &History) -> Result<Vec<Told>, HistoryError> {
    let mut all = Vec::new();
    history.for_each(&mut |_, record| {
        all.push((record.key, record.user.to_owned(), record.resolved_at.unix_ms(), record.value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

/// The files below `folder`; of a history that is open, what goes while it is looked at may be missing.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() { copy(&path, &to.join(name)) } else { fs::copy(&path, to.join(name)).map(|_| ()).unwrap() }
    }
}

#[test]
fn a_record_is_found_by_its_key_and_by_no_other() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    assert_eq!(text(&history, key(LAMP, 1)), None);
    history.put(&[record(LAMP, 5, "ada", 10, "five"), record(SHOE, 6, "ada", 10, "six"), record(LAMP, 9, "bob", 11, "")]).unwrap();
    assert_eq!(text(&history, key(LAMP, 5)).as_deref(), Some("five"));
    assert_eq!(text(&history, key(SHOE, 6)).as_deref(), Some("six"));
    assert_eq!(text(&history, key(LAMP, 9)).as_deref(), Some(""));
    for missing in [key(LAMP, 6), key(SHOE, 5), key(LAMP, 4), key(LAMP, u64::MAX)] {
        assert_eq!(text(&history, missing), None, "{missing:?}");
    }
}

#[test]
fn a_record_put_again_takes_the_place_of_the_earlier_one() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    history.put(&[record(LAMP, 1, "ada", 10, "sold"), record(LAMP, 2, "ada", 10, "other")]).unwrap();
    history.put(&[record(LAMP, 1, "ada", 11, "one back"), record(LAMP, 1, "ada", 12, "two back")]).unwrap();
    assert_eq!(text(&history, key(LAMP, 1)).as_deref(), Some("two back"));
    // In a later range, and then with an earlier time than what it replaces.
    history.put(&[record(LAMP, 1, "ada", 3 * RANGE_MS, "three back")]).unwrap();
    assert_eq!(text(&history, key(LAMP, 1)).as_deref(), Some("three back"));
    history.put(&[record(LAMP, 1, "ada", 5, "four back")]).unwrap();
    assert_eq!(text(&history, key(LAMP, 1)).as_deref(), Some("four back"));
    let expected = texts(&[(2, "other"), (1, "four back")]);
    assert_eq!(newest(&history, LAMP, END, None), expected);
    assert_eq!(newest(&history, LAMP, END, Some("ada")), expected);
    assert_eq!(everything(&history).unwrap().len(), 2);
    drop(history);
    assert_eq!(newest(&open(directory.path()), LAMP, END, Some("ada")), expected);
}

#[test]
fn newest_goes_down_from_its_bound_and_stops_where_it_is_told() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    // Out of order and over three ranges; neighbours on both sides of the stock.
    history
        .put(&[record(LAMP, 2, "ada", 0, "a2"), record(LAMP, 700, "bob", 0, "b700"), record(SHOE, 1, "ada", 0, "shoe")])
        .unwrap();
    history.put(&[record(LAMP, 1, "bob", RANGE_MS, "b1"), record(LAMP, 300, "ada", RANGE_MS, "a300")]).unwrap();
    let below = StockId { number: StockNumber(2), ..LAMP };
    history.put(&[record(LAMP, 299, "bob", 2 * RANGE_MS, "b299"), record(below, u64::MAX, "ada", 2 * RANGE_MS, "below")]).unwrap();
    let all = [(700, "b700"), (300, "a300"), (299, "b299"), (2, "a2"), (1, "b1")];
    assert_eq!(newest(&history, LAMP, END, None), texts(&all));
    assert_eq!(newest(&history, LAMP, GrantSequence(700), None), texts(&all[1..]));
    assert_eq!(newest(&history, LAMP, GrantSequence(300), None), texts(&all[2..]));
    assert_eq!(newest(&history, LAMP, GrantSequence(1), None), texts(&[]));
    assert_eq!(newest(&history, LAMP, GrantSequence(0), None), texts(&[]));
    assert_eq!(newest(&history, LAMP, END, Some("ada")), texts(&[(300, "a300"), (2, "a2")]));
    assert_eq!(newest(&history, LAMP, GrantSequence(300), Some("ada")), texts(&[(2, "a2")]));
    assert_eq!(newest(&history, LAMP, END, Some("bob")), texts(&[(700, "b700"), (299, "b299"), (1, "b1")]));
    assert_eq!(newest(&history, LAMP, END, Some("eve")), texts(&[]));
    assert_eq!(newest(&history, SHOE, END, None), texts(&[(1, "shoe")]));
    let mut seen = Vec::new();
    let mut two = |key: HistoryKey, _: &[u8]| {
        seen.push(key.sequence.0);
        if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    history.newest(LAMP, END, None, &mut two).unwrap();
    assert_eq!(seen, [700, 300]);
}

#[test]
fn random_puts_and_removals_agree_with_a_map() {
    let directory = TempDir::new().unwrap();
    let mut history = open(directory.path());
    let mut random = SmallRng::seed_from_u64(SEED);
    // Per key: user, time, value, and the range it was put into.
    let mut model: BTreeMap<HistoryKey, (String, u64, String, u64)> = BTreeMap::new();
    // Of each range, the latest time of a record that was put into it.
    let mut ranges: BTreeMap<u64, u64> = BTreeMap::new();
    for step in 0..300_u64 {
        let now = step * 5_000;
        let puts: Vec<_> = (0..random.random_range(1..40))
            .map(|_| {
                let key = key(if random.random_bool(0.5) { LAMP } else { SHOE }, random.random_range(0..200));
                let user = format!("user-{}", key.sequence.0 % 5);
                (key, user, now - random.random_range(0..=now.min(150_000)), format!("{step}-{}", random.random::<u32>()))
            })
            .collect();
        let records: Vec<_> = puts
            .iter()
            .map(|(key, user, at, value)| HistoryRecord {
                key: *key,
                user,
                resolved_at: Timestamp::from_unix_ms(*at),
                value: value.as_bytes(),
            })
            .collect();
        history.put(&records).unwrap();
        let latest = puts.iter().map(|put| put.2).max().unwrap();
        let range = ranges.keys().next_back().copied().unwrap_or(0).max(latest / RANGE_MS);
        let latest_of_range = ranges.entry(range).or_default();
        *latest_of_range = latest.max(*latest_of_range);
        model.extend(puts.into_iter().map(|(key, user, at, value)| (key, (user, at, value, range))));
        if step % 60 == 59 {
            let time = now.saturating_sub(400_000);
            while history.remove_resolved_before(Timestamp::from_unix_ms(time)).unwrap() > 0 {}
            while ranges.first_key_value().is_some_and(|(_, latest)| *latest < time) {
                let (gone, _) = ranges.pop_first().unwrap();
                model.retain(|_, (.., range)| *range != gone);
            }
        }
        if step % 100 == 99 {
            history.persist().unwrap();
            drop(history);
            history = open(directory.path());
        }
        let all: BTreeMap<_, _> =
            everything(&history).unwrap().into_iter().map(|(key, user, at, value)| (key, (user, at, value))).collect();
        let expected: BTreeMap<_, _> =
            model.iter().map(|(key, (user, at, value, _))| (*key, (user.clone(), *at, value.clone().into_bytes()))).collect();
        assert_eq!(all, expected, "step {step} of seed {SEED}");
        for user in [None, Some("user-3")] {
            let before = random.random_range(0..220);
            let expected: Vec<_> = model
                .iter()
                .rev()
                .filter(|(key, (whose, ..))| key.stock == LAMP && key.sequence.0 < before && user.is_none_or(|user| user == whose))
                .map(|(key, (_, _, value, _))| (key.sequence.0, value.clone()))
                .collect();
            assert_eq!(newest(&history, LAMP, GrantSequence(before), user), expected, "step {step} of seed {SEED}");
        }
    }
}

#[test]
fn whole_ranges_go_when_their_last_record_is_old_enough() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    let at = Timestamp::from_unix_ms;
    history.put(&[record(LAMP, 1, "ada", 10, "1"), record(LAMP, 2, "ada", 500, "2")]).unwrap();
    history.put(&[record(LAMP, 3, "ada", RANGE_MS, "3"), record(LAMP, 4, "ada", 20, "late")]).unwrap();
    assert_eq!(history.remove_resolved_before(at(500)).unwrap(), 0, "one was over at 500, and not before");
    assert_eq!(newest(&history, LAMP, END, None).len(), 4);
    assert_eq!(history.remove_resolved_before(at(501)).unwrap(), 2);
    assert_eq!(newest(&history, LAMP, END, Some("ada")), texts(&[(4, "late"), (3, "3")]));
    assert_eq!(text(&history, key(LAMP, 1)), None);
    assert_eq!(history.remove_resolved_before(at(501)).unwrap(), 0);
    // Also the newest range, after which a new one begins; a reopening finds neither missing.
    assert_eq!(history.remove_resolved_before(at(u64::MAX)).unwrap(), 2);
    drop(history);
    let history = open(directory.path());
    assert_eq!(everything(&history).unwrap(), []);
    history.put(&[record(LAMP, 3, "ada", RANGE_MS, "again")]).unwrap();
    assert_eq!(text(&history, key(LAMP, 3)).as_deref(), Some("again"));
}

#[test]
fn ranges_of_another_length_follow_those_before() {
    const NOW_MS: u64 = 1_795_000_000_000;
    let directory = TempDir::new().unwrap();
    let opened = |range_seconds| History::open(directory.path(), &HistoryOptions { range_seconds, ..options() }).unwrap();
    // Longer, much longer, and shorter again; each time a record of today and one of ten days later.
    let ten_days = 10 * 86_400_000;
    for (turn, range_seconds) in [75_600, 151_200, 7_776_000, 1].into_iter().enumerate() {
        let history = opened(range_seconds);
        let (sequence, at) = (10 * turn as u64, NOW_MS + turn as u64 * 2 * ten_days);
        history.put(&[record(LAMP, sequence + 1, "ada", at, "early")]).unwrap();
        history.put(&[record(LAMP, sequence + 2, "ada", at + ten_days, "late")]).unwrap();
        history.persist().unwrap();
    }
    let history = opened(151_200);
    let left = |history: &History| newest(history, LAMP, END, None).into_iter().map(|(sequence, _)| sequence).collect::<Vec<_>>();
    assert_eq!(left(&history), [32, 31, 22, 21, 12, 11, 2, 1]);
    // Each goes in its time; a range of ninety days would have begun before the newest one did, so its records went into that.
    let forget = |time: u64| {
        while history.remove_resolved_before(Timestamp::from_unix_ms(time)).unwrap() > 0 {}
        left(&history)
    };
    assert_eq!(forget(NOW_MS + 1), [32, 31, 22, 21, 12, 11, 2]);
    assert_eq!(forget(NOW_MS + ten_days + 1), [32, 31, 22, 21, 12, 11]);
    assert_eq!(forget(NOW_MS + 2 * ten_days + 1), [32, 31, 22, 21, 12]);
    assert_eq!(forget(NOW_MS + 5 * ten_days + 1), [32, 31]);
    assert_eq!(forget(NOW_MS + 6 * ten_days + 1), [32]);
}

#[test]
fn records_are_told_with_their_range() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    history.put(&[record(LAMP, 3, "ada", 10, "3"), record(LAMP, 4, "ada", 10, "4")]).unwrap();
    history.put(&[record(LAMP, 1, "ada", RANGE_MS, "1")]).unwrap();
    history.put(&[record(LAMP, 2, "ada", 20, "late")]).unwrap();
    let mut told: Vec<(HistoryRange, Vec<u64>)> = Vec::new();
    let mut visit = |range: HistoryRange, record: HistoryRecord<'_>| {
        match told.last_mut().filter(|(last, _)| *last == range) {
            Some((_, sequences)) => sequences.push(record.key.sequence.0),
            None => told.push((range, vec![record.key.sequence.0])),
        }
        ControlFlow::Continue(())
    };
    history.for_each(&mut visit).unwrap();
    assert_eq!(told.iter().map(|(_, sequences)| sequences.as_slice()).collect::<Vec<_>>(), [&[3, 4][..], &[1, 2]]);
    assert!(told[0].0 < told[1].0, "{told:?}");
}

#[test]
fn a_range_that_is_full_is_followed_by_another_of_the_same_time() {
    let directory = TempDir::new().unwrap();
    let opened = || History::open(directory.path(), &HistoryOptions { range_records_max: 100, ..options() }).unwrap();
    let history = opened();
    for turn in 0..10_u64 {
        let records: Vec<_> = (0..50).map(|n| record(LAMP, turn * 50 + n, "ada", turn, "first")).collect();
        history.put(&records).unwrap();
    }
    // Of one that was changed later, the later version counts, whichever ranges they are in.
    history.put(&[record(LAMP, 0, "ada", 10, "second"), record(LAMP, 499, "ada", 10, "second")]).unwrap();
    history.persist().unwrap();
    drop(history);
    let history = opened();
    let mut ranges: Vec<(HistoryRange, u64)> = Vec::new();
    let mut count = |range: HistoryRange, _: HistoryRecord<'_>| {
        match ranges.last_mut().filter(|(last, _)| *last == range) {
            Some((_, records)) => *records += 1,
            None => ranges.push((range, 1)),
        }
        ControlFlow::Continue(())
    };
    history.for_each(&mut count).unwrap();
    // Two puts make one full; what was changed is told where it is newest.
    assert_eq!(ranges.iter().map(|(_, records)| *records).collect::<Vec<_>>(), [99, 100, 100, 100, 99, 2]);
    let all = newest(&history, LAMP, END, Some("ada"));
    assert_eq!(all.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), (0..500).rev().collect::<Vec<_>>());
    assert_eq!((all[0].1.as_str(), all[1].1.as_str(), all[499].1.as_str()), ("second", "first", "second"));
    // The first range holds turns 0 and 1, and goes when both are old; what it had of one that was changed later is not missed.
    assert_eq!(history.remove_resolved_before(Timestamp::from_unix_ms(1)).unwrap(), 0);
    assert_eq!(history.remove_resolved_before(Timestamp::from_unix_ms(2)).unwrap(), 100);
    assert_eq!(newest(&history, LAMP, END, None).len(), 401);
    // A later time has a range of its own, full or not.
    history.put(&[record(LAMP, 900, "bob", RANGE_MS, "later")]).unwrap();
    assert_eq!(newest(&history, LAMP, END, None)[0], (900, "later".to_owned()));
}

#[test]
fn what_was_persisted_is_in_a_copy_taken_right_after() {
    let directory = TempDir::new().unwrap();
    let history = open(&directory.path().join("history"));
    for turn in 0..6_u64 {
        let user = format!("user-{turn}");
        let records: Vec<_> = (0..500).map(|n| record(LAMP, turn * 500 + n, &user, turn * 60_000, "value")).collect();
        history.put(&records).unwrap();
        history.persist().unwrap();
        // The copy knows nothing of what the process still holds.
        let path = directory.path().join(format!("copy-{turn}"));
        copy(&directory.path().join("history"), &path);
        let copied = open(&path);
        assert_eq!(newest(&copied, LAMP, END, None).len() as u64, (turn + 1) * 500);
        assert_eq!(newest(&copied, LAMP, END, Some(&user)).len(), 500);
    }
    history.put(&[record(LAMP, 1_000_000, "late", 9 * RANGE_MS, "not persisted")]).unwrap();
    drop(history);
    let history = open(&directory.path().join("history"));
    assert!(newest(&history, LAMP, END, None).len() >= 3_000);
}

#[test]
fn a_history_is_opened_once_at_a_time() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    let error = History::open(directory.path(), &options()).unwrap_err();
    assert!(matches!(error, HistoryError::InUse { .. }), "{error}");
    drop(history);
    open(directory.path());
}

#[test]
fn threads_read_while_one_writes() {
    const RECORDS: u64 = 40_000;
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    let (put, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for reader in 0..4_u64 {
            let (history, put, is_done) = (&history, &put, &is_done);
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(SEED + reader);
                let mut reads = 0;
                while !is_done.load(Ordering::Acquire) || reads < 100 {
                    let known = put.load(Ordering::Acquire);
                    if known == 0 {
                        thread::yield_now();
                        continue;
                    }
                    let sequence = random.random_range(0..known);
                    assert_eq!(text(history, key(LAMP, sequence)), Some(sequence.to_string()));
                    let user = format!("user-{}", sequence % 1_000);
                    let mut found = Vec::new();
                    let mut visit = |key: HistoryKey, _: &[u8]| {
                        found.push(key.sequence.0);
                        if found.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    history.newest(LAMP, GrantSequence(sequence + 1), Some(&user), &mut visit).unwrap();
                    let expected: Vec<_> = (0..3).filter_map(|back| sequence.checked_sub(back * 1_000)).collect();
                    assert_eq!(found, expected);
                    reads += 1;
                }
            });
        }
        for first in (0..RECORDS).step_by(500) {
            let texts: Vec<_> = (first..first + 500).map(|n| (n, n.to_string(), format!("user-{}", n % 1_000))).collect();
            let records: Vec<_> = texts.iter().map(|(n, value, user)| record(LAMP, *n, user, n * 20, value)).collect();
            history.put(&records).unwrap();
            put.store(first + 500, Ordering::Release);
            if first % 10_000 == 0 {
                history.persist().unwrap();
            }
        }
        is_done.store(true, Ordering::Release);
    });
    assert_eq!(everything(&history).unwrap().len() as u64, RECORDS);
}

#[test]
fn the_space_of_what_is_removed_comes_back() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    let mut random = SmallRng::seed_from_u64(SEED);
    let bytes = |files: &[PathBuf]| files.iter().map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>();
    let on_disk = || bytes(&files(directory.path()));
    // Eight ranges of 12 MB that do not compress; only the last three are kept.
    let mut largest = 0;
    for range in 0..8 {
        for batch in 0..30_u64 {
            let values: Vec<[u8; 200]> = (0..2_000)
                .map(|_| {
                    let mut value = [0; 200];
                    random.fill(&mut value[..]);
                    value
                })
                .collect();
            let records = values.iter().enumerate().map(|(n, value)| HistoryRecord {
                value,
                ..record(LAMP, (range * 30 + batch) * 2_000 + n as u64, "ada", range * RANGE_MS, "")
            });
            history.put(&records.collect::<Vec<_>>()).unwrap();
        }
        history.persist().unwrap();
        while history.remove_resolved_before(Timestamp::from_unix_ms((range * RANGE_MS).saturating_sub(2 * RANGE_MS))).unwrap() > 0
        {
        }
        largest = largest.max(on_disk());
    }
    while history.remove_resolved_before(Timestamp::from_unix_ms(u64::MAX)).unwrap() > 0 {}
    assert_eq!(everything(&history).unwrap(), []);
    drop(history);
    let history = open(directory.path());
    assert_eq!(everything(&history).unwrap(), []);
    let left = on_disk();
    // All that may be left is the journals, which are used again: 64 MiB, and what was put, twice 8 MiB at most, while the oldest of them was
    // being made superfluous.
    assert!(left < (64 + 2 * 8) << 20 && left < largest, "{left} bytes are left of {largest}");
    let tables: Vec<_> =
        files(directory.path()).into_iter().filter(|file| file.parent().is_some_and(|folder| folder.ends_with("tables"))).collect();
    assert!(bytes(&tables) < 1_000_000, "{tables:?}");
    let told = history.bytes_on_disk().unwrap();
    assert!(told <= left, "{told} bytes told, {left} there");
}

/// A closed history with files of every kind, and what is in it.
/// Files of the history in `directory` that this process has open, dropped ones included.
#[cfg(target_os = "linux")]
fn open_files(directory: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(directory) && target.to_string_lossy().contains("/tables/")).count()
}

#[test]
#[cfg(target_os = "linux")]
fn few_files_are_kept_open_whatever_is_read_and_dropped() {
    const RANGES: u64 = 40;
    // More than a range gathers before it is written to a file.
    const RECORDS: u64 = 150;
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    let value = "v".repeat(60_000);
    for range in 0..RANGES {
        let records: Vec<_> =
            (0..RECORDS).map(|place| record(LAMP, 1 + range * RECORDS + place, "ada", range * RANGE_MS, &value)).collect();
        for records in records.chunks(8) {
            history.put(records).unwrap();
        }
    }
    history.persist().unwrap();
    drop(history);
    let history = open(directory.path());
    // The store writes its files when it comes to it.
    let (began, mut most) = (Instant::now(), 0);
    while most < 10 {
        assert!(began.elapsed() < Duration::from_mins(1), "{most} files are open");
        for range in 0..RANGES {
            assert!(text(&history, key(LAMP, 1 + range * RECORDS)).is_some());
            most = most.max(open_files(directory.path()));
        }
    }
    assert!(most <= 32, "{most} files are open");
    while history.remove_resolved_before(Timestamp::from_unix_ms(u64::MAX)).unwrap() > 0 {}
    assert!(open_files(directory.path()) <= 32);
}

fn sample(directory: &Path) -> Vec<Told> {
    let history = open(directory);
    for range in 0..2 {
        let texts: Vec<_> = (0..300).map(|n| (n, format!("value {n} of range {range}"), format!("user-{}", n % 7))).collect();
        let records: Vec<_> =
            texts.iter().map(|(n, value, user)| record(LAMP, range * 200 + n, user, range * RANGE_MS, value)).collect();
        history.put(&records).unwrap();
    }
    history.persist().unwrap();
    everything(&history).unwrap()
}

#[test]
fn a_lost_file_is_noticed() {
    let directory = TempDir::new().unwrap();
    let good = directory.path().join("good");
    let expected = sample(&good);
    for file in files(&good) {
        let name = file.strip_prefix(&good).unwrap().to_owned();
        if name.ends_with("lock") {
            continue;
        }
        let bad = directory.path().join("bad");
        copy(&good, &bad);
        fs::remove_file(bad.join(&name)).unwrap();
        if let Ok(history) = History::open(&bad, &options()) {
            assert_eq!(everything(&history).ok(), Some(expected.clone()), "{} is missing unnoticed", name.display());
        }
        fs::remove_dir_all(&bad).unwrap();
    }
}

/// A flipped bit anywhere makes the opening or a read fail, or changes nothing that is read. Never less, and nothing else.
#[test]
fn flipped_bits_are_noticed_or_do_no_harm() {
    let directory = TempDir::new().unwrap();
    let good = directory.path().join("good");
    let expected = sample(&good);
    // Opened once more, so that everything stands in tables and not only in the journal.
    let history = open(&good);
    history.put(&[record(SHOE, 1, "ada", 9 * RANGE_MS, "in the journal")]).unwrap();
    history.persist().unwrap();
    drop(history);
    let expected: Vec<_> =
        expected.into_iter().chain([(key(SHOE, 1), "ada".to_owned(), 9 * RANGE_MS, b"in the journal".to_vec())]).collect();
    let mut random = SmallRng::seed_from_u64(SEED);
    let (mut failed, mut harmless) = (0, 0);
    for file in files(&good) {
        let name = file.strip_prefix(&good).unwrap().to_owned();
        let length = fs::metadata(&file).unwrap().len();
        for _ in 0..length.min(24) {
            let bad = directory.path().join("bad");
            copy(&good, &bad);
            let mut bytes = fs::read(bad.join(&name)).unwrap();
            let bit = random.random_range(0..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(bad.join(&name), bytes).unwrap();
            match History::open(&bad, &options()).and_then(|history| everything(&history)) {
                Err(_) => failed += 1,
                Ok(found) => {
                    assert_eq!(found, expected, "bit {bit} of {} with seed {SEED}", name.display());
                    harmless += 1;
                }
            }
            fs::remove_dir_all(&bad).unwrap();
        }
    }
    assert!(failed > 50, "{failed} failed, {harmless} did no harm");
}

#[test]
fn a_store_that_was_never_finished_is_made_anew() {
    let directory = TempDir::new().unwrap();
    let new = directory.path().join("new");
    drop(open(&new));
    let made: Vec<PathBuf> = files(&new).iter().map(|file| file.strip_prefix(&new).unwrap().to_owned()).collect();
    assert!(made.contains(&"store/version".into()) && made.contains(&"store/0.jnl".into()), "{made:?}");
    // A crash can come after any of the files that the store is made of, and within each of them.
    for missing in made.iter().filter(|name| name.starts_with("store")) {
        for is_empty in [false, true] {
            let half = directory.path().join("half");
            copy(&new, &half);
            if is_empty {
                fs::write(half.join(missing), []).unwrap();
            } else {
                fs::remove_file(half.join(missing)).unwrap();
            }
            let history = open(&half);
            history.put(&[record(LAMP, 1, "ada", 10, "kept")]).unwrap();
            history.persist().unwrap();
            drop(history);
            assert_eq!(text(&open(&half), key(LAMP, 1)).as_deref(), Some("kept"), "{missing:?} {is_empty}");
            fs::remove_dir_all(&half).unwrap();
        }
    }
    // Once anything was durable, the same is damage.
    sample(&new);
    fs::remove_file(new.join("store/version")).unwrap();
    History::open(&new, &options()).unwrap_err();
    assert!(new.join("store/0.jnl").exists());
}

#[test]
fn a_history_in_use_is_never_made_anew() {
    let directory = TempDir::new().unwrap();
    let history = open(directory.path());
    fs::remove_file(directory.path().join("store/version")).unwrap();
    let error = History::open(directory.path(), &options()).unwrap_err();
    assert!(matches!(error, HistoryError::InUse { .. }), "{error}");
    history.put(&[record(LAMP, 1, "ada", 10, "kept")]).unwrap();
    history.persist().unwrap();
}

#[test]
fn another_format_is_refused() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path()));
    let mark = directory.path().join("persisted");
    let mut bytes = fs::read(&mark).unwrap();
    bytes[3] = 2;
    let checksum_at = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..checksum_at]).to_be_bytes();
    bytes[checksum_at..].copy_from_slice(&checksum);
    fs::write(&mark, bytes).unwrap();
    let error = History::open(directory.path(), &options()).unwrap_err();
    assert!(error.to_string().ends_with("has format 2 where 1 was expected"), "{error}");
}
