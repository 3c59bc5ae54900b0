//! Snapshots: the file and its blocks, the items in them, and the ledger made from these. A file with a changed byte is none; items that
//! make a ledger come out of it again; items that make none are an error with a name, and never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use tempfile::TempDir;
use tidegate_engine::snapshot_items;
use tidegate_persistence::{
    ChainHash, GroupSequence, LogIndex, LogPosition, SnapshotError, SnapshotExpectation, SnapshotHeader, SnapshotReader,
    SnapshotWriter, StreamId, Term,
};
use tidegate_stock::{CopyProgress, Ledger, LoadError, Loader, Rules, SnapshotItem, Timestamp};

use crate::made;

const STREAM: StreamId = StreamId::log(0);
const EXPECTATION: SnapshotExpectation<'static> =
    SnapshotExpectation { cluster: "fuzz", shards: 1, partition_hash: "some-hash", stream: STREAM };
const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 1_000,
    retention_seconds: 604_800,
    reservations_in_memory_max: 1_000,
    users_in_memory_max: 1_000,
};

/// Tries `data` as a file, as the bytes of a block, and as what items are made of.
pub fn run(data: &[u8]) {
    raw_file(data);
    block(data);
    // Input that is used up gives zeros, so this never fails.
    let _ = written(&mut Unstructured::new(data));
}

/// The folder of this process's files; in memory where there is such a place.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let new = || TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("there is room for a temporary folder");
    FOLDER.get_or_init(new).path()
}

fn raw_file(bytes: &[u8]) {
    let path = folder().join("raw");
    fs::write(&path, bytes).expect("there is room for a file");
    // Whatever it says: read to its end, or an error that is no failure of the disk.
    if let Err(error) = read(&path) {
        assert!(!matches!(error, SnapshotError::Io { .. }), "{error}");
    }
}

fn read(path: &Path) -> std::result::Result<Vec<Vec<u8>>, SnapshotError> {
    let mut reader = SnapshotReader::open(path, &EXPECTATION)?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.block()? {
        blocks.push(block.to_vec());
    }
    assert!(reader.records().is_some());
    Ok(blocks)
}

fn write(blocks: &[Vec<u8>]) -> PathBuf {
    let position = LogPosition {
        index: LogIndex(2),
        sequence: GroupSequence(1),
        chain: ChainHash([7; 16]),
        term: Term(1),
        time: Timestamp::from_unix_ms(1_800_000_000_000),
    };
    let header = SnapshotHeader {
        cluster: EXPECTATION.cluster.to_owned(),
        shards: EXPECTATION.shards,
        partition_hash: EXPECTATION.partition_hash.to_owned(),
        stream: STREAM,
        position,
        consensus: None,
    };
    let mut writer = SnapshotWriter::create(folder(), &header, u64::MAX).expect("there is room for a snapshot");
    for block in blocks {
        writer.block(block, 1).expect("there is room for a block");
    }
    writer.finish().expect("there is room for a footer").path
}

fn block(bytes: &[u8]) {
    let items: Vec<_> = snapshot_items(bytes).collect();
    // An item takes bytes; and nothing follows an error.
    assert!(items.len() <= bytes.len());
    assert!(items.iter().rev().skip(1).all(std::result::Result::is_ok));
    let Ok(items) = items.into_iter().collect::<std::result::Result<Vec<_>, _>>() else { return };
    assert_eq!(read_items(&encode(&items)), items);
    drop(load(&items));
}

/// Items and a byte to be changed in their file.
fn written(input: &mut Unstructured<'_>) -> Result<()> {
    let (at, difference): (u16, u8) = (input.arbitrary()?, input.int_in_range(1..=255)?);
    let mut items = vec![SnapshotItem::Begin { last_applied: made::moment(input)? }];
    for _ in 0..input.int_in_range(0..=12)? {
        items.push(made::item(input)?);
    }
    items.push(SnapshotItem::End { items: items.len() as u64 });

    let blocks: Vec<Vec<u8>> = items.chunks(3).map(encode).collect();
    let path = write(&blocks);
    assert_eq!(read(&path).expect("it is as it was written"), blocks);
    let mut bytes = fs::read(&path).expect("it has just been written");
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= difference;
    fs::write(&path, &bytes).expect("there is room for a file");
    let error = read(&path).expect_err("a byte was changed");
    assert!(!matches!(error, SnapshotError::Io { .. }), "byte {at}: {error}");
    fs::write(&path, &bytes[..at]).expect("there is room for a file");
    assert!(read(&path).is_err(), "its end is gone");

    if let Ok(ledger) = load(&items) {
        // A copy of the ledger makes the same ledger again.
        let first = copy(ledger);
        let again = load(&first).expect("it came out of a ledger");
        assert_eq!(copy(again), first);
    }
    Ok(())
}

/// Grants of a stock that is loaded here: a ledger keeps room for each between the oldest and the newest in memory, so a digest that holds
/// over made-up grants may cost any memory. What a snapshot says under its digest was written by a node.
const GRANTS_MAX: u64 = 1 << 20;

fn load(items: &[SnapshotItem]) -> std::result::Result<Ledger, LoadError> {
    let mut loader = Loader::new(RULES, 7);
    let is_sparse = |item: &SnapshotItem| matches!(item, SnapshotItem::Stock(stock) if stock.grants > GRANTS_MAX);
    if items.iter().any(is_sparse) {
        return Err(LoadError::OutOfPlace);
    }
    for item in items {
        loader.add(item.clone())?;
    }
    let ledger = loader.finish()?;
    // As whoever asks sees them.
    let stocks: Vec<_> = ledger.stocks().collect();
    assert!(stocks.iter().all(|stock| stock.available + stock.reserved + stock.sold == stock.allotted));
    assert_eq!(ledger.reservations().count(), ledger.reservation_count());
    Ok(ledger)
}

fn copy(mut ledger: Ledger) -> Vec<SnapshotItem> {
    let mut items = Vec::new();
    ledger.begin_copy();
    while ledger.copy_slice(1_000, |item| items.push(item)) == CopyProgress::More {}
    assert!(matches!(items.last(), Some(SnapshotItem::End { .. })));
    items
}

fn encode(items: &[SnapshotItem]) -> Vec<u8> {
    items.iter().flat_map(|item| postcard::to_allocvec(item).expect("an item is plain data")).collect()
}

fn read_items(bytes: &[u8]) -> Vec<SnapshotItem> {
    snapshot_items(bytes).collect::<std::result::Result<_, _>>().expect("it was written from items")
}
