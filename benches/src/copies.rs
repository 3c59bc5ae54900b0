//! Snapshots of a node in process, made and loaded by the public faces that the assembly uses for its own.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_engine::for_each_block;
use tidegate_persistence::{
    Identity, LogIndex, LogPosition, SnapshotExpectation, SnapshotHeader, SnapshotInfo, SnapshotReader, SnapshotWriter,
};
use tidegate_stock::{Ledger, Loader, Rules};

use crate::error::BenchError;
use crate::node::{Node, STREAM};
use crate::wait::block_on;

/// Longest wait for the group that a copy stands at.
const COMMIT_WAIT_MAX: Duration = Duration::from_mins(1);

/// Longest wait between two looks at a watermark.
const COMMIT_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Makes a snapshot of the node as it stands now, at `bytes_per_second` at most; it is durable at return.
pub fn make(node: &Node, bytes_per_second: u64) -> Result<SnapshotInfo, BenchError> {
    let began = Instant::now();
    let mut copy = block_on(node.engine.copy_ledger(STREAM)).map_err(BenchError::wrong)?;
    while !copy.is_committed().map_err(BenchError::wrong)? {
        if began.elapsed() > COMMIT_WAIT_MAX {
            return Err(BenchError::wrong("the group that the copy stands at was not committed in a minute"));
        }
        thread::park_timeout(COMMIT_LOOK_INTERVAL);
    }
    let position = node.wal.reader().position(STREAM, copy.at()).map_err(BenchError::wrong)?;
    let position = position.ok_or_else(|| BenchError::wrong("the log has no group"))?;
    let header = SnapshotHeader::new(&node.identity, STREAM, position);
    let mut writer = SnapshotWriter::create(&node.data, &header, bytes_per_second).map_err(BenchError::wrong)?;
    while let Some(block) = copy.next_block().map_err(BenchError::wrong)? {
        writer.block(&block.bytes, block.items).map_err(BenchError::wrong)?;
    }
    if let Some(history) = &node.history {
        history.persist().map_err(BenchError::wrong)?;
    }
    node.wal.writer().sync().map_err(BenchError::wrong)?;
    writer.finish().map_err(BenchError::wrong)
}

/// The entry behind the last one that is in a snapshot.
pub fn behind(path: &Path, identity: &Identity) -> Result<LogIndex, BenchError> {
    let reader = SnapshotReader::open(path, &SnapshotExpectation::new(identity, STREAM)).map_err(BenchError::wrong)?;
    Ok(reader.header().position.index.next())
}

/// The ledger of a snapshot, and where in the log it stands.
pub fn load(path: &Path, identity: &Identity, rules: Rules, seed: u64) -> Result<(LogPosition, Ledger), BenchError> {
    let mut reader = SnapshotReader::open(path, &SnapshotExpectation::new(identity, STREAM)).map_err(BenchError::wrong)?;
    let position = reader.header().position;
    let mut loader = Loader::new(rules, seed);
    let add = |items| -> Result<(), Box<dyn Error + Send + Sync>> { Ok(loader.add_all(items)?) };
    for_each_block(&mut reader, |_| (), add).map_err(BenchError::wrong)?;
    let ledger = loader.finish().map_err(BenchError::wrong)?;
    Ok((position, ledger))
}
