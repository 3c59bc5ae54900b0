//! The sidecar: the highest durable entry of each stream, in a small file beside the log.
//!
//! It is written after a sync and is not synced itself, so it may only lag behind the log: a log that ends below it has lost entries that
//! were acknowledged. Absent, torn or zeroed it says nothing, which is the longest lag there is. The one exception is a log whose end is taken
//! back: what it says is then lowered, and synced, before anything is removed.
//!
//! ```text
//!  0  4  "tgd1"
//!  4  2  number of streams, big-endian
//!  6     per stream, in order: 2 stream, 8 index, 16 chain hash as of that index
//!  n  4  crc32c of everything before
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::record::{ChainHash, LogIndex, Reader, StreamId};

const MAGIC: [u8; 4] = *b"tgd1";
const HEAD_BYTES: usize = 6;
const ENTRY_BYTES: usize = 26;
const CHECKSUM_BYTES: usize = 4;

/// Up to where a stream is known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The highest durable entry.
    pub index: LogIndex,
    /// The chain hash of the last group up to that entry.
    pub chain: ChainHash,
}

/// The open sidecar file. Belongs to one thread.
#[derive(Debug)]
pub struct Sidecar {
    file: File,
    streams: BTreeMap<StreamId, Durable>,
    bytes: Vec<u8>,
}

impl Sidecar {
    /// Opens the file at `path`, or creates it, and reads what it knows.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self { file, streams: decode(&bytes).unwrap_or_default(), bytes })
    }

    /// What is known of each stream.
    pub const fn streams(&self) -> &BTreeMap<StreamId, Durable> {
        &self.streams
    }

    /// Notes that `stream` is durable up to `durable`; [`Sidecar::write`] puts it on the disk.
    pub fn note(&mut self, stream: StreamId, durable: Durable) {
        self.streams.insert(stream, durable);
    }

    /// Writes what was noted. Survives the process at return, and a loss of power sooner or later.
    pub fn write(&mut self) -> io::Result<()> {
        self.bytes.clear();
        self.bytes.extend_from_slice(&MAGIC);
        let count = u16::try_from(self.streams.len()).map_err(io::Error::other)?;
        self.bytes.extend_from_slice(&count.to_be_bytes());
        for (stream, durable) in &self.streams {
            self.bytes.extend_from_slice(&stream.0.to_be_bytes());
            self.bytes.extend_from_slice(&durable.index.0.to_be_bytes());
            self.bytes.extend_from_slice(&durable.chain.0);
        }
        self.bytes.extend_from_slice(&crc32c::crc32c(&self.bytes).to_be_bytes());
        self.file.write_all_at(&self.bytes, 0)
    }

    /// Waits until what was written survives a loss of power: before a log is cut short on purpose.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// What `bytes` say; `None` when they are not a whole sidecar. Bytes behind the checksum are left over from a longer one.
fn decode(bytes: &[u8]) -> Option<BTreeMap<StreamId, Durable>> {
    let head = bytes.get(..HEAD_BYTES)?;
    let count = usize::from(Reader(&head[MAGIC.len()..]).u16());
    let covered = bytes.get(..HEAD_BYTES + count * ENTRY_BYTES)?;
    let checksum = bytes.get(covered.len()..covered.len() + CHECKSUM_BYTES)?;
    if head[..MAGIC.len()] != MAGIC || Reader(checksum).u32() != crc32c::crc32c(covered) {
        return None;
    }
    let mut reader = Reader(&covered[HEAD_BYTES..]);
    let entry = |_| (StreamId(reader.u16()), Durable { index: LogIndex(reader.u64()), chain: ChainHash(reader.array()) });
    Some((0..count).map(entry).collect())
}
