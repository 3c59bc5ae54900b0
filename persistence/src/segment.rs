//! One segment of the log: a store of sled's in a folder of its own, and what is known of its content without reading.
//!
//! A segment is written, then left, and then sealed: its store is closed, a file beside it says what it holds, and it is opened only while
//! somebody reads it. It knows nothing of the segments beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidegate_stock::Timestamp;

use crate::contents::{Contents, Place};
use crate::record::{LogIndex, RecordKey, StreamId};
use crate::sealed::Sealed;
use crate::sled_files::Fingerprint;
use crate::sled_store::SledStore;
use crate::store::{LogStore, SegmentInfo, StoreError};

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    path: PathBuf,
    state: Mutex<State>,
    contents: Mutex<Contents>,
    /// Whether something was changed since the last sync.
    is_dirty: AtomicBool,
    bytes_on_disk: AtomicU64,
    /// Disconnects when the segment is gone, and its store is closed. Behind the store, because fields go in order.
    closing: Mutex<Option<Sender<()>>>,
}

#[derive(Debug)]
enum State {
    /// Open for as long as the segment lives: it is appended to, or will be, or is still to be sealed.
    Written(Arc<SledStore>),
    /// Open for as long as somebody reads it.
    Sealed(Weak<SledStore>),
}

impl Segment {
    /// Opens the segment `number` in folder `path`, which is there, to be written. At return everything in it survives a loss of power.
    pub(crate) fn open(number: u64, path: PathBuf, cache_bytes: u64, writes_through: bool) -> Result<Self, StoreError> {
        check_file(&path)?;
        // A seal that something is written behind would be a lie.
        Sealed::remove(&path)?;
        let store = SledStore::open(&path, cache_bytes)?;
        store.set_write_through(writes_through)?;
        Self::written(number, path, store)
    }

    /// Takes over the segment `number` in folder `path`, which was left. Opens it only if its seal is missing or damaged, and then seals it.
    pub(crate) fn sealed(number: u64, path: PathBuf, writes_through: bool) -> Result<Self, StoreError> {
        check_file(&path)?;
        if let Some(Sealed { bytes_on_disk, contents, .. }) = Sealed::read(&path, number)? {
            return Ok(Self::new(number, path, State::Sealed(Weak::new()), contents, bytes_on_disk));
        }
        let store = SledStore::open_left(&path)?;
        let segment = Self::written(number, path, store)?;
        segment.seal(writes_through)?;
        Ok(segment)
    }

    fn written(number: u64, path: PathBuf, store: SledStore) -> Result<Self, StoreError> {
        let (mut contents, bytes) = (Contents::read(&store)?, store.bytes_on_disk()?);
        if !contents.is_empty() {
            contents.taken_bytes = bytes;
        }
        Ok(Self::new(number, path, State::Written(Arc::new(store)), contents, bytes))
    }

    fn new(number: u64, path: PathBuf, state: State, contents: Contents, bytes_on_disk: u64) -> Self {
        Self {
            number,
            path,
            state: Mutex::new(state),
            contents: Mutex::new(contents),
            is_dirty: AtomicBool::new(false),
            bytes_on_disk: AtomicU64::new(bytes_on_disk),
            closing: Mutex::new(None),
        }
    }

    /// Its store, to read from; opened if it has to be, and then closed as soon as nobody holds it any more. Waits while somebody else opens
    /// or seals it. Says whether it is that of a sealed segment.
    ///
    /// A sealed store is opened only if what sled reads as it opens it, and might overwrite, is what it was when it was sealed.
    pub(crate) fn store(&self) -> Result<(Arc<SledStore>, bool), StoreError> {
        let mut state = self.state.lock();
        match &*state {
            State::Written(store) => Ok((Arc::clone(store), false)),
            State::Sealed(store) => {
                if let Some(store) = store.upgrade() {
                    return Ok((store, true));
                }
                check_file(&self.path)?;
                if let Some(sealed) = Sealed::read(&self.path, self.number)?
                    && !sealed.fingerprint.is_of(&self.path)?
                    && !mutant!(SealUnchecked)
                {
                    let what = "is not what was sealed; copy it, and take its file sealed away to have it opened as it is";
                    return Err(StoreError::Damaged(format!("segment {} {what}", self.number)));
                }
                let store = Arc::new(SledStore::open_sealed(&self.path)?);
                *state = State::Sealed(Arc::downgrade(&store));
                Ok((store, true))
            }
        }
    }

    /// Its store, to write to. One that was sealed is so no longer.
    fn store_to_write(&self, writes_through: bool) -> Result<Arc<SledStore>, StoreError> {
        let mut state = self.state.lock();
        let store = match &*state {
            State::Written(store) => return Ok(Arc::clone(store)),
            State::Sealed(store) => store.upgrade(),
        };
        Sealed::remove(&self.path)?;
        let store = match store {
            Some(store) => store,
            None => Arc::new(SledStore::open_left(&self.path)?),
        };
        store.set_write_through(writes_through)?;
        *state = State::Written(Arc::clone(&store));
        Ok(store)
    }

    /// Its store, unless it is sealed, which is to say that nothing of it is left to be made durable.
    fn store_if_written(&self) -> Option<Arc<SledStore>> {
        match &*self.state.lock() {
            State::Written(store) => Some(Arc::clone(store)),
            State::Sealed(_) => None,
        }
    }

    /// Closes the store and seals the segment, unless somebody reads it right now; says whether it is sealed. Only for a segment that is no
    /// longer written. After an error it is closed and may be without a seal; it can still be read.
    pub(crate) fn seal(&self, writes_through: bool) -> Result<bool, StoreError> {
        let mut state = self.state.lock();
        let State::Written(store) = &mut *state else { return Ok(true) };
        // Nobody gets hold of it now, so if it is ours alone it stays so.
        let Some(store) = Arc::get_mut(store) else { return Ok(false) };
        store.finish()?;
        self.is_dirty.store(false, Ordering::Relaxed);
        *state = State::Sealed(Weak::new());
        // As it opens, sled takes a picture of where it ends; from then on it finds nothing to write when it is opened and read.
        let store = SledStore::open_left(&self.path)?;
        store.set_write_through(writes_through)?;
        self.measure(&store)?;
        drop(store);
        let fingerprint = Fingerprint::of(&self.path)?;
        let sealed = Sealed { bytes_on_disk: self.bytes_on_disk(), contents: self.contents.lock().clone(), fingerprint };
        sealed.write(&self.path, self.number)?;
        Ok(true)
    }

    /// Appends to a segment that was never left.
    pub(crate) fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        let Some(store) = self.store_if_written() else {
            return Err(StoreError::Damaged(format!("segment {} is sealed and takes nothing more", self.number)));
        };
        self.is_dirty.store(true, Ordering::Relaxed);
        store.append(key, value)?;
        let mut contents = self.contents.lock();
        contents.note(key, value);
        contents.taken_bytes += value.len() as u64;
        Ok(())
    }

    pub(crate) fn remove(&self, from: RecordKey, to: LogIndex, writes_through: bool) -> Result<u64, StoreError> {
        let store = self.store_to_write(writes_through)?;
        self.is_dirty.store(true, Ordering::Relaxed);
        let removed = store.remove(from, to)?;
        if removed > 0 {
            let mut contents = self.contents.lock();
            *contents = Contents { taken_bytes: contents.taken_bytes, ..Contents::read(&*store)? };
        }
        Ok(removed)
    }

    /// Makes its changes survive the end of the process.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let Some(store) = self.store_if_written() else { return Ok(()) };
        store.flush()?;
        self.measure(&store)
    }

    /// Makes its changes survive a loss of power.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let Some(store) = self.store_if_written() else { return Ok(()) };
        store.sync()?;
        self.is_dirty.store(false, Ordering::Relaxed);
        self.measure(&store)
    }

    /// Has sled's every write to it survive a loss of power before sled goes on, or no longer. A sealed segment is not written.
    pub(crate) fn set_write_through(&self, is_on: bool) -> Result<(), StoreError> {
        self.store_if_written().map_or(Ok(()), |store| store.set_write_through(is_on))
    }

    fn measure(&self, store: &SledStore) -> Result<(), StoreError> {
        self.bytes_on_disk.store(store.bytes_on_disk()?, Ordering::Relaxed);
        Ok(())
    }

    /// Whether something was changed since the last sync. For the thread that changes it.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.contents.lock().is_empty()
    }

    /// Bytes of values that it has taken.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.contents.lock().taken_bytes
    }

    pub(crate) fn first(&self, stream: StreamId) -> Option<Place> {
        self.contents.lock().first.get(&stream).copied()
    }

    /// Adds the streams of which it holds anything to `streams`.
    pub(crate) fn add_streams(&self, streams: &mut Vec<StreamId>) {
        streams.extend(self.contents.lock().last.keys());
    }

    /// Whether it holds anything of `stream` from index `from` on.
    pub(crate) fn holds_from(&self, stream: StreamId, from: LogIndex) -> bool {
        self.contents.lock().holds_from(stream, from)
    }

    /// Whether all that it holds lies below `keep_from` of its stream.
    pub(crate) fn lies_below(&self, keep_from: &BTreeMap<StreamId, LogIndex>) -> bool {
        self.contents.lock().lies_below(keep_from)
    }

    pub(crate) fn info(&self) -> SegmentInfo {
        let contents = self.contents.lock();
        SegmentInfo {
            number: self.number,
            bytes_on_disk: self.bytes_on_disk.load(Ordering::Relaxed),
            oldest_time: contents.oldest_time.unwrap_or(Timestamp::from_unix_ms(0)),
            newest_time: contents.newest_time,
            first: contents.first.clone(),
            last: contents.last.clone(),
        }
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.bytes_on_disk.load(Ordering::Relaxed)
    }

    /// What disconnects as soon as the last holder of this segment has let go of it. Whoever holds its store holds it too, and longer.
    pub(crate) fn closed(&self) -> Receiver<()> {
        let (sender, receiver) = channel();
        *self.closing.lock() = Some(sender);
        receiver
    }
}

/// Checks that the store in folder `path` has its file, which a crash cannot have taken from it.
fn check_file(path: &Path) -> Result<(), StoreError> {
    if path.join("db").exists() {
        return Ok(());
    }
    Err(StoreError::Damaged("its file db is missing".to_owned()))
}
