//! The one record format of the log, for one node and for a cluster: keys, values, checksums and the chain.
//!
//! A *group* of events is one entry of a stream's log: one index, and in a cluster one entry of consensus. A group that is larger than
//! a value may be is split into consecutive *parts*; the part is the last component of the key, so that a group keeps one index.
//! A group counts only when every part is there, up to the one marked as last.
//!
//! All numbers are big-endian.
//!
//! ```text
//! key, 12 bytes
//!   0  2  stream
//!   2  8  index, from 1
//!  10  2  part, from 0
//!
//! value, 55 bytes around its slice of the payload
//!   0  1  format version, 1
//!   1  1  kind: 1 group, 2 blank, 3 membership, 4 set aside, 5 vote
//!   2  1  flags: bit 0 marks the last part of its index, the other bits are 0
//!   3  8  term
//!  11  8  leader
//!  19  8  group sequence; in a record that is no group that of the last group before it
//!  27 16  predecessor: the chain hash of the last group before this record
//!  43  8  time, in milliseconds since 1970-01-01T00:00:00Z
//!  51  n  this part's slice of the payload
//! 51+n 4  crc32c of the key followed by bytes 0 to 51+n of the value
//! ```
//!
//! Index and part are not repeated in the value: the checksum covers the key, so a value found under another key is damage.
//!
//! The chain hash of a group is the first 128 bits of blake3 over predecessor, kind, term, leader, group sequence, time (widths and
//! order as above) and the whole payload. The index is left out because a leader chains its groups when it decides them, before
//! consensus gives them an index. Records of any other kind carry the chain as it stands and do not advance it. Their payloads, and what a
//! vote puts into its header, stand in `replicated.rs`; the log of a node that stands alone holds groups only.
//!
//! This file knows nothing of what a payload holds, nor of the store.

use std::fmt;

use tidegate_stock::Timestamp;

/// Version of the record format that this code writes, and the only one that it reads.
pub const RECORD_FORMAT: u8 = 1;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 12;

/// Bytes of a value in front of its payload slice.
const HEADER_BYTES: usize = 51;

/// Bytes of a value behind its payload slice.
const CHECKSUM_BYTES: usize = 4;

/// Bytes of a value that are not payload.
pub const VALUE_OVERHEAD_BYTES: usize = HEADER_BYTES + CHECKSUM_BYTES;

/// Largest payload of one group in bytes, all parts together. Recovery holds one such payload per stream in memory.
pub const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

const FLAG_LAST_PART: u8 = 1;

/// A stream of the store: the log of a shard, or its votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);

impl StreamId {
    const VOTES: u16 = 0x8000;

    /// The log of shard `shard`, which is at most 0x7fff.
    pub const fn log(shard: u16) -> Self {
        assert!(shard < Self::VOTES, "a shard's number fits 15 bits");
        Self(shard)
    }

    /// The votes of shard `shard`, which is at most 0x7fff.
    pub const fn votes(shard: u16) -> Self {
        assert!(shard < Self::VOTES, "a shard's number fits 15 bits");
        Self(shard | Self::VOTES)
    }

    /// The shard that the stream belongs to.
    pub const fn shard(self) -> u16 {
        self.0 & !Self::VOTES
    }

    /// Whether it is a shard's votes, and not its log.
    pub const fn is_votes(self) -> bool {
        self.0 & Self::VOTES != 0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_votes() { "votes" } else { "log" };
        write!(formatter, "the {what} of shard {}", self.shard())
    }
}

/// The place of an entry in its stream, from 1. Entries that are no group take an index too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The place of a group among the groups of its stream, from 1. Differs from the index as soon as a stream holds anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupSequence(pub u64);

impl GroupSequence {
    /// The sequence after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A period of leadership in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// A node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    )*};
}

display_number!(LogIndex, GroupSequence, Term, NodeId);

/// What stands for a group and everything before it in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub [u8; 16]);

impl ChainHash {
    /// The predecessor of a stream's first group.
    pub const GENESIS: Self = Self([0; 16]);
}

/// What an entry of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Events that were decided together.
    Group,
    /// Nothing: a new leader's first entry.
    Blank,
    /// A change of the cluster's members.
    Membership,
    /// A group that consensus took although it does not continue the one before it. It counts for nothing, alike on every node.
    SetAside,
    /// No entry of a log: what a node has promised in consensus.
    Vote,
}

impl RecordKind {
    const fn code(self) -> u8 {
        match self {
            Self::Group => 1,
            Self::Blank => 2,
            Self::Membership => 3,
            Self::SetAside => 4,
            Self::Vote => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Group),
            2 => Some(Self::Blank),
            3 => Some(Self::Membership),
            4 => Some(Self::SetAside),
            5 => Some(Self::Vote),
            _ => None,
        }
    }
}

/// Where a value lives. Ordered as its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// The stream.
    pub stream: StreamId,
    /// The entry.
    pub index: LogIndex,
    /// The part of the entry, from 0.
    pub part: u16,
}

impl RecordKey {
    /// The key's bytes.
    pub fn encode(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..2].copy_from_slice(&self.stream.0.to_be_bytes());
        bytes[2..10].copy_from_slice(&self.index.0.to_be_bytes());
        bytes[10..].copy_from_slice(&self.part.to_be_bytes());
        bytes
    }

    /// The key that `bytes` are; `None` unless there are [`KEY_BYTES`] of them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_BYTES {
            return None;
        }
        let mut reader = Reader(bytes);
        Some(Self { stream: StreamId(reader.u16()), index: LogIndex(reader.u64()), part: reader.u16() })
    }
}

/// What a value says beside its slice of the payload. All parts of an entry say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the entry is.
    pub kind: RecordKind,
    /// The term it was decided in.
    pub term: Term,
    /// The node that decided it.
    pub leader: NodeId,
    /// The group's sequence, or that of the last group before an entry that is none.
    pub sequence: GroupSequence,
    /// The chain hash of the last group before the entry.
    pub predecessor: ChainHash,
    /// When it was decided.
    pub time: Timestamp,
}

impl RecordHeader {
    /// The chain hash of the group that this header and the whole `payload` make.
    pub fn chain(&self, payload: &[u8]) -> ChainHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.predecessor.0);
        hasher.update(&[self.kind.code()]);
        hasher.update(&self.term.0.to_be_bytes());
        hasher.update(&self.leader.0.to_be_bytes());
        hasher.update(&self.sequence.0.to_be_bytes());
        hasher.update(&self.time.unix_ms().to_be_bytes());
        hasher.update(payload);
        let mut chain = ChainHash::GENESIS;
        chain.0.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        chain
    }
}

/// Why bytes are no value of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short to be a value.
    #[error("value of {0} bytes is shorter than {VALUE_OVERHEAD_BYTES}")]
    Short(usize),
    /// The checksum does not match key and value.
    #[error("checksum is {found:08x}, its key and bytes give {expected:08x}")]
    Checksum {
        /// What the value carries.
        found: u32,
        /// What was computed.
        expected: u32,
    },
    /// Another format version.
    #[error("record format is {0}, this version reads {RECORD_FORMAT}")]
    Format(u8),
    /// No kind has this code.
    #[error("record kind {0} is unknown")]
    Kind(u8),
    /// A flag is set that this format does not know.
    #[error("record flags {0:#04x} are unknown")]
    Flags(u8),
}

/// Replaces `value` by the value that belongs under `key`.
pub fn encode_value(key: RecordKey, header: &RecordHeader, is_last_part: bool, slice: &[u8], value: &mut Vec<u8>) {
    value.clear();
    value.reserve(VALUE_OVERHEAD_BYTES + slice.len());
    value.extend_from_slice(&[RECORD_FORMAT, header.kind.code(), u8::from(is_last_part) * FLAG_LAST_PART]);
    value.extend_from_slice(&header.term.0.to_be_bytes());
    value.extend_from_slice(&header.leader.0.to_be_bytes());
    value.extend_from_slice(&header.sequence.0.to_be_bytes());
    value.extend_from_slice(&header.predecessor.0);
    value.extend_from_slice(&header.time.unix_ms().to_be_bytes());
    value.extend_from_slice(slice);
    let checksum = checksum(&key.encode(), value);
    value.extend_from_slice(&checksum.to_be_bytes());
}

/// Reads the value found under `key`: its header, whether it is the last part, and its slice of the payload.
pub fn decode_value(key: RecordKey, value: &[u8]) -> Result<(RecordHeader, bool, &[u8]), RecordError> {
    if value.len() < VALUE_OVERHEAD_BYTES {
        return Err(RecordError::Short(value.len()));
    }
    let (covered, stored) = value.split_at(value.len() - CHECKSUM_BYTES);
    let (found, expected) = (Reader(stored).u32(), checksum(&key.encode(), covered));
    if found != expected && !mutant!(ChecksumUnchecked) {
        return Err(RecordError::Checksum { found, expected });
    }
    let (head, slice) = covered.split_at(HEADER_BYTES);
    let mut reader = Reader(head);
    let format = reader.u8();
    if format != RECORD_FORMAT {
        return Err(RecordError::Format(format));
    }
    let code = reader.u8();
    let kind = RecordKind::from_code(code).ok_or(RecordError::Kind(code))?;
    let flags = reader.u8();
    let header = RecordHeader {
        kind,
        term: Term(reader.u64()),
        leader: NodeId(reader.u64()),
        sequence: GroupSequence(reader.u64()),
        predecessor: ChainHash(reader.array()),
        time: Timestamp::from_unix_ms(reader.u64()),
    };
    if flags & !FLAG_LAST_PART != 0 {
        return Err(RecordError::Flags(flags));
    }
    Ok((header, flags == FLAG_LAST_PART, slice))
}

fn checksum(key: &[u8], covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), covered)
}

/// Takes numbers off the front of bytes whose length was checked before.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk::<N>().expect("the length was checked before");
        self.0 = rest;
        *head
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }
}
