//! Stores that are wrong on purpose, each under the same trials as the real thing: every one must be found, and by what it does.

use std::io;
use std::ops::ControlFlow;

use parking_lot::Mutex;
use tidegate_persistence::record::{KEY_BYTES, decode_value, encode_value};
use tidegate_persistence::store::Visit;
use tidegate_persistence::{LogIndex, LogStore, RecordKey, StoreError, StreamId};

use super::session::{Session, Start, Wrap};
use super::store::{Disk, Step};
use super::trial::{Effort, Tally, Trial};
use super::workload::{Plan, Size};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Little, but several of everything.
const EFFORT: Effort =
    Effort { size: Size { groups: 6, events_max: 30 }, going_on_max: 3, flips: 10, tails: 4, cuts: 1, faults: 1 };

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Nothing.
    Nothing,
    /// A sync does no more than a flush, and says that it did.
    NoSync,
    /// Every other value is written after the one that came behind it.
    Reorders,
    /// A sync that failed is tried again.
    RetriesSync,
    /// A value that could not be written is passed over.
    SwallowsAppend,
    /// An unfinished group is removed from its first part on.
    RemovesForwards,
    /// An unfinished group is not removed.
    RemovesNothing,
    /// A bit is flipped in what is read, under a checksum that fits.
    BypassesChecksum,
    /// Values that do not fit their checksum are passed over, as if they had never been there.
    HidesDamage,
    /// A disk that fails reading looks as if the log ended there.
    HidesReadErrors,
    /// The last value of every stream is not shown.
    LosesLast,
    /// A failed sync is told as a success.
    SwallowsSync,
}

struct Store {
    disk: Disk,
    wrong: Wrong,
    held_back: Mutex<Option<(RecordKey, Vec<u8>)>>,
}

impl Store {
    fn release(&self) -> Result<(), StoreError> {
        let held_back = self.held_back.lock().take();
        held_back.map_or(Ok(()), |(key, value)| self.disk.append(key, &value))
    }
}

impl LogStore for Store {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        match self.wrong {
            Wrong::Reorders if self.held_back.lock().is_none() => {
                *self.held_back.lock() = Some((key, value.to_vec()));
                Ok(())
            }
            Wrong::Reorders => {
                self.disk.append(key, value)?;
                self.release()
            }
            Wrong::SwallowsAppend => {
                drop(self.disk.append(key, value));
                Ok(())
            }
            _ => self.disk.append(key, value),
        }
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        match self.wrong {
            Wrong::RemovesNothing => Ok(0),
            Wrong::RemovesForwards => {
                let mut keys = Vec::new();
                self.disk.scan(from, &mut |key, _| {
                    keys.extend(RecordKey::decode(key).filter(|key| key.index <= to));
                    ControlFlow::Continue(())
                })?;
                for key in &keys {
                    self.disk.forget(*key)?;
                }
                Ok(keys.len() as u64)
            }
            _ => self.disk.remove(from, to),
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.release()?;
        self.disk.flush()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.release()?;
        match self.wrong {
            Wrong::NoSync => self.disk.flush(),
            Wrong::RetriesSync => self.disk.sync().or_else(|_| self.disk.sync()),
            Wrong::SwallowsSync => self.disk.sync().or(Ok(())),
            _ => self.disk.sync(),
        }
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let last = self.disk.last_key(from.stream)?.map(RecordKey::encode);
        let scanned = self.disk.scan(from, &mut |bytes, value| {
            let key = RecordKey::decode(bytes).expect("the disk keeps whole keys");
            match (self.wrong, decode_value(key, value)) {
                (Wrong::HidesDamage, Err(_)) => ControlFlow::Continue(()),
                (Wrong::LosesLast, _) if last == Some(<[u8; KEY_BYTES]>::try_from(bytes).expect("a key has its length")) => {
                    ControlFlow::Continue(())
                }
                (Wrong::BypassesChecksum, Ok((header, is_last, slice))) if last == Some(key.encode()) && !slice.is_empty() => {
                    let (mut slice, mut value) = (slice.to_vec(), Vec::new());
                    *slice.last_mut().expect("it is not empty") ^= 1;
                    encode_value(key, &header, is_last, &slice, &mut value);
                    visit(bytes, &value)
                }
                _ => visit(bytes, value),
            }
        });
        if self.wrong == Wrong::HidesReadErrors { Ok(()) } else { scanned }
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        self.disk.last_key(stream)
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        self.disk.streams()
    }
}

fn wrap(disk: Disk, wrong: Wrong) -> Box<dyn LogStore> {
    Box::new(Store { disk, wrong, held_back: Mutex::new(None) })
}

fn attempt(wrap: Wrap, seeds: std::ops::Range<u64>) -> io::Result<Tally> {
    let folder = tempfile::tempdir()?;
    let mut tally = Tally::default();
    for seed in seeds {
        Trial::new(wrap, seed, EFFORT, folder.path())?.run(None, &mut tally)?;
    }
    Ok(tally)
}

/// Runs a wrong store and expects a finding that says `what`.
#[track_caller]
fn check_found(wrap: Wrap, what: &str) {
    let tally = attempt(wrap, 1..5).expect("the proof itself works");
    let found = tally.findings.iter().find(|finding| finding.what.contains(what));
    let Some(found) = found else {
        let others: Vec<_> = tally.findings.iter().take(5).collect();
        panic!("nothing was found that says {what:?}, but {} others: {others:#?}", tally.findings.len())
    };
    // A finding is seen again by its seed and its point alone.
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let mut again = Tally::default();
    let mut trial = Trial::new(wrap, found.seed, EFFORT, folder.path()).expect("the proof itself works");
    trial.run(Some(found.point), &mut again).expect("the proof itself works");
    assert!(again.findings.contains(found), "{found:?} is not found again, but {:#?}", again.findings.first());
}

#[test]
fn a_right_store_has_no_findings() {
    let tally = attempt(|disk| wrap(disk, Wrong::Nothing), 1..5).expect("the proof itself works");
    assert_eq!(tally.findings, []);
    // It has tried something of everything.
    let tried = [
        tally.points,
        tally.writes,
        tally.syncs,
        tally.losses,
        tally.torn,
        tally.second,
        tally.errors,
        tally.full,
        tally.flips_named,
        tally.tails_named,
        tally.unread,
        tally.ledgers,
    ];
    assert!(tried.iter().all(|count| *count > 0), "{tally:?}");
}

#[test]
fn a_seed_always_gives_the_same_calls() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    for seed in 1..5 {
        let run = || {
            let plan = Plan::new(&mut StdRng::seed_from_u64(seed), EFFORT.size);
            let start = Start::nothing(plan.history.0.keys().copied());
            Session::run(|disk| Box::new(disk), &start, &plan, None, folder.path()).expect("the proof itself works")
        };
        let (first, second) = (run(), run());
        let calls = |session: &Session| {
            session
                .steps
                .iter()
                .filter(|step| matches!(step, Step::Called { .. } | Step::Committed(..)))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(calls(&first), calls(&second), "seed {seed}");
        assert_eq!(first.changes, second.changes, "seed {seed}");
    }
}

#[test]
fn a_sync_that_only_flushes_is_found() {
    check_found(|disk| wrap(disk, Wrong::NoSync), "were acknowledged");
}

#[test]
fn a_store_that_reorders_is_found() {
    check_found(|disk| wrap(disk, Wrong::Reorders), "a crash alone is told as damage");
}

#[test]
fn a_failed_sync_that_is_tried_again_is_found() {
    check_found(|disk| wrap(disk, Wrong::RetriesSync), "after a call had failed");
}

#[test]
fn a_failed_sync_that_is_told_as_a_success_is_found() {
    check_found(|disk| wrap(disk, Wrong::SwallowsSync), "commits were told after a call had failed");
}

#[test]
fn a_failed_append_that_is_passed_over_is_found() {
    check_found(|disk| wrap(disk, Wrong::SwallowsAppend), "commits were told after a call had failed");
}

#[test]
fn an_unfinished_group_removed_from_its_first_part_on_is_found() {
    check_found(|disk| wrap(disk, Wrong::RemovesForwards), "part follows where part 0 was expected");
}

#[test]
fn an_unfinished_group_that_stays_is_found() {
    check_found(|disk| wrap(disk, Wrong::RemovesNothing), "a crash alone is told as damage");
}

#[test]
fn a_flipped_value_that_is_served_is_found() {
    check_found(|disk| wrap(disk, Wrong::BypassesChecksum), "is not what was written");
}

#[test]
fn damage_that_is_hidden_is_found() {
    check_found(|disk| wrap(disk, Wrong::HidesDamage), "is not named");
}

#[test]
fn a_failed_read_that_is_taken_for_the_end_is_found() {
    check_found(|disk| wrap(disk, Wrong::HidesReadErrors), "it was taken for whole");
}

#[test]
fn a_last_value_that_is_not_shown_is_found() {
    check_found(|disk| wrap(disk, Wrong::LosesLast), "lie whole on the disk");
}
