//! The items of a snapshot, read ahead of whoever makes a ledger of them.

use std::io::Read;
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;

use tidegate_persistence::{SnapshotError, SnapshotReader};
use tidegate_stock::SnapshotItem;

use crate::codec::{CodecError, snapshot_items};

/// Blocks whose items wait for whoever takes them, at most.
const BLOCKS_AHEAD: usize = 4;

/// Hands every item of a snapshot to `visit`, in order. Only at return is the whole file known to be sound.
///
/// Another thread reads the blocks and decodes them meanwhile, so that a start uses two processors for each shard; after each it calls
/// `on_block`.
///
/// # Errors
/// The first that the file gives, or `visit` does, after which nothing more is visited.
pub fn for_each_item<R, E>(
    reader: &mut SnapshotReader<R>,
    mut on_block: impl FnMut(&SnapshotReader<R>) + Send,
    visit: impl FnMut(SnapshotItem) -> Result<(), E>,
) -> Result<(), E>
where
    R: Read + Send,
    E: From<SnapshotError> + From<CodecError> + Send,
{
    thread::scope(|scope| {
        let (sender, blocks) = mpsc::sync_channel::<Vec<SnapshotItem>>(BLOCKS_AHEAD);
        let reading = scope.spawn(move || -> Result<(), E> {
            while let Some(block) = reader.block()? {
                let items: Result<Vec<_>, _> = snapshot_items(block).collect();
                if sender.send(items?).is_err() {
                    // Whoever took them has given up.
                    return Ok(());
                }
                on_block(reader);
            }
            on_block(reader);
            Ok(())
        });
        let visited = blocks.into_iter().flatten().try_for_each(visit);
        let read = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
        visited.and(read)
    })
}
