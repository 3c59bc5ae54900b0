//! Whether a shard decides, for whoever asks it for something. Three have a say: whoever tells the shard to lead or to follow, the shard, which
//! takes that in some time later, and the lease.
//!
//! What a shard is told is numbered, so that a shard that is told to follow and soon to lead again is not taken to lead before it has come so far:
//! its views may lack what others decided in between.

use crate::lease::Lease;
use crate::sync::{AtomicU64, Ordering};

/// The shard follows.
const FOLLOWS: u64 = u64::MAX;

/// A shard's leadership.
#[derive(Debug)]
pub(crate) struct Leadership {
    /// How often the shard has been told to lead or to follow.
    told: AtomicU64,
    /// How often it had been when it was told to lead, if that is what it does.
    leads_since: AtomicU64,
    lease: Lease,
}

impl Leadership {
    /// That of a shard which has been told nothing, and leads.
    pub(crate) fn new() -> Self {
        Self { told: AtomicU64::new(0), leads_since: AtomicU64::new(0), lease: Lease::for_ever() }
    }

    pub(crate) const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The shard is about to be told to lead or to follow. Gives the number of that. Only one thread at a time calls this.
    pub(crate) fn tell(&self) -> u64 {
        let told = self.told.load(Ordering::Relaxed) + 1;
        self.told.store(told, Ordering::Release);
        told
    }

    /// The shard leads, as it was told with this number. Only its thread calls this, and shows before what it begins with.
    pub(crate) fn lead(&self, number: u64) {
        self.leads_since.store(number, Ordering::Release);
    }

    /// The shard follows. Only its thread calls this.
    pub(crate) fn follow(&self) {
        self.leads_since.store(FOLLOWS, Ordering::Release);
    }

    /// Whether the shard decides. Whatever is read of its views afterwards is no older than everything that was answered anywhere before this
    /// was asked.
    pub(crate) fn decides(&self) -> bool {
        // In this order. While the lease lasts nobody else has decided. If it was that of an older leadership, the present one has begun since,
        // with all that was decided before; and the shard has come so far.
        !self.lease.is_over() && {
            let told = self.told.load(Ordering::Acquire);
            self.leads_since.load(Ordering::Acquire) == told
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_was_told_to_lead_again_does_not_until_it_has_come_so_far() {
        let leadership = Leadership::new();
        assert!(leadership.decides(), "it was told nothing else");
        let follow = leadership.tell();
        assert!(!leadership.decides(), "told is enough");
        let lead = leadership.tell();
        assert!(!leadership.decides() && lead > follow);
        leadership.lead(lead);
        assert!(leadership.decides());
        leadership.follow();
        assert!(!leadership.decides());
    }

    #[test]
    fn an_order_to_lead_that_is_out_of_date_counts_for_nothing() {
        let leadership = Leadership::new();
        let (first, _, second) = (leadership.tell(), leadership.tell(), leadership.tell());
        leadership.lead(first);
        assert!(!leadership.decides());
        leadership.follow();
        leadership.lead(second);
        assert!(leadership.decides());
        leadership.lease().give_up();
        assert!(!leadership.decides());
    }
}
