//! Pieces of work that take many commands, events or reservations at once, each without the disk: through a shard and back, a group's bytes
//! by its size, a snapshot made and loaded, a log replayed, pages of the change feed.

use std::fmt;

use tidegate_engine::{Content, Cursor, Engine, Feed, Submission, snapshot_items};
use tidegate_persistence::GroupSequence;
use tidegate_stock::{Command, Ledger, Loader};

use crate::callers::fill;
use crate::engine::{EngineParameters, Log, Machine};
use crate::error::BenchError;
use crate::hot_path::{group_decode, group_encode, node_with};
use crate::node::{Node, STREAM};
use crate::piece::{Again, BesideNode, Piece};
use crate::sample::{RULES, SEED, actor, grant_id, group, reserve, sku, stock_id};
use crate::wait::block_on;

/// Open reservations of a snapshot, events of a replayed log, changes of a feed.
const RESERVATIONS: u64 = 10_000;

/// Events in a group of the replayed log.
const GROUP_EVENTS: u64 = 1_000;

/// One piece of work on many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// So many commands into the ring of a shard and their answers back, together: the machine's own cost, because they only read a
    /// reservation, and nothing has to be committed.
    RoundTrip(u64),
    /// Building a group of so many grants with their images.
    GroupEncode(u64),
    /// Reading the events of such a group.
    GroupDecode(u64),
    /// A copy of a shard with 10,000 open reservations, as a snapshot is made of it.
    SnapshotCopy,
    /// The ledger of such a copy.
    SnapshotLoad,
    /// A ledger by replay of 10,000 grants.
    Replay,
    /// A page of so many changes of the feed, one behind the other.
    FeedRead(u64),
}

impl Bulk {
    /// All of them, in the sizes that are measured.
    pub const ALL: [Self; 12] = [
        Self::RoundTrip(1),
        Self::RoundTrip(64),
        Self::RoundTrip(1_000),
        Self::GroupEncode(1),
        Self::GroupEncode(1_000),
        Self::GroupDecode(1),
        Self::GroupDecode(1_000),
        Self::SnapshotCopy,
        Self::SnapshotLoad,
        Self::Replay,
        Self::FeedRead(100),
        Self::FeedRead(1_000),
    ];

    /// Commands, events, reservations or changes of one operation.
    pub const fn size(self) -> u64 {
        match self {
            Self::RoundTrip(size) | Self::GroupEncode(size) | Self::GroupDecode(size) | Self::FeedRead(size) => size,
            Self::SnapshotCopy | Self::SnapshotLoad | Self::Replay => RESERVATIONS,
        }
    }

    /// How many operations are made ready and done in a row.
    pub const fn at_once(self) -> u64 {
        match self {
            Self::RoundTrip(1) => 1_024,
            _ => 64,
        }
    }

    /// The work.
    pub fn piece(self) -> Result<Box<dyn Piece>, BenchError> {
        Ok(match self {
            Self::RoundTrip(commands) => Box::new(RoundTrip::new(commands)?),
            Self::GroupEncode(events) => group_encode(events)?,
            Self::GroupDecode(events) => group_decode(events)?,
            Self::SnapshotCopy => {
                let (node, folder) = filled_node()?;
                let engine = node.engine.clone();
                let piece = Again::new(move || Ok(copy(&engine)?.1 > 2 * RESERVATIONS));
                Box::new(BesideNode { piece, node, folder })
            }
            Self::SnapshotLoad => {
                let (node, folder) = filled_node()?;
                let (blocks, _) = copy(&node.engine)?;
                node.stop()?;
                drop(folder);
                Box::new(Again::new(move || Ok(load(&blocks)?.open_holds() == RESERVATIONS)))
            }
            Self::Replay => {
                let groups = (0..RESERVATIONS / GROUP_EVENTS)
                    .map(|place| group(GroupSequence(place + 1), place * GROUP_EVENTS, GROUP_EVENTS, RESERVATIONS));
                let groups: Vec<_> = groups.collect();
                Box::new(Again::new(move || {
                    let mut ledger = Ledger::new(RULES, SEED);
                    for group in &groups {
                        for entry in group.entries().map_err(BenchError::wrong)? {
                            let entry = entry.map_err(BenchError::wrong)?;
                            drop(ledger.apply(&entry.event, entry.at));
                        }
                    }
                    Ok(ledger.stock(stock_id()).is_some_and(|stock| stock.reserved == RESERVATIONS))
                }))
            }
            Self::FeedRead(changes) => {
                let (node, folder) = filled_node()?;
                Box::new(BesideNode { piece: feed_read(&node, changes)?, node, folder })
            }
        })
    }
}

impl fmt::Display for Bulk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::RoundTrip(_) => "round_trip",
            Self::GroupEncode(_) => "group_encode",
            Self::GroupDecode(_) => "group_decode",
            Self::SnapshotCopy => "snapshot_copy",
            Self::SnapshotLoad => "snapshot_load",
            Self::Replay => "replay",
            Self::FeedRead(_) => "feed_read",
        };
        write!(formatter, "{what}_{}", self.size())
    }
}

/// A node in which all of [`RESERVATIONS`] units are held.
fn filled_node() -> Result<(Node, tempfile::TempDir), BenchError> {
    let (node, folder) = node_with(RESERVATIONS)?;
    let sku = sku();
    fill(&node, (1..=RESERVATIONS).map(|number| (reserve(&sku, number), None)))?;
    Ok((node, folder))
}

/// The blocks of a copy of the shard as it stands now, and how many items they are.
fn copy(engine: &Engine) -> Result<(Vec<Vec<u8>>, u64), BenchError> {
    let mut copy = block_on(engine.copy_ledger(STREAM)).map_err(BenchError::wrong)?;
    let (mut blocks, mut items) = (Vec::new(), 0);
    while let Some(block) = copy.next_block().map_err(BenchError::wrong)? {
        items += u64::from(block.items);
        blocks.push(block.bytes);
    }
    Ok((blocks, items))
}

fn load(blocks: &[Vec<u8>]) -> Result<Ledger, BenchError> {
    let mut loader = Loader::new(RULES, SEED);
    for item in blocks.iter().flat_map(|block| snapshot_items(block)) {
        loader.add(item.map_err(BenchError::wrong)?).map_err(BenchError::wrong)?;
    }
    loader.finish().map_err(BenchError::wrong)
}

/// Page after page, and from the oldest again when there is no whole one left.
fn feed_read(node: &Node, changes: u64) -> Result<impl Piece + use<>, BenchError> {
    let feed = Feed::new(node.engine.clone(), node.wal.reader());
    let limit = usize::try_from(changes).map_err(BenchError::wrong)?;
    let (mut after, mut pages): (Option<Cursor>, u64) = (None, 0);
    Ok(Again::new(move || {
        if pages == RESERVATIONS / changes {
            (after, pages) = (None, 0);
        }
        let page = feed.read(after.as_ref(), limit).map_err(BenchError::wrong)?;
        (after, pages) = (Some(page.next), pages + 1);
        Ok(page.events.len() == limit)
    }))
}

/// Reads of one reservation. Nobody but its shard can answer them.
struct RoundTrip {
    machine: Machine,
    commands: u64,
    batches: Vec<Vec<Submission>>,
}

impl RoundTrip {
    fn new(commands: u64) -> Result<Self, BenchError> {
        let machine = Machine::start(&EngineParameters::tiny(None), Log::Instant)?;
        let first = Submission { command: reserve(&sku(), 1), key: None, actor: actor() };
        block_on(machine.engine.try_submit(first).map_err(BenchError::wrong)?).map_err(BenchError::wrong)?;
        Ok(Self { machine, commands, batches: Vec::new() })
    }
}

impl Piece for RoundTrip {
    fn ready(&mut self, operations: u64) -> Result<(), BenchError> {
        let (actor, commands) = (actor(), self.commands);
        let read =
            || Submission { command: Command::ReadReservation { reservation: grant_id(1) }, key: None, actor: actor.clone() };
        self.batches = (0..operations).map(|_| (0..commands).map(|_| read()).collect()).collect();
        Ok(())
    }

    fn run(&mut self) -> Result<u64, BenchError> {
        let mut right = 0;
        for batch in std::mem::take(&mut self.batches) {
            let outcomes = block_on(self.machine.engine.submit_batch(batch).outcomes());
            let is_right = outcomes
                .iter()
                .flatten()
                .all(|answer| matches!(&answer.content, Content::Reservation(view) if view.id == grant_id(1)));
            right += u64::from(is_right && outcomes.iter().flatten().count() as u64 == self.commands);
        }
        Ok(right)
    }

    fn stop(self: Box<Self>) -> Result<(), BenchError> {
        self.machine.stop().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::timed;

    #[test]
    fn every_piece_does_what_it_should() {
        for bulk in Bulk::ALL {
            let mut piece = bulk.piece().unwrap();
            // More pages of the feed than there are, and twice: what one round leaves behind must not be in the next one's way.
            timed(&mut *piece, 12, 11).unwrap_or_else(|error| panic!("{bulk}: {error}"));
            piece.stop().unwrap();
        }
    }
}
