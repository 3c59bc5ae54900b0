//! A node's disk: a store in memory that outlives its node, and a log over it whose syncs take as long as the simulation says.
//!
//! The log is the product's, stepped instead of run by its thread. What was handed over and not written is lost in a crash; of what was written and
//! not synced a beginning of any length survives.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::Mutex;
use rand::Rng;
use tidegate_cluster::{Entry, LogId, ReplicatedLog, ReplicatedLogReader, TypeConfig, Vote};
use tidegate_persistence::{LogIndex, LogStore, MemoryStore, RecordKey, SteppedWal, StoreError, StreamId};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::defect::Defect;
use crate::world::{Life, World, note};

/// How long a sync takes while the disk is slow, in microseconds.
const SLOW_SYNC_US: (u64, u64) = (30_000, 600_000);

/// What lies on a node's disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platter {
    store: MemoryStore,
    fails: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
}

impl Platter {
    /// What a node that starts reads and writes.
    pub(crate) fn store(&self) -> Box<dyn LogStore> {
        Box::new(self.clone())
    }

    pub(crate) fn set_slow(&self, is_slow: bool) {
        self.is_slow.store(is_slow, Ordering::Relaxed);
    }

    /// The first entry of `stream` that is there.
    pub(crate) fn first(&self, stream: StreamId) -> Option<LogIndex> {
        let mut first = None;
        let visit = &mut |key: &[u8], _: &[u8]| {
            first = RecordKey::decode(key).map(|key| key.index);
            std::ops::ControlFlow::Break(())
        };
        self.store.scan(RecordKey { stream, index: LogIndex(0), part: 0 }, visit).ok()?;
        first
    }
}

impl LogStore for Platter {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        self.store.append(key, value)
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        self.store.remove(from, to)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Io(io::Error::other("the power is gone")));
        }
        self.store.sync()
    }

    fn scan(&self, from: RecordKey, visit: &mut tidegate_persistence::store::Visit<'_>) -> Result<(), StoreError> {
        self.store.scan(from, visit)
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        self.store.last_key(stream)
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        self.store.streams()
    }
}

/// The log that one life of a node writes.
pub(crate) struct Disk {
    world: Arc<World>,
    life: Arc<Life>,
    platter: Platter,
    wal: Mutex<Option<SteppedWal>>,
    handed_over: Notify,
    /// How many syncs are begun, and done.
    begun: AtomicU64,
    done: AtomicU64,
    is_done: Notify,
}

impl Disk {
    pub(crate) fn new(world: Arc<World>, life: Arc<Life>, platter: Platter, wal: SteppedWal) -> Arc<Self> {
        let disk = Arc::new(Self {
            world,
            life,
            platter,
            wal: Mutex::new(Some(wal)),
            handed_over: Notify::new(),
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            is_done: Notify::new(),
        });
        tokio::spawn(Arc::clone(&disk).run());
        disk
    }

    /// Something was handed to the log.
    pub(crate) fn hand_over(&self) {
        self.handed_over.notify_one();
    }

    /// How long the disk takes for something that is neither small nor large.
    pub(crate) fn pause(&self) -> Duration {
        let (least, most) = if self.platter.is_slow.load(Ordering::Relaxed) { SLOW_SYNC_US } else { self.world.sync_us };
        self.world.delay(least, most)
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.handed_over.notified().await;
            self.begun.fetch_add(1, Ordering::Relaxed);
            sleep(self.pause()).await;
            let stepped = match self.wal.lock().as_mut() {
                Some(wal) => wal.step(),
                None => return,
            };
            match stepped {
                Ok(_) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    self.is_done.notify_waiters();
                }
                Err(error) => {
                    self.world.find("the log", format!("node {} cannot write: {error}", self.life.node));
                    return;
                }
            }
        }
    }

    /// Waits until all that was handed over before is durable; for ever once the node is dead.
    pub(crate) async fn sync(&self) {
        let goal = self.begun.load(Ordering::Relaxed) + 1;
        self.hand_over();
        loop {
            let done = self.is_done.notified();
            if self.done.load(Ordering::Relaxed) >= goal {
                return;
            }
            done.await;
        }
    }

    /// Ends the log in a crash: in between two syncs, or in the middle of one.
    pub(crate) fn crash(&self) {
        let Some(mut wal) = self.wal.lock().take() else { return };
        let is_amid = self.world.happens(60);
        self.platter.fails.store(is_amid, Ordering::Relaxed);
        if is_amid {
            // It fails, which nobody is there to hear.
            let _ = wal.step();
        }
        drop(wal);
        let unsynced = self.platter.store.clone();
        let kept = if self.world.has(Defect::LoseBeginning) {
            self.lose_beginning()
        } else {
            self.world.draw(|random| random.random_range(0..=4))
        };
        let written = unsynced.crash(kept);
        self.platter.fails.store(false, Ordering::Relaxed);
        note!(self.world, "node {}: of {written} unsynced writes at most {kept} survive", self.life.node);
    }

    /// The defect: the newest value of the log that is not synced is there, and those before it are not.
    fn lose_beginning(&self) -> usize {
        let store = &self.platter.store;
        let stream = StreamId::log(0);
        let newest = store.last_key(stream).ok().flatten();
        let mut value = Vec::new();
        if let Some(newest) = newest {
            let visit = &mut |_: &[u8], found: &[u8]| {
                value = found.to_vec();
                std::ops::ControlFlow::Break(())
            };
            let _ = store.scan(newest, visit);
        }
        store.crash(0);
        if let Some(newest) = newest {
            let _ = store.append(newest, &value);
            let _ = store.sync();
        }
        0
    }
}

/// The product's log of consensus, over such a disk.
pub(crate) struct SimulatedLog {
    pub(crate) log: ReplicatedLog,
    pub(crate) disk: Arc<Disk>,
}

impl SimulatedLog {
    /// Lets `doing` go on, and has the disk see what it hands over.
    async fn on<T>(disk: &Disk, doing: impl Future<Output = T>) -> T {
        let mut doing = pin!(doing);
        poll_fn(|context| {
            let polled = doing.as_mut().poll(context);
            disk.hand_over();
            polled
        })
        .await
    }
}

impl RaftLogStorage<TypeConfig> for SimulatedLog {
    type LogReader = ReplicatedLogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> ReplicatedLogReader {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        Self::on(&self.disk, self.log.save_vote(vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if self.disk.world.has(Defect::SkipSync) {
            Self::on(&self.disk, self.log.append(entries, IOFlushed::noop())).await?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        Self::on(&self.disk, self.log.append(entries, callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        Self::on(&self.disk, self.log.truncate_after(last)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        Self::on(&self.disk, self.log.purge(upto)).await
    }
}
