//! The sidecar's file: pinned bytes, and whatever is wrong with it only makes it know nothing.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::fs;

use tidegate_persistence::{ChainHash, Durable, LogIndex, Sidecar, StreamId};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

/// Two streams; the checksum was computed by code that shares nothing with this crate.
fn fixture() -> Vec<u8> {
    bytes(
        "74676431 0002
         0000 0000000000000007 000102030405060708090a0b0c0d0e0f
         0003 00000000000003e8 ffffffffffffffffffffffffffffffff
         07aa3905",
    )
}

const FIRST: Durable = Durable { index: LogIndex(7), chain: ChainHash([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]) };
const SECOND: Durable = Durable { index: LogIndex(1_000), chain: ChainHash([255; 16]) };

/// What a sidecar of these bytes knows.
fn known(bytes: &[u8]) -> Vec<(StreamId, Durable)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("durable");
    fs::write(&path, bytes).unwrap();
    Sidecar::open(&path).unwrap().streams().iter().map(|(stream, durable)| (*stream, *durable)).collect()
}

#[test]
fn a_sidecar_has_the_bytes_that_are_committed_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("durable");
    let mut sidecar = Sidecar::open(&path).unwrap();
    assert!(sidecar.streams().is_empty());
    sidecar.note(StreamId(3), SECOND);
    sidecar.note(StreamId(0), Durable { index: LogIndex(6), ..FIRST });
    sidecar.note(StreamId(0), FIRST);
    sidecar.write().unwrap();
    assert_eq!(fs::read(&path).unwrap(), fixture());
    assert_eq!(known(&fixture()), [(StreamId(0), FIRST), (StreamId(3), SECOND)]);
}

#[test]
fn an_absent_empty_zeroed_or_torn_sidecar_knows_nothing() {
    assert_eq!(known(&[]), []);
    assert_eq!(known(&[0; 62]), []);
    assert_eq!(known(&vec![0; 4_096]), []);
    for length in 0..fixture().len() {
        assert_eq!(known(&fixture()[..length]), [], "{length} bytes");
    }
}

#[test]
fn every_flipped_bit_makes_it_know_nothing() {
    for bit in 0..fixture().len() * 8 {
        let mut flipped = fixture();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(known(&flipped), [], "bit {bit}");
    }
}

#[test]
fn bytes_behind_it_are_left_over_from_a_longer_one() {
    let mut longer = fixture();
    longer.extend_from_slice(&[0xee; 100]);
    assert_eq!(known(&longer).len(), 2);
}
