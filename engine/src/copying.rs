//! A shard's state for a snapshot: its ledger as it stands at the end of one group, block by block. What a snapshot is and where it goes
//! is for whoever asks.

use std::sync::{Arc, mpsc};

use tidegate_persistence::GroupSequence;

use crate::commit::CommitProgress;
use crate::shard::CopyPiece;

/// Blocks that wait between a shard and whoever takes its copy.
pub(crate) const BLOCKS_WAITING_MAX: usize = 4;

/// A ledger's copy that is being taken. Dropping it ends it.
pub struct LedgerCopy {
    pub(crate) at: GroupSequence,
    pub(crate) pieces: mpsc::Receiver<CopyPiece>,
    pub(crate) progress: Arc<CommitProgress>,
}

/// Some items of a copy, as [`crate::snapshot_items`] reads them.
#[derive(Debug)]
pub struct CopyBlock {
    /// The items' bytes.
    pub bytes: Vec<u8>,
    /// How many items they are.
    pub items: u32,
}

/// The shard gave the copy up: it is stopping, its log has failed, or another copy was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shard gave the copy up")]
pub struct CopyGivenUp;

impl LedgerCopy {
    /// The last group that is in it. It need not be committed yet.
    pub const fn at(&self) -> GroupSequence {
        self.at
    }

    /// Whether that group is committed. Until it is, nobody may rely on the copy.
    pub fn is_committed(&self) -> bool {
        self.progress.committed() >= self.at
    }

    /// The next block; `None` after the last. Waits for the shard.
    pub fn next_block(&mut self) -> Result<Option<CopyBlock>, CopyGivenUp> {
        let piece = self.pieces.recv().map_err(|_| CopyGivenUp)?;
        // The shard may have parked for want of room.
        self.progress.wake().notify();
        Ok(match piece {
            CopyPiece::Block { bytes, items } => Some(CopyBlock { bytes, items }),
            CopyPiece::End => None,
        })
    }
}
