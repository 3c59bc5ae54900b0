//! What a start reads, decoded on a thread of its own ahead of the one that makes a ledger of it: snapshots and the log.

use std::io::Read;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use tidegate_persistence::{
    Damage, DamageKind, DataDirectory, LogIndex, LogPosition, PayloadError, RecoveredGroup, RecoveredStream, RecoveryError,
    SnapshotError, SnapshotReader, StreamId,
};
use tidegate_stock::ahead::LOOKS_TOGETHER;
use tidegate_stock::{Event, Ledger, SnapshotItem, Timestamp};

use crate::codec::{CodecError, snapshot_items};

/// Blocks of a snapshot whose items wait for whoever takes them, at most.
const BLOCKS_AHEAD: usize = 4;

/// Parts of the log whose events wait for whoever applies them, at most.
const STRETCHES_AHEAD: usize = 4;

/// Events of a part, unless the group that reaches this number has more.
const STRETCH_EVENTS: usize = 1_024;

/// Hands the items of a snapshot to `visit`, block after block, in order. Only at return is the whole file known to be sound.
///
/// Another thread reads the blocks and decodes them meanwhile, so that a start uses two processors for each shard; after each it calls
/// `on_block`.
///
/// # Errors
/// The first that the file gives, or `visit` does, after which nothing more is visited.
pub fn for_each_block<R, E>(
    reader: &mut SnapshotReader<R>,
    mut on_block: impl FnMut(&SnapshotReader<R>) + Send,
    visit: impl FnMut(Vec<SnapshotItem>) -> Result<(), E>,
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
        let visited = blocks.into_iter().try_for_each(visit);
        let read = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
        visited.and(read)
    })
}

/// Applies to `ledger`, which stands at `start`, what `stream` holds behind it, and returns it with what was read. The events are applied on a
/// thread of their own while this one reads and checks the log; as [`DataDirectory::replay_from`] otherwise.
///
/// # Errors
/// What the log has that it should not. There is no ledger then.
///
/// # Panics
/// When an event does not fit the ledger: a broken invariant.
pub fn replay_log(
    directory: &DataDirectory,
    stream: StreamId,
    start: Option<&LogPosition>,
    ledger: Ledger,
) -> Result<(Ledger, RecoveredStream), RecoveryError> {
    thread::scope(|scope| {
        let (sender, stretches) = mpsc::sync_channel::<Stretch>(STRETCHES_AHEAD);
        let applying = scope.spawn(move || {
            let mut ledger = ledger;
            for stretch in stretches {
                stretch.apply(&mut ledger)?;
            }
            Ok(ledger)
        });
        let mut stretch = Stretch::default();
        let read = directory.replay_from(stream, start, |group| {
            stretch.add(group)?;
            if stretch.events.len() >= STRETCH_EVENTS {
                std::mem::take(&mut stretch).send(&sender);
            }
            Ok(())
        });
        stretch.send(&sender);
        drop(sender);
        match applying.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(ledger) => Ok((ledger, read?)),
            Err((index, error)) => Err(Damage { stream, index, part: 0, what: DamageKind::Payload(error) }.into()),
        }
    })
}

/// Neighbouring groups of the log.
#[derive(Default)]
struct Stretch {
    events: Vec<(Event, Timestamp)>,
    /// Where each group ends among the events, its time and its entry.
    ends: Vec<(usize, Timestamp, LogIndex)>,
}

impl Stretch {
    fn add(&mut self, group: &RecoveredGroup<'_>) -> Result<(), PayloadError> {
        for entry in group.entries()? {
            let entry = entry?;
            self.events.push((entry.event, entry.at));
        }
        self.ends.push((self.events.len(), group.time, group.index));
        Ok(())
    }

    fn send(self, sender: &SyncSender<Self>) {
        // Whoever applies them has panicked or found a fault; that is told when it is joined.
        let _ = sender.send(self);
    }

    /// # Errors
    /// The first entry that says of the ledger what is not so.
    fn apply(self, ledger: &mut Ledger) -> Result<(), (LogIndex, PayloadError)> {
        let mut begin = 0;
        let mut looked_at = 0;
        for (end, time, index) in self.ends {
            for place in begin..end {
                if place == looked_at {
                    let next = self.events[place..].iter().take(LOOKS_TOGETHER);
                    looked_at += next.len();
                    next.for_each(|(event, _)| ledger.look_ahead_at(event));
                }
                let (event, at) = &self.events[place];
                // What is in the log happened: nothing of it is ever undone.
                drop(ledger.apply(event, *at));
                ledger.compare(event).map_err(|(logged, own)| (index, PayloadError::Sum { logged, own }))?;
            }
            // A group adds at most one key an event, so keys whose time is over never gather.
            ledger.tidy(time, 2 * (end - begin));
            begin = end;
        }
        Ok(())
    }
}
