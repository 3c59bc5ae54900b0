//! The disk: the write-ahead log on sled, its recovery by replay, and the data directory around them.
//!
//! [`DataDirectory::open`] locks and identifies a directory, [`DataDirectory::replay`] hands out every group that was ever committed, in
//! order, and [`Wal::start`] then takes the directory over and makes new groups durable. [`LogReader`] reads them meanwhile and gives
//! back the space of those that nobody needs any more. The crate knows the events it keeps only as
//! values to encode; what they mean is for the stock's rules, and who waits for them is for the engine.

#[macro_use]
mod mutant;

mod alone;
pub mod archive;
mod contents;
pub mod directory;
pub mod disk;
mod divergence;
mod front_to_end;
pub mod group;
pub mod history;
pub mod identity;
pub mod memory;
pub mod reader;
pub mod record;
pub mod recovery;
pub mod replicated;
pub mod restore;
mod sealed;
mod segment;
pub mod segments;
pub mod sidecar;
mod sled_files;
pub mod sled_store;
pub mod snapshot;
pub mod store;
pub mod wal;
mod wal_thread;

pub use alone::{GroupsAlone, SnapshotAlone};
pub use archive::{
    ARCHIVE_PIECE_BYTES_MAX, ArchiveError, ArchiveReader, ArchiveTotals, ArchiveWriter, HistoryCopyError, Piece, copy_history,
};
pub use directory::{DataDirectory, DirectoryOptions, OpenError};
pub use divergence::{DIVERGENCE_FILE, Divergence, note_divergence, noted_divergence};
pub use group::{Actor, ActorName, Entry, Group, GroupBuilder, PayloadError, decode_entries};
pub use history::{History, HistoryError, HistoryKey, HistoryOptions, HistoryRange, HistoryRecord, asking_history};
pub use identity::{IDENTITY_FILE, Identity, IdentityExpectation, PARTITION_HASH, PARTITIONS, Secret};
pub use memory::MemoryStore;
pub use reader::{LogReader, LogSize, ReadError};
pub use record::{
    ChainHash, GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term,
};
pub use recovery::{
    Damage, DamageKind, LogPosition, RecoveredEntry, RecoveredGroup, RecoveredReplica, RecoveredStream, RecoveryError,
    RecoveryProgress,
};
pub use replicated::{EntryContent, Promises, Purged, ReplicatedEntry, Vote};
pub use restore::{RestoreError, restore};
pub use segments::{SEGMENT_BYTES_MAX_DEFAULT, SegmentOptions, SegmentedLog};
pub use sidecar::{Durable, Sidecar};
pub use sled_store::{CACHE_BYTES_DEFAULT, SledStore, VALUE_BYTES_MAX};
pub use snapshot::{
    INCOMING_SUFFIX, SNAPSHOT_BLOCK_BYTES_MAX, SNAPSHOT_BYTES_PER_SECOND_DEFAULT, SNAPSHOT_MEMBERS_BYTES_MAX, SnapshotConsensus,
    SnapshotError, SnapshotExpectation, SnapshotHeader, SnapshotInfo, SnapshotReader, SnapshotWriter, remove_older,
    remove_unfinished, set_aside, snapshot_path, snapshots,
};
pub use store::{Compacted, LogStore, SegmentInfo, StoreError};
pub use wal::{
    Done, Durability, DurabilityError, FreeSpace, SteppedWal, SyncReport, Wal, WalError, WalListener, WalOptions, WalWriter,
};
