//! What a replicated log holds beside plain groups, as records: the entries of consensus, and what a node has promised in it.
//!
//! Consensus gives an entry its term, leader and index; the rest of a record's header follows from what precedes it in the log. So nodes
//! that hold the same entries hold the same bytes, and a log that was written by a node that stood alone is the beginning of a replicated
//! one as it is.
//!
//! A group that does not continue the chain is no damage here: a leader decides ahead of the quorum, and consensus may refuse one of its
//! groups and take the next. It is recorded as set aside, so that the chain of all the groups of a log stays whole and can be checked.
//!
//! ```text
//! payload of a group       as group.rs has it
//! payload of a blank       nothing
//! payload of a membership  opaque here
//! payload of a group that was set aside, whose header is that of a blank
//!   0  8  its group sequence, big-endian like everything here
//!   8 16  its predecessor
//!  24  8  its time, in milliseconds
//!  32     its payload
//!
//! a vote: one part, in the stream of votes; the newest is the one that counts
//!   header   term and leader: those that the vote is for; sequence, predecessor, time: where the log stands with its last purged entry
//!   payload
//!     0  1  0 no vote was cast yet, 1 cast, 2 cast and granted by a quorum
//!     1  8  index of the last purged entry, 0 before the first
//!     9  8  its term
//!    17  8  its leader
//! ```
//!
//! This file knows nothing of how consensus works.

use std::sync::Arc;

use tidegate_stock::Timestamp;

use crate::group::{Group, PayloadError, count_entries};
use crate::record::{ChainHash, GroupSequence, LogIndex, NodeId, Reader, RecordHeader, RecordKind, Term};
use crate::recovery::{LogPosition, RecoveredEntry};

/// Bytes in front of the payload of a group that was set aside.
const SET_ASIDE_BYTES: usize = 32;

/// Bytes of a vote's payload.
const VOTE_BYTES: usize = 25;

/// What consensus made an entry of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryContent {
    /// A group, with the chain hash of the group that it was decided behind.
    Group {
        /// That chain hash.
        predecessor: ChainHash,
        /// The group.
        group: Arc<Group>,
    },
    /// Nothing.
    Blank,
    /// A change of the cluster's members, as whoever knows them writes it.
    Membership(Vec<u8>),
}

/// An entry as consensus has it. Where it stands in the log's chain follows from the entries before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicatedEntry {
    /// Its place in the log.
    pub index: LogIndex,
    /// The term that it was proposed in.
    pub term: Term,
    /// The node that proposed it.
    pub leader: NodeId,
    /// What it holds.
    pub content: EntryContent,
}

impl ReplicatedEntry {
    /// The header of its record in a log that stands at `position`, and what the record's payload has in front of [`Self::payload`].
    pub(crate) fn header(&self, position: &LogPosition) -> (RecordHeader, Vec<u8>) {
        let mut header = RecordHeader {
            kind: RecordKind::Blank,
            term: self.term,
            leader: self.leader,
            sequence: position.sequence,
            predecessor: position.chain,
            time: position.time,
        };
        let mut prefix = Vec::new();
        match &self.content {
            EntryContent::Group { predecessor, group } if position.is_continued_by(*predecessor, group.sequence, group.time) => {
                header = RecordHeader { kind: RecordKind::Group, sequence: group.sequence, time: group.time, ..header };
            }
            EntryContent::Group { predecessor, group } => {
                header.kind = RecordKind::SetAside;
                prefix.extend_from_slice(&group.sequence.0.to_be_bytes());
                prefix.extend_from_slice(&predecessor.0);
                prefix.extend_from_slice(&group.time.unix_ms().to_be_bytes());
            }
            EntryContent::Blank => {}
            EntryContent::Membership(_) => header.kind = RecordKind::Membership,
        }
        (header, prefix)
    }

    /// What it holds, as bytes.
    pub(crate) fn payload(&self) -> &[u8] {
        match &self.content {
            EntryContent::Group { group, .. } => &group.payload,
            EntryContent::Blank => &[],
            EntryContent::Membership(bytes) => bytes,
        }
    }

    /// The entry that was found in a log.
    ///
    /// # Errors
    /// When the payload is none of its kind; it was checked otherwise.
    pub fn read(entry: &RecoveredEntry<'_>) -> Result<Self, PayloadError> {
        let RecordHeader { kind, term, leader, sequence, predecessor, time } = *entry.header;
        let content = match kind {
            RecordKind::Group => EntryContent::group(predecessor, sequence, time, entry.payload)?,
            RecordKind::SetAside => {
                let (predecessor, sequence, time, payload) = split_set_aside(entry.payload).ok_or(PayloadError::Short(0))?;
                EntryContent::group(predecessor, sequence, time, payload)?
            }
            RecordKind::Membership => EntryContent::Membership(entry.payload.to_vec()),
            RecordKind::Blank | RecordKind::Vote => EntryContent::Blank,
        };
        Ok(Self { index: entry.index, term, leader, content })
    }
}

impl EntryContent {
    fn group(predecessor: ChainHash, sequence: GroupSequence, time: Timestamp, payload: &[u8]) -> Result<Self, PayloadError> {
        let group = Group { sequence, time, events: count_entries(payload)?, payload: payload.to_vec() };
        Ok(Self::Group { predecessor, group: Arc::new(group) })
    }
}

/// Predecessor, sequence, time and payload of a group that was set aside.
pub(crate) fn split_set_aside(payload: &[u8]) -> Option<(ChainHash, GroupSequence, Timestamp, &[u8])> {
    let (prefix, payload) = payload.split_at_checked(SET_ASIDE_BYTES)?;
    let mut reader = Reader(prefix);
    let (sequence, predecessor) = (GroupSequence(reader.u64()), ChainHash(reader.array()));
    Some((predecessor, sequence, Timestamp::from_unix_ms(reader.u64()), payload))
}

/// A vote that a node has cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: Term,
    /// The node that it is for.
    pub leader: NodeId,
    /// Whether a quorum is known to have granted it.
    pub is_granted: bool,
}

/// The last entry that consensus has no use for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// The node that proposed it.
    pub leader: NodeId,
    /// Where the log stands with it; the term is its own.
    pub position: LogPosition,
}

/// What a node must never forget in consensus, beside its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promises {
    /// The newest vote that it has cast.
    pub vote: Option<Vote>,
    /// How far its log was purged.
    pub purged: Option<Purged>,
}

impl Promises {
    /// Where the log begins for consensus.
    pub fn base(&self) -> LogPosition {
        self.purged.map_or(LogPosition::GENESIS, |purged| purged.position)
    }

    pub(crate) fn encode(&self) -> (RecordHeader, [u8; VOTE_BYTES]) {
        let Purged { leader, position } = self.purged.unwrap_or(Purged { leader: NodeId(0), position: LogPosition::GENESIS });
        let vote = self.vote.unwrap_or(Vote { term: Term(0), leader: NodeId(0), is_granted: false });
        let header = RecordHeader {
            kind: RecordKind::Vote,
            term: vote.term,
            leader: vote.leader,
            sequence: position.sequence,
            predecessor: position.chain,
            time: position.time,
        };
        let mut payload = [0; VOTE_BYTES];
        payload[0] = self.vote.map_or(0, |vote| 1 + u8::from(vote.is_granted));
        payload[1..9].copy_from_slice(&position.index.0.to_be_bytes());
        payload[9..17].copy_from_slice(&position.term.0.to_be_bytes());
        payload[17..].copy_from_slice(&leader.0.to_be_bytes());
        (header, payload)
    }

    /// What the record of a vote says; `None` when it is none.
    pub(crate) fn decode(header: &RecordHeader, payload: &[u8]) -> Option<Self> {
        if header.kind != RecordKind::Vote || payload.len() != VOTE_BYTES {
            return None;
        }
        let mut reader = Reader(payload);
        let is_granted = match reader.u8() {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            _ => return None,
        };
        let (index, term, leader) = (LogIndex(reader.u64()), Term(reader.u64()), NodeId(reader.u64()));
        let position = LogPosition { index, sequence: header.sequence, chain: header.predecessor, term, time: header.time };
        Some(Self {
            vote: is_granted.map(|is_granted| Vote { term: header.term, leader: header.leader, is_granted }),
            purged: (index > LogIndex(0)).then_some(Purged { leader, position }),
        })
    }
}
