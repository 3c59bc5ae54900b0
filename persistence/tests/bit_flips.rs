//! Damage anywhere in the files: every open either gives all acknowledged groups, or reports damage. Never silently less.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::panic;
use std::path::Path;
use std::sync::Once;

use common::{STREAM, Started, group, open, payloads, start};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_persistence::{DamageKind, OpenError, RecoveryError, WalOptions, sled_store};

/// Events of each group, over and over: from one value to several parts.
const EVENTS: [u64; 5] = [1, 30, 5, 400, 100];

/// A log whose every group was acknowledged, with its sidecar, as it lies on the disk while its process still runs.
struct Log {
    folder: tempfile::TempDir,
    acknowledged: Vec<Vec<u8>>,
}

fn write_log(groups: u64) -> Log {
    // As the process' own hook does, let pass what is contained, so that everything else is seen.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !sled_store::opening() {
                previous(panic);
            }
        }));
    });
    let folder = tempfile::tempdir().unwrap();
    let running = tempfile::tempdir().unwrap();
    let Started { wal, writer, ear, .. } = start(running.path(), WalOptions::default());
    let mut acknowledged = Vec::new();
    for (sequence, events) in (1..=groups).zip(EVENTS.into_iter().cycle()) {
        let group = group(sequence, events);
        acknowledged.push(group.payload.clone());
        writer.append(STREAM, group);
        ear.wait_committed(STREAM, sequence);
    }
    copy(running.path(), folder.path());
    wal.stop().unwrap();
    Log { folder, acknowledged }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// How often what came of damage.
#[derive(Debug, Default)]
struct Outcomes {
    whole: u32,
    /// Found by sled, or by the identity's checksum, when the directory is opened.
    found_by_open: u32,
    /// The store opened cleanly, and its log ended below what the sidecar knows.
    found_by_sidecar: u32,
    /// The store opened cleanly, and a record or its chain does not fit.
    found_by_records: u32,
}

impl Outcomes {
    const fn found(&self) -> u32 {
        self.found_by_open + self.found_by_sidecar + self.found_by_records
    }
}

impl Log {
    /// Damages a copy with `damage`, opens it, and counts what came of it.
    fn check(&self, outcomes: &mut Outcomes, what: &dyn std::fmt::Debug, damage: impl FnOnce(&Path)) {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        damage(folder.path());
        let directory = match open(folder.path()) {
            Ok(directory) => directory,
            Err(OpenError::Damaged { .. } | OpenError::IdentityMismatch { .. } | OpenError::Format { .. }) => {
                outcomes.found_by_open += 1;
                return;
            }
            Err(other) => panic!("{what:?}: {other}"),
        };
        match payloads(&directory) {
            Err(RecoveryError::Damage(damage)) if matches!(damage.what, DamageKind::EndsBelowDurable { .. }) => {
                outcomes.found_by_sidecar += 1;
            }
            Err(RecoveryError::Damage(_)) => outcomes.found_by_records += 1,
            Err(RecoveryError::Store(other)) => panic!("{what:?}: {other}"),
            Ok((_, found)) => {
                assert_eq!(found.len(), self.acknowledged.len(), "{what:?}: acknowledged groups are silently gone");
                assert!(found == self.acknowledged, "{what:?}: acknowledged groups differ");
                outcomes.whole += 1;
            }
        }
    }

    fn length(&self, file: &str) -> u64 {
        fs::metadata(self.folder.path().join(file)).unwrap().len()
    }

    /// The log's snapshot file, relative to the directory.
    fn snapshot(&self) -> String {
        let names = fs::read_dir(common::segment(self.folder.path()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        format!("log/0000000001/{}", names.into_iter().find(|name| name.starts_with("snap.")).unwrap())
    }
}

/// Changes up to `length` bytes of a file in place.
fn edit(path: &Path, offset: u64, length: usize, change: impl Fn(&mut [u8])) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, offset).unwrap();
    change(&mut bytes[..read]);
    file.write_all_at(&bytes[..read], offset).unwrap();
}

#[test]
fn a_flipped_bit_in_the_store_never_takes_an_acknowledged_group_silently() {
    let log = write_log(150);
    let seed = 20_261_120;
    let (mut random, mut outcomes) = (StdRng::seed_from_u64(seed), Outcomes::default());
    for _ in 0..400 {
        let (offset, bit) = (random.random_range(0..log.length("log/0000000001/db")), random.random_range(0..8));
        log.check(&mut outcomes, &(seed, offset, bit), |folder| {
            edit(&folder.join("log/0000000001/db"), offset, 1, |byte| byte[0] ^= 1 << bit);
        });
    }
    println!("seed {seed}, {} bytes: {outcomes:?}", log.length("log/0000000001/db"));
    // If every flip were harmless, or if sled noticed them all, this would not have tested what it says. Whether sled notices any at all
    // depends on where its background thread put what; that it is caught then has a test of its own.
    assert!(outcomes.whole > 0 && outcomes.found_by_sidecar > 0, "{outcomes:?}");
}

#[test]
fn a_zeroed_sector_or_a_cut_file_never_takes_an_acknowledged_group_silently() {
    let log = write_log(150);
    let length = log.length("log/0000000001/db");
    let seed = 11_202_026;
    let (mut random, mut outcomes) = (StdRng::seed_from_u64(seed), Outcomes::default());
    for _ in 0..60 {
        let offset = random.random_range(0..length) / 512 * 512;
        log.check(&mut outcomes, &(seed, offset), |folder| {
            edit(&folder.join("log/0000000001/db"), offset, 512, |bytes| bytes.fill(0));
        });
        let cut = random.random_range(0..length);
        log.check(&mut outcomes, &(seed, cut), |folder| {
            fs::OpenOptions::new().write(true).open(folder.join("log/0000000001/db")).unwrap().set_len(cut).unwrap();
        });
    }
    println!("seed {seed}, {length} bytes: {outcomes:?}");
    assert!(outcomes.found() > 0, "{outcomes:?}");
}

#[test]
fn damage_in_the_small_files_never_takes_an_acknowledged_group_silently() {
    let log = write_log(60);
    // sled writes its snapshot when it opens a log.
    drop(open(log.folder.path()).unwrap());
    for file in ["identity.json".to_owned(), "durable".to_owned(), "log/0000000001/conf".to_owned(), log.snapshot()] {
        let length = log.length(&file);
        let seed = 2_026;
        let (mut random, mut outcomes) = (StdRng::seed_from_u64(seed), Outcomes::default());
        for _ in 0..40 {
            let (offset, bit) = (random.random_range(0..length), random.random_range(0..8));
            log.check(&mut outcomes, &(&file, seed, offset, bit), |folder| {
                edit(&folder.join(&file), offset, 1, |byte| byte[0] ^= 1 << bit);
            });
        }
        log.check(&mut outcomes, &file, |folder| fs::remove_file(folder.join(&file)).unwrap());
        log.check(&mut outcomes, &file, |folder| fs::write(folder.join(&file), b"").unwrap());
        println!("{file}, seed {seed}, {length} bytes: {outcomes:?}");
    }
}

#[test]
fn without_damage_every_acknowledged_group_is_there() {
    let log = write_log(150);
    let mut outcomes = Outcomes::default();
    log.check(&mut outcomes, &"nothing", |_| {});
    assert_eq!(outcomes.whole, 1);
}
