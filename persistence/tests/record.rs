//! The record format: pinned bytes, and every single flipped bit is noticed.
//!
//! The expected bytes were computed by an implementation of crc32c and blake3 that shares no code with this crate.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use tidegate_persistence::record::{RecordError, VALUE_OVERHEAD_BYTES, decode_value, encode_value};
use tidegate_persistence::{ChainHash, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term};
use tidegate_stock::Timestamp;

const KEY: RecordKey = RecordKey { stream: StreamId(0x0102), index: LogIndex(5), part: 2 };

const HEADER: RecordHeader = RecordHeader {
    kind: RecordKind::Group,
    term: Term(7),
    leader: NodeId(3),
    sequence: GroupSequence(4),
    predecessor: ChainHash([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    time: Timestamp::from_unix_ms(1_800_000_000_000),
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn fixture() -> Vec<u8> {
    bytes(
        "01 01 01
         0000000000000007
         0000000000000003
         0000000000000004
         000102030405060708090a0b0c0d0e0f
         000001a3185c5000
         74696465
         97d340ab",
    )
}

#[test]
fn a_key_has_the_bytes_that_are_committed_here() {
    assert_eq!(KEY.encode().to_vec(), bytes("0102 0000000000000005 0002"));
    assert_eq!(RecordKey::decode(&KEY.encode()), Some(KEY));
    assert_eq!(RecordKey::decode(&KEY.encode()[1..]), None);
}

#[test]
fn votes_are_streams_beside_the_logs() {
    assert_eq!((StreamId::log(0x7fff), StreamId::votes(0x7fff)), (StreamId(0x7fff), StreamId(0xffff)));
    assert_eq!(StreamId::votes(3).shard(), 3);
}

#[test]
fn a_value_has_the_bytes_that_are_committed_here() {
    let mut value = Vec::new();
    encode_value(KEY, &HEADER, true, b"tide", &mut value);
    assert_eq!(value, fixture());
    assert_eq!(value.len(), VALUE_OVERHEAD_BYTES + 4);
    assert_eq!(decode_value(KEY, &fixture()), Ok((HEADER, true, &b"tide"[..])));
}

#[test]
fn a_chain_hash_has_the_bytes_that_are_committed_here() {
    assert_eq!(HEADER.chain(b"gate tide").0.to_vec(), bytes("10df4111b55146572a501aabc8306c37"));
    let long: Vec<u8> = (0..500_u32).map(|place| u8::try_from(place % 251).unwrap()).collect();
    assert_eq!(HEADER.chain(&long).0.to_vec(), bytes("aa2ad98e81b1c4cb83ca26c63c53bdfc"));
}

#[test]
fn everything_but_the_index_enters_the_chain() {
    let others = [
        RecordHeader { kind: RecordKind::Blank, ..HEADER },
        RecordHeader { term: Term(8), ..HEADER },
        RecordHeader { leader: NodeId(4), ..HEADER },
        RecordHeader { sequence: GroupSequence(5), ..HEADER },
        RecordHeader { predecessor: ChainHash::GENESIS, ..HEADER },
        RecordHeader { time: Timestamp::from_unix_ms(1_800_000_000_001), ..HEADER },
    ];
    let chain = HEADER.chain(b"tide");
    assert_ne!(HEADER.chain(b"tidf"), chain);
    for other in others {
        assert_ne!(other.chain(b"tide"), chain, "{other:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_value_is_noticed() {
    for bit in 0..fixture().len() * 8 {
        let mut value = fixture();
        value[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(decode_value(KEY, &value), Err(RecordError::Checksum { .. })), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_a_key_is_noticed() {
    for bit in 0..KEY.encode().len() * 8 {
        let mut key = KEY.encode();
        key[bit / 8] ^= 1 << (bit % 8);
        let moved = RecordKey::decode(&key).unwrap();
        assert!(matches!(decode_value(moved, &fixture()), Err(RecordError::Checksum { .. })), "bit {bit}");
    }
}

#[test]
fn every_shortened_value_is_noticed() {
    for length in 0..fixture().len() {
        assert!(decode_value(KEY, &fixture()[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(decode_value(KEY, &[0; 54]), Err(RecordError::Short(54)));
}

/// The fixture with one byte changed and a checksum that fits.
fn resealed(place: usize, byte: u8) -> Vec<u8> {
    let mut value = fixture();
    value.truncate(value.len() - 4);
    value[place] = byte;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&KEY.encode()), &value);
    value.extend_from_slice(&checksum.to_be_bytes());
    value
}

#[test]
fn another_format_kind_or_flag_is_refused_although_its_checksum_fits() {
    assert_eq!(decode_value(KEY, &resealed(0, 2)), Err(RecordError::Format(2)));
    assert_eq!(decode_value(KEY, &resealed(1, 0)), Err(RecordError::Kind(0)));
    assert_eq!(decode_value(KEY, &resealed(1, 6)), Err(RecordError::Kind(6)));
    assert_eq!(decode_value(KEY, &resealed(2, 3)), Err(RecordError::Flags(3)));
}

#[test]
fn records_that_are_no_groups_keep_their_kind() {
    for kind in [RecordKind::Blank, RecordKind::Membership, RecordKind::SetAside, RecordKind::Vote] {
        let (mut value, header) = (Vec::new(), RecordHeader { kind, ..HEADER });
        encode_value(KEY, &header, false, b"", &mut value);
        assert_eq!(decode_value(KEY, &value), Ok((header, false, &b""[..])));
    }
}
