//! What a start reads comes in its order, whatever is read ahead of it, and ends with the first error.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use support::{START, actor, confirm, create, instant, reserve};
use tempfile::TempDir;
use tidegate_engine::{Engine, EngineOptions, LocalCommits, Submission, for_each_block, replay_log};
use tidegate_persistence::{
    Actor, DataDirectory, DirectoryOptions, GroupBuilder, GroupSequence, LogPosition, RecoveredStream, RecoveryError,
    SnapshotExpectation, SnapshotHeader, SnapshotReader, SnapshotWriter, StreamId, Wal, WalOptions,
};
use tidegate_stock::{
    Fingerprint, GrantSequence, Idempotency, Ledger, Partition, Recall, Request, ReservationId, Rules, SnapshotItem, StockId,
    StockNumber, Timestamp, decide,
};

const STREAM: StreamId = StreamId::log(0);
const BUYERS: usize = 50_000;

type AnyError = Box<dyn Error + Send + Sync>;

/// A snapshot of a shard with [`BUYERS`] reservations: several blocks.
struct Written {
    _folder: TempDir,
    directory: DataDirectory,
    path: PathBuf,
}

impl Written {
    fn open(&self) -> SnapshotReader {
        SnapshotReader::open(&self.path, &SnapshotExpectation::new(self.directory.identity(), STREAM)).unwrap()
    }
}

async fn fill(engine: &Engine) {
    let made = engine.submit_batch([create("lamp", 1_000_000, 600)]).outcomes().await;
    assert!(made[0].is_ok(), "{made:?}");
    let outcomes = engine.submit_batch((0..BUYERS).map(|buyer| reserve("lamp", &format!("buyer-{buyer}")))).outcomes().await;
    assert!(outcomes.iter().all(Result::is_ok));
}

async fn written() -> Written {
    let folder = TempDir::new().unwrap();
    let directory = DataDirectory::open(&folder.path().join("data"), &DirectoryOptions::new(START)).unwrap();
    let bench = instant(EngineOptions::default());
    fill(&bench.engine).await;
    let mut copy = bench.engine.copy_ledger(STREAM).await.unwrap();
    let position = LogPosition { sequence: copy.at(), ..LogPosition::GENESIS };
    let header = SnapshotHeader::new(directory.identity(), STREAM, position);
    let path = directory.path().to_owned();
    let write = move || {
        let mut writer = SnapshotWriter::create(&path, &header, 1 << 30).unwrap();
        let mut blocks = 0;
        while let Some(block) = copy.next_block().unwrap() {
            writer.block(&block.bytes, block.items).unwrap();
            blocks += 1;
        }
        assert!(blocks > 4, "{blocks} blocks");
        writer.finish().unwrap().path
    };
    let path = tokio::task::spawn_blocking(write).await.unwrap();
    bench.engine.stop().await;
    Written { _folder: folder, directory, path }
}

#[tokio::test]
async fn items_come_in_order_and_all_of_them() {
    let written = written().await;
    let mut reader = written.open();
    let (mut users, mut grants, mut last) = (Vec::new(), Vec::new(), None);
    let (mut blocks, mut bytes) = (0, 0);
    let on_block = |reader: &SnapshotReader| {
        assert!(reader.bytes_read() >= bytes);
        (blocks, bytes) = (blocks + 1, reader.bytes_read());
    };
    let read: Result<(), AnyError> = for_each_block(&mut reader, on_block, |items| {
        for item in items {
            match &item {
                SnapshotItem::User(user) => users.push(user.user.to_string()),
                SnapshotItem::Reservation(reservation) => grants.push(reservation.id.sequence.0),
                _ => {}
            }
            last = Some(item);
        }
        Ok(())
    });
    read.unwrap();
    assert!(users.into_iter().eq((0..BUYERS).map(|buyer| format!("buyer-{buyer}"))));
    assert!(grants.into_iter().eq(1..=BUYERS as u64));
    assert_eq!(last, Some(SnapshotItem::End { items: 2 * BUYERS as u64 + 2 }));
    assert_eq!(bytes, fs::metadata(&written.path).unwrap().len());
    assert!(blocks > 5, "{blocks}");
}

#[tokio::test]
async fn who_gives_up_ends_the_reading() {
    let written = written().await;
    let mut reader = written.open();
    let mut visited = 0;
    let read: Result<(), AnyError> = for_each_block(
        &mut reader,
        |_| (),
        |_| {
            visited += 1;
            if visited == 2 { Err("enough".into()) } else { Ok(()) }
        },
    );
    assert_eq!((read.unwrap_err().to_string(), visited), ("enough".to_owned(), 2));
    assert!(reader.bytes_read() < fs::metadata(&written.path).unwrap().len(), "it went on reading");
}

#[tokio::test]
async fn damage_is_told_behind_what_came_before_it() {
    let written = written().await;
    let mut bytes = fs::read(&written.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&written.path, bytes).unwrap();
    let mut reader = written.open();
    let mut visited = 0;
    let read: Result<(), AnyError> = for_each_block(
        &mut reader,
        |_| (),
        |items| {
            visited += items.len();
            Ok(())
        },
    );
    assert!(read.is_err());
    assert!((1..2 * BUYERS).contains(&visited), "{visited} items");
}

/// Keys are over after two groups, so that it shows when any is dropped too early or too late.
const RULES: Rules = Rules {
    idempotency_seconds: 1,
    idempotency_keys_max: 100_000,
    retention_seconds: 3_600,
    reservations_in_memory_max: 100_000,
    users_in_memory_max: 100_000,
};

/// Commands of a group, around the numbers in which events are handed over and looked at.
const GROUPS: [u64; 10] = [1, 2, 63, 64, 65, 1_023, 1, 1_024, 2_500, 3];

/// Two of three commands reserve, with a key each; the third confirms what was reserved first.
fn command(number: u64) -> Request {
    let submission = match number {
        0 => create("lamp", 1_000_000, 600),
        number if number % 3 == 2 => {
            let stock = StockId { partition: Partition(0), number: StockNumber(1) };
            confirm(ReservationId { stock, sequence: GrantSequence(number / 3 + 1) })
        }
        number => reserve("lamp", &format!("buyer-{number}")),
    };
    let Submission { mut command, .. } = submission;
    if let tidegate_stock::Command::CreateStock { partition, .. } = &mut command {
        *partition = Partition(0);
    }
    let idempotency = (number % 3 == 1).then(|| Idempotency { key: Fingerprint(number.into()), request: Fingerprint(7) });
    Request { command, idempotency }
}

/// All that a ledger is.
fn copy(ledger: &mut Ledger) -> Vec<SnapshotItem> {
    let mut items = Vec::new();
    ledger.begin_copy();
    ledger.copy_slice(usize::MAX, |item| items.push(item));
    items
}

/// A log of [`GROUPS`], and the ledger that it makes.
fn logged(folder: &TempDir) -> (DataDirectory, Ledger) {
    let open = || DataDirectory::open(&folder.path().join("data"), &DirectoryOptions::new(START)).unwrap();
    let commits = Arc::new(LocalCommits::new([(STREAM, GroupSequence(0))], Arc::default(), |error| panic!("{error}")));
    let wal = Wal::start(open(), [RecoveredStream::empty(STREAM)], WalOptions::default(), commits).unwrap();
    let (mut ledger, mut number, mut at) = (Ledger::new(RULES, 1), 0, START);
    for (sequence, commands) in (1..).map(GroupSequence).zip(GROUPS) {
        at = Timestamp::from_unix_ms(at.unix_ms() + 600);
        let mut builder = GroupBuilder::new(sequence, at);
        for _ in 0..commands {
            let decision = decide(&ledger, &command(number), at, Recall::NotTried).unwrap();
            assert!(decision.outcome.is_ok(), "command {number}: {decision:?}");
            let event = decision.event.unwrap();
            drop(ledger.apply(&event, at));
            builder.push(&event, &Actor::Key(actor()), at, &[]);
            number += 1;
        }
        ledger.tidy(at, 2 * usize::try_from(commands).unwrap());
        wal.writer().append(STREAM, builder.finish());
    }
    wal.stop().unwrap();
    (open(), ledger)
}

#[test]
fn a_log_makes_the_ledger_that_it_was_written_for() {
    let folder = TempDir::new().unwrap();
    let (directory, mut expected) = logged(&folder);
    assert!((1..1_500).contains(&expected.key_count()), "{} of 1,582 keys are left", expected.key_count());
    let (mut ledger, read) = replay_log(&directory, STREAM, None, Ledger::new(RULES, 2)).unwrap();
    assert_eq!((read.groups, read.events), (GROUPS.len() as u64, GROUPS.iter().sum()));
    assert_eq!(ledger.key_count(), expected.key_count());
    let (ledger, expected) = (copy(&mut ledger), copy(&mut expected));
    assert_eq!(ledger.len(), expected.len());
    for (item, expected) in ledger.iter().zip(&expected) {
        assert_eq!(item, expected);
    }
}

#[test]
fn of_a_log_that_lacks_its_beginning_there_is_no_ledger() {
    let folder = TempDir::new().unwrap();
    let (directory, _) = logged(&folder);
    let beyond = LogPosition { sequence: GroupSequence(99), ..LogPosition::GENESIS };
    let read: Result<_, RecoveryError> = replay_log(&directory, STREAM, Some(&beyond), Ledger::new(RULES, 2));
    assert!(read.is_err());
}
