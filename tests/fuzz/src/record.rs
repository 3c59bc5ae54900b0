//! Values of the log: what is read writes the same bytes again, what was written is read, and no changed byte passes.

use arbitrary::{Result, Unstructured};
use tidegate_persistence::record::{KEY_BYTES, RecordError, VALUE_OVERHEAD_BYTES, decode_value, encode_value};
use tidegate_persistence::{ChainHash, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term};
use tidegate_stock::Timestamp;

/// Tries `data` as a key and its value, as the same with a checksum that fits, and as what a record is made of.
pub fn run(data: &[u8]) {
    let (key, value) = data.split_at(data.len().min(KEY_BYTES));
    if let Some(key) = RecordKey::decode(key) {
        assert_eq!(RecordKey::decode(&key.encode()), Some(key));
        // Refused or not, both are fine; what is read is checked within.
        let _ = read(key, value);
        let covered = [&key.encode(), value].concat();
        let sealed = [value, &crc32c::crc32c(&covered).to_be_bytes()].concat();
        if let Err(error) = read(key, &sealed) {
            assert!(!matches!(error, RecordError::Checksum { .. }), "{error}");
        }
    }
    // Input that is used up gives zeros, so this never fails.
    let _ = written(&mut Unstructured::new(data));
}

fn read(key: RecordKey, value: &[u8]) -> std::result::Result<(), RecordError> {
    let (header, is_last_part, slice) = decode_value(key, value)?;
    assert_eq!(slice.len() + VALUE_OVERHEAD_BYTES, value.len());
    let mut again = Vec::new();
    encode_value(key, &header, is_last_part, slice, &mut again);
    assert_eq!(again, value, "what is read writes other bytes");
    Ok(())
}

fn written(input: &mut Unstructured<'_>) -> Result<()> {
    let key = RecordKey { stream: StreamId(input.arbitrary()?), index: LogIndex(input.arbitrary()?), part: input.arbitrary()? };
    let header = RecordHeader {
        kind: *input.choose(&[RecordKind::Group, RecordKind::Blank, RecordKind::Membership])?,
        term: Term(input.arbitrary()?),
        leader: NodeId(input.arbitrary()?),
        sequence: GroupSequence(input.arbitrary()?),
        predecessor: ChainHash(input.arbitrary()?),
        time: Timestamp::from_unix_ms(input.arbitrary()?),
    };
    let is_last_part = input.arbitrary()?;
    let (at, difference): (u16, u8) = (input.arbitrary()?, input.int_in_range(1..=255)?);
    let payload = input.bytes(input.len())?;
    let mut value = vec![0xff; 3];
    encode_value(key, &header, is_last_part, payload, &mut value);
    assert_eq!(decode_value(key, &value), Ok((header, is_last_part, payload)));

    // A changed byte of the key or of the value.
    let mut changed = [&key.encode()[..], &value].concat();
    let at = usize::from(at) % changed.len();
    changed[at] ^= difference;
    let (other_key, other_value) = changed.split_at(KEY_BYTES);
    let other_key = RecordKey::decode(other_key).expect("it is as long as a key");
    assert!(decode_value(other_key, other_value).is_err(), "byte {at} was changed");
    // A value that lost its end.
    assert!(decode_value(key, &value[..value.len() - 1]).is_err());
    // The chain tells every header and every payload from another.
    let other = RecordHeader { term: Term(header.term.0 ^ u64::from(difference)), ..header };
    assert_ne!(other.chain(payload), header.chain(payload));
    Ok(())
}
