//! The disk: the write-ahead log on sled, its recovery by replay, and the data directory around them.
//!
//! [`DataDirectory::open`] locks and identifies a directory, [`DataDirectory::replay`] hands out every group that was ever committed, in
//! order, and [`Wal::start`] then takes the directory over and makes new groups durable. The crate knows the events it keeps only as
//! values to encode; what they mean is for the stock's rules, and who waits for them is for the engine.

pub mod directory;
pub mod disk;
pub mod group;
pub mod identity;
pub mod memory;
pub mod record;
pub mod recovery;
pub mod sidecar;
pub mod sled_store;
pub mod store;
pub mod wal;
mod wal_thread;

pub use directory::{DataDirectory, DirectoryOptions, OpenError};
pub use group::{Actor, ActorName, Entry, Group, GroupBuilder, PayloadError, decode_entries};
pub use identity::{Identity, IdentityExpectation, PARTITION_HASH, PARTITIONS, Secret};
pub use memory::MemoryStore;
pub use record::{
    ChainHash, GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term,
};
pub use recovery::{Damage, DamageKind, RecoveredGroup, RecoveredStream, RecoveryError, RecoveryProgress};
pub use sidecar::{Durable, Sidecar};
pub use sled_store::{CACHE_BYTES_DEFAULT, SledStore, VALUE_BYTES_MAX};
pub use store::{LogStore, StoreError};
pub use wal::{Durability, DurabilityError, FreeSpace, SyncReport, Wal, WalError, WalListener, WalOptions, WalWriter};
