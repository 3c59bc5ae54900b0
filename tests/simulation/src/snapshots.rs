//! A node's snapshots: made as a node's upkeep makes them, of the shard's own copy, and kept beside its disk; and the look at a whole ledger that
//! comes of the same copies.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_cluster::{Memberships, Snapshots, Standing};
use tidegate_engine::{CopyGivenUp, Engine, Installed, LedgerCopy, snapshot_items};
use tidegate_persistence::{GroupSequence, LogReader, StreamId};
use tidegate_stock::{Ledger, Loader, SnapshotItem};
use tokio::time::sleep;

use crate::defect::Defect;
use crate::disk::Disk;
use crate::node::{RULES, TABLE_SEED};
use crate::world::{Life, World, note};

/// How long a node waits before it looks again whether a copy has come further.
const LOOK: Duration = Duration::from_millis(2);

/// How often it looks before it gives a copy up.
const LOOKS_MAX: u32 = 2_000;

/// All of a ledger, as it stood at the end of a group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) at: GroupSequence,
    pub(crate) items: Vec<SnapshotItem>,
}

impl Image {
    /// A ledger of it.
    pub(crate) fn ledger(&self) -> io::Result<Ledger> {
        let mut loader = Loader::new(RULES, TABLE_SEED);
        for item in &self.items {
            loader.add(item.clone()).map_err(io::Error::other)?;
        }
        loader.finish().map_err(io::Error::other)
    }

    /// Its items in an order that says nothing of how its ledger has come about.
    pub(crate) fn sorted(&self) -> Vec<SnapshotItem> {
        sorted(self.items.clone())
    }
}

/// `items` in an order of their own.
pub(crate) fn sorted(mut items: Vec<SnapshotItem>) -> Vec<SnapshotItem> {
    items.sort_by_cached_key(|item| format!("{item:?}"));
    items
}

/// A snapshot, and where it stands.
type Kept = (Standing, Arc<Image>);

/// Where the newest snapshot of a node lies. It outlives the node; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Option<Kept>>>);

impl Shelf {
    pub(crate) fn newest(&self) -> Option<Kept> {
        self.0.lock().clone()
    }

    /// Puts it there, unless a newer one is.
    fn put(&self, standing: Standing, image: Arc<Image>) {
        let newest = &mut *self.0.lock();
        if newest.as_ref().is_none_or(|(newest, _)| newest.position.index <= standing.position.index) {
            *newest = Some((standing, image));
        }
    }
}

/// The snapshots, as one life of a node has them.
#[derive(Clone)]
pub(crate) struct SimulatedSnapshots {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
    pub(crate) shelf: Shelf,
}

impl Snapshots for SimulatedSnapshots {
    type Snapshot = Arc<Image>;

    async fn install(&mut self, standing: Standing, snapshot: Arc<Image>) -> io::Result<Installed> {
        // Reading and writing it.
        let pause = self.world.delay(500, 100_000);
        sleep(pause).await;
        if !self.life.is_alive() {
            return Err(io::Error::other("the node is dead"));
        }
        let ledger = snapshot.ledger()?;
        note!(self.world, "node {} installs a snapshot of group {}", self.life.node, snapshot.at);
        self.world.count("snapshots installed");
        self.shelf.put(standing, Arc::clone(&snapshot));
        Ok(Installed { ledger, at: snapshot.at })
    }

    async fn current(&mut self) -> io::Result<Option<(Standing, Arc<Image>)>> {
        Ok(self.shelf.newest())
    }
}

/// A copy of the ledger of `engine`, whole and committed unless `may_be_uncommitted`.
pub(crate) async fn copy(engine: &Engine, may_be_uncommitted: bool) -> Result<Image, CopyGivenUp> {
    let mut copy = engine.copy_ledger(StreamId::log(0)).await?;
    for _ in 0..LOOKS_MAX {
        if may_be_uncommitted || copy.is_committed()? {
            return take(&mut copy).await;
        }
        sleep(LOOK).await;
    }
    Err(CopyGivenUp)
}

async fn take(copy: &mut LedgerCopy) -> Result<Image, CopyGivenUp> {
    let mut items = Vec::new();
    for _ in 0..LOOKS_MAX {
        match copy.try_next_block() {
            Poll::Ready(Ok(Some(block))) => {
                items.extend(snapshot_items(&block.bytes).map(|item| item.expect("the shard writes what can be read")));
            }
            Poll::Ready(Ok(None)) => return Ok(Image { at: copy.at(), items }),
            Poll::Ready(Err(given_up)) => return Err(given_up),
            Poll::Pending => sleep(LOOK).await,
        }
    }
    Err(CopyGivenUp)
}

/// What a node makes snapshots with.
#[derive(Clone)]
pub(crate) struct Upkeep {
    pub(crate) snapshots: SimulatedSnapshots,
    pub(crate) engine: Engine,
    pub(crate) log: LogReader,
    pub(crate) disk: Arc<Disk>,
    pub(crate) memberships: Memberships,
}

impl Upkeep {
    /// Makes a snapshot and keeps it. Says of which group; `None` where there is none to be had now, or the node has died over it.
    pub(crate) async fn make(&self) -> Option<GroupSequence> {
        let SimulatedSnapshots { world, life, shelf } = &self.snapshots;
        let is_hasty = world.has(Defect::SnapshotUncommitted);
        let image = copy(&self.engine, is_hasty).await.ok()?;
        if image.at == GroupSequence(0) {
            return None;
        }
        // What a quorum has need not be written here yet.
        self.disk.sync().await;
        // Where its log begins behind the group, a snapshot from another node took its place, which stands there.
        let (position, leader) = self.log.position_and_leader(StreamId::log(0), image.at).ok()??;
        let membership = self.memberships.at(position.index)?;
        sleep(world.delay(1_000, 200_000)).await;
        if !life.is_alive() {
            return None;
        }
        let at = image.at;
        note!(world, "node {} keeps a snapshot of group {at}", life.node);
        world.count("snapshots made");
        world.evidence.lock().images.push(crate::evidence::Image { node: life.node, at, items: image.sorted() });
        shelf.put(Standing { position, leader, membership }, Arc::new(image));
        Some(at)
    }
}
