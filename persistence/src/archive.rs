//! The archive: a whole data directory as a stream of checked frames, for a backup on its way from a node to a folder.
//!
//! It is read once, from front to end, and holds nothing that must be gone back to. It owns the bytes of the frames and their counts; who
//! makes an archive, and what becomes of one, is not its concern. All numbers big-endian:
//!
//! ```text
//! head
//!   0  6  "tgback"
//!   6  2  version of this layout, 1
//! frame, for each piece
//!   0  1  kind
//!   1  4  length of its bytes
//!   5  4  crc32c of the frame's number from 0 (u64), kind, length and bytes
//!   9     bytes
//!
//! kind               bytes
//!  1  alive          none: the sender is still at work
//!  2  begin          length of a range of the history in seconds u32, the identity's file
//!  3  plan           bytes that will follow u64, roughly
//!  4  snapshot       stream u16, group sequence u64, length of its file u64
//!  5  snapshot part  the next bytes of that file
//!  6  history        number of records u32, each: partition u16, number u32, sequence u64, resolved_at u64,
//!                    length of the user u8, user, length of the value u32, value
//!  7  logs           number of streams u16, each what its log continues: stream u16, index u64, group sequence u64, chain hash 16,
//!                    term u64, time u64
//!  8  group          stream u16, index u64, sequence u64, term u64, leader u64, time u64, predecessor 16, chain hash 16, payload
//!  9  end            frames before it u64, snapshots u64, records of the history u64, groups u64
//! 10  failed         why there is no more, in words
//! ```
//!
//! An archive is whole when its end is there, its counts are those of what came, and nothing follows.

use std::io::{self, Read, Write};
use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;

use tidegate_stock::{GrantSequence, Partition, StockId, StockNumber, Timestamp};

use crate::directory::OpenError;
use crate::history::{
    HISTORY_RECORDS_MAX, HISTORY_USER_BYTES_MAX, HISTORY_VALUE_BYTES_MAX, History, HistoryError, HistoryKey, HistoryRecord,
};
use crate::identity::Identity;
use crate::record::{ChainHash, GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, Reader, StreamId, Term};
use crate::recovery::{LogPosition, RecoveredGroup};

/// Version of the layout that this code writes, and the only one that it reads.
pub const ARCHIVE_FORMAT: u16 = 1;

/// Bytes of a snapshot's file in one piece at most, and of records of the history, the last one not counted.
pub const ARCHIVE_PIECE_BYTES_MAX: usize = 256 * 1024;

const MAGIC: [u8; 6] = *b"tgback";
const HEAD_BYTES: usize = 8;
const FRAME_HEAD_BYTES: usize = 9;
const GROUP_HEAD_BYTES: usize = 74;
const RECORD_HEAD_BYTES: usize = 27;
const POSITION_BYTES: usize = 50;

/// Longest frame: a group of the largest payload. Pieces of other kinds are far below it.
const FRAME_BYTES_MAX: usize = GROUP_BYTES_MAX + GROUP_HEAD_BYTES;
const _: () =
    assert!(FRAME_BYTES_MAX > 2 * (ARCHIVE_PIECE_BYTES_MAX + RECORD_HEAD_BYTES + HISTORY_USER_BYTES_MAX + HISTORY_VALUE_BYTES_MAX));
const _: () = assert!(FRAME_BYTES_MAX > u16::MAX as usize * POSITION_BYTES + 2);

/// A piece of an archive, in the order in which they come.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The sender is still at work. Anywhere but in front.
    Alive,
    /// The first: whose archive it is.
    Begin {
        /// The data directory's identity, with its secret.
        identity: Identity,
        /// Length of a range of the history, in seconds.
        history_range_seconds: u32,
    },
    /// How much follows.
    Plan {
        /// Bytes, roughly.
        bytes: u64,
    },
    /// The snapshot of a shard; its parts follow.
    Snapshot {
        /// The shard's log.
        stream: StreamId,
        /// Up to which group.
        group_sequence: GroupSequence,
        /// Length of its file.
        bytes: u64,
    },
    /// The next bytes of the snapshot's file, at most [`ARCHIVE_PIECE_BYTES_MAX`].
    SnapshotPart(&'a [u8]),
    /// Records of the history, older ranges first; at most [`HISTORY_RECORDS_MAX`].
    History(Vec<HistoryRecord<'a>>),
    /// What the first group of each stream continues; groups follow.
    Logs(Vec<(StreamId, LogPosition)>),
    /// The next group of its stream.
    Group(RecoveredGroup<'a>),
    /// The last, of a whole archive.
    End(ArchiveTotals),
    /// The last, of an archive that its sender could not bring to its end: why.
    Failed(&'a str),
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchiveTotals {
    /// Frames, but for the one that tells this.
    pub frames: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Records of the history.
    pub history_records: u64,
    /// Groups of the logs.
    pub groups: u64,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream ended or failed before the archive's end.
    #[error("the backup broke off at frame {frame}: {source}")]
    Broken {
        /// The frame, from 0.
        frame: u64,
        /// What the stream says.
        source: io::Error,
    },
    /// Its bytes are not what was written.
    #[error("the backup is damaged at frame {frame}: {what}")]
    Damaged {
        /// The frame, from 0.
        frame: u64,
        /// What is wrong.
        what: String,
    },
    /// Another version wrote it.
    #[error("the backup has format {found} where {ARCHIVE_FORMAT} was expected")]
    Format {
        /// Its format.
        found: u16,
    },
    /// Its identity is none that this version knows.
    #[error(transparent)]
    Identity(#[from] OpenError),
    /// Its sender gave it up.
    #[error("the node gave the backup up: {0}")]
    Failed(String),
}

/// Writes an archive to `out`, which gets many small writes.
#[derive(Debug)]
pub struct ArchiveWriter<W> {
    out: W,
    totals: ArchiveTotals,
    bytes: Vec<u8>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&ARCHIVE_FORMAT.to_be_bytes())?;
        Ok(Self { out, totals: ArchiveTotals::default(), bytes: Vec::new() })
    }

    /// Writes the next piece. Panics when a limit of it is broken.
    pub fn put(&mut self, piece: &Piece<'_>) -> io::Result<()> {
        self.bytes.clear();
        let kind = piece.encode(&mut self.bytes);
        let length = u32::try_from(self.bytes.len()).ok().filter(|_| self.bytes.len() <= FRAME_BYTES_MAX);
        let length = length.unwrap_or_else(|| panic!("a frame of {} bytes is over {FRAME_BYTES_MAX}", self.bytes.len()));
        let mut head = [0; FRAME_HEAD_BYTES];
        head[0] = kind;
        head[1..5].copy_from_slice(&length.to_be_bytes());
        head[5..].copy_from_slice(&checksum(self.totals.frames, kind, length, &self.bytes).to_be_bytes());
        self.out.write_all(&head)?;
        self.out.write_all(&self.bytes)?;
        self.totals.count(piece);
        Ok(())
    }

    /// Writes the end, and gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&Piece::End(self.totals))?;
        Ok(self.out)
    }

    /// What was written so far.
    pub const fn totals(&self) -> ArchiveTotals {
        self.totals
    }

    /// The stream below.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }
}

/// Why a history was not copied.
#[derive(Debug, thiserror::Error)]
pub enum HistoryCopyError {
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The archive takes nothing more.
    #[error("the copy of the history could not be written")]
    Archive(#[from] io::Error),
}

/// A record that waits to be written.
struct Gathered {
    key: HistoryKey,
    user: String,
    resolved_at: Timestamp,
    value: Vec<u8>,
}

/// Copies what `history` has of `partitions` into `archive`. What is put together does not span two ranges, so that in a new history everything
/// goes in the same time. Waits for the disk; holds one piece in memory.
pub fn copy_history<W: Write>(
    history: &History,
    partitions: RangeInclusive<Partition>,
    archive: &mut ArchiveWriter<W>,
) -> Result<(), HistoryCopyError> {
    let (mut gathered, mut bytes, mut of, mut left) = (Vec::new(), 0, None, None);
    history.for_each_of(partitions, &mut |range, record| {
        let is_full = bytes >= ARCHIVE_PIECE_BYTES_MAX || gathered.len() >= HISTORY_RECORDS_MAX;
        if (is_full || of != Some(range))
            && !gathered.is_empty()
            && let Err(error) = put_records(&std::mem::take(&mut gathered), archive)
        {
            left = Some(error);
            return ControlFlow::Break(());
        }
        if gathered.is_empty() {
            bytes = 0;
        }
        of = Some(range);
        bytes += record.user.len() + record.value.len();
        let HistoryRecord { key, user, resolved_at, value } = record;
        gathered.push(Gathered { key, user: user.to_owned(), resolved_at, value: value.to_vec() });
        ControlFlow::Continue(())
    })?;
    left.map_or(Ok(()), Err)?;
    if gathered.is_empty() { Ok(()) } else { Ok(put_records(&gathered, archive)?) }
}

fn put_records<W: Write>(gathered: &[Gathered], archive: &mut ArchiveWriter<W>) -> io::Result<()> {
    let records = gathered
        .iter()
        .map(|kept| HistoryRecord { key: kept.key, user: &kept.user, resolved_at: kept.resolved_at, value: &kept.value })
        .collect();
    archive.put(&Piece::History(records))
}

/// Reads an archive. Nothing of it counts until its end was reached without an error.
#[derive(Debug)]
pub struct ArchiveReader<R> {
    from: R,
    totals: ArchiveTotals,
    bytes: Vec<u8>,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads an archive's head.
    pub fn new(mut from: R) -> Result<Self, ArchiveError> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head).map_err(|source| ArchiveError::Broken { frame: 0, source })?;
        if head[..MAGIC.len()] != MAGIC {
            return Err(ArchiveError::Damaged { frame: 0, what: "it does not begin as a backup does".to_owned() });
        }
        match Reader(&head[MAGIC.len()..]).u16() {
            ARCHIVE_FORMAT => Ok(Self { from, totals: ArchiveTotals::default(), bytes: Vec::new() }),
            found => Err(ArchiveError::Format { found }),
        }
    }

    /// The next piece, never [`Piece::Failed`]. Behind [`Piece::End`] there is none to be asked for.
    pub fn piece(&mut self) -> Result<Piece<'_>, ArchiveError> {
        let frame = self.totals.frames;
        let damaged = |what: String| ArchiveError::Damaged { frame, what };
        let mut head = [0; FRAME_HEAD_BYTES];
        self.from.read_exact(&mut head).map_err(|source| ArchiveError::Broken { frame, source })?;
        let mut reader = Reader(&head);
        let (kind, length, found) = (reader.u8(), reader.u32(), reader.u32());
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| damaged(format!("it would have {length} bytes, over {FRAME_BYTES_MAX}")))?;
        self.bytes.resize(bytes, 0);
        self.from.read_exact(&mut self.bytes).map_err(|source| ArchiveError::Broken { frame, source })?;
        let expected = checksum(frame, kind, length, &self.bytes);
        if found != expected {
            return Err(damaged(format!("its checksum is {found:08x}, its bytes give {expected:08x}")));
        }
        let piece = Piece::decode(kind, &self.bytes)?;
        let piece = piece.ok_or_else(|| damaged(format!("its {length} bytes are no piece of kind {kind}")))?;
        match piece {
            Piece::Failed(why) => return Err(ArchiveError::Failed(why.to_owned())),
            Piece::End(totals) if totals != self.totals => {
                return Err(damaged(format!("its end counts {totals:?}, and there came {:?}", self.totals)));
            }
            Piece::End(_) => match self.from.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => return Err(damaged("bytes follow its end".to_owned())),
                Err(source) => return Err(ArchiveError::Broken { frame, source }),
            },
            _ => {}
        }
        self.totals.count(&piece);
        Ok(piece)
    }
}

impl ArchiveTotals {
    fn count(&mut self, piece: &Piece<'_>) {
        self.frames += 1;
        match piece {
            Piece::Snapshot { .. } => self.snapshots += 1,
            Piece::History(records) => self.history_records += records.len() as u64,
            Piece::Group(_) => self.groups += 1,
            _ => {}
        }
    }
}

impl<'a> Piece<'a> {
    /// Appends its bytes to `into`, and gives its kind.
    fn encode(&self, into: &mut Vec<u8>) -> u8 {
        match self {
            Self::Alive => 1,
            Self::Begin { identity, history_range_seconds } => {
                into.extend_from_slice(&history_range_seconds.to_be_bytes());
                into.extend_from_slice(&identity.encode());
                2
            }
            Self::Plan { bytes } => {
                into.extend_from_slice(&bytes.to_be_bytes());
                3
            }
            Self::Snapshot { stream, group_sequence, bytes } => {
                into.extend_from_slice(&stream.0.to_be_bytes());
                into.extend_from_slice(&group_sequence.0.to_be_bytes());
                into.extend_from_slice(&bytes.to_be_bytes());
                4
            }
            Self::SnapshotPart(part) => {
                assert!(part.len() <= ARCHIVE_PIECE_BYTES_MAX, "a part of {} bytes is too long", part.len());
                into.extend_from_slice(part);
                5
            }
            Self::History(records) => {
                assert!(records.len() <= HISTORY_RECORDS_MAX, "{} records are too many", records.len());
                into.extend_from_slice(&length_of(records.len()));
                for record in records {
                    into.extend_from_slice(&record.key.stock.partition.0.to_be_bytes());
                    into.extend_from_slice(&record.key.stock.number.0.to_be_bytes());
                    into.extend_from_slice(&record.key.sequence.0.to_be_bytes());
                    into.extend_from_slice(&record.resolved_at.unix_ms().to_be_bytes());
                    into.push(u8::try_from(record.user.len()).expect("the history keeps no longer user"));
                    into.extend_from_slice(record.user.as_bytes());
                    into.extend_from_slice(&length_of(record.value.len()));
                    into.extend_from_slice(record.value);
                }
                6
            }
            Self::Logs(positions) => {
                let count = u16::try_from(positions.len()).expect("a stream's number is a u16");
                into.extend_from_slice(&count.to_be_bytes());
                for (stream, position) in positions {
                    into.extend_from_slice(&stream.0.to_be_bytes());
                    into.extend_from_slice(&position.index.0.to_be_bytes());
                    into.extend_from_slice(&position.sequence.0.to_be_bytes());
                    into.extend_from_slice(&position.chain.0);
                    into.extend_from_slice(&position.term.0.to_be_bytes());
                    into.extend_from_slice(&position.time.unix_ms().to_be_bytes());
                }
                7
            }
            Self::Group(group) => {
                into.extend_from_slice(&group.stream.0.to_be_bytes());
                for number in [group.index.0, group.sequence.0, group.term.0, group.leader.0, group.time.unix_ms()] {
                    into.extend_from_slice(&number.to_be_bytes());
                }
                into.extend_from_slice(&group.predecessor.0);
                into.extend_from_slice(&group.chain.0);
                into.extend_from_slice(group.payload);
                8
            }
            Self::End(totals) => {
                for number in [totals.frames, totals.snapshots, totals.history_records, totals.groups] {
                    into.extend_from_slice(&number.to_be_bytes());
                }
                9
            }
            Self::Failed(why) => {
                into.extend_from_slice(why.as_bytes());
                10
            }
        }
    }

    /// The piece of this kind that `bytes` are; `None` if they are none.
    fn decode(kind: u8, bytes: &'a [u8]) -> Result<Option<Self>, OpenError> {
        let mut reader = Reader(bytes);
        Ok(Some(match (kind, bytes.len()) {
            (1, 0) => Self::Alive,
            (2, 4..) => Self::Begin {
                history_range_seconds: reader.u32(),
                identity: Identity::decode(Path::new("the identity of the backup"), &bytes[4..])?,
            },
            (3, 8) => Self::Plan { bytes: reader.u64() },
            (4, 18) => {
                Self::Snapshot { stream: StreamId(reader.u16()), group_sequence: GroupSequence(reader.u64()), bytes: reader.u64() }
            }
            (5, 1..=ARCHIVE_PIECE_BYTES_MAX) => Self::SnapshotPart(bytes),
            (6, 4..) => return Ok(decode_records(bytes).map(Self::History)),
            (7, 2..) => return Ok(decode_positions(bytes).map(Self::Logs)),
            (8, GROUP_HEAD_BYTES..) => Self::Group(RecoveredGroup {
                stream: StreamId(reader.u16()),
                index: LogIndex(reader.u64()),
                sequence: GroupSequence(reader.u64()),
                term: Term(reader.u64()),
                leader: NodeId(reader.u64()),
                time: Timestamp::from_unix_ms(reader.u64()),
                predecessor: ChainHash(reader.array()),
                chain: ChainHash(reader.array()),
                payload: &bytes[GROUP_HEAD_BYTES..],
            }),
            (9, 32) => Self::End(ArchiveTotals {
                frames: reader.u64(),
                snapshots: reader.u64(),
                history_records: reader.u64(),
                groups: reader.u64(),
            }),
            (10, _) => return Ok(std::str::from_utf8(bytes).ok().map(Self::Failed)),
            _ => return Ok(None),
        }))
    }
}

fn decode_records(bytes: &[u8]) -> Option<Vec<HistoryRecord<'_>>> {
    let (count, mut rest) = bytes.split_at_checked(4)?;
    let count = usize::try_from(Reader(count).u32()).ok().filter(|count| *count <= HISTORY_RECORDS_MAX)?;
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let (head, behind) = rest.split_at_checked(RECORD_HEAD_BYTES - 4)?;
        let mut reader = Reader(head);
        let stock = StockId { partition: Partition(reader.u16()), number: StockNumber(reader.u32()) };
        let key = HistoryKey { stock, sequence: GrantSequence(reader.u64()) };
        let resolved_at = Timestamp::from_unix_ms(reader.u64());
        let (user, behind) = behind.split_at_checked(usize::from(reader.u8()))?;
        let (length, behind) = behind.split_at_checked(4)?;
        let length = usize::try_from(Reader(length).u32()).ok().filter(|length| *length <= HISTORY_VALUE_BYTES_MAX)?;
        let (value, behind) = behind.split_at_checked(length)?;
        records.push(HistoryRecord { key, user: std::str::from_utf8(user).ok()?, resolved_at, value });
        rest = behind;
    }
    rest.is_empty().then_some(records)
}

fn decode_positions(bytes: &[u8]) -> Option<Vec<(StreamId, LogPosition)>> {
    let (count, rest) = bytes.split_at_checked(2)?;
    if rest.len() != usize::from(Reader(count).u16()) * POSITION_BYTES {
        return None;
    }
    let position = |bytes: &[u8]| {
        let mut reader = Reader(bytes);
        let stream = StreamId(reader.u16());
        let position = LogPosition {
            index: LogIndex(reader.u64()),
            sequence: GroupSequence(reader.u64()),
            chain: ChainHash(reader.array()),
            term: Term(reader.u64()),
            time: Timestamp::from_unix_ms(reader.u64()),
        };
        (stream, position)
    };
    Some(rest.chunks_exact(POSITION_BYTES).map(position).collect())
}

fn length_of(count: usize) -> [u8; 4] {
    u32::try_from(count).expect("a piece is far below 4 GiB").to_be_bytes()
}

fn checksum(frame: u64, kind: u8, length: u32, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&frame.to_be_bytes()), &[kind]);
    crc32c::crc32c_append(crc32c::crc32c_append(place, &length.to_be_bytes()), bytes)
}
