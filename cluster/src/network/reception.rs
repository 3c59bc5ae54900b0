//! Snapshots that are coming in over one connection: one of a shard at a time, part behind part, and whole or not at all.

use std::collections::BTreeMap;
use std::fmt;

use super::transfer::{IncomingSnapshot, SnapshotTransfer};
use super::wire::SnapshotHead;

/// Why a part of a snapshot is not taken. Nothing is left of the snapshot then.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

fn broken(what: impl fmt::Display) -> Broken {
    Broken(what.to_string())
}

/// A snapshot of which the first bytes are there.
struct Reception<I> {
    transfer: u64,
    head: SnapshotHead,
    incoming: I,
    length: u64,
    hasher: blake3::Hasher,
}

/// A snapshot of which all bytes are there, as they were sent.
pub(crate) struct Received<I> {
    pub(crate) head: SnapshotHead,
    pub(crate) incoming: I,
}

/// The snapshots of one connection, by shard.
pub(crate) struct Receptions<I>(BTreeMap<u16, Reception<I>>);

impl<I: IncomingSnapshot> Receptions<I> {
    pub(crate) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Begins one, instead of what was coming in of that shard before.
    pub(crate) async fn begin<T: SnapshotTransfer<Incoming = I>>(
        &mut self,
        shard: u16,
        transfer: u64,
        head: SnapshotHead,
        by: &T,
    ) -> Result<(), Broken> {
        self.0.remove(&shard);
        let incoming = by.receive(shard).await.map_err(broken)?;
        self.0.insert(shard, Reception { transfer, head, incoming, length: 0, hasher: blake3::Hasher::new() });
        Ok(())
    }

    /// Takes the bytes of `transfer` that `offset` bytes go in front of.
    pub(crate) async fn take(&mut self, shard: u16, transfer: u64, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        // Out of the map while it is written, so that nothing is left if that fails.
        let mut reception = self.remove(shard, transfer)?;
        if offset != reception.length {
            return Err(Broken(format!("bytes from {offset} on where {} are there", reception.length)));
        }
        reception.incoming.write(bytes).await.map_err(broken)?;
        reception.hasher.update(bytes);
        reception.length += bytes.len() as u64;
        self.0.insert(shard, reception);
        Ok(())
    }

    /// Ends `transfer`, which is whole if it has `length` bytes with hash `digest`.
    pub(crate) fn end(&mut self, shard: u16, transfer: u64, length: u64, digest: [u8; 32]) -> Result<Received<I>, Broken> {
        let reception = self.remove(shard, transfer)?;
        if reception.length != length {
            return Err(Broken(format!("{} bytes have come where {length} were sent", reception.length)));
        }
        if *reception.hasher.finalize().as_bytes() != digest {
            return Err(Broken(format!("the hash of {length} bytes is not that of those that were sent")));
        }
        Ok(Received { head: reception.head, incoming: reception.incoming })
    }

    /// Forgets `transfer`, if it is there.
    pub(crate) fn give_up(&mut self, shard: u16, transfer: u64) {
        drop(self.remove(shard, transfer));
    }

    fn remove(&mut self, shard: u16, transfer: u64) -> Result<Reception<I>, Broken> {
        let reception = self.0.remove(&shard).ok_or_else(|| broken(format!("nothing of snapshot {transfer} is there")))?;
        if reception.transfer == transfer {
            return Ok(reception);
        }
        let error = broken(format!("snapshot {} is coming in, not {transfer}", reception.transfer));
        self.0.insert(shard, reception);
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::sync::Arc;

    use openraft::StoredMembership;
    use parking_lot::Mutex;
    use tidegate_persistence::{LogPosition, NodeId};

    use super::*;
    use crate::types::{LeaderId, SnapshotMeta, Vote};

    /// Counts what is left of snapshots that are not finished.
    #[derive(Default)]
    struct Memory {
        unfinished: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    }

    struct Incoming {
        number: u64,
        unfinished: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    }

    impl SnapshotTransfer for Memory {
        type Snapshot = Vec<u8>;
        type Reader = io::Cursor<Vec<u8>>;
        type Incoming = Incoming;

        async fn open(&self, snapshot: Vec<u8>) -> io::Result<Self::Reader> {
            Ok(io::Cursor::new(snapshot))
        }

        async fn receive(&self, shard: u16) -> io::Result<Incoming> {
            let unfinished = Arc::clone(&self.unfinished);
            let number = u64::from(shard);
            let before = unfinished.lock().insert(number, Vec::new());
            assert_eq!(before, None, "what was there before is gone before the next begins");
            Ok(Incoming { number, unfinished })
        }
    }

    impl IncomingSnapshot for Incoming {
        type Snapshot = Vec<u8>;

        async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            if bytes == b"no room" {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.unfinished.lock().get_mut(&self.number).unwrap().extend_from_slice(bytes);
            Ok(())
        }

        async fn finish(self) -> io::Result<Vec<u8>> {
            Ok(self.unfinished.lock().get(&self.number).unwrap().clone())
        }
    }

    impl Drop for Incoming {
        fn drop(&mut self) {
            self.unfinished.lock().remove(&self.number);
        }
    }

    fn head() -> SnapshotHead {
        let vote = Vote { leader_id: LeaderId { term: 1, node_id: NodeId(1) }, committed: true };
        let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::default() };
        SnapshotHead { vote, meta, position: LogPosition::GENESIS }
    }

    /// Of "abc", as blake3's own test vectors have it.
    const DIGEST: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    fn digest() -> [u8; 32] {
        *blake3::Hash::from_hex(DIGEST).unwrap().as_bytes()
    }

    #[tokio::test]
    async fn a_snapshot_is_whole_or_not_at_all() {
        let memory = Memory::default();
        let mut receptions = Receptions::new();
        receptions.begin(3, 7, head(), &memory).await.unwrap();
        receptions.take(3, 7, 0, b"ab").await.unwrap();
        receptions.take(3, 7, 2, b"c").await.unwrap();
        let received = receptions.end(3, 7, 3, digest()).unwrap();
        assert_eq!(received.head, head());
        assert_eq!(received.incoming.finish().await.unwrap(), b"abc");

        for (what, offset, bytes, length, hash) in [
            ("a gap", 3, &b"c"[..], 3, digest()),
            ("twice the same", 0, b"c", 3, digest()),
            ("a failure of the disk", 2, b"no room", 3, digest()),
            ("a part that is missing", 2, b"", 3, digest()),
            ("a changed byte", 2, b"d", 3, digest()),
            ("another hash", 2, b"c", 3, [0; 32]),
        ] {
            receptions.begin(3, 7, head(), &memory).await.unwrap();
            receptions.take(3, 7, 0, b"ab").await.unwrap();
            let taken = receptions.take(3, 7, offset, bytes).await;
            let ended = receptions.end(3, 7, length, hash).map(|_| ());
            assert!(taken.is_err() || ended.is_err(), "{what}");
            assert!(memory.unfinished.lock().is_empty(), "{what}");
        }
    }

    #[tokio::test]
    async fn each_shard_has_one_and_the_newest_counts() {
        let memory = Memory::default();
        let mut receptions = Receptions::new();
        receptions.begin(1, 7, head(), &memory).await.unwrap();
        receptions.begin(2, 8, head(), &memory).await.unwrap();
        receptions.begin(1, 9, head(), &memory).await.unwrap();
        assert_eq!(receptions.take(1, 7, 0, b"old").await.unwrap_err().0, "snapshot 9 is coming in, not 7");
        receptions.give_up(1, 7);
        receptions.take(1, 9, 0, b"new").await.unwrap();
        receptions.give_up(2, 8);
        assert_eq!(receptions.take(2, 8, 0, b"late").await.unwrap_err().0, "nothing of snapshot 8 is there");
        assert_eq!(memory.unfinished.lock().keys().collect::<Vec<_>>(), [&1]);
        drop(receptions);
        assert!(memory.unfinished.lock().is_empty(), "a connection that ends leaves nothing");
    }
}
