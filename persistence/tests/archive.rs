//! Archives: what is put into one is in the directory that is made of it, and nothing is made of one that is not whole or contradicts
//! itself.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use tempfile::TempDir;
use tidegate_persistence::{
    ArchiveReader, ArchiveTotals, ArchiveWriter, ChainHash, Group, GroupSequence, History, HistoryKey, HistoryOptions,
    HistoryRange, HistoryRecord, Identity, LogIndex, LogPosition, NodeId, Piece, RecoveredGroup, RecoveredStream, RestoreError,
    StreamId, Term, copy_history, history, restore,
};
use tidegate_stock::{GrantSequence, Partition, StockId, StockNumber, Timestamp};

mod common;

use common::{STREAM, at, group, header, open};

const RANGE_SECONDS: u32 = 1_000;

fn identity() -> Identity {
    let folder = TempDir::new().unwrap();
    open(folder.path()).unwrap().identity().clone()
}

/// Groups `first..=last` of a log, and what the first continues.
fn groups(first: u64, last: u64) -> (LogPosition, Vec<(Group, ChainHash, ChainHash)>) {
    let (mut chain, mut made, mut start) = (ChainHash::GENESIS, Vec::new(), LogPosition::GENESIS);
    for sequence in 1..=last {
        let group = group(sequence, 3);
        let next = header(&group, chain).chain(&group.payload);
        if sequence >= first {
            made.push((group, chain, next));
        } else {
            start = LogPosition { index: LogIndex(sequence), sequence: GroupSequence(sequence), chain: next, ..start };
        }
        chain = next;
    }
    (start, made)
}

fn recovered((group, predecessor, chain): &(Group, ChainHash, ChainHash)) -> RecoveredGroup<'_> {
    RecoveredGroup {
        stream: STREAM,
        index: LogIndex(group.sequence.0),
        sequence: group.sequence,
        term: Term(1),
        leader: NodeId(1),
        time: group.time,
        predecessor: *predecessor,
        chain: *chain,
        payload: &group.payload,
    }
}

fn record(sequence: u64, value: &[u8]) -> HistoryRecord<'_> {
    let stock = StockId { partition: Partition(7), number: StockNumber(2) };
    HistoryRecord { key: HistoryKey { stock, sequence: GrantSequence(sequence) }, user: "buyer", resolved_at: at(sequence), value }
}

/// An archive of `pieces` behind an identity, with its end if it `is_whole`.
fn archive(identity: &Identity, pieces: &[Piece<'_>], is_whole: bool) -> Vec<u8> {
    let mut writer = ArchiveWriter::new(Vec::new()).unwrap();
    writer.put(&Piece::Begin { identity: identity.clone(), history_range_seconds: RANGE_SECONDS }).unwrap();
    for piece in pieces {
        writer.put(piece).unwrap();
    }
    if is_whole { writer.finish().unwrap() } else { std::mem::take(writer.get_mut()) }
}

/// Makes a directory of `archive` and tells why not, where it cannot be made.
fn made_of(archive: &[u8], path: &Path) -> Result<ArchiveTotals, RestoreError> {
    restore(archive, path, "history", |_| {})
}

#[track_caller]
fn refused(archive: &[u8], said: &str) {
    let folder = TempDir::new().unwrap();
    let error = made_of(archive, folder.path()).unwrap_err().to_string();
    assert!(error.contains(said), "{error} does not say {said}");
}

/// Every group of the log at `path`, and how it ends.
fn log_of(path: &Path) -> (RecoveredStream, Vec<(GroupSequence, ChainHash, Vec<u8>)>) {
    let mut found = Vec::new();
    let directory = open(path).unwrap();
    let end = directory.check_from_oldest(STREAM, |group| {
        found.push((group.sequence, group.chain, group.payload.to_vec()));
        Ok(())
    });
    (end.unwrap(), found)
}

#[test]
fn a_directory_made_of_an_archive_holds_what_was_put_into_it() {
    let folder = TempDir::new().unwrap();
    let (identity, (start, groups)) = (identity(), groups(1, 5));
    let file = vec![7; 1_000];
    let mut pieces = vec![
        Piece::Alive,
        Piece::Plan { bytes: 5_000 },
        Piece::Snapshot { stream: STREAM, group_sequence: GroupSequence(4), bytes: 1_000 },
        Piece::SnapshotPart(&file[..600]),
        Piece::Alive,
        Piece::SnapshotPart(&file[600..]),
        Piece::History(vec![record(1, b"one"), record(2, b"")]),
        Piece::History(vec![record(3, b"three")]),
        Piece::Logs(vec![(STREAM, start)]),
    ];
    pieces.extend(groups.iter().map(|group| Piece::Group(recovered(group))));
    let mut planned = Vec::new();
    let bytes = archive(&identity, &pieces, true);
    let totals = restore(&bytes[..], folder.path(), "history", |bytes| planned.push(bytes)).unwrap();
    assert_eq!(totals, ArchiveTotals { frames: 15, snapshots: 1, history_records: 3, groups: 5 });
    assert_eq!(planned, [5_000]);

    assert_eq!(*open(folder.path()).unwrap().identity(), identity);
    assert_eq!(fs::read(folder.path().join("snapshots/00000-00000000000000000004.snapshot")).unwrap(), file);
    let (end, found) = log_of(folder.path());
    assert_eq!((end.last_index, end.discarded_tail_parts), (LogIndex(5), 0));
    let expected: Vec<_> = groups.iter().map(|(group, _, chain)| (group.sequence, *chain, group.payload.clone())).collect();
    assert_eq!(found, expected);
    let history = History::open(
        &folder.path().join("history"),
        &HistoryOptions { range_seconds: RANGE_SECONDS, ..HistoryOptions::default() },
    );
    let mut records = Vec::new();
    let visit = &mut |_: HistoryRange, record: HistoryRecord<'_>| {
        records.push((record.key.sequence.0, record.user.to_owned(), record.resolved_at, record.value.to_vec()));
        ControlFlow::Continue(())
    };
    history.unwrap().for_each(visit).unwrap();
    let kept = |sequence, value: &[u8]| (sequence, "buyer".to_owned(), at(sequence), value.to_vec());
    assert_eq!(records, [kept(1, b"one"), kept(2, b""), kept(3, b"three")]);
}

#[test]
fn a_log_without_its_beginning_is_known_as_one_and_goes_on() {
    let folder = TempDir::new().unwrap();
    let (start, groups) = groups(4, 6);
    let mut pieces = vec![Piece::Logs(vec![(STREAM, start)])];
    pieces.extend(groups.iter().map(|group| Piece::Group(recovered(group))));
    made_of(&archive(&identity(), &pieces, true), folder.path()).unwrap();
    assert_eq!(log_of(folder.path()).1.len(), 3);
    let directory = open(folder.path()).unwrap();
    assert!(directory.replay(STREAM, |_| Ok(())).is_err(), "a log without its beginning counts as whole");
    assert_eq!(directory.replay_from(STREAM, Some(&start), |_| Ok(())).unwrap().last_index, LogIndex(6));
    assert!(directory.segments()[0].number > 1);
}

#[test]
fn nothing_is_made_of_an_archive_that_is_cut_off_or_changed_anywhere() {
    let (start, groups) = groups(1, 2);
    let mut pieces = vec![Piece::History(vec![record(1, b"one")]), Piece::Logs(vec![(STREAM, start)])];
    pieces.extend(groups.iter().map(|group| Piece::Group(recovered(group))));
    let whole = archive(&identity(), &pieces, true);
    // Every byte of the short frames, and a sample of the long ones; making a log takes some milliseconds.
    for place in (0..whole.len()).step_by(37) {
        refused(&whole[..place], "");
        let mut changed = whole.clone();
        changed[place] ^= 1 << (place % 8);
        refused(&changed, "");
    }
    refused(&archive(&identity(), &pieces, false), "broke off at frame 5");
    refused(&[&whole[..], b"x"].concat(), "bytes follow its end");
}

#[test]
fn an_archive_that_contradicts_itself_is_refused_and_names_why() {
    let identity = identity();
    let (start, groups) = groups(1, 3);
    let logs = || Piece::Logs(vec![(STREAM, start)]);
    let [first, second, third] = [0, 1, 2].map(|at: usize| recovered(&groups[at]));
    let refused = |pieces: &[Piece<'_>], said: &str| refused(&archive(&identity, pieces, true), said);
    refused(&[], "ends before its logs");
    refused(&[Piece::Group(first)], "a group is in the wrong place");
    refused(&[logs(), logs()], "logs' beginning is in the wrong place");
    refused(&[logs(), Piece::History(vec![record(1, b"")])], "the history is in the wrong place");
    refused(&[Piece::SnapshotPart(b"x"), logs()], "a part of a snapshot is in the wrong place");
    let snapshot = |bytes| Piece::Snapshot { stream: STREAM, group_sequence: GroupSequence(1), bytes };
    refused(&[snapshot(2), logs()], "logs' beginning is in the wrong place");
    refused(&[snapshot(2), Piece::SnapshotPart(b"xyz")], "longer than was told");
    refused(&[Piece::Logs(vec![(StreamId::log(9), start)])], "there are 1 shards");
    refused(&[logs(), Piece::Group(first), Piece::Group(third)], "group 3 at entry 3 of the log of shard 0: it does not follow");
    refused(&[logs(), Piece::Group(RecoveredGroup { stream: StreamId::log(9), ..first })], "its log was not begun");
    refused(&[logs(), Piece::Group(RecoveredGroup { term: Term(2), ..first })], "not decided by this node alone");
    refused(&[logs(), Piece::Group(RecoveredGroup { payload: second.payload, ..first })], "the chain is broken");
    refused(
        &[logs(), Piece::Group(first), Piece::Group(RecoveredGroup { predecessor: first.predecessor, ..second })],
        "the chain is broken",
    );
    refused(&[Piece::Failed("no room")], "gave the backup up: no room");
}

#[test]
fn what_is_copied_of_a_history_together_is_of_one_range_and_of_the_partitions_that_are_wanted() {
    let folder = TempDir::new().unwrap();
    let history = History::open(folder.path(), &HistoryOptions { range_seconds: 100, ..HistoryOptions::default() }).unwrap();
    let put = |partition: u16, sequences: std::ops::Range<u64>, second: u64| {
        let stock = StockId { partition: Partition(partition), number: StockNumber(1) };
        let record = |sequence| HistoryRecord {
            key: HistoryKey { stock, sequence: GrantSequence(sequence) },
            user: "ada",
            resolved_at: Timestamp::from_unix_ms(second * 1_000),
            value: b"sold",
        };
        history.put(&sequences.map(record).collect::<Vec<_>>()).unwrap();
    };
    let full = history::HISTORY_RECORDS_MAX as u64;
    let last = full + 6;
    put(1, 0..3, 10);
    put(1, 3..full, 110);
    put(1, full..full + 5, 110);
    put(1, full + 5..last + 1, 210);
    // Of others, some of them in the same range.
    put(0, 1..2, 210);
    put(2, 7..8, 210);
    put(u16::MAX, u64::MAX - 1..u64::MAX, 310);
    let pieces = |first, last| {
        let mut archive = ArchiveWriter::new(Vec::new()).unwrap();
        copy_history(&history, Partition(first)..=Partition(last), &mut archive).unwrap();
        let bytes = archive.finish().unwrap();
        let mut archive = ArchiveReader::new(&bytes[..]).unwrap();
        let mut pieces = Vec::new();
        while let Piece::History(records) = archive.piece().unwrap() {
            pieces.push((records.len(), records[0].key.sequence.0, records[records.len() - 1].key.sequence.0));
        }
        pieces
    };
    let of_one = vec![(3, 0, 2), (history::HISTORY_RECORDS_MAX, 3, full + 2), (2, full + 3, full + 4), (2, full + 5, last)];
    assert_eq!(pieces(1, 1), of_one);
    assert_eq!(pieces(2, 2), [(1, 7, 7)]);
    assert_eq!(pieces(3, u16::MAX - 1), []);
    assert_eq!(pieces(2, u16::MAX), [(1, 7, 7), (1, u64::MAX - 1, u64::MAX - 1)]);
    let all = [&of_one[..3], &[(4, 1, 7), (1, u64::MAX - 1, u64::MAX - 1)]].concat();
    assert_eq!(pieces(0, u16::MAX), all);
}
