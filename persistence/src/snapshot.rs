//! The container of a snapshot: one file of checked blocks, which is there whole and durable or not at all.
//!
//! It knows which shard's state it holds and up to which group, and nothing of what its blocks say. Files are made under a name that never
//! counts, and get their own only when everything in them is durable. One that is found to be damaged is given a name that does not count
//! any more either, and stays for whoever wants to look at it.
//!
//! `<directory>/snapshots/<stream, 5 digits>-<group sequence, 20 digits>.snapshot`, all numbers big-endian:
//!
//! ```text
//! header
//!   0  8  "tgsnap", version of this layout (u16), 1, or 2 where consensus is to go on behind it
//!   8  4  length of what follows up to the checksum
//!  12     cluster (u16 length, text), number of shards u16, partition hash (u16 length, text),
//!         stream u16, index u64, group sequence u64, chain hash 16, term u64, time in ms since 1970 u64
//!         in layout 2: leader u64, members (u32 length, bytes that are opaque here)
//!   n  4  crc32c of everything before
//! block, for each
//!   0  4  length, 1 to 1 MiB
//!   4  4  crc32c of the block's number from 0 (u64), its length (u32) and its bytes
//!   8     bytes
//! footer
//!   0  4  0, where a block would have its length
//!   4  8  number of blocks
//!  12  8  number of records, as the writer counted them
//!  20 32  blake3 of everything before the footer
//!  52  4  crc32c of the footer so far
//! ```
//!
//! A node that stands alone writes layout 1, as ever, so that an older program can go on with its directory.
//!
//! The log's writes come first: a file is written past the page cache, no faster than it is told, and with rests that grow with what each
//! write took, so that a slow disk is not filled with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tidegate_stock::Timestamp;

use crate::disk;
use crate::front_to_end::FrontToEnd;
use crate::identity::{Identity, PARTITION_HASH};
use crate::record::{ChainHash, GroupSequence, LogIndex, NodeId, Reader, StreamId, Term};
use crate::recovery::LogPosition;

/// Newest version of the layout that this code writes; it reads every one up to it.
pub const SNAPSHOT_FORMAT: u16 = 2;

/// Version of the layout of a snapshot that says nothing of consensus.
const FORMAT_ALONE: u16 = 1;

/// Longest block in bytes.
pub const SNAPSHOT_BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// Longest of the header's texts, in bytes.
const FIELD_BYTES_MAX: usize = 1_024;

/// Longest that the members in a snapshot's header can be, in bytes.
pub const SNAPSHOT_MEMBERS_BYTES_MAX: usize = 256 * 1024;

const MAGIC: [u8; 6] = *b"tgsnap";
const PREFIX_BYTES: usize = 12;
/// The numbers of layout 1 behind the texts.
const POSITION_BYTES: usize = 50;
/// The leader, and the length of the members.
const CONSENSUS_BYTES: usize = 12;
const HEADER_BYTES_MAX: usize = 2 * (2 + FIELD_BYTES_MAX) + 2 + POSITION_BYTES + CONSENSUS_BYTES + SNAPSHOT_MEMBERS_BYTES_MAX;
const BLOCK_HEAD_BYTES: usize = 8;
const FOOTER_BYTES: usize = 56;
const FOOTER_DIGEST_AT: usize = 20;
const CHECKSUM_BYTES: usize = 4;

pub(crate) const FOLDER: &str = "snapshots";
const SUFFIX: &str = ".snapshot";
const UNFINISHED_SUFFIX: &str = ".unfinished";
/// What the name of a file ends with that comes from another node and is not all there, or not taken yet.
pub const INCOMING_SUFFIX: &str = ".incoming";
const DAMAGED_SUFFIX: &str = ".damaged";

/// Whose state a snapshot holds, and up to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The cluster.
    pub cluster: String,
    /// The number of shards that the partitions are mapped to.
    pub shards: u16,
    /// How a sku is given its partition.
    pub partition_hash: String,
    /// The shard's log.
    pub stream: StreamId,
    /// Up to which of its groups, that one included.
    pub position: LogPosition,
    /// What consensus needs to go on behind it; `None` where the node stood alone.
    pub consensus: Option<SnapshotConsensus>,
}

/// What consensus needs to know of a snapshot's last entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotConsensus {
    /// The node that proposed it.
    pub leader: NodeId,
    /// The members as of that entry, as whoever knows them writes them; at most [`SNAPSHOT_MEMBERS_BYTES_MAX`] bytes.
    pub members: Vec<u8>,
}

/// What a snapshot must say of itself to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotExpectation<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The number of shards.
    pub shards: u16,
    /// How a sku is given its partition.
    pub partition_hash: &'a str,
    /// The shard's log.
    pub stream: StreamId,
}

impl<'a> SnapshotExpectation<'a> {
    /// What a snapshot of `stream` of the directory that `identity` names must say.
    pub fn new(identity: &'a Identity, stream: StreamId) -> Self {
        Self { cluster: &identity.cluster, shards: identity.shards, partition_hash: PARTITION_HASH, stream }
    }
}

/// A finished snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its file.
    pub path: PathBuf,
    /// The shard's log.
    pub stream: StreamId,
    /// Up to which group.
    pub group_sequence: GroupSequence,
    /// Length of the file.
    pub bytes: u64,
    /// When it was finished, by the file system.
    pub created: SystemTime,
}

/// Why a snapshot was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Its bytes are not what was written.
    #[error("{} is damaged at byte {offset}: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the part begins that is damaged.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// It belongs to something else, or was written by another version.
    #[error("snapshot {} has {field} {found} where {expected} was expected", .path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The field of the header.
        field: &'static str,
        /// What the snapshot says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The operating system failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl SnapshotError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// What stands around a snapshot's blocks, asked for in the order in which it is written.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    digest: blake3::Hasher,
    blocks: u64,
}

impl Transcript {
    /// The first bytes.
    pub(crate) fn header(&mut self, header: &SnapshotHeader) -> Vec<u8> {
        let bytes = header.encode();
        self.digest.update(&bytes);
        bytes
    }

    /// What is in front of the next block, of 1 byte to 1 MiB. Panics on another length.
    pub(crate) fn block_head(&mut self, block: &[u8]) -> [u8; BLOCK_HEAD_BYTES] {
        let length = block.len();
        assert!(
            (1..=SNAPSHOT_BLOCK_BYTES_MAX).contains(&length),
            "a block of {length} bytes is not of 1 to {SNAPSHOT_BLOCK_BYTES_MAX}"
        );
        let length = u32::try_from(length).expect("a block is at most 1 MiB");
        let mut head = [0; BLOCK_HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4..].copy_from_slice(&block_checksum(self.blocks, length, block).to_be_bytes());
        self.digest.update(&head);
        self.digest.update(block);
        self.blocks += 1;
        head
    }

    /// What follows the last block, of all of which the writer counted `records`.
    pub(crate) fn footer(&self, records: u64) -> Vec<u8> {
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend_from_slice(&0_u32.to_be_bytes());
        footer.extend_from_slice(&self.blocks.to_be_bytes());
        footer.extend_from_slice(&records.to_be_bytes());
        footer.extend_from_slice(self.digest.finalize().as_bytes());
        footer.extend_from_slice(&crc32c::crc32c(&footer).to_be_bytes());
        footer
    }
}

/// A snapshot being written. Belongs to one thread, which waits for the disk now and then. Dropping it unfinished removes its file.
#[derive(Debug)]
pub struct SnapshotWriter {
    file: FrontToEnd,
    folder: PathBuf,
    /// The unfinished file; `None` once it has its name.
    unfinished: Option<PathBuf>,
    name: String,
    stream: StreamId,
    group_sequence: GroupSequence,
    transcript: Transcript,
    records: u64,
    pace: Pace,
}

impl SnapshotWriter {
    /// Begins a snapshot in data directory `directory`, in place of an unfinished one of the same position. At most `bytes_per_second` of
    /// it, at least 1, will be written. Panics when a text of `header` is over 1,024 bytes, or its members are over
    /// [`SNAPSHOT_MEMBERS_BYTES_MAX`].
    pub fn create(directory: &Path, header: &SnapshotHeader, bytes_per_second: u64) -> Result<Self, SnapshotError> {
        let folder = directory.join(FOLDER);
        disk::create_directory(&folder).map_err(|source| SnapshotError::io(&folder, source))?;
        let name = file_name(header.stream, header.position.sequence);
        let path = folder.join(if mutant!(SnapshotNamedAtOnce) { name.clone() } else { format!("{name}{UNFINISHED_SUFFIX}") });
        let file = FrontToEnd::create(&path).map_err(|source| SnapshotError::io(&path, source))?;
        let mut writer = Self {
            file,
            folder,
            unfinished: Some(path),
            name,
            stream: header.stream,
            group_sequence: header.position.sequence,
            transcript: Transcript::default(),
            records: 0,
            pace: Pace { began: Instant::now(), bytes_per_second: bytes_per_second.max(1) },
        };
        let first = writer.transcript.header(header);
        writer.write(&first)?;
        Ok(writer)
    }

    /// Writes the next block, of 1 byte to 1 MiB, which holds `records`; waits for the disk, and rests. Panics on another length.
    ///
    /// After an error the writer is of no more use; drop it.
    pub fn block(&mut self, bytes: &[u8], records: u32) -> Result<(), SnapshotError> {
        let head = self.transcript.block_head(bytes);
        let began = Instant::now();
        self.write(&head)?;
        self.write(bytes)?;
        self.records += u64::from(records);
        self.pace.rest(self.bytes_written(), began.elapsed());
        Ok(())
    }

    /// Bytes written so far.
    pub const fn bytes_written(&self) -> u64 {
        self.file.length()
    }

    /// Ends the snapshot and gives it its name, in place of one of the same position. Durable at return.
    pub fn finish(mut self) -> Result<SnapshotInfo, SnapshotError> {
        let footer = self.transcript.footer(self.records);
        self.write(&footer)?;
        self.file.finish().map_err(|source| self.error(source))?;
        let path = self.folder.join(&self.name);
        let unfinished = self.unfinished.as_ref().expect("it has no name yet");
        fs::rename(unfinished, &path).map_err(|source| SnapshotError::io(&path, source))?;
        self.unfinished = None;
        disk::sync_directory(&self.folder).map_err(|source| SnapshotError::io(&self.folder, source))?;
        info(path, self.stream, self.group_sequence)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write(bytes).map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> SnapshotError {
        SnapshotError::io(self.unfinished.as_deref().unwrap_or(&self.folder), source)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.unfinished
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "an unfinished snapshot was not removed; the next start does it");
        }
    }
}

/// Bytes of a snapshot that are written in a second at most, by default: what the log has to write meanwhile comes first.
pub const SNAPSHOT_BYTES_PER_SECOND_DEFAULT: u64 = 32 * 1024 * 1024;

/// How many times as long as a write took the writer rests behind it: a snapshot takes a quarter of the disk's time at most.
const RESTS: u32 = 3;

/// Keeps the writing of one snapshot from taking what others need of the disk.
#[derive(Debug)]
struct Pace {
    began: Instant,
    bytes_per_second: u64,
}

impl Pace {
    /// Waits after a write that took `write`, until `bytes` may have been written since the beginning; possibly a little less.
    fn rest(&self, bytes: u64, write: Duration) {
        let millis = u128::from(bytes) * 1_000 / u128::from(self.bytes_per_second);
        let due = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        let rest = due.saturating_sub(self.began.elapsed()).max(write * RESTS);
        if !rest.is_zero() {
            thread::park_timeout(rest);
        }
    }
}

/// Where the finished snapshot of `stream` up to group `group_sequence` is in data directory `directory`.
pub fn snapshot_path(directory: &Path, stream: StreamId, group_sequence: GroupSequence) -> PathBuf {
    directory.join(FOLDER).join(file_name(stream, group_sequence))
}

/// The finished snapshots of `stream` in data directory `directory`, newest first. Says nothing of whether they are whole.
pub fn snapshots(directory: &Path, stream: StreamId) -> Result<Vec<SnapshotInfo>, SnapshotError> {
    let folder = directory.join(FOLDER);
    let mut found = Vec::new();
    for name in names(&folder)? {
        if let Some((of, group_sequence)) = parse_name(&name)
            && of == stream
        {
            found.push(info(folder.join(name), of, group_sequence)?);
        }
    }
    found.sort_unstable_by_key(|snapshot| std::cmp::Reverse(snapshot.group_sequence));
    Ok(found)
}

/// Removes what snapshots that were never finished left in data directory `directory`, and those that were to be taken from another node, and
/// says how many. For the start, while nobody writes one.
pub fn remove_unfinished(directory: &Path) -> Result<usize, SnapshotError> {
    let folder = directory.join(FOLDER);
    let is_unfinished = |name: &String| [UNFINISHED_SUFFIX, INCOMING_SUFFIX].iter().any(|suffix| name.ends_with(suffix));
    let unfinished: Vec<_> = names(&folder)?.into_iter().filter(is_unfinished).collect();
    for name in &unfinished {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(|source| SnapshotError::io(&path, source))?;
    }
    Ok(unfinished.len())
}

/// Has the snapshot at `path`, which is damaged or was passed over, count as none any more: its file gets a name of its own, in place of
/// an earlier one of that name, and nobody ever removes it. Durable at return.
pub fn set_aside(path: &Path) -> Result<PathBuf, SnapshotError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(DAMAGED_SUFFIX);
    let aside = PathBuf::from(aside);
    let renamed = fs::rename(path, &aside).and_then(|()| path.parent().map_or(Ok(()), disk::sync_directory));
    renamed.map(|()| aside).map_err(|source| SnapshotError::io(path, source))
}

/// Removes all snapshots of `stream` but the `keep` newest, the oldest first, and says how many. Durable at return.
pub fn remove_older(directory: &Path, stream: StreamId, keep: usize) -> Result<usize, SnapshotError> {
    let all = snapshots(directory, stream)?;
    let older = all.get(keep..).unwrap_or_default();
    for snapshot in older.iter().rev() {
        fs::remove_file(&snapshot.path).map_err(|source| SnapshotError::io(&snapshot.path, source))?;
    }
    if !older.is_empty() {
        let folder = directory.join(FOLDER);
        disk::sync_directory(&folder).map_err(|source| SnapshotError::io(&folder, source))?;
    }
    Ok(older.len())
}

/// A snapshot being read, from its file or from whatever else gives its bytes. Nothing of it counts until its end was reached without an error.
#[derive(Debug)]
pub struct SnapshotReader<R = File> {
    file: BufReader<R>,
    path: PathBuf,
    header: SnapshotHeader,
    digest: blake3::Hasher,
    offset: u64,
    blocks: u64,
    records: Option<u64>,
    block: Vec<u8>,
}

impl SnapshotReader {
    /// Opens the snapshot at `path` and checks its header; refuses one that is not as `expectation` says, naming the field.
    pub fn open(path: &Path, expectation: &SnapshotExpectation<'_>) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(|source| SnapshotError::io(path, source))?;
        Self::of(file, path, expectation)
    }
}

impl<R: Read> SnapshotReader<R> {
    /// As [`SnapshotReader::open`], of the snapshot that `from` gives the bytes of, from the first to the last; `path` is what errors name.
    pub fn of(from: R, path: &Path, expectation: &SnapshotExpectation<'_>) -> Result<Self, SnapshotError> {
        let mut bytes = vec![0; PREFIX_BYTES];
        let mut file = BufReader::with_capacity(SNAPSHOT_BLOCK_BYTES_MAX, from);
        let damaged = |what: String| SnapshotError::Damaged { path: path.to_owned(), offset: 0, what };
        let short = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("the file ends within its header".to_owned()),
            _ => SnapshotError::io(path, error),
        };
        file.read_exact(&mut bytes).map_err(short)?;
        if bytes[..MAGIC.len()] != MAGIC {
            return Err(damaged("it does not begin as a snapshot does".to_owned()));
        }
        let mut prefix = Reader(&bytes[MAGIC.len()..]);
        let (format, length) = (prefix.u16(), prefix.u32());
        if !(FORMAT_ALONE..=SNAPSHOT_FORMAT).contains(&format) {
            return Err(mismatch(path, "format", &format, &format_args!("{FORMAT_ALONE} to {SNAPSHOT_FORMAT}")));
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= HEADER_BYTES_MAX);
        let length = length.ok_or_else(|| damaged(format!("its header would be longer than {HEADER_BYTES_MAX} bytes")))?;
        bytes.resize(PREFIX_BYTES + length + CHECKSUM_BYTES, 0);
        file.read_exact(&mut bytes[PREFIX_BYTES..]).map_err(short)?;
        let (covered, checksum) = bytes.split_at(PREFIX_BYTES + length);
        let (found, computed) = (Reader(checksum).u32(), crc32c::crc32c(covered));
        if found != computed {
            return Err(damaged(format!("the header's checksum is {found:08x}, its bytes give {computed:08x}")));
        }
        let header = SnapshotHeader::decode(format, &covered[PREFIX_BYTES..]);
        let header = header.ok_or_else(|| damaged("its header is none".to_owned()))?;
        expect(path, "cluster", &header.cluster.as_str(), &expectation.cluster)?;
        expect(path, "shard_count", &header.shards, &expectation.shards)?;
        expect(path, "partition_hash", &header.partition_hash.as_str(), &expectation.partition_hash)?;
        expect(path, "stream", &header.stream.0, &expectation.stream.0)?;
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes);
        let offset = bytes.len() as u64;
        Ok(Self { file, path: path.to_owned(), header, digest, offset, blocks: 0, records: None, block: Vec::new() })
    }

    /// What it says of itself.
    pub const fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next block; `None` at the end, once everything before it was found to be whole.
    pub fn block(&mut self) -> Result<Option<&[u8]>, SnapshotError> {
        if self.records.is_some() {
            return Ok(None);
        }
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.read(&mut head[..4], "a block")?;
        let length = Reader(&head).u32();
        if length == 0 {
            self.records = Some(self.footer()?);
            return Ok(None);
        }
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= SNAPSHOT_BLOCK_BYTES_MAX);
        let bytes =
            bytes.ok_or_else(|| self.damaged(format!("a block would have {length} bytes, over {SNAPSHOT_BLOCK_BYTES_MAX}")))?;
        self.read(&mut head[4..], "a block")?;
        let mut block = std::mem::take(&mut self.block);
        block.resize(bytes, 0);
        self.read(&mut block, "a block")?;
        let (found, computed) = (Reader(&head[4..]).u32(), block_checksum(self.blocks, length, &block));
        if found != computed && !mutant!(SnapshotUnchecked) {
            return Err(
                self.damaged(format!("the checksum of block {} is {found:08x}, its bytes give {computed:08x}", self.blocks))
            );
        }
        self.digest.update(&head);
        self.digest.update(&block);
        self.offset += (head.len() + block.len()) as u64;
        self.blocks += 1;
        self.block = block;
        Ok(Some(&self.block))
    }

    /// Bytes of the file that were read and found to be whole so far: its length once the end was reached.
    pub const fn bytes_read(&self) -> u64 {
        self.offset
    }

    /// Number of records, as the writer counted them; known once the end was reached.
    pub const fn records(&self) -> Option<u64> {
        self.records
    }

    /// What its bytes were read from.
    pub fn into_inner(self) -> R {
        self.file.into_inner()
    }

    /// Checks the rest of the footer, and that nothing follows.
    fn footer(&mut self) -> Result<u64, SnapshotError> {
        let mut footer = [0; FOOTER_BYTES];
        self.read(&mut footer[4..], "its footer")?;
        let (covered, checksum) = footer.split_at(FOOTER_BYTES - CHECKSUM_BYTES);
        if Reader(checksum).u32() != crc32c::crc32c(covered) {
            return Err(self.damaged("the checksum of its footer does not match".to_owned()));
        }
        let mut reader = Reader(&covered[4..]);
        let (blocks, records) = (reader.u64(), reader.u64());
        if blocks != self.blocks {
            return Err(self.damaged(format!("it counts {blocks} blocks, and there are {}", self.blocks)));
        }
        if covered[FOOTER_DIGEST_AT..] != *self.digest.finalize().as_bytes() && !mutant!(SnapshotUnchecked) {
            return Err(self.damaged("the digest of everything before does not match".to_owned()));
        }
        let end = self.offset + FOOTER_BYTES as u64;
        match self.file.read(&mut [0]) {
            Ok(0) => {
                self.offset = end;
                Ok(records)
            }
            Ok(_) => Err(SnapshotError::Damaged { path: self.path.clone(), offset: end, what: "bytes follow its end".to_owned() }),
            Err(source) => Err(SnapshotError::io(&self.path, source)),
        }
    }

    fn read(&mut self, bytes: &mut [u8], what: &str) -> Result<(), SnapshotError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(format!("the file ends within {what}")),
            _ => SnapshotError::io(&self.path, error),
        })
    }

    fn damaged(&self, what: String) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), offset: self.offset, what }
    }
}

impl SnapshotHeader {
    /// That of a snapshot of `stream` of the directory that `identity` names, up to `position`, of a node that stands alone.
    pub fn new(identity: &Identity, stream: StreamId, position: LogPosition) -> Self {
        let SnapshotExpectation { cluster, shards, partition_hash, stream } = SnapshotExpectation::new(identity, stream);
        Self { cluster: cluster.to_owned(), shards, partition_hash: partition_hash.to_owned(), stream, position, consensus: None }
    }

    /// Bytes that it takes in a file.
    pub(crate) fn length(&self) -> u64 {
        self.encode().len() as u64
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let format = if self.consensus.is_some() { SNAPSHOT_FORMAT } else { FORMAT_ALONE };
        bytes.extend_from_slice(&format.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        put_field(&mut bytes, self.cluster.as_bytes());
        bytes.extend_from_slice(&self.shards.to_be_bytes());
        put_field(&mut bytes, self.partition_hash.as_bytes());
        bytes.extend_from_slice(&self.stream.0.to_be_bytes());
        bytes.extend_from_slice(&self.position.index.0.to_be_bytes());
        bytes.extend_from_slice(&self.position.sequence.0.to_be_bytes());
        bytes.extend_from_slice(&self.position.chain.0);
        bytes.extend_from_slice(&self.position.term.0.to_be_bytes());
        bytes.extend_from_slice(&self.position.time.unix_ms().to_be_bytes());
        if let Some(SnapshotConsensus { leader, members }) = &self.consensus {
            let length = members.len();
            assert!(length <= SNAPSHOT_MEMBERS_BYTES_MAX, "members of {length} bytes are over {SNAPSHOT_MEMBERS_BYTES_MAX}");
            bytes.extend_from_slice(&leader.0.to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(length).expect("256 KiB at most").to_be_bytes());
            bytes.extend_from_slice(members);
        }
        let length = u32::try_from(bytes.len() - PREFIX_BYTES).expect("a header is some hundred KiB at most");
        bytes[PREFIX_BYTES - 4..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    }

    /// The header of layout `format` whose fields `bytes` are; `None` if they are not exactly those of one.
    fn decode(format: u16, bytes: &[u8]) -> Option<Self> {
        let (cluster, bytes) = take_field(bytes)?;
        let (shards, bytes) = bytes.split_at_checked(2)?;
        let (partition_hash, bytes) = take_field(bytes)?;
        let (numbers, rest) = bytes.split_at_checked(POSITION_BYTES)?;
        let consensus = if format == FORMAT_ALONE {
            rest.is_empty().then_some(None)
        } else {
            let (head, members) = rest.split_at_checked(CONSENSUS_BYTES)?;
            let mut head = Reader(head);
            let (leader, length) = (NodeId(head.u64()), head.u32());
            let is_all =
                usize::try_from(length).is_ok_and(|length| length == members.len() && length <= SNAPSHOT_MEMBERS_BYTES_MAX);
            is_all.then(|| Some(SnapshotConsensus { leader, members: members.to_vec() }))
        }?;
        let mut numbers = Reader(numbers);
        Some(Self {
            cluster: std::str::from_utf8(cluster).ok()?.to_owned(),
            shards: Reader(shards).u16(),
            partition_hash: std::str::from_utf8(partition_hash).ok()?.to_owned(),
            stream: StreamId(numbers.u16()),
            position: LogPosition {
                index: LogIndex(numbers.u64()),
                sequence: GroupSequence(numbers.u64()),
                chain: ChainHash(numbers.array()),
                term: Term(numbers.u64()),
                time: Timestamp::from_unix_ms(numbers.u64()),
            },
            consensus,
        })
    }
}

fn put_field(bytes: &mut Vec<u8>, field: &[u8]) {
    assert!(field.len() <= FIELD_BYTES_MAX, "a field of {} bytes is over {FIELD_BYTES_MAX}", field.len());
    let length = u16::try_from(field.len()).expect("a field is at most 1,024 bytes");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(field);
}

fn take_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, bytes) = bytes.split_at_checked(2)?;
    bytes.split_at_checked(usize::from(Reader(length).u16()))
}

fn block_checksum(number: u64, length: u32, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), &length.to_be_bytes());
    crc32c::crc32c_append(place, bytes)
}

fn expect<T: PartialEq + std::fmt::Display>(
    path: &Path,
    field: &'static str,
    found: &T,
    expected: &T,
) -> Result<(), SnapshotError> {
    if found == expected { Ok(()) } else { Err(mismatch(path, field, found, expected)) }
}

fn mismatch(path: &Path, field: &'static str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display) -> SnapshotError {
    let (found, expected) = (found.to_string(), expected.to_string());
    SnapshotError::Mismatch { path: path.to_owned(), field, found, expected }
}

pub(crate) fn file_name(stream: StreamId, group_sequence: GroupSequence) -> String {
    format!("{:05}-{:020}{SUFFIX}", stream.0, group_sequence.0)
}

/// What a file of this name holds; `None` unless a finished snapshot has such a name.
fn parse_name(name: &str) -> Option<(StreamId, GroupSequence)> {
    let (stream, group_sequence) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let (stream, group_sequence) = (StreamId(stream.parse().ok()?), GroupSequence(group_sequence.parse().ok()?));
    (file_name(stream, group_sequence) == name).then_some((stream, group_sequence))
}

/// The names in `folder`, none where it is missing.
fn names(folder: &Path) -> Result<BTreeSet<String>, SnapshotError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.map_err(|source| SnapshotError::io(folder, source))?,
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(|source| SnapshotError::io(folder, source))
}

fn info(path: PathBuf, stream: StreamId, group_sequence: GroupSequence) -> Result<SnapshotInfo, SnapshotError> {
    let read = || {
        let metadata = fs::metadata(&path)?;
        Ok((metadata.len(), metadata.modified()?))
    };
    let (bytes, created) = read().map_err(|source| SnapshotError::io(&path, source))?;
    Ok(SnapshotInfo { path, stream, group_sequence, bytes, created })
}
