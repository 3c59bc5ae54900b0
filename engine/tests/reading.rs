//! Items of a snapshot come in their order, whoever reads them, and end with the first error.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use support::{START, create, instant, reserve};
use tempfile::TempDir;
use tidegate_engine::{Engine, EngineOptions, for_each_item};
use tidegate_persistence::{
    DataDirectory, DirectoryOptions, LogPosition, SnapshotExpectation, SnapshotHeader, SnapshotReader, SnapshotWriter, StreamId,
};
use tidegate_stock::SnapshotItem;

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
    let read: Result<(), AnyError> = for_each_item(&mut reader, on_block, |item| {
        match &item {
            SnapshotItem::User(user) => users.push(user.user.to_string()),
            SnapshotItem::Reservation(reservation) => grants.push(reservation.id.sequence.0),
            _ => {}
        }
        last = Some(item);
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
    let read: Result<(), AnyError> = for_each_item(
        &mut reader,
        |_| (),
        |_| {
            visited += 1;
            if visited == 10 { Err("enough".into()) } else { Ok(()) }
        },
    );
    assert_eq!((read.unwrap_err().to_string(), visited), ("enough".to_owned(), 10));
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
    let read: Result<(), AnyError> = for_each_item(
        &mut reader,
        |_| (),
        |_| {
            visited += 1;
            Ok(())
        },
    );
    assert!(read.is_err());
    assert!((1..2 * BUYERS).contains(&visited), "{visited} items");
}
