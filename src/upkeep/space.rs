//! Which of the log the feed lets go of, and how much free space a snapshot needs. Looks at numbers only.

use std::collections::BTreeMap;

use tidegate_persistence::{LogIndex, SegmentInfo, StreamId};
use tidegate_stock::Timestamp;

use super::SnapshotFailure;

/// Up to where the log is kept for the feed.
#[derive(Debug, Clone, Copy)]
pub(super) struct FeedBounds {
    /// Segments whose newest entry is older may go.
    pub(super) oldest_kept: Timestamp,
    /// The oldest segments go while all of them have more bytes.
    pub(super) bytes_max: u64,
}

impl FeedBounds {
    /// The segments that the feed does not need any more, oldest first.
    fn unneeded(self, segments: &[SegmentInfo]) -> impl Iterator<Item = &SegmentInfo> {
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes_on_disk).sum();
        segments.iter().take_while(move |segment| {
            let is_unneeded = segment.newest_time < self.oldest_kept || bytes > self.bytes_max;
            bytes -= segment.bytes_on_disk;
            is_unneeded
        })
    }

    /// The first entry of each stream that the feed needs, for streams of which it does not need all.
    pub(super) fn let_go(self, segments: &[SegmentInfo]) -> BTreeMap<StreamId, LogIndex> {
        let mut let_go = BTreeMap::new();
        for segment in self.unneeded(segments) {
            let_go.extend(segment.last.iter().map(|(stream, (index, _))| (*stream, index.next())));
        }
        let_go
    }

    /// The oldest segment that holds anything, if the feed does not need it and it is not the one that is written.
    pub(super) fn oldest_that_may_go(self, segments: &[SegmentInfo]) -> Option<&SegmentInfo> {
        let is_holding = |segment: &&SegmentInfo| !segment.last.is_empty();
        let oldest = self.unneeded(segments).find(is_holding)?;
        segments.iter().filter(is_holding).nth(1).map(|_| oldest)
    }
}

/// The free space that a snapshot needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct SnapshotSpace {
    /// What must be left.
    pub(super) disk_free_bytes_min: u64,
    /// How large it will be, roughly.
    pub(super) expected: u64,
}

impl SnapshotSpace {
    /// Whether `free` bytes are enough to go on when `written` are written.
    pub(super) const fn check(self, free: u64, written: u64) -> Result<(), SnapshotFailure> {
        let needed = self.disk_free_bytes_min.saturating_add(self.expected.saturating_sub(written));
        if free < needed { Err(SnapshotFailure::DiskLow { free, needed }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_persistence::GroupSequence;

    use super::*;

    const BOUNDS: FeedBounds = FeedBounds { oldest_kept: Timestamp::from_unix_ms(100), bytes_max: 50 };

    /// A segment of 10 bytes whose newest entry is of `newest_ms`, and which ends stream 0 at `last`.
    fn segment(number: u64, newest_ms: u64, last: Option<u64>) -> SegmentInfo {
        let last: BTreeMap<_, _> = last.map(|last| (StreamId::log(0), (LogIndex(last), GroupSequence(last)))).into_iter().collect();
        SegmentInfo {
            number,
            bytes_on_disk: 10,
            oldest_time: Timestamp::from_unix_ms(0),
            newest_time: Timestamp::from_unix_ms(newest_ms),
            first: last.clone(),
            last,
        }
    }

    #[test]
    fn old_segments_go_and_the_oldest_of_too_many() {
        let old_and_new = [segment(1, 99, Some(7)), segment(2, 100, Some(9)), segment(3, 101, Some(12))];
        assert_eq!(BOUNDS.let_go(&old_and_new), BTreeMap::from([(StreamId::log(0), LogIndex(8))]));
        let tight = FeedBounds { bytes_max: 15, ..BOUNDS };
        assert_eq!(tight.let_go(&old_and_new), BTreeMap::from([(StreamId::log(0), LogIndex(10))]));
        assert_eq!(FeedBounds { oldest_kept: Timestamp::from_unix_ms(0), ..BOUNDS }.let_go(&old_and_new), BTreeMap::new());
    }

    #[test]
    fn the_segment_that_is_written_never_goes() {
        let number = |segments: &[SegmentInfo]| BOUNDS.oldest_that_may_go(segments).map(|segment| segment.number);
        assert_eq!(number(&[segment(1, 5, Some(1)), segment(2, 0, None)]), None);
        assert_eq!(number(&[segment(1, 5, Some(1)), segment(2, 6, Some(2)), segment(3, 0, None)]), Some(1));
        assert_eq!(number(&[segment(1, 0, None), segment(2, 6, Some(2)), segment(3, 7, Some(3))]), Some(2));
        assert_eq!(number(&[segment(1, 200, Some(1)), segment(2, 201, Some(2))]), None);
    }

    #[test]
    fn a_snapshot_needs_what_is_still_to_be_written_beside_what_must_be_left() {
        let space = SnapshotSpace { disk_free_bytes_min: 100, expected: 40 };
        let is_enough = |free, written| space.check(free, written).is_ok();
        assert!(is_enough(140, 0) && !is_enough(139, 0));
        assert!(is_enough(110, 30) && !is_enough(109, 30));
        // One that becomes larger than the one before.
        assert!(is_enough(100, 90) && !is_enough(99, 90));
        let Err(error) = space.check(139, 0) else { panic!("139 bytes are too few") };
        assert!(error.to_string().contains("139") && error.to_string().contains("140"), "{error}");
    }
}
