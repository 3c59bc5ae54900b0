//! A shard's state for a snapshot: its ledger as it stands at the end of one group, block by block. What a snapshot is and where it goes
//! is for whoever asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tidegate_persistence::{GroupSequence, SNAPSHOT_BLOCK_BYTES_MAX};
use tidegate_stock::{CopyProgress, Ledger, SnapshotItem};

use crate::codec::{SNAPSHOT_ITEM_BYTES_MAX, push_item};
use crate::commit::CommitProgress;
use crate::sync::mpsc;

/// Blocks that wait between a shard and whoever takes its copy.
pub(crate) const BLOCKS_WAITING_MAX: usize = 4;

/// Time that the pieces of one slice of a copy may take together, between two batches. Under a model checker nothing may depend on time.
const COPY_SLICE: Duration = if cfg!(all(test, feature = "loom")) { Duration::MAX } else { Duration::from_micros(200) };

/// Looks at records between two looks at the clock while a slice is copied.
const COPY_LOOKS: usize = 64;

/// Bytes at which a block of a copy is handed over. It can be longer by one item.
const COPY_BLOCK_BYTES: usize = 256 * 1024;

/// Bytes of a copy that may wait for whoever takes it. They grow only by what changes before its slice has come; with more of them the
/// copy is given up, because they would fill the memory.
const COPY_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(COPY_BLOCK_BYTES + SNAPSHOT_ITEM_BYTES_MAX <= SNAPSHOT_BLOCK_BYTES_MAX);

/// A ledger's copy that is being taken. Dropping it ends it.
pub struct LedgerCopy {
    at: GroupSequence,
    /// How often the shard had taken groups back before the copy was asked for.
    taken_back: u64,
    pieces: mpsc::Receiver<CopyPiece>,
    /// Behind the pieces, so that the shard that is woken when both are dropped finds that nobody takes them any more.
    shard: CopiedShard,
}

/// The shard that makes a copy. It may have parked for want of room: whoever makes some wakes it, and whoever leaves does too, because
/// it holds what it has copied until it looks again.
struct CopiedShard(Arc<CommitProgress>);

impl Drop for CopiedShard {
    fn drop(&mut self) {
        self.0.wake().notify();
    }
}

/// Some items of a copy, as [`crate::snapshot_items`] reads them.
#[derive(Debug)]
pub struct CopyBlock {
    /// The items' bytes.
    pub bytes: Vec<u8>,
    /// How many items they are.
    pub items: u32,
}

/// The shard gave the copy up: it is stopping, its log has failed, another copy was asked for, or more changed meanwhile than whoever takes
/// the copy can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shard gave the copy up")]
pub struct CopyGivenUp;

impl LedgerCopy {
    pub(crate) fn new(
        at: GroupSequence,
        taken_back: u64,
        pieces: mpsc::Receiver<CopyPiece>,
        progress: &Arc<CommitProgress>,
    ) -> Self {
        Self { at, taken_back, pieces, shard: CopiedShard(Arc::clone(progress)) }
    }

    /// The last group that is in it. It need not be committed yet.
    pub const fn at(&self) -> GroupSequence {
        self.at
    }

    /// Whether that group is committed. Until it is, nobody may rely on the copy.
    ///
    /// # Errors
    /// [`CopyGivenUp`] when the shard has taken groups back since the copy was asked for: that one may be among them, and another group have
    /// its number.
    pub fn is_committed(&self) -> Result<bool, CopyGivenUp> {
        let is_committed = self.shard.0.committed() >= self.at || mutant!(CopyBeforeCommit);
        if self.shard.0.taken_back() == self.taken_back { Ok(is_committed) } else { Err(CopyGivenUp) }
    }

    /// The next block; `None` after the last. Waits for the shard.
    pub fn next_block(&mut self) -> Result<Option<CopyBlock>, CopyGivenUp> {
        let piece = self.pieces.recv().map_err(|_| CopyGivenUp)?;
        Ok(self.take(piece))
    }

    /// The same without waiting: pending while the shard has not made it yet. For whoever has one thread with the shard.
    pub fn try_next_block(&mut self) -> Poll<Result<Option<CopyBlock>, CopyGivenUp>> {
        match self.pieces.try_recv() {
            Ok(piece) => Poll::Ready(Ok(self.take(piece))),
            Err(mpsc::TryRecvError::Empty) => Poll::Pending,
            Err(mpsc::TryRecvError::Disconnected) => Poll::Ready(Err(CopyGivenUp)),
        }
    }

    fn take(&self, piece: CopyPiece) -> Option<CopyBlock> {
        self.shard.0.wake().notify();
        match piece {
            CopyPiece::Block { bytes, items } => Some(CopyBlock { bytes, items }),
            CopyPiece::End => None,
        }
    }
}

/// Hands all of `ledger`, which no shard has yet, to `take`, block by block, as a [`LedgerCopy`] gives it.
///
/// # Errors
/// The first of `take`, after which nothing more is handed over.
pub fn copy_whole<E>(ledger: &mut Ledger, mut take: impl FnMut(CopyBlock) -> Result<(), E>) -> Result<(), E> {
    ledger.begin_copy();
    let (mut bytes, mut items) = (Vec::new(), 0);
    loop {
        // One by one, so that a block is never longer by more than an item.
        let progress = ledger.copy_slice(1, |item| {
            push_item(&mut bytes, &item);
            items += 1;
        });
        let is_over = progress != CopyProgress::More;
        if (bytes.len() >= COPY_BLOCK_BYTES || is_over) && items > 0 {
            let block = CopyBlock { bytes: std::mem::take(&mut bytes), items: std::mem::take(&mut items) };
            take(block).inspect_err(|_| ledger.give_up_copy())?;
        }
        if is_over {
            return Ok(());
        }
    }
}

/// A copy that is being handed out.
pub(crate) struct CopyOut {
    sink: mpsc::SyncSender<CopyPiece>,
    /// The block that is being filled.
    block: Vec<u8>,
    items: u32,
    /// Pieces that the sink had no room for yet, and their bytes.
    waiting: VecDeque<CopyPiece>,
    waiting_bytes: usize,
}

/// What came of going on with a copy.
pub(crate) enum CopyStep {
    /// It came further.
    Further,
    /// There is no room for more of it.
    Waits,
    /// It is over: whole, or given up.
    Over,
}

/// What a copy is handed out in.
#[derive(Debug)]
pub(crate) enum CopyPiece {
    /// Some items of it.
    Block { bytes: Vec<u8>, items: u32 },
    /// That was all.
    End,
}

impl CopyOut {
    pub(crate) fn new(sink: mpsc::SyncSender<CopyPiece>) -> Self {
        Self { sink, block: Vec::new(), items: 0, waiting: VecDeque::new(), waiting_bytes: 0 }
    }

    /// Hands out what the sink has room for.
    pub(crate) fn go_on(&mut self, ledger: &mut Ledger) -> CopyStep {
        // What the last batch changed, at once: so it gathers here, counted, and not in the ledger.
        ledger.copy_early(|item| self.push(&item));
        let mut step = CopyStep::Waits;
        while let Some(piece) = self.waiting.pop_front() {
            let (bytes, is_end) = (piece.bytes(), matches!(piece, CopyPiece::End));
            match self.sink.try_send(piece) {
                Ok(()) if is_end => return CopyStep::Over,
                Ok(()) => {
                    self.waiting_bytes -= bytes;
                    step = CopyStep::Further;
                }
                Err(mpsc::TrySendError::Full(piece)) => {
                    self.waiting.push_front(piece);
                    if self.waiting_bytes > COPY_WAITING_BYTES_MAX {
                        tracing::warn!(
                            bytes = self.waiting_bytes,
                            "a copy is given up: more changes than whoever takes it can follow"
                        );
                        return CopyStep::Over;
                    }
                    return step;
                }
                // Whoever wanted the copy has left.
                Err(mpsc::TrySendError::Disconnected(_)) => return CopyStep::Over,
            }
        }
        let began = Instant::now();
        while began.elapsed() < COPY_SLICE && self.waiting.is_empty() {
            match ledger.copy_slice(COPY_LOOKS, |item| self.push(&item)) {
                CopyProgress::More => {}
                CopyProgress::Done => {
                    self.end_block();
                    self.waiting.push_back(CopyPiece::End);
                }
                CopyProgress::None => return CopyStep::Over,
            }
        }
        CopyStep::Further
    }

    fn push(&mut self, item: &SnapshotItem) {
        push_item(&mut self.block, item);
        self.items += 1;
        if self.block.len() >= COPY_BLOCK_BYTES {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        if self.items > 0 {
            let block = CopyPiece::Block { bytes: std::mem::take(&mut self.block), items: std::mem::take(&mut self.items) };
            self.waiting_bytes += block.bytes();
            self.waiting.push_back(block);
        }
    }
}

impl CopyPiece {
    fn bytes(&self) -> usize {
        match self {
            Self::Block { bytes, .. } => bytes.len(),
            Self::End => 0,
        }
    }
}
