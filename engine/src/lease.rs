//! For how long a shard may decide without hearing of its quorum. Who decides without a quorum is alone, and its lease has no end.
//!
//! The log says until when; whoever relies on it looks at the clock. A process that was stopped and goes on thus finds its lease over before
//! anything else of it has had a turn to notice.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// No end.
const FOR_EVER: u64 = u64::MAX;

/// A shard's lease. Its end only moves forward, unless the lease is given up.
#[derive(Debug)]
pub(crate) struct Lease {
    began: Instant,
    /// Nanoseconds behind `began`.
    end: AtomicU64,
}

impl Lease {
    /// One without an end.
    pub(crate) fn for_ever() -> Self {
        Self { began: Instant::now(), end: AtomicU64::new(FOR_EVER) }
    }

    /// From now on it ends at `end`, or where it ends already if that is later; or never.
    pub(crate) fn set(&self, end: Option<Instant>) {
        let Some(end) = end else {
            self.end.store(FOR_EVER, Ordering::Relaxed);
            return;
        };
        let end = nanoseconds(self.began, end);
        // Whoever was alone before is not any more.
        let newer = |old: u64| Some(if old == FOR_EVER { end } else { old.max(end) });
        // The update gives a value in any case, so it cannot fail.
        let _ = self.end.fetch_update(Ordering::Relaxed, Ordering::Relaxed, newer);
    }

    /// It is over, until it is set anew.
    pub(crate) fn give_up(&self) {
        self.end.store(0, Ordering::Relaxed);
    }

    /// Whether it is over now.
    pub(crate) fn is_over(&self) -> bool {
        let end = self.end.load(Ordering::Relaxed);
        end != FOR_EVER && nanoseconds(self.began, Instant::now()) >= end
    }
}

/// From `began` to `at`, and no longer than a lease that has an end.
fn nanoseconds(began: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(began).as_nanos()).unwrap_or(FOR_EVER).min(FOR_EVER - 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lease_is_over_when_its_end_has_come_whoever_has_noticed() {
        let lease = Lease::for_ever();
        assert!(!lease.is_over());
        let now = Instant::now();
        lease.set(Some(now));
        assert!(lease.is_over());
        lease.set(Some(now + Duration::from_hours(1)));
        assert!(!lease.is_over());
        // What is heard late does not shorten it.
        lease.set(Some(now));
        assert!(!lease.is_over());
        lease.set(None);
        assert!(!lease.is_over());
        // One that is alone no longer has no more than it is given.
        lease.set(Some(now));
        assert!(lease.is_over());
    }

    #[test]
    fn a_lease_that_is_given_up_is_over_until_it_is_set_anew() {
        let lease = Lease::for_ever();
        for end in [None, Some(Instant::now() + Duration::from_hours(1))] {
            lease.set(end);
            assert!(!lease.is_over());
            lease.give_up();
            assert!(lease.is_over());
        }
        lease.set(Some(Instant::now() + Duration::from_hours(1)));
        assert!(!lease.is_over());
    }
}
