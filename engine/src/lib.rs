//! The machine that runs the rules: rings in front of shard actors, group commit behind them, views beside them.
//!
//! An [`Engine`] takes commands from any thread without blocking, has each decided by the one actor that owns its product, and
//! answers when what it observed is committed. This crate owns threads, time and order; it knows neither HTTP nor how a log is
//! stored: it writes through [`CommitLog`].

mod answer;
mod clock;
mod commit;
mod engine;
mod local_log;
mod metrics;
mod options;
mod panic;
mod published;
mod ring;
mod router;
mod sealing;
mod shard;
mod wake;

pub use answer::{Answer, Content, Failure, Fault, Position, Refusal, StockAnswer};
pub use clock::{Clock, ManualClock, SystemClock};
pub use commit::{CommitLog, CommitProgress};
pub use engine::{Engine, EngineParts, Pending, ShardStart, Submission};
pub use local_log::{LocalCommits, LocalLog};
pub use metrics::EngineMetrics;
pub use options::{EngineOptions, OptionError};
pub use panic::abort_on_panic;
pub use router::{Router, ShardNumber, partition_of};
pub use sealing::Sealing;
pub use shard::ShardReport;
pub use tidegate_persistence::ActorName;
