//! Deliberate defects, made in the simulation's own parts around the product: a run with one of them must find it.

use clap::ValueEnum;

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Defect {
    /// A leader counts followers that it has not reached: it acknowledges what no quorum has
    CountUnreached,
    /// Entries count as durable when they are handed over, before any sync
    SkipSync,
    /// A node that starts again has forgotten its vote
    ForgetVote,
    /// A node that leads no longer goes on answering reads from what it has
    ServeDeposed,
    /// A snapshot counts before what is in it is committed
    SnapshotUncommitted,
    /// A loss of power keeps what was written late and loses what was written before
    LoseBeginning,
    /// A node that follows gives a buyer one unit more than the log says, once
    MisapplyUnit,
}
