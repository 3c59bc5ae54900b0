//! What a member of a cluster has, told as if its node alone had decided it: for a copy that is to stand by itself.
//!
//! A node that stands alone has a log of groups and nothing else, each decided by itself. So of a member's log only the groups count, one entry
//! each, at the index that is their sequence; their events stay as they are. A snapshot says of consensus nothing.

use std::fs::File;
use std::path::Path;

use crate::identity::Identity;
use crate::record::{GroupSequence, LogIndex, NodeId, RecordHeader, RecordKind, StreamId};
use crate::recovery::{LogPosition, RecoveredGroup};
use crate::snapshot::{SnapshotError, SnapshotExpectation, SnapshotHeader, SnapshotReader, Transcript};
use crate::wal_thread::TERM_ALONE;

/// The groups of one stream, told as those of a node alone.
#[derive(Debug)]
pub struct GroupsAlone {
    node: NodeId,
    tail: LogPosition,
}

impl GroupsAlone {
    /// Groups of `node`, behind that of `position` in the log that they are of.
    pub const fn behind(node: NodeId, position: LogPosition) -> Self {
        Self { node, tail: alone(position) }
    }

    /// The next group.
    pub fn tell<'a>(&mut self, group: &RecoveredGroup<'a>) -> RecoveredGroup<'a> {
        let predecessor = self.tail.chain;
        let header = RecordHeader {
            kind: RecordKind::Group,
            term: TERM_ALONE,
            leader: self.node,
            sequence: group.sequence,
            predecessor,
            time: group.time,
        };
        let told = RecoveredGroup {
            stream: group.stream,
            index: LogIndex(group.sequence.0),
            sequence: group.sequence,
            term: TERM_ALONE,
            leader: self.node,
            time: group.time,
            predecessor,
            chain: header.chain(group.payload),
            payload: group.payload,
        };
        self.tail = told.position();
        told
    }

    /// Where the stream stands behind what was told.
    pub const fn tail(&self) -> LogPosition {
        self.tail
    }
}

/// `position` as it is in a log that has nothing but groups.
const fn alone(position: LogPosition) -> LogPosition {
    LogPosition { index: LogIndex(position.sequence.0), term: TERM_ALONE, ..position }
}

/// A member's snapshot, told as that of a node alone.
#[derive(Debug)]
pub struct SnapshotAlone {
    reader: SnapshotReader,
    bytes: u64,
}

impl SnapshotAlone {
    /// Opens the snapshot of `stream` at `path`, of the directory that `identity` names. It can be read to its end from then on, whoever removes
    /// it.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what it should be.
    pub fn open(path: &Path, identity: &Identity, stream: StreamId) -> Result<Self, SnapshotError> {
        let reader = SnapshotReader::open(path, &SnapshotExpectation::new(identity, stream))?;
        let length = File::open(path).and_then(|file| file.metadata()).map_err(|source| SnapshotError::io(path, source))?.len();
        Ok(Self { reader, bytes: length })
    }

    /// Up to which group it is.
    pub const fn group_sequence(&self) -> GroupSequence {
        self.reader.header().position.sequence
    }

    /// Where it stands, in the log that it was made of.
    pub const fn position(&self) -> LogPosition {
        self.reader.header().position
    }

    /// Length of what [`Self::tell`] gives.
    pub fn bytes(&self) -> u64 {
        let header = self.reader.header();
        self.bytes - header.length() + self.header(header.position).length()
    }

    fn header(&self, position: LogPosition) -> SnapshotHeader {
        SnapshotHeader { position: alone(position), consensus: None, ..self.reader.header().clone() }
    }

    /// Gives its bytes, piece by piece, as those of a snapshot that stands at `position`, which is of the same group.
    ///
    /// # Errors
    /// When the file is damaged, and what `into` says. What was given until then is worth nothing.
    pub fn tell<E: From<SnapshotError>>(
        mut self,
        position: LogPosition,
        mut into: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let header = self.header(position);
        let mut transcript = Transcript::default();
        into(&transcript.header(&header))?;
        while let Some(block) = self.reader.block()? {
            let head = transcript.block_head(block);
            into(&head)?;
            into(block)?;
        }
        into(&transcript.footer(self.reader.records().unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tidegate_stock::Timestamp;

    use super::*;
    use crate::identity::IdentityExpectation;
    use crate::record::{ChainHash, Term};
    use crate::snapshot::{SnapshotConsensus, SnapshotWriter};

    const STREAM: StreamId = StreamId::log(0);

    fn position(index: u64, sequence: u64) -> LogPosition {
        LogPosition {
            index: LogIndex(index),
            sequence: GroupSequence(sequence),
            chain: ChainHash([7; 16]),
            term: Term(9),
            time: Timestamp::from_unix_ms(5),
        }
    }

    fn identity() -> Identity {
        let expectation = IdentityExpectation { cluster: Some("shop".to_owned()), node: Some(NodeId(3)), shards: Some(1) };
        Identity::generate(&expectation, Timestamp::from_unix_ms(0)).unwrap()
    }

    #[test]
    fn groups_of_many_leaders_are_told_as_a_chain_of_one_node() {
        let mut groups = GroupsAlone::behind(NodeId(3), position(40, 10));
        let mut before = LogPosition { index: LogIndex(10), term: TERM_ALONE, ..position(40, 10) };
        assert_eq!(groups.tail(), before);
        // With a blank entry between them.
        for (index, sequence, leader) in [(41, 11, 1), (43, 12, 2)] {
            let group = RecoveredGroup {
                stream: STREAM,
                index: LogIndex(index),
                sequence: GroupSequence(sequence),
                term: Term(leader + 20),
                leader: NodeId(leader),
                time: Timestamp::from_unix_ms(index),
                predecessor: ChainHash([1; 16]),
                chain: ChainHash([2; 16]),
                payload: b"events",
            };
            let told = groups.tell(&group);
            let header = RecordHeader {
                kind: RecordKind::Group,
                term: TERM_ALONE,
                leader: NodeId(3),
                sequence: group.sequence,
                predecessor: before.chain,
                time: group.time,
            };
            assert_eq!((told.predecessor, told.chain), (before.chain, header.chain(b"events")));
            assert_eq!((told.index, told.sequence, told.time), (LogIndex(sequence), group.sequence, group.time));
            assert_eq!((told.term, told.leader, told.payload), (TERM_ALONE, NodeId(3), group.payload));
            before = told.position();
            assert_eq!(groups.tail(), before);
        }
    }

    #[test]
    fn a_members_snapshot_is_told_byte_for_byte_as_a_node_alone_would_have_written_it() {
        let (member, alone_root) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let identity = identity();
        let consensus = SnapshotConsensus { leader: NodeId(2), members: vec![1; 100] };
        let at = position(40, 10);
        let headers = [
            (member.path(), SnapshotHeader { consensus: Some(consensus), ..SnapshotHeader::new(&identity, STREAM, at) }),
            (alone_root.path(), SnapshotHeader::new(&identity, STREAM, alone(at))),
        ];
        let [path, expected] = headers.map(|(root, header)| {
            let mut writer = SnapshotWriter::create(root, &header, u64::MAX).unwrap();
            writer.block(b"the first", 3).unwrap();
            writer.block(b"the second", 4).unwrap();
            writer.finish().unwrap().path
        });
        let expected = std::fs::read(expected).unwrap();
        let snapshot = SnapshotAlone::open(&path, &identity, STREAM).unwrap();
        assert_eq!((snapshot.group_sequence(), snapshot.position()), (GroupSequence(10), at));
        assert_eq!(snapshot.bytes(), expected.len() as u64);
        let mut told = Vec::new();
        snapshot
            .tell(at, |part| {
                told.extend_from_slice(part);
                Ok::<_, SnapshotError>(())
            })
            .unwrap();
        assert_eq!(told, expected);

        // One that is damaged is not told to its end.
        let mut bytes = std::fs::read(&path).unwrap();
        let last_of_blocks = bytes.len() - 57;
        bytes[last_of_blocks] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let snapshot = SnapshotAlone::open(&path, &identity, STREAM).unwrap();
        let told = snapshot.tell(at, |_| Ok::<_, SnapshotError>(()));
        assert!(matches!(told, Err(SnapshotError::Damaged { .. })), "{told:?}");
    }
}
