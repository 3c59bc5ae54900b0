//! No snapshots between nodes: what a shard of a member is until they can be handed over.
//!
//! A member keeps its whole log, so nobody is ever so far behind that it needs one. Whoever asks for one all the same is refused, clearly. The
//! one type here is all that is to be exchanged.

use std::io;

use tidegate_cluster::network::{IncomingSnapshot, SnapshotTransfer};
use tidegate_cluster::{Snapshots, Standing};
use tidegate_engine::Installed;

/// Refuses every snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NoSnapshots;

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a member of a cluster neither makes nor takes snapshots: its whole log is kept")
}

impl Snapshots for NoSnapshots {
    type Snapshot = ();

    async fn install(&mut self, _: Standing, (): ()) -> io::Result<Installed> {
        Err(refused())
    }

    async fn current(&mut self) -> io::Result<Option<(Standing, ())>> {
        Ok(None)
    }
}

impl SnapshotTransfer for NoSnapshots {
    type Snapshot = ();
    type Reader = io::Cursor<Vec<u8>>;
    type Incoming = Self;

    async fn open(&self, (): ()) -> io::Result<Self::Reader> {
        Err(refused())
    }

    async fn receive(&self, _: u16) -> io::Result<Self> {
        Err(refused())
    }
}

impl IncomingSnapshot for NoSnapshots {
    type Snapshot = ();

    async fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    async fn finish(self) -> io::Result<()> {
        Err(refused())
    }
}
