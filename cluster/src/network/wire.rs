//! The bytes of what nodes ask each other and of what they answer: the bodies of frames.
//!
//! An empty body is a sign of life, and its answer is one. Everything else:
//!
//! ```text
//! a question
//!  0  1  kind
//!  1  2  shard, at most 0x7fff, big-endian like everything here
//!  3     1 append: vote, maybe the entry in front, maybe the last entry committed, 4 number of entries, each:
//!            4 length, then the value that the log would keep of it: see below
//!        2 vote, 3 vote that is not cast: vote, maybe the last entry, 1 whether the leader gives up for it (0 no, 1 yes)
//!        4 transfer of leadership: vote of who leads, 8 who is to lead, maybe the last entry
//!        5 begin of a snapshot: 8 transfer, vote, maybe the last entry, maybe the entry of the members, 4 length, members as members.rs
//!            has them, then where the chain stands: 8 index, 8 group sequence, 16 chain hash, 8 term, 8 time
//!        6 bytes of a snapshot: 8 transfer, 8 how many went before, then the bytes, up to the end
//!        7 end of a snapshot: 8 transfer, 8 how many bytes there were, 32 blake3 of them
//!        8 a snapshot that is given up: 8 transfer
//!
//! an answer
//!  0  1  the question's kind with the highest bit set, or 255
//!  1     129 append: 0 all taken; 1 taken up to what follows: maybe an entry; 2 the entry in front is another; 3 a higher vote follows
//!        130, 131 votes: vote, 1 whether it is granted (0 no, 1 yes), maybe the last entry
//!        132 transfer of leadership: 0 taken; 1 the vote is another: the two votes; 2 the log is not that far: maybe two entries
//!        133, 134, 136 parts of a snapshot: nothing
//!        135 end of a snapshot: vote
//!        255 failure: 1 why (1 no such shard, 2 the shard has stopped, 3 cannot be read, 4 the snapshot failed), then what is to be said,
//!            in UTF-8, up to the end
//!
//! an entry's identity: 8 term, 8 node, 8 index as openraft counts, from 0
//! maybe an entry:      0 none; 1 and its identity
//! a vote:              8 term, 8 node, 1 whether a quorum has granted it (0 no, 1 yes)
//! ```
//!
//! **An entry** travels as the value that a log of this shard keeps at its index, in one part (`persistence/src/record.rs`), so there is one
//! encoding of it and one checksum, over the shard and the index too. What of a value follows from the entries before it is
//! left out as zeros: a group names its own sequence, predecessor and time, other entries have none. What a group's events mean is checked
//! where they are applied. Entries follow each other without a gap behind the entry in front, which is why none names its index.
//!
//! A body is at most a frame's. No number that is announced is believed: nothing is set aside for bytes that are not there yet. What cannot be
//! read is an error, and nothing of it counts. What openraft takes for impossible, and might panic at, is refused here as far as the message
//! itself shows it.

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use tidegate_persistence::record::{RecordError, decode_value, encode_value};
use tidegate_persistence::{
    ChainHash, GroupSequence, LogIndex, LogPosition, NodeId, PayloadError, RecordHeader, RecordKey, RecordKind, RecoveredEntry,
    ReplicatedEntry, StreamId, Term,
};
use tidegate_stock::Timestamp;

use crate::members::{MembersError, decode_membership, encode_membership};
use crate::transport::FRAME_BYTES_MAX;
use crate::types::{
    Entry, LeaderId, LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id, log_index, to_entry,
};

/// Longest text of a failure in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Highest number of a shard.
const SHARD_MAX: u16 = 0x7fff;

const ANSWER: u8 = 0x80;
const FAILURE: u8 = 0xff;

/// Why something cannot be written, or bytes are nothing that a node says.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The bytes end too early.
    #[error("the message ends early")]
    Short,
    /// Bytes are left behind the end.
    #[error("{0} bytes are left behind the end of the message")]
    Trailing(usize),
    /// Nothing has this kind.
    #[error("kind {0} of message is unknown here")]
    Kind(u8),
    /// A value out of a few is none of them.
    #[error("{0} is none of the values that are possible there")]
    Value(u8),
    /// No shard has this number.
    #[error("{0} is no shard's number")]
    Shard(u16),
    /// An entry is no value of a log.
    #[error("entry {index}: {source}")]
    Record {
        /// Its index in the log.
        index: LogIndex,
        /// Why.
        source: RecordError,
    },
    /// An entry holds no payload of its kind.
    #[error("entry {index}: {source}")]
    Payload {
        /// Its index in the log.
        index: LogIndex,
        /// Why.
        source: PayloadError,
    },
    /// An entry is what none that travels can be.
    #[error("entry {0} is of a kind, or says something, that no entry between nodes does")]
    Entry(LogIndex),
    /// Members cannot be written or read.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// Parts contradict each other.
    #[error("the message contradicts itself: {0}")]
    Contradiction(&'static str),
    /// It does not go into a frame.
    #[error("a message of {0} bytes where {FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
}

/// A question of another node.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) shard: u16,
    pub(crate) asked: Asked,
}

/// What is asked.
#[derive(Debug)]
pub(crate) enum Asked {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    SnapshotBegin(u64, Box<SnapshotHead>),
    SnapshotBytes { transfer: u64, offset: u64, bytes: Vec<u8> },
    SnapshotEnd { transfer: u64, length: u64, digest: [u8; 32] },
    SnapshotGivenUp { transfer: u64 },
}

/// What goes in front of a snapshot's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) position: LogPosition,
}

/// An answer to one.
#[derive(Debug)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    PreVote(VoteResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    SnapshotBegin,
    SnapshotBytes,
    SnapshotEnd(Vote),
    SnapshotGivenUp,
    Failure(Failure, String),
}

/// Why there is no better answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    NoShard,
    Stopped,
    Unreadable,
    Snapshot,
}

impl Failure {
    const ALL: [Self; 4] = [Self::NoShard, Self::Stopped, Self::Unreadable, Self::Snapshot];

    const fn code(self) -> u8 {
        match self {
            Self::NoShard => 1,
            Self::Stopped => 2,
            Self::Unreadable => 3,
            Self::Snapshot => 4,
        }
    }
}

/// The bytes of an append, and how many of its entries are in them: as many as go into a frame, and one at least.
pub(crate) fn encode_append(shard: u16, request: &AppendEntriesRequest<TypeConfig>) -> Result<(Vec<u8>, usize), WireError> {
    let mut bytes = begin(1, shard);
    put_vote(&mut bytes, &request.vote);
    put_maybe(&mut bytes, request.prev_log_id);
    put_maybe(&mut bytes, request.leader_commit);
    let count_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let (mut count, mut value) = (0_u32, Vec::new());
    for (entry, index) in request.entries.iter().zip(first_behind(request.prev_log_id)..) {
        if entry.index() != index {
            return Err(WireError::Contradiction("entries do not follow each other"));
        }
        encode_entry(shard, entry, &mut value)?;
        if bytes.len() + 4 + value.len() > FRAME_BYTES_MAX {
            if count == 0 {
                return Err(WireError::TooLong(bytes.len() + 4 + value.len()));
            }
            break;
        }
        put_length(&mut bytes, value.len())?;
        bytes.extend_from_slice(&value);
        count += 1;
    }
    bytes[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
    Ok((bytes, count as usize))
}

/// The bytes of a question.
pub(crate) fn encode_question(question: &Question) -> Result<Vec<u8>, WireError> {
    let shard = question.shard;
    match &question.asked {
        Asked::Append(request) => match encode_append(shard, request)? {
            (bytes, count) if count == request.entries.len() => Ok(bytes),
            (bytes, _) => Err(WireError::TooLong(bytes.len())),
        },
        Asked::Vote(request) => Ok(encode_vote(2, shard, request)),
        Asked::PreVote(request) => Ok(encode_vote(3, shard, request)),
        Asked::TransferLeader(request) => {
            let mut bytes = begin(4, shard);
            put_vote(&mut bytes, request.from_leader());
            bytes.extend_from_slice(&request.to_node_id().0.to_be_bytes());
            put_maybe(&mut bytes, request.last_log_id().copied());
            Ok(bytes)
        }
        Asked::SnapshotBegin(transfer, head) => {
            let SnapshotHead { vote, meta, position } = &**head;
            let mut bytes = begin(5, shard);
            bytes.extend_from_slice(&transfer.to_be_bytes());
            put_vote(&mut bytes, vote);
            put_maybe(&mut bytes, meta.last_log_id);
            put_maybe(&mut bytes, *meta.last_membership.log_id());
            let members = encode_membership(meta.last_membership.membership())?;
            put_length(&mut bytes, members.len())?;
            bytes.extend_from_slice(&members);
            bytes.extend_from_slice(&position.index.0.to_be_bytes());
            bytes.extend_from_slice(&position.sequence.0.to_be_bytes());
            bytes.extend_from_slice(&position.chain.0);
            bytes.extend_from_slice(&position.term.0.to_be_bytes());
            bytes.extend_from_slice(&position.time.unix_ms().to_be_bytes());
            Ok(bytes)
        }
        Asked::SnapshotBytes { transfer, offset, bytes: part } => {
            let mut bytes = begin(6, shard);
            bytes.extend_from_slice(&transfer.to_be_bytes());
            bytes.extend_from_slice(&offset.to_be_bytes());
            bytes.extend_from_slice(part);
            Ok(bytes)
        }
        Asked::SnapshotEnd { transfer, length, digest } => {
            let mut bytes = begin(7, shard);
            bytes.extend_from_slice(&transfer.to_be_bytes());
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(digest);
            Ok(bytes)
        }
        Asked::SnapshotGivenUp { transfer } => {
            let mut bytes = begin(8, shard);
            bytes.extend_from_slice(&transfer.to_be_bytes());
            Ok(bytes)
        }
    }
}

/// The question that `body` is.
pub(crate) fn decode_question(body: &[u8]) -> Result<Question, WireError> {
    let mut rest = Rest(body);
    let (kind, shard) = (rest.u8()?, rest.u16()?);
    if shard > SHARD_MAX {
        return Err(WireError::Shard(shard));
    }
    let asked = match kind {
        1 => Asked::Append(decode_append(shard, &mut rest)?),
        2 => Asked::Vote(decode_vote(&mut rest)?),
        3 => Asked::PreVote(decode_vote(&mut rest)?),
        4 => {
            let (from, to) = (rest.vote()?, NodeId(rest.u64()?));
            Asked::TransferLeader(TransferLeaderRequest::new(from, to, rest.maybe()?))
        }
        5 => Asked::SnapshotBegin(rest.u64()?, Box::new(decode_snapshot_head(&mut rest)?)),
        6 => {
            let (transfer, offset) = (rest.u64()?, rest.u64()?);
            Asked::SnapshotBytes { transfer, offset, bytes: rest.all().to_vec() }
        }
        7 => Asked::SnapshotEnd { transfer: rest.u64()?, length: rest.u64()?, digest: rest.array()? },
        8 => Asked::SnapshotGivenUp { transfer: rest.u64()? },
        kind => return Err(WireError::Kind(kind)),
    };
    rest.end()?;
    Ok(Question { shard, asked })
}

/// The bytes of an answer.
pub(crate) fn encode_answer(answer: &Answer) -> Vec<u8> {
    let mut bytes = Vec::new();
    match answer {
        Answer::Append(response) => {
            bytes.push(ANSWER | 1);
            match response {
                AppendEntriesResponse::Success => bytes.push(0),
                AppendEntriesResponse::PartialSuccess(last) => {
                    bytes.push(1);
                    put_maybe(&mut bytes, *last);
                }
                AppendEntriesResponse::Conflict => bytes.push(2),
                AppendEntriesResponse::HigherVote(vote) => {
                    bytes.push(3);
                    put_vote(&mut bytes, vote);
                }
            }
        }
        Answer::Vote(response) | Answer::PreVote(response) => {
            bytes.push(ANSWER | if matches!(answer, Answer::Vote(_)) { 2 } else { 3 });
            put_vote(&mut bytes, &response.vote);
            bytes.push(u8::from(response.vote_granted));
            put_maybe(&mut bytes, response.last_log_id);
        }
        Answer::TransferLeader(response) => {
            bytes.push(ANSWER | 4);
            match response {
                Ok(()) => bytes.push(0),
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    bytes.push(1);
                    put_vote(&mut bytes, expected);
                    put_vote(&mut bytes, actual);
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                    bytes.push(2);
                    put_maybe(&mut bytes, *expected);
                    put_maybe(&mut bytes, *actual);
                }
            }
        }
        Answer::SnapshotBegin => bytes.push(ANSWER | 5),
        Answer::SnapshotBytes => bytes.push(ANSWER | 6),
        Answer::SnapshotEnd(vote) => {
            bytes.push(ANSWER | 7);
            put_vote(&mut bytes, vote);
        }
        Answer::SnapshotGivenUp => bytes.push(ANSWER | 8),
        Answer::Failure(failure, text) => {
            bytes.extend_from_slice(&[FAILURE, failure.code()]);
            bytes.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES_MAX)]);
        }
    }
    bytes
}

/// The answer that `body` is.
pub(crate) fn decode_answer(body: &[u8]) -> Result<Answer, WireError> {
    let mut rest = Rest(body);
    let answer = match rest.u8()? {
        0x81 => Answer::Append(match rest.u8()? {
            0 => AppendEntriesResponse::Success,
            1 => AppendEntriesResponse::PartialSuccess(rest.maybe()?),
            2 => AppendEntriesResponse::Conflict,
            3 => AppendEntriesResponse::HigherVote(rest.vote()?),
            value => return Err(WireError::Value(value)),
        }),
        0x82 => Answer::Vote(decode_vote_response(&mut rest)?),
        0x83 => Answer::PreVote(decode_vote_response(&mut rest)?),
        0x84 => Answer::TransferLeader(match rest.u8()? {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged { expected: rest.vote()?, actual: rest.vote()? }),
            2 => Err(TransferLeaderError::LogNotFlushed { expected: rest.maybe()?, actual: rest.maybe()? }),
            value => return Err(WireError::Value(value)),
        }),
        0x85 => Answer::SnapshotBegin,
        0x86 => Answer::SnapshotBytes,
        0x87 => Answer::SnapshotEnd(rest.vote()?),
        0x88 => Answer::SnapshotGivenUp,
        FAILURE => {
            let code = rest.u8()?;
            let failure = Failure::ALL.into_iter().find(|failure| failure.code() == code).ok_or(WireError::Value(code))?;
            let text = rest.all();
            if text.len() > TEXT_BYTES_MAX {
                return Err(WireError::Trailing(text.len() - TEXT_BYTES_MAX));
            }
            Answer::Failure(failure, String::from_utf8_lossy(text).into_owned())
        }
        kind => return Err(WireError::Kind(kind)),
    };
    rest.end()?;
    Ok(answer)
}

fn begin(kind: u8, shard: u16) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&shard.to_be_bytes());
    bytes
}

fn put_length(bytes: &mut Vec<u8>, length: usize) -> Result<(), WireError> {
    let length = u32::try_from(length).map_err(|_| WireError::TooLong(length))?;
    bytes.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

fn put_log_id(bytes: &mut Vec<u8>, id: LogId) {
    bytes.extend_from_slice(&id.leader_id.term.to_be_bytes());
    bytes.extend_from_slice(&id.leader_id.node_id.0.to_be_bytes());
    bytes.extend_from_slice(&id.index.to_be_bytes());
}

fn put_maybe(bytes: &mut Vec<u8>, id: Option<LogId>) {
    bytes.push(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(bytes, id);
    }
}

fn put_vote(bytes: &mut Vec<u8>, vote: &Vote) {
    bytes.extend_from_slice(&vote.leader_id.term.to_be_bytes());
    bytes.extend_from_slice(&vote.leader_id.node_id.0.to_be_bytes());
    bytes.push(u8::from(vote.committed));
}

fn encode_vote(kind: u8, shard: u16, request: &VoteRequest<TypeConfig>) -> Vec<u8> {
    let mut bytes = begin(kind, shard);
    put_vote(&mut bytes, &request.vote);
    put_maybe(&mut bytes, request.last_log_id);
    bytes.push(u8::from(request.leadership_transfer));
    bytes
}

/// The index of the first entry behind `last`, as openraft counts.
fn first_behind(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index.saturating_add(1))
}

fn key_of(shard: u16, index: LogIndex) -> RecordKey {
    RecordKey { stream: StreamId::log(shard & SHARD_MAX), index, part: 0 }
}

/// Replaces `value` by that of `entry`.
fn encode_entry(shard: u16, entry: &Entry, value: &mut Vec<u8>) -> Result<(), WireError> {
    let index = log_index(entry.log_id.index);
    let LeaderId { term, node_id: leader } = entry.log_id.leader_id;
    let mut header = RecordHeader {
        kind: RecordKind::Blank,
        term: Term(term),
        leader,
        sequence: GroupSequence(0),
        predecessor: ChainHash::GENESIS,
        time: Timestamp::from_unix_ms(0),
    };
    let members;
    let payload = match &entry.payload {
        EntryPayload::Blank => &[],
        EntryPayload::Normal(Proposal { predecessor, group }) => {
            let (kind, predecessor) = (RecordKind::Group, *predecessor);
            header = RecordHeader { kind, sequence: group.sequence, predecessor, time: group.time, ..header };
            &group.payload[..]
        }
        EntryPayload::Membership(membership) => {
            header.kind = RecordKind::Membership;
            members = encode_membership(membership)?;
            &members
        }
    };
    encode_value(key_of(shard, index), &header, true, payload, value);
    Ok(())
}

/// The entry that `value` is at openraft's index `index`.
fn decode_entry(shard: u16, index: u64, value: &[u8]) -> Result<Entry, WireError> {
    let key = key_of(shard, log_index(index));
    let index = key.index;
    let (header, is_last_part, payload) = decode_value(key, value).map_err(|source| WireError::Record { index, source })?;
    let is_bare = header.sequence == GroupSequence(0)
        && header.predecessor == ChainHash::GENESIS
        && header.time == Timestamp::from_unix_ms(0);
    let is_possible = match header.kind {
        RecordKind::Group => true,
        RecordKind::Blank => is_bare && payload.is_empty(),
        RecordKind::Membership => is_bare,
        RecordKind::SetAside | RecordKind::Vote => false,
    };
    if !is_last_part || !is_possible {
        return Err(WireError::Entry(index));
    }
    if header.kind == RecordKind::Membership {
        let members = EntryPayload::Membership(decode_membership(payload)?);
        return Ok(Entry::new(log_id(header.term, header.leader, index), members));
    }
    let found = RecoveredEntry { stream: key.stream, index, header: &header, chain: header.predecessor, payload };
    let record = ReplicatedEntry::read(&found).map_err(|source| WireError::Payload { index, source })?;
    to_entry(record).map_err(|_| WireError::Entry(index))
}

fn decode_append(shard: u16, rest: &mut Rest<'_>) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let (vote, prev_log_id, leader_commit) = (rest.granted_vote()?, rest.maybe()?, rest.maybe()?);
    let count = rest.u32()?;
    let first = first_behind(prev_log_id);
    // So that no index is beyond what the log can number.
    if first > u64::MAX - u64::from(count) - 1 {
        return Err(WireError::Contradiction("an index is too large"));
    }
    let mut entries = Vec::new();
    let mut leader = prev_log_id.map(|last| last.leader_id);
    for index in first..first + u64::from(count) {
        let length = rest.u32()? as usize;
        let entry = decode_entry(shard, index, rest.slice(length)?)?;
        let by = entry.log_id.leader_id;
        if Some(by) < leader || by > vote.leader_id {
            return Err(WireError::Contradiction("an entry's leader is not of its time"));
        }
        leader = Some(by);
        entries.push(entry);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn decode_vote(rest: &mut Rest<'_>) -> Result<VoteRequest<TypeConfig>, WireError> {
    let (vote, last_log_id) = (rest.vote()?, rest.maybe()?);
    let mut request = VoteRequest::new(vote, last_log_id);
    request.leadership_transfer = rest.flag()?;
    Ok(request)
}

fn decode_vote_response(rest: &mut Rest<'_>) -> Result<VoteResponse<TypeConfig>, WireError> {
    let (vote, is_granted) = (rest.vote()?, rest.flag()?);
    Ok(VoteResponse::new(vote, rest.maybe()?, is_granted))
}

fn decode_snapshot_head(rest: &mut Rest<'_>) -> Result<SnapshotHead, WireError> {
    let (vote, last_log_id, members_id) = (rest.granted_vote()?, rest.maybe()?, rest.maybe()?);
    let length = rest.u32()? as usize;
    let members = decode_membership(rest.slice(length)?)?;
    let position = LogPosition {
        index: LogIndex(rest.u64()?),
        sequence: GroupSequence(rest.u64()?),
        chain: ChainHash(rest.array()?),
        term: Term(rest.u64()?),
        time: Timestamp::from_unix_ms(rest.u64()?),
    };
    let Some(last) = last_log_id else {
        return Err(WireError::Contradiction("a snapshot of nothing"));
    };
    if last.index.checked_add(1) != Some(position.index.0) || last.leader_id.term != position.term.0 {
        return Err(WireError::Contradiction("a snapshot's last entry is not where its chain stands"));
    }
    if last.leader_id > vote.leader_id {
        return Err(WireError::Contradiction("a snapshot is of a later leader than the one that sends it"));
    }
    if members_id > last_log_id {
        return Err(WireError::Contradiction("a snapshot's members are of an entry that it does not have"));
    }
    let meta = SnapshotMeta { last_log_id, last_membership: StoredMembership::new(members_id, members) };
    Ok(SnapshotHead { vote, meta, position })
}

/// What was not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, behind) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = behind;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Value(value)),
        }
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, behind) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = behind;
        Ok(taken)
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn leader(&mut self) -> Result<LeaderId, WireError> {
        Ok(LeaderId { term: self.u64()?, node_id: NodeId(self.u64()?) })
    }

    fn maybe(&mut self) -> Result<Option<LogId>, WireError> {
        if !self.flag()? {
            return Ok(None);
        }
        Ok(Some(LogId { leader_id: self.leader()?, index: self.u64()? }))
    }

    fn vote(&mut self) -> Result<Vote, WireError> {
        Ok(Vote { leader_id: self.leader()?, committed: self.flag()? })
    }

    /// The vote of somebody who leads.
    fn granted_vote(&mut self) -> Result<Vote, WireError> {
        let vote = self.vote()?;
        if vote.committed { Ok(vote) } else { Err(WireError::Contradiction("who has no quorum leads nobody")) }
    }

    fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
