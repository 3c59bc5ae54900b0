//! The machine that runs the rules: rings in front of shard actors, group commit behind them, views beside them.
//!
//! An [`Engine`] takes commands from any thread without blocking, has each decided by the one actor that owns its product, and
//! answers when what it observed is committed. This crate owns threads, time and order; it knows neither HTTP nor how a log is
//! stored: it writes through [`CommitLog`].

#[macro_use]
mod mutant;

mod answer;
mod changes;
mod clock;
mod codec;
mod command_counts;
mod commit;
mod copying;
mod cursor;
mod engine;
mod feed;
mod historian;
mod inbox;
mod known;
mod leadership;
mod lease;
mod local_log;
mod metrics;
#[cfg(all(test, feature = "loom"))]
mod model;
mod options;
mod panic;
mod published;
mod quorum;
mod reading;
mod ring;
mod router;
#[cfg(all(test, feature = "loom"))]
mod schedules;
mod sealing;
mod shard;
mod strangers;
mod sync;
mod under_way;
mod wake;
mod work;

pub use answer::{Answer, Content, Failure, Fault, Position, Refusal, ReservationPage, StockAnswer};
pub use clock::{Clock, ManualClock, SteadyClock, SystemClock};
pub use codec::{CodecError, decode_image, decode_record, snapshot_items, write_image};
pub use commit::{CommitLog, CommitProgress};
pub use copying::{CopyBlock, CopyGivenUp, LedgerCopy, copy_whole};
pub use cursor::{ChangeId, Cursor, CursorError};
pub use engine::{
    Engine, EngineParts, HistoryStart, LIST_LOOKS_MAX, ListReservations, Pending, PendingBatch, ShardStart, Submission,
};
pub use feed::{ChangeKind, Changed, Feed, FeedError, FeedEvent, FeedPage, FeedStatus};
pub use historian::ArchiveError;
pub use local_log::{LocalCommits, LocalLog};
pub use metrics::EngineMetrics;
pub use options::{EngineOptions, OnDivergence, OptionError};
pub use panic::abort_on_panic;
pub use quorum::{Diverged, Installed, QuorumLine, QuorumVoice, Room, Told, quorum_line};
pub use reading::{for_each_block, replay_log};
pub use router::{Router, ShardNumber, partition_of};
pub use sealing::Sealing;
pub use shard::ShardReport;
pub use tidegate_persistence::{Actor, ActorName};
pub use work::WORK_COMMANDS_MAX;
