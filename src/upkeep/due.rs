//! When snapshots are due. Reads no clock, and knows nothing of how they are made.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tidegate_persistence::StreamId;

/// How long a shard that gave a copy up is left alone: what it could not follow, a mass lapse mostly, may be over by then.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What the schedule of snapshots is made from.
#[derive(Debug)]
pub(super) struct Due {
    log_bytes_replayed: u64,
    /// Bytes that the log had been written when the newest snapshots were begun, if any were.
    written_at_snapshot: Option<u64>,
    snapshot_at: Instant,
    /// Shards that gave a copy up since, and when the last of them did.
    given_up: BTreeSet<StreamId>,
    given_up_at: Instant,
}

impl Due {
    /// Of a node that starts `now`, with so many bytes of the log behind its snapshots.
    pub(super) const fn new(now: Instant, log_bytes_replayed: u64) -> Self {
        Self { log_bytes_replayed, written_at_snapshot: None, snapshot_at: now, given_up: BTreeSet::new(), given_up_at: now }
    }

    /// When snapshots of every shard were begun last, or the node was started.
    pub(super) const fn snapshot_at(&self) -> Instant {
        self.snapshot_at
    }

    /// Bytes of the log since then, of `written` since the start.
    pub(super) fn grown(&self, written: u64) -> u64 {
        self.written_at_snapshot.map_or(self.log_bytes_replayed + written, |at| written - at)
    }

    /// Snapshots of every shard are begun. Those that fail are due when they would be the next time, not every second; those that a shard
    /// gives up, sooner.
    pub(super) fn begin(&mut self, now: Instant, written: u64) {
        self.snapshot_at = now;
        self.written_at_snapshot = Some(written);
        self.given_up.clear();
    }

    /// The shard of `stream` gave a copy up, and goes on.
    pub(super) fn try_again(&mut self, stream: StreamId, now: Instant) {
        self.given_up.insert(stream);
        self.given_up_at = now;
    }

    /// The shards whose copies are to be tried again now. Each is given once, until it gives up again.
    pub(super) fn again(&mut self, now: Instant) -> Vec<StreamId> {
        if now.duration_since(self.given_up_at) < AGAIN_AFTER {
            return Vec::new();
        }
        std::mem::take(&mut self.given_up).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_was_given_up_is_tried_again_once_and_soon() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (first, second) = (StreamId::log(0), StreamId::log(1));
        let mut due = Due::new(start, 0);
        assert_eq!(due.again(at(1_000)), []);
        due.begin(at(1_000), 1);
        due.try_again(second, at(1_001));
        due.try_again(first, at(1_003));
        assert_eq!(due.again(at(1_012)), []);
        assert_eq!(due.again(at(1_013)), [first, second]);
        assert_eq!(due.again(at(1_014)), []);
        due.try_again(second, at(1_014));
        assert_eq!(due.again(at(1_024)), [second]);
        // Snapshots of all take their place.
        due.try_again(first, at(1_024));
        due.begin(at(1_030), 2);
        assert_eq!(due.again(at(2_000)), []);
    }

    #[test]
    fn the_log_grows_from_what_was_replayed_and_then_from_the_newest_snapshots() {
        let mut due = Due::new(Instant::now(), 70);
        assert_eq!(due.grown(5), 75);
        due.begin(Instant::now(), 6);
        assert_eq!((due.grown(6), due.grown(26)), (0, 20));
    }
}
