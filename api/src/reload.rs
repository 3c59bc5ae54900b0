//! Files that may be replaced while the process runs: when they are read again, and how what was read reaches requests without a lock.
//! The door of arc-swap.
//!
//! A file counts as changed when its identity, length or times differ from those of the last attempt, so a bad file is complained of
//! once and not at every look. What the files mean is for their [`Source`].

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::string::FromUtf8Error;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

/// How often files are looked at. A look is a few `stat` calls.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Permission bits of everybody but a file's owner.
const MODE_OTHERS: u32 = 0o077;

/// Why a file's bytes are not there.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system does not give them.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is far longer than it should be.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// The most that is read.
        max: u64,
    },
    /// It is no text.
    #[error("is not UTF-8: {0}")]
    NoText(#[from] FromUtf8Error),
}

/// The bytes of a file of at most `max`.
pub(crate) fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(FileError::TooLong { max }) } else { Ok(bytes) }
}

/// Says so in the log if others than its owner may read or write the file at `path`, which is `what`.
pub(crate) fn warn_if_open(what: &str, path: &Path) {
    let Ok(metadata) = fs::metadata(path) else { return };
    if metadata.mode() & MODE_OTHERS != 0 {
        let mode = format!("{:o}", metadata.mode() & 0o7777);
        tracing::warn!(path = %path.display(), mode, "others than its owner may use the {what} file");
    }
}

/// What is made from files.
pub(crate) trait Source: Send + Sync {
    type Value: Send + Sync;
    type Error: Error + 'static;

    /// The files.
    fn paths(&self) -> Vec<&Path>;

    /// Makes the value from the files as they are now.
    fn read(&self) -> Result<Self::Value, Self::Error>;
}

/// What tells one version of a file from another. The time of the last change of its status is part of it, so that nothing slips
/// through: no call sets that one back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file at `path`; nothing when there is none.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The newest good value of a source.
pub(crate) struct Reloaded<S: Source> {
    source: S,
    value: ArcSwap<S::Value>,
    tried: Mutex<Vec<Option<Stamp>>>,
}

impl<S: Source> Reloaded<S> {
    /// Reads `source` for the first time. Blocks for the files.
    pub(crate) fn load(source: S) -> Result<Self, S::Error> {
        // Looked at before it is read: a change in between is then noticed at the next look.
        let tried = stamps(&source);
        let value = ArcSwap::from_pointee(source.read()?);
        Ok(Self { source, value, tried: Mutex::new(tried) })
    }

    /// The value, for as long as one request needs it.
    pub(crate) fn get(&self) -> Guard<Arc<S::Value>> {
        self.value.load()
    }

    /// The value, for longer than that.
    pub(crate) fn share(&self) -> Arc<S::Value> {
        self.value.load_full()
    }

    /// Reads the files again, whether they have changed or not. After an error the value stays as it was. Blocks for the files.
    pub(crate) fn reload(&self) -> Result<(), S::Error> {
        let mut tried = self.tried.lock();
        *tried = stamps(&self.source);
        self.value.store(Arc::new(self.source.read()?));
        Ok(())
    }

    /// As [`Reloaded::reload`] if the files have changed since the last attempt; otherwise nothing.
    pub(crate) fn reload_if_changed(&self) -> Option<Result<(), S::Error>> {
        let has_changed = *self.tried.lock() != stamps(&self.source);
        has_changed.then(|| self.reload())
    }
}

fn stamps<S: Source>(source: &S) -> Vec<Option<Stamp>> {
    source.paths().into_iter().map(Stamp::of).collect()
}
