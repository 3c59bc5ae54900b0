//! The container of a snapshot: what was written is read, and nothing else is ever taken for it.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tidegate_persistence::{
    ChainHash, GroupSequence, LogIndex, LogPosition, NodeId, SNAPSHOT_MEMBERS_BYTES_MAX, SnapshotConsensus, SnapshotError,
    SnapshotExpectation, SnapshotHeader, SnapshotInfo, SnapshotReader, SnapshotWriter, StreamId, Term, remove_older,
    remove_unfinished, set_aside, snapshot_path, snapshots,
};
use tidegate_stock::Timestamp;

const STREAM: StreamId = StreamId::log(3);
const EXPECTATION: SnapshotExpectation<'static> =
    SnapshotExpectation { cluster: "shop", shards: 4, partition_hash: "some-hash", stream: STREAM };
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

fn header(stream: StreamId, group_sequence: u64) -> SnapshotHeader {
    SnapshotHeader {
        cluster: "shop".to_owned(),
        shards: 4,
        partition_hash: "some-hash".to_owned(),
        stream,
        position: LogPosition {
            index: LogIndex(group_sequence + 2),
            sequence: GroupSequence(group_sequence),
            chain: ChainHash([7; 16]),
            term: Term(9),
            time: Timestamp::from_unix_ms(1_800_000_000_123),
        },
        consensus: None,
    }
}

/// The same of a member of a cluster.
fn replicated(group_sequence: u64) -> SnapshotHeader {
    let consensus = SnapshotConsensus { leader: NodeId(0x0102), members: b"who they are".to_vec() };
    SnapshotHeader { consensus: Some(consensus), ..header(STREAM, group_sequence) }
}

fn write(directory: &Path, header: &SnapshotHeader, blocks: &[&[u8]]) -> SnapshotInfo {
    let mut writer = SnapshotWriter::create(directory, header, u64::MAX).unwrap();
    for block in blocks {
        writer.block(block, 2).unwrap();
    }
    writer.finish().unwrap()
}

/// Header, blocks and number of records of a snapshot that is whole.
fn read(path: &Path) -> Result<(SnapshotHeader, Vec<Vec<u8>>, u64), SnapshotError> {
    let mut reader = SnapshotReader::open(path, &EXPECTATION)?;
    let mut blocks = Vec::new();
    assert_eq!(reader.records(), None);
    while let Some(block) = reader.block()? {
        blocks.push(block.to_vec());
    }
    assert!(reader.block()?.is_none(), "the end stays the end");
    Ok((reader.header().clone(), blocks, reader.records().expect("the end was reached")))
}

#[test]
fn many_blocks_come_back_as_they_were_written() {
    let directory = TempDir::new().unwrap();
    let blocks: Vec<Vec<u8>> =
        (0..300_usize).map(|n| (0..=n * 37).map(|at| u8::try_from((at * 7 + n) % 251).unwrap()).collect()).collect();
    let largest = vec![0xa5; BLOCK_BYTES_MAX];
    let mut all: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    all.push(&largest);
    let written = write(directory.path(), &header(STREAM, 12), &all);
    assert_eq!(written.path, directory.path().join("snapshots/00003-00000000000000000012.snapshot"));
    assert_eq!(snapshot_path(directory.path(), STREAM, GroupSequence(12)), written.path);
    assert_eq!(written.bytes, fs::metadata(&written.path).unwrap().len());
    let (found, read, records) = read(&written.path).unwrap();
    assert_eq!((found, records), (header(STREAM, 12), 602));
    assert_eq!(read, all);
}

#[test]
fn an_empty_snapshot_is_a_snapshot() {
    let directory = TempDir::new().unwrap();
    let written = write(directory.path(), &header(STREAM, 0), &[]);
    assert_eq!(read(&written.path).unwrap(), (header(STREAM, 0), vec![], 0));
}

#[test]
fn bytes_written_is_the_length_up_to_the_footer() {
    let directory = TempDir::new().unwrap();
    let mut writer = SnapshotWriter::create(directory.path(), &header(STREAM, 1), u64::MAX).unwrap();
    let begun = writer.bytes_written();
    writer.block(&[1; 100], 1).unwrap();
    assert_eq!(writer.bytes_written(), begun + 108);
    let ended = writer.bytes_written();
    assert_eq!(writer.finish().unwrap().bytes, ended + 56);
}

#[test]
fn every_flipped_bit_is_noticed() {
    for header in [header(STREAM, 5), replicated(5)] {
        flip_every_bit(&header);
    }
}

fn flip_every_bit(header: &SnapshotHeader) {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), header, &[b"first block", &[0; 60], b"x"]).path;
    let good = fs::read(&path).unwrap();
    assert!((200..400).contains(&good.len()), "{}", good.len());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        let error = read(&path).unwrap_err();
        let is_named = match &error {
            SnapshotError::Damaged { offset, .. } => *offset <= (bit / 8) as u64,
            SnapshotError::Mismatch { field, .. } => *field == "format" && (6..8).contains(&(bit / 8)),
            SnapshotError::Io { .. } => false,
        };
        assert!(is_named, "bit {bit} gave: {error}");
    }
    fs::write(&path, &good).unwrap();
    read(&path).unwrap();
}

#[test]
fn every_truncation_and_every_longer_file_is_noticed() {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), &header(STREAM, 5), &[b"first block", b"second"]).path;
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { offset, .. } if offset <= length as u64), "{length} bytes gave: {error}");
    }
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.ends_with(&format!("is damaged at byte {}: bytes follow its end", good.len())), "{error}");
}

#[test]
fn blocks_that_are_exchanged_or_left_out_are_noticed() {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), &header(STREAM, 5), &[b"aaaa", b"bbbb"]).path;
    let good = fs::read(&path).unwrap();
    let blocks_at = good.len() - 56 - 24;
    let (head, rest) = good.split_at(blocks_at);
    let (first, rest) = rest.split_at(12);
    let (second, footer) = rest.split_at(12);
    let exchanged = [head, second, first, footer].concat();
    let left_out = [head, first, footer].concat();
    for (bad, what) in [(exchanged, "the checksum of block 0"), (left_out, "it counts 2 blocks, and there are 1")] {
        fs::write(&path, bad).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_snapshot_of_something_else_is_refused_naming_the_field() {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), &header(STREAM, 5), &[b"block"]).path;
    let cases = [
        (SnapshotExpectation { cluster: "other", ..EXPECTATION }, "cluster shop where other"),
        (SnapshotExpectation { shards: 8, ..EXPECTATION }, "shard_count 4 where 8"),
        (SnapshotExpectation { partition_hash: "new-hash", ..EXPECTATION }, "partition_hash some-hash where new-hash"),
        (SnapshotExpectation { stream: StreamId::log(2), ..EXPECTATION }, "stream 3 where 2"),
    ];
    for (expectation, what) in cases {
        let error = SnapshotReader::open(&path, &expectation).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has {what} was expected")), "{error}");
    }
    let mut newer = fs::read(&path).unwrap();
    newer[7] = 3;
    fs::write(&path, newer).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.ends_with("has format 3 where 1 to 2 was expected"), "{error}");
}

/// What layout 1 has between its length and its checksum for [`header`] of group 5, byte by byte.
fn fields() -> Vec<u8> {
    let numbers = [
        &[0, 3][..],
        &7_u64.to_be_bytes(),
        &5_u64.to_be_bytes(),
        &[7; 16],
        &9_u64.to_be_bytes(),
        &1_800_000_000_123_u64.to_be_bytes(),
    ];
    [b"\0\x04shop\0\x04\0\x09some-hash", &numbers.concat()[..]].concat()
}

/// The beginning of a snapshot of layout `format` with these fields.
fn head(format: u8, fields: &[u8]) -> Vec<u8> {
    let length = u32::try_from(fields.len()).unwrap().to_be_bytes();
    let covered = [b"tgsnap\0", &[format][..], &length, fields].concat();
    let checksum = crc32c::crc32c(&covered).to_be_bytes();
    [&covered[..], &checksum].concat()
}

#[test]
fn a_node_alone_writes_what_it_always_did_and_a_member_adds_what_consensus_needs() {
    let directory = TempDir::new().unwrap();
    let behind = [&8_u64.to_be_bytes()[..], &[1, 2]].concat();
    let with_consensus = [&fields()[..], &[0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 12], b"who they are"].concat();
    for (header, head) in [(header(STREAM, 5), head(1, &fields())), (replicated(5), head(2, &with_consensus))] {
        let path = write(directory.path(), &header, &[&behind]).path;
        let written = fs::read(&path).unwrap();
        assert_eq!(written[..head.len()], head);
        assert_eq!(read(&path).unwrap().0, header);
    }
}

#[test]
fn a_header_whose_fields_are_not_those_of_its_layout_is_damage() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("snapshot");
    let members = |length: u32, bytes: &[u8]| [&fields()[..], &[0; 8], &length.to_be_bytes(), bytes].concat();
    for (what, head) in [
        ("members in layout 1", head(1, &members(2, b"ab"))),
        ("layout 2 without a leader", head(2, &fields())),
        ("members that are missing", head(2, &members(3, b"ab"))),
        ("bytes behind the members", head(2, &members(1, b"ab"))),
    ] {
        fs::write(&path, head).unwrap();
        let error = SnapshotReader::open(&path, &EXPECTATION).unwrap_err().to_string();
        assert!(error.ends_with("its header is none"), "{what}: {error}");
    }
    let most = vec![7; SNAPSHOT_MEMBERS_BYTES_MAX];
    fs::write(&path, head(2, &members(u32::try_from(most.len()).unwrap(), &most))).unwrap();
    let found = SnapshotReader::open(&path, &EXPECTATION).unwrap().header().consensus.clone();
    assert_eq!(found, Some(SnapshotConsensus { leader: NodeId(0), members: most }));
}

#[test]
#[should_panic(expected = "members of 262145 bytes are over 262144")]
fn more_members_than_a_header_has_room_for_are_refused() {
    let directory = TempDir::new().unwrap();
    let consensus = SnapshotConsensus { leader: NodeId(1), members: vec![0; SNAPSHOT_MEMBERS_BYTES_MAX + 1] };
    drop(SnapshotWriter::create(directory.path(), &SnapshotHeader { consensus: Some(consensus), ..header(STREAM, 1) }, u64::MAX));
}

#[test]
fn a_snapshot_is_read_from_whatever_gives_its_bytes() {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), &replicated(5), &[b"block"]).path;
    let bytes = fs::read(&path).unwrap();
    let more = [&bytes[..], b"what follows it"].concat();
    let mut reader = SnapshotReader::of(&more[..bytes.len()], Path::new("the wire"), &EXPECTATION).unwrap();
    assert_eq!(reader.block().unwrap(), Some(&b"block"[..]));
    assert_eq!(reader.block().unwrap(), None);
    let mut reader = SnapshotReader::of(&more[..], Path::new("the wire"), &EXPECTATION).unwrap();
    reader.block().unwrap();
    let error = reader.block().unwrap_err().to_string();
    assert_eq!(error, format!("the wire is damaged at byte {}: bytes follow its end", bytes.len()));
}

#[test]
fn what_was_not_finished_never_counts_and_goes() {
    let directory = TempDir::new().unwrap();
    let folder = directory.path().join("snapshots");
    let names = || fs::read_dir(&folder).unwrap().count();
    let finished = write(directory.path(), &header(STREAM, 5), &[b"block"]);
    let mut writer = SnapshotWriter::create(directory.path(), &header(STREAM, 6), u64::MAX).unwrap();
    writer.block(b"half", 1).unwrap();
    assert_eq!(names(), 2);
    assert_eq!(snapshots(directory.path(), STREAM).unwrap(), std::slice::from_ref(&finished));
    drop(writer);
    assert_eq!(names(), 1);
    // As a killed process leaves it, and what is no snapshot at all.
    fs::write(folder.join("00003-00000000000000000007.snapshot.unfinished"), "half").unwrap();
    fs::write(folder.join("7.incoming"), "from another node").unwrap();
    fs::write(folder.join("3-8.snapshot"), "no name of ours").unwrap();
    assert_eq!(snapshots(directory.path(), STREAM).unwrap(), std::slice::from_ref(&finished));
    assert_eq!(remove_unfinished(directory.path()).unwrap(), 2);
    assert_eq!(remove_unfinished(directory.path()).unwrap(), 0);
    assert_eq!(names(), 2);
    read(&finished.path).unwrap();
}

#[test]
fn snapshots_are_listed_newest_first_and_the_older_ones_removed() {
    let directory = TempDir::new().unwrap();
    assert_eq!(snapshots(directory.path(), STREAM).unwrap(), []);
    assert_eq!(remove_unfinished(directory.path()).unwrap(), 0);
    for group_sequence in [90, 1_000, 7] {
        write(directory.path(), &header(STREAM, group_sequence), &[]);
    }
    write(directory.path(), &header(StreamId::log(2), 5), &[]);
    let sequences =
        || -> Vec<u64> { snapshots(directory.path(), STREAM).unwrap().iter().map(|one| one.group_sequence.0).collect() };
    assert_eq!(sequences(), [1_000, 90, 7]);
    assert_eq!(remove_older(directory.path(), STREAM, 2).unwrap(), 1);
    assert_eq!(sequences(), [1_000, 90]);
    assert_eq!(remove_older(directory.path(), STREAM, 2).unwrap(), 0);
    assert_eq!(remove_older(directory.path(), STREAM, 0).unwrap(), 2);
    assert_eq!(sequences(), Vec::<u64>::new());
    assert_eq!(snapshots(directory.path(), StreamId::log(2)).unwrap().len(), 1);
}

#[test]
#[should_panic(expected = "a block of 1048577 bytes is not of 1 to 1048576")]
fn a_block_over_a_mebibyte_is_refused() {
    let directory = TempDir::new().unwrap();
    let mut writer = SnapshotWriter::create(directory.path(), &header(STREAM, 1), u64::MAX).unwrap();
    // The writer's file goes with it.
    let _ = writer.block(&vec![0; BLOCK_BYTES_MAX + 1], 1);
}

#[test]
fn one_that_is_set_aside_counts_no_more() {
    let directory = TempDir::new().unwrap();
    let [older, damaged] = [4, 5].map(|group| write(directory.path(), &header(STREAM, group), &[b"block"]));
    let aside = set_aside(&damaged.path).unwrap();
    assert_eq!(aside, directory.path().join("snapshots/00003-00000000000000000005.snapshot.damaged"));
    assert_eq!(snapshots(directory.path(), STREAM).unwrap(), std::slice::from_ref(&older));
    read(&aside).unwrap();
    // Neither is it removed, nor in the way of one of the same place.
    let again = write(directory.path(), &header(STREAM, 5), &[b"again"]);
    assert_eq!(remove_older(directory.path(), STREAM, 2).unwrap(), 0);
    assert_eq!(remove_unfinished(directory.path()).unwrap(), 0);
    assert_eq!(snapshots(directory.path(), STREAM).unwrap(), [again.clone(), older]);
    set_aside(&again.path).unwrap();
    assert_eq!(read(&aside).unwrap().1, [b"again"]);
    set_aside(&again.path).unwrap_err();
}
