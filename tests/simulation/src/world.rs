//! What all parts of one run share: the seed's randomness, the trace, the evidence, and who is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidegate_persistence::{Group, NodeId};

use crate::defect::Defect;
use crate::evidence::{Applied, Evidence, First, Trace};

/// Notes a line of the trace.
macro_rules! note {
    ($world:expr, $($what:tt)+) => { $world.trace.note(format_args!($($what)+)) };
}
pub(crate) use note;

/// One life of a node: from a start to a crash. What is left of a node that has crashed may still run within the process; it reaches nobody, and
/// its disk does nothing any more.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) node: NodeId,
    pub(crate) number: u64,
    alive: AtomicBool,
}

impl Life {
    pub(crate) fn new(node: NodeId, number: u64) -> Arc<Self> {
        Arc::new(Self { node, number, alive: AtomicBool::new(true) })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

/// How long a sync takes, in microseconds.
const SYNC_US: (u64, u64) = (100, 3_000);

/// How long one takes in some runs, of a hundred so many: what is lost in a crash is what is between a write and its sync.
const SLUGGISH_SYNC_US: (u64, u64) = (5_000, 120_000);
const SLUGGISH_PERCENT: u32 = 30;

/// What is shared. Everything runs on one thread, so no lock is ever waited for.
pub(crate) struct World {
    pub(crate) defect: Option<Defect>,
    pub(crate) trace: Trace,
    pub(crate) evidence: Mutex<Evidence>,
    /// How long a sync of this run takes where nothing is wrong, in microseconds.
    pub(crate) sync_us: (u64, u64),
    random: Mutex<SmallRng>,
}

impl World {
    pub(crate) fn new(seed: u64, defect: Option<Defect>, is_traced: bool) -> Arc<Self> {
        let mut random = SmallRng::seed_from_u64(seed);
        let sync_us = if random.random_range(0..100) < SLUGGISH_PERCENT { SLUGGISH_SYNC_US } else { SYNC_US };
        Arc::new(Self { defect, trace: Trace::new(is_traced), evidence: Mutex::default(), sync_us, random: Mutex::new(random) })
    }

    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Draws what `draw` draws.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.random.lock())
    }

    /// Whether something happens that happens `percent` times of a hundred.
    pub(crate) fn happens(&self, percent: u32) -> bool {
        self.draw(|random| random.random_range(0..100) < percent)
    }

    /// From `least` to `most` microseconds, short times as often as long ones of twice the length.
    pub(crate) fn delay(&self, least: u64, most: u64) -> Duration {
        let (least, most) = (least.max(1), most.max(least).max(1));
        let power = self.draw(|random| {
            random.random_range(
                f64::from(u32::try_from(least).unwrap_or(u32::MAX)).log2()
                    ..=f64::from(u32::try_from(most).unwrap_or(u32::MAX)).log2(),
            )
        });
        Duration::from_secs_f64(power.exp2() / 1e6)
    }

    /// Counts something.
    pub(crate) fn count(&self, what: &'static str) {
        *self.evidence.lock().counts.entry(what).or_default() += 1;
    }

    /// A node has applied a group.
    pub(crate) fn applied(&self, applied: Applied, group: &Arc<Group>) {
        let at_ms = self.trace.now_ms();
        let Applied { node, sequence, .. } = applied;
        note!(self, "node {node} applies group {sequence} of {} events", group.events);
        let evidence = &mut *self.evidence.lock();
        evidence.applied.push(applied);
        if sequence.0 == evidence.firsts.len() as u64 + 1 {
            evidence.firsts.push(First { group: Arc::clone(group), chain: applied.chain, at_ms });
        }
    }

    /// A broken promise.
    pub(crate) fn find(&self, invariant: &'static str, what: String) {
        self.trace.note(format_args!("FINDING {invariant}: {what}"));
        self.evidence.lock().find(invariant, what);
    }
}
