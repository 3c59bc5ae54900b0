//! Records and images of the ledger to and from bytes, for the history, for snapshots and for the log. With `sealing.rs` the door of postcard in this crate.

use tidegate_stock::{Image, ReservationRecord, SnapshotItem};

/// Bytes that are no record, though their checksum says that they are what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record is unreadable: {0}")]
pub struct CodecError(String);

pub(crate) fn encode_record(record: &ReservationRecord) -> Vec<u8> {
    postcard::to_allocvec(record).expect("a record is plain data and always serialises")
}

/// A reservation as the history keeps it.
pub fn decode_record(bytes: &[u8]) -> Result<ReservationRecord, CodecError> {
    postcard::from_bytes(bytes).map_err(|error| CodecError(error.to_string()))
}

/// Writes `image` over `bytes`, as it stands beside its event in the log.
pub fn write_image(bytes: &mut Vec<u8>, image: &Image) {
    bytes.clear();
    *bytes = postcard::to_extend(image, std::mem::take(bytes)).expect("an image is plain data and always serialises");
}

/// The image that stands beside an event in the log.
pub fn decode_image(bytes: &[u8]) -> Result<Image, CodecError> {
    postcard::from_bytes(bytes).map_err(|error| CodecError(error.to_string()))
}

/// More than any item of a snapshot takes: four identifiers at most, and some numbers.
pub(crate) const SNAPSHOT_ITEM_BYTES_MAX: usize = 1_024;

/// Adds `item` to `block`.
pub(crate) fn push_item(block: &mut Vec<u8>, item: &SnapshotItem) {
    let bytes = std::mem::take(block);
    *block = postcard::to_extend(item, bytes).expect("an item is plain data and always serialises");
}

/// The items of a block of a snapshot, in order.
pub fn snapshot_items(mut block: &[u8]) -> impl Iterator<Item = Result<SnapshotItem, CodecError>> + '_ {
    std::iter::from_fn(move || {
        if block.is_empty() {
            return None;
        }
        Some(match postcard::take_from_bytes(block) {
            Ok((item, rest)) => {
                block = rest;
                Ok(item)
            }
            Err(error) => {
                block = &[];
                Err(CodecError(error.to_string()))
            }
        })
    })
}

/// Adds the numbers of places, two for each, with their count in front.
pub(crate) fn encode_places(bytes: &mut Vec<u8>, places: impl Iterator<Item = (u64, u32)>) {
    let places: Vec<(u64, u32)> = places.collect();
    *bytes = postcard::to_extend(&places, std::mem::take(bytes)).expect("numbers always serialise");
}

/// What [`encode_places`] wrote, if `bytes` are that and nothing else.
pub(crate) fn decode_places(bytes: &[u8]) -> Option<Vec<(u64, u32)>> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(places, _)| places)
}
