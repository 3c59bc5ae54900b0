//! Which shard owns which product.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use tidegate_persistence::{PARTITIONS, StreamId};
use tidegate_stock::{Command, Partition, Sku};

/// One shard of a node: an actor, its ring, its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNumber(pub u16);

impl ShardNumber {
    /// The stream that holds the shard's log.
    pub const fn stream(self) -> StreamId {
        StreamId(self.0)
    }
}

/// The partition of a sku: SipHash-2-4 with a key of zeros over its bytes, modulo [`PARTITIONS`]. The same on every node, for ever; the
/// data directory's identity names it.
pub fn partition_of(sku: &Sku) -> Partition {
    let mut hasher = SipHasher24::new();
    hasher.write(sku.as_str().as_bytes());
    let Ok(partition) = u16::try_from(hasher.finish() % u64::from(PARTITIONS)) else {
        unreachable!("less than the partition count")
    };
    Partition(partition)
}

/// The map from partitions to shards: runs of neighbouring partitions, as equal as can be.
#[derive(Debug, Clone, Copy)]
pub struct Router {
    shards: u16,
}

impl Router {
    /// A map onto `shards` shards, 1 to [`PARTITIONS`].
    pub fn new(shards: u16) -> Self {
        assert!((1..=PARTITIONS).contains(&shards), "{shards} shards where 1 to {PARTITIONS} are possible");
        Self { shards }
    }

    /// The shard that owns what `command` is about; `None` for a partition that does not exist.
    pub(crate) fn shard_for(self, command: &Command) -> Option<ShardNumber> {
        self.shard_of(match command {
            Command::CreateStock { partition, .. } => *partition,
            Command::Reserve { sku, .. }
            | Command::ChangeStock { sku, .. }
            | Command::AdjustStock { sku, .. }
            | Command::StepStock { sku, .. } => partition_of(sku),
            Command::Confirm { reservation, .. }
            | Command::Release { reservation, .. }
            | Command::Return { reservation, .. }
            | Command::Extend { reservation, .. }
            | Command::ReadReservation { reservation } => reservation.stock.partition,
        })
    }

    /// The shard that owns `partition`; `None` for a partition that does not exist.
    pub fn shard_of(self, partition: Partition) -> Option<ShardNumber> {
        if partition.0 >= PARTITIONS {
            return None;
        }
        let shard = u32::from(partition.0) * u32::from(self.shards) / u32::from(PARTITIONS);
        u16::try_from(shard).ok().map(ShardNumber)
    }
}
