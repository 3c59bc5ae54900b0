//! openraft's own conformance suite, on the log in memory and on the log in a data directory.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::sync::Arc;

use common::{LedgerMachine, start_in, start_on};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tidegate_cluster::{PositionAt, ReplicatedLog, Standing, StateMachine, TypeConfig};
use tidegate_persistence::{LogPosition, MemoryStore, NodeId, RecoveredReplica, Wal};

/// The suite purges entries that neither the log nor the state machine ever had, so where the chain stands with them is made up.
fn anywhere() -> PositionAt {
    Arc::new(|index| Some(LogPosition { index, ..LogPosition::GENESIS }))
}

type Built<G> = ((Wal, G), ReplicatedLog, StateMachine<LedgerMachine>);

fn built<G>((wal, replica): (Wal, RecoveredReplica), guard: G) -> Built<G> {
    let log = ReplicatedLog::open(wal.writer(), wal.reader(), &replica, anywhere()).unwrap();
    ((wal, guard), log, StateMachine::new(LedgerMachine::default(), Standing::genesis()))
}

struct InMemory;

impl StoreBuilder<TypeConfig, ReplicatedLog, StateMachine<LedgerMachine>, (Wal, ())> for InMemory {
    async fn build(&self) -> Result<Built<()>, StorageError<TypeConfig>> {
        Ok(built(start_on(MemoryStore::new(), NodeId(0)), ()))
    }
}

struct InDirectories;

impl StoreBuilder<TypeConfig, ReplicatedLog, StateMachine<LedgerMachine>, (Wal, TempDir)> for InDirectories {
    async fn build(&self) -> Result<Built<TempDir>, StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        Ok(built(start_in(folder.path()), folder))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_in_memory_is_what_openraft_asks_for() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_in_a_data_directory_is_what_openraft_asks_for() {
    Suite::test_all(InDirectories).await.unwrap();
}
