//! Keyed reservations on their way to a shard. Whoever repeats one that has not been decided must wait behind it, and is not told from the view
//! that something is sold out: the first attempt may still be granted.

use std::sync::Arc;

use tidegate_stock::{Command, Idempotency, Request};

use crate::sync::{AtomicU64, Ordering};

/// Counts that the keys share. Two keys that meet cost a turn of the shard. A model checker looks at each count.
const PLACES: usize = if cfg!(all(test, feature = "loom")) { 2 } else { 4_096 };

/// The keyed reservations that are on their way to one shard.
#[derive(Debug)]
pub(crate) struct KeysUnderWay(Box<[AtomicU64]>);

/// One of them, from before it is sent until what it made known is known; dropped then, or when it is given up.
#[derive(Debug)]
pub(crate) struct UnderWay {
    all: Arc<KeysUnderWay>,
    place: usize,
}

impl Default for KeysUnderWay {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl KeysUnderWay {
    /// `request` is about to be sent. Nothing is to be noted of what is not answered from a view.
    pub(crate) fn enter(self: &Arc<Self>, request: &Request) -> Option<UnderWay> {
        let idempotency = request.idempotency.filter(|_| matches!(request.command, Command::Reserve { .. }))?;
        let place = place(idempotency);
        // Whoever knows that this was called finds the count; what comes with it is ordered by the ring.
        self.0[place].fetch_add(1, Ordering::Relaxed);
        Some(UnderWay { all: Arc::clone(self), place })
    }

    /// Whether a reservation with this key may be under way; no is certain, and then whatever came of one before is in the filter of who is known.
    pub(crate) fn may_hold(&self, idempotency: Idempotency) -> bool {
        self.0[place(idempotency)].load(Ordering::Acquire) > 0 && !mutant!(UnderWayForgotten)
    }
}

/// A key's name is sealed with a secret, so its bits are as good as any hash.
fn place(idempotency: Idempotency) -> usize {
    usize::try_from(idempotency.key.0 % PLACES as u128).unwrap_or(0)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.0[self.place].fetch_sub(1, Ordering::Release);
    }
}
