use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_persistence::Group;

use super::*;
use crate::members::Member;
use crate::types::Membership;

const SHARD: u16 = 0x0102;

fn id(term: u64, node: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: NodeId(node) }, index }
}

fn vote(term: u64, node: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: NodeId(node) }, committed: true }
}

fn members() -> Membership {
    let member = Member { address: "a:1".to_owned(), numbers_given: 9 };
    Membership::new(vec![BTreeSet::from([NodeId(9)])], BTreeMap::from([(NodeId(9), member)])).unwrap()
}

const MEMBERS: &[u8] = b"\0\x01\0\x01\0\0\0\0\0\0\0\x09\0\x01\0\0\0\0\0\0\0\x09\0\x03a:1\0\0\0\0\0\0\0\x09";

/// A group of no events, which is nothing that a leader makes, but a payload.
fn proposal() -> Proposal {
    let group = Group { sequence: GroupSequence(0x21), time: Timestamp::from_unix_ms(0x22), events: 0, payload: vec![0, 0, 0, 0] };
    Proposal { predecessor: ChainHash([0x23; 16]), group: Arc::new(group) }
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    let entries = vec![
        Entry::new(id(6, 9, 0x11), EntryPayload::Normal(proposal())),
        Entry::new(id(7, 9, 0x12), EntryPayload::Blank),
        Entry::new(id(7, 9, 0x13), EntryPayload::Membership(members())),
    ];
    AppendEntriesRequest { vote: vote(7, 9), prev_log_id: Some(id(5, 4, 0x10)), entries, leader_commit: Some(id(5, 4, 0x0f)) }
}

fn vote_request() -> VoteRequest<TypeConfig> {
    let mut request = VoteRequest::new(Vote { committed: false, ..vote(7, 9) }, Some(id(5, 4, 0x10)));
    request.leadership_transfer = true;
    request
}

fn head() -> SnapshotHead {
    SnapshotHead {
        vote: vote(7, 9),
        meta: SnapshotMeta {
            last_log_id: Some(id(5, 4, 0x10)),
            last_membership: StoredMembership::new(Some(id(5, 4, 2)), members()),
        },
        position: LogPosition {
            index: LogIndex(0x11),
            sequence: GroupSequence(0x0a),
            chain: ChainHash([0x23; 16]),
            term: Term(5),
            time: Timestamp::from_unix_ms(0x22),
        },
    }
}

fn questions() -> Vec<Asked> {
    vec![
        Asked::Append(append()),
        Asked::Append(AppendEntriesRequest { vote: vote(1, 1), prev_log_id: None, entries: Vec::new(), leader_commit: None }),
        Asked::Vote(vote_request()),
        Asked::PreVote(VoteRequest::new(vote(7, 9), None)),
        Asked::TransferLeader(TransferLeaderRequest::new(vote(7, 9), NodeId(3), Some(id(5, 4, 0x10)))),
        Asked::SnapshotBegin(0x31, Box::new(head())),
        Asked::SnapshotBytes { transfer: 0x31, offset: 0x32, bytes: b"part".to_vec() },
        Asked::SnapshotEnd { transfer: 0x31, length: 0x33, digest: [0x34; 32] },
        Asked::SnapshotGivenUp { transfer: 0x31 },
    ]
}

fn answers() -> Vec<Answer> {
    let (one, other) = (Some(id(5, 4, 0x10)), None);
    vec![
        Answer::Append(AppendEntriesResponse::Success),
        Answer::Append(AppendEntriesResponse::PartialSuccess(one)),
        Answer::Append(AppendEntriesResponse::Conflict),
        Answer::Append(AppendEntriesResponse::HigherVote(vote(7, 9))),
        Answer::Vote(VoteResponse::new(vote(7, 9), one, true)),
        Answer::PreVote(VoteResponse::new(vote(7, 9), other, false)),
        Answer::TransferLeader(Ok(())),
        Answer::TransferLeader(Err(TransferLeaderError::VoteChanged { expected: vote(7, 9), actual: vote(8, 4) })),
        Answer::TransferLeader(Err(TransferLeaderError::LogNotFlushed { expected: one, actual: other })),
        Answer::SnapshotBegin,
        Answer::SnapshotBytes,
        Answer::SnapshotEnd(vote(7, 9)),
        Answer::SnapshotGivenUp,
        Answer::Failure(Failure::Stopped, "it has gone".to_owned()),
    ]
}

fn encoded(asked: Asked) -> Vec<u8> {
    encode_question(&Question { shard: SHARD, asked }).unwrap()
}

/// Bytes, written as hexadecimal digits with spaces anywhere.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<_> = digits.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

/// The value of an entry, with its length in front: `head` and `payload` as they are described, under a key at our log's `index`.
fn value(index: u64, head: &str, payload: &[u8]) -> Vec<u8> {
    let covered = [&hex(head)[..], payload].concat();
    let key = [&[1, 2][..], &index.to_be_bytes(), &[0, 0]].concat();
    let checksum = crc32c::crc32c(&[&key[..], &covered].concat());
    let length = u32::try_from(covered.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &covered, &checksum.to_be_bytes()].concat()
}

#[test]
fn questions_are_laid_out_as_described() {
    let front = "01 0000000000000005 0000000000000004 0000000000000010";
    let led = "0000000000000007 0000000000000009";
    let group = "01 01 01 0000000000000006 0000000000000009 0000000000000021 23232323232323232323232323232323 0000000000000022";
    let other = "0000000000000007 0000000000000009 0000000000000000 00000000000000000000000000000000 0000000000000000";
    let expected = [
        [
            hex(&format!("01 0102 {led} 01 {front} 01 0000000000000005 0000000000000004 000000000000000f 00000003")),
            value(0x12, group, &[0, 0, 0, 0]),
            value(0x13, &format!("01 02 01 {other}"), &[]),
            value(0x14, &format!("01 03 01 {other}"), MEMBERS),
        ]
        .concat(),
        hex("01 0102 0000000000000001 0000000000000001 01 00 00 00000000"),
        hex(&format!("02 0102 {led} 00 {front} 01")),
        hex(&format!("03 0102 {led} 01 00 00")),
        hex(&format!("04 0102 {led} 01 0000000000000003 {front}")),
        [
            hex(&format!(
                "05 0102 0000000000000031 {led} 01 {front} 01 0000000000000005 0000000000000004 0000000000000002 00000023"
            )),
            MEMBERS.to_vec(),
            hex("0000000000000011 000000000000000a 23232323232323232323232323232323 0000000000000005 0000000000000022"),
        ]
        .concat(),
        [&hex("06 0102 0000000000000031 0000000000000032")[..], b"part"].concat(),
        [hex("07 0102 0000000000000031 0000000000000033"), vec![0x34; 32]].concat(),
        hex("08 0102 0000000000000031"),
    ];
    for (asked, expected) in questions().into_iter().zip(expected) {
        let what = format!("{asked:?}");
        assert_eq!(encoded(asked), expected, "{what}");
    }
}

#[test]
fn answers_are_laid_out_as_described() {
    let one = "01 0000000000000005 0000000000000004 0000000000000010";
    let led = "0000000000000007 0000000000000009 01";
    let expected = [
        hex("81 00"),
        hex(&format!("81 01 {one}")),
        hex("81 02"),
        hex(&format!("81 03 {led}")),
        hex(&format!("82 {led} 01 {one}")),
        hex(&format!("83 {led} 00 00")),
        hex("84 00"),
        hex(&format!("84 01 {led} 0000000000000008 0000000000000004 01")),
        hex(&format!("84 02 {one} 00")),
        hex("85"),
        hex("86"),
        hex(&format!("87 {led}")),
        hex("88"),
        [&hex("ff 02")[..], b"it has gone"].concat(),
    ];
    for (answer, expected) in answers().into_iter().zip(expected) {
        assert_eq!(encode_answer(&answer), expected, "{answer:?}");
    }
}

#[test]
fn everything_comes_back_as_it_was_written() {
    for asked in questions() {
        let before = format!("{asked:?}");
        let Question { shard, asked } = decode_question(&encoded(asked)).unwrap();
        assert_eq!((shard, format!("{asked:?}")), (SHARD, before));
    }
    for answer in answers() {
        let back = decode_answer(&encode_answer(&answer)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{answer:?}"));
    }
}

#[test]
fn appends_of_any_entries_come_back() {
    let seed = 0x7469_6465;
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..200 {
        let prev = random
            .random_bool(0.8)
            .then(|| id(random.random_range(0..3), random.random_range(0..3), random.random::<u32>().into()));
        let mut leader = prev.map_or(id(0, 0, 0), |prev| prev).leader_id;
        let first = prev.map_or(0, |prev| prev.index + 1);
        let mut entries = Vec::new();
        for index in first..first + random.random_range(0..20) {
            if random.random_bool(0.2) {
                leader = LeaderId { term: leader.term + 1, node_id: NodeId(random.random_range(0..5)) };
            }
            let payload = match random.random_range(0..4) {
                0 => EntryPayload::Blank,
                1 => EntryPayload::Membership(members()),
                _ => {
                    let events: u32 = random.random();
                    let mut payload = events.to_be_bytes().to_vec();
                    payload.resize(random.random_range(4..2_000), random.random());
                    let time = Timestamp::from_unix_ms(random.random());
                    let group = Group { sequence: GroupSequence(random.random()), time, events, payload };
                    EntryPayload::Normal(Proposal { predecessor: ChainHash(random.random()), group: Arc::new(group) })
                }
            };
            entries.push(Entry::new(LogId { leader_id: leader, index }, payload));
        }
        let vote = Vote { leader_id: LeaderId { term: leader.term + 1, node_id: NodeId(1) }, committed: true };
        let request = AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: prev };
        let (body, count) = encode_append(SHARD, &request).unwrap();
        assert_eq!(count, request.entries.len());
        let Asked::Append(back) = decode_question(&body).unwrap().asked else { panic!("seed {seed}, round {round}") };
        assert_eq!(format!("{back:?}"), format!("{request:?}"), "seed {seed}, round {round}");
    }
}

#[test]
fn an_end_anywhere_is_an_error() {
    for asked in questions() {
        // Of a snapshot's bytes it is the offset and the hash at the end that tell.
        let whole = if let Asked::SnapshotBytes { bytes, .. } = &asked { bytes.len() } else { 0 };
        let bytes = encoded(asked);
        for end in 0..bytes.len() - whole {
            assert!(decode_question(&bytes[..end]).is_err(), "{end} of {bytes:?}");
        }
        if whole == 0 {
            assert!(matches!(decode_question(&[&bytes[..], &[0]].concat()), Err(WireError::Trailing(1))));
        }
    }
    for answer in answers() {
        let whole = if let Answer::Failure(_, text) = &answer { text.len() } else { 0 };
        let bytes = encode_answer(&answer);
        for end in 0..bytes.len() - whole {
            assert!(decode_answer(&bytes[..end]).is_err(), "{end} of {bytes:?}");
        }
        if whole == 0 {
            assert!(matches!(decode_answer(&[&bytes[..], &[0]].concat()), Err(WireError::Trailing(1))));
        }
    }
}

#[test]
fn whatever_is_changed_is_an_error_or_something_else_and_never_a_panic() {
    for asked in questions() {
        let good = encoded(asked);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(question) = decode_question(&bytes) {
                // What can be read can be written, and means the same.
                assert_eq!(encode_question(&question).unwrap(), bytes, "bit {bit} of {good:?}");
            }
        }
    }
    for answer in answers() {
        let good = encode_answer(&answer);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A text that is no UTF-8 any more is mended.
            if let Ok(answer) = decode_answer(&bytes)
                && !matches!(answer, Answer::Failure(..))
            {
                assert_eq!(encode_answer(&answer), bytes, "bit {bit} of {good:?}");
            }
        }
    }
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..20_000 {
        let mut bytes = vec![0; random.random_range(0..200)];
        random.fill(&mut bytes[..]);
        if let Some(kind) = bytes.first_mut() {
            *kind %= 9;
        }
        drop(decode_question(&bytes));
        drop(decode_answer(&bytes));
    }
}

#[test]
fn a_flipped_bit_in_an_entry_is_found() {
    let good = encoded(Asked::Append(append()));
    // Behind kind, shard, vote, two entries and the number of entries, and the length of the first.
    let first = 3 + 17 + 25 + 25 + 4 + 4;
    for bit in first * 8..(first + 59) * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = decode_question(&bytes);
        assert!(matches!(read, Err(WireError::Record { index: LogIndex(0x12), .. })), "bit {bit}: {read:?}");
    }
    // An entry of another shard.
    let mut bytes = good;
    bytes[2] ^= 1;
    assert!(matches!(decode_question(&bytes), Err(WireError::Record { .. })));
}

#[test]
fn what_is_announced_is_not_believed() {
    let front = hex("01 0102 0000000000000007 0000000000000009 01 00 00");
    for announced in [&[0xff; 4][..], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]] {
        assert!(matches!(decode_question(&[&front[..], announced].concat()), Err(WireError::Short)));
    }
    let largest = "01 0000000000000005 0000000000000004 ffffffffffffffff";
    let body = hex(&format!("01 0102 0000000000000007 0000000000000009 01 {largest} 00 00000001"));
    assert!(matches!(decode_question(&body), Err(WireError::Contradiction("an index is too large"))));
}

#[test]
fn what_openraft_takes_for_impossible_is_refused() {
    let check = |asked, expected: &str| {
        let error = decode_question(&encoded(asked)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let uncommitted = Vote { committed: false, ..vote(7, 9) };
    let leads_nobody = "the message contradicts itself: who has no quorum leads nobody";
    check(Asked::Append(AppendEntriesRequest { vote: uncommitted, ..append() }), leads_nobody);
    check(Asked::SnapshotBegin(1, Box::new(SnapshotHead { vote: uncommitted, ..head() })), leads_nobody);
    let of_its_time = "the message contradicts itself: an entry's leader is not of its time";
    check(Asked::Append(AppendEntriesRequest { vote: vote(6, 9), ..append() }), of_its_time);
    check(Asked::Append(AppendEntriesRequest { prev_log_id: Some(id(7, 1, 0x10)), ..append() }), of_its_time);
    let with = |last_log_id| SnapshotMeta { last_log_id, ..head().meta };
    let begin = |meta| Asked::SnapshotBegin(1, Box::new(SnapshotHead { meta, ..head() }));
    check(begin(with(None)), "the message contradicts itself: a snapshot of nothing");
    let stands = "the message contradicts itself: a snapshot's last entry is not where its chain stands";
    check(begin(with(Some(id(5, 4, 0x11)))), stands);
    check(begin(with(Some(id(4, 4, 0x10)))), stands);
    let later = SnapshotHead { vote: vote(5, 3), ..head() };
    let of_later = "the message contradicts itself: a snapshot is of a later leader than the one that sends it";
    check(Asked::SnapshotBegin(1, Box::new(later)), of_later);
    let beyond = StoredMembership::new(Some(id(5, 4, 0x11)), members());
    let not_there = "the message contradicts itself: a snapshot's members are of an entry that it does not have";
    check(begin(SnapshotMeta { last_membership: beyond, ..head().meta }), not_there);

    let mut gap = append();
    gap.entries.remove(1);
    let error = encode_append(SHARD, &gap).unwrap_err();
    assert_eq!(error.to_string(), "the message contradicts itself: entries do not follow each other");
}

#[test]
fn what_is_no_entry_between_nodes_is_refused() {
    let front = hex("01 0102 0000000000000007 0000000000000009 01 00 00 00000001");
    let led = "0000000000000007 0000000000000009";
    let bare = "0000000000000000 00000000000000000000000000000000 0000000000000000";
    let sequence = "0000000000000001 00000000000000000000000000000000 0000000000000000";
    for (what, head, payload) in [
        ("a group that was set aside", format!("01 04 01 {led} {bare}"), vec![0; 40]),
        ("a vote", format!("01 05 01 {led} {bare}"), vec![0; 25]),
        ("a part that is not the last", format!("01 01 00 {led} {bare}"), vec![0; 4]),
        ("a blank entry that holds something", format!("01 02 01 {led} {bare}"), vec![0]),
        ("a blank entry that says where the chain stands", format!("01 02 01 {led} {sequence}"), vec![]),
        ("members that say where the chain stands", format!("01 03 01 {led} {sequence}"), MEMBERS.to_vec()),
    ] {
        let read = decode_question(&[&front[..], &value(1, &head, &payload)].concat());
        assert!(matches!(read, Err(WireError::Entry(LogIndex(1)))), "{what}: {read:?}");
    }
    let no_payload = value(1, &format!("01 01 01 {led} {bare}"), &[0; 3]);
    let read = decode_question(&[&front[..], &no_payload].concat());
    assert!(matches!(read, Err(WireError::Payload { index: LogIndex(1), .. })), "{read:?}");
    let no_members = value(1, &format!("01 03 01 {led} {bare}"), &[0; 3]);
    let read = decode_question(&[&front[..], &no_members].concat());
    assert!(matches!(read, Err(WireError::Members(MembersError::Length))), "{read:?}");
}

#[test]
fn of_too_many_entries_those_that_fit_go_first() {
    let large = |index| {
        let payload = vec![0; 15 * 1024 * 1024];
        let group = Group { sequence: GroupSequence(index), time: Timestamp::from_unix_ms(0), events: 0, payload };
        let proposal = Proposal { predecessor: ChainHash::GENESIS, group: Arc::new(group) };
        Entry::new(id(7, 9, index), EntryPayload::Normal(proposal))
    };
    let request = AppendEntriesRequest { prev_log_id: None, entries: (0..3).map(large).collect(), ..append() };
    let (body, count) = encode_append(SHARD, &request).unwrap();
    assert_eq!(count, 2);
    assert!(body.len() <= FRAME_BYTES_MAX);
    let Asked::Append(back) = decode_question(&body).unwrap().asked else { panic!("another question") };
    assert_eq!(back.entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [0, 1]);
    assert!(back.entries.iter().all(|entry| entry.get_membership().is_none()));
}

#[test]
fn a_failure_says_no_more_than_is_allowed() {
    let body = encode_answer(&Answer::Failure(Failure::Snapshot, "ä".repeat(1_000)));
    assert_eq!(body.len(), 2 + 1_024);
    let Answer::Failure(Failure::Snapshot, text) = decode_answer(&body).unwrap() else { panic!("another answer") };
    assert_eq!(text, "ä".repeat(512));
    assert!(matches!(decode_answer(&[&body[..], b"x"].concat()), Err(WireError::Trailing(1))));
    assert!(matches!(decode_answer(&[0xff, 5]), Err(WireError::Value(5))));
}
