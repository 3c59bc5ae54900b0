//! sled's file writes through for as long as a loss of power is to be survived, because sled overwrites what it believes replaced.
//!
//! Without that, cutting the power of a drive with a volatile cache left a directory that did not open, about once in a hundred cuts.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{IFlags, ioctl_getflags};
use tidegate_persistence::{
    DataDirectory, DirectoryOptions, Durability, GroupSequence, LogIndex, LogStore, RecordKey, SegmentOptions, SegmentedLog,
    StreamId, SyncReport, Wal, WalError, WalListener, WalOptions,
};
use tidegate_stock::Timestamp;

struct Deaf;

impl WalListener for Deaf {
    fn committed(&self, _stream: StreamId, _sequence: GroupSequence) {}
    fn synced(&self, _report: &SyncReport) {}
    fn disk_low(&self, _is_low: bool) {}
    fn failed(&self, _error: &WalError) {}
}

fn writes_through(directory: &Path) -> bool {
    let file = File::open(directory.join("log/0000000001/db")).expect("the log has its file");
    ioctl_getflags(&file).expect("the file system of the build has flags").contains(IFlags::SYNC)
}

#[test]
fn the_log_writes_through_from_its_first_byte_unless_a_loss_of_power_may_undo_it() {
    // A file system in memory cannot write through, so this is made where the build is.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("data");
    for (durability, expected) in
        [(Durability::PowerLoss, true), (Durability::ProcessCrash, false), (Durability::None, false), (Durability::PowerLoss, true)]
    {
        let directory = DataDirectory::open(&path, &DirectoryOptions::new(Timestamp::from_unix_ms(1_750_000_000_000))).unwrap();
        assert!(writes_through(&path), "recovery writes too, whatever the durability");
        let wal = Wal::start(directory, [], WalOptions { durability, ..WalOptions::default() }, Arc::new(Deaf)).unwrap();
        assert_eq!(writes_through(&path), expected, "{durability}");
        wal.stop().unwrap();
    }
}

#[test]
fn every_segment_writes_through_as_the_log_does_those_that_come_later_too() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for writes_through in [true, false] {
        let path = folder.path().join(writes_through.to_string());
        let store = SegmentedLog::open(&path, SegmentOptions { cache_bytes: 1 << 20, segment_bytes_max: 16 * 1024 }).unwrap();
        store.set_write_through(writes_through).unwrap();
        for index in 1..=20_000 {
            store.append(RecordKey { stream: StreamId::log(0), index: LogIndex(index), part: 0 }, &[7; 1_024]).unwrap();
            store.sync().unwrap();
            store.between_groups().unwrap();
            if store.segments().len() > 3 {
                break;
            }
        }
        let segments = store.segments();
        assert!(segments.len() > 3);
        // Closed first: a segment that was left may be being opened anew right now.
        drop(store);
        for segment in segments {
            let file = File::open(path.join(format!("{:010}", segment.number)).join("db")).unwrap();
            assert_eq!(ioctl_getflags(&file).unwrap().contains(IFlags::SYNC), writes_through, "{segment:?}");
        }
    }
}
