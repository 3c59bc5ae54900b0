//! The clock: the only place that reads wall time. Everything else is given the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tidegate_stock::Timestamp;

/// A source of wall time. May be called from any thread.
pub trait Clock: Send + Sync + 'static {
    /// The present moment. May step backwards; whoever needs monotonic time takes the maximum with what it has seen.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that follows another one and never goes back.
///
/// A step forwards is followed at once: a machine that slept, or was set right, has missed that time. After a step back time goes on at
/// half its speed, measured by the machine's monotonic clock, until the other clock has caught up: holds go on falling due, and what was
/// said about times stays true. Steps are told in the log.
pub struct SteadyClock {
    wall: Box<dyn Fn() -> Timestamp + Send + Sync>,
    monotonic: Box<dyn Fn() -> Duration + Send + Sync>,
    /// The latest moment that was shown, in milliseconds.
    shown_ms: AtomicU64,
    /// When that was, by the monotonic clock, in milliseconds; roughly, as others may show one meanwhile.
    shown_at_ms: AtomicU64,
    /// While the other clock is behind: from where on time goes at half its speed.
    behind: Mutex<Option<Behind>>,
}

#[derive(Debug, Clone, Copy)]
struct Behind {
    from_ms: u64,
    since: Duration,
}

/// A step shorter than this is not worth a line in the log.
const STEP_TOLD_MS: u64 = 1_000;

impl Default for SteadyClock {
    fn default() -> Self {
        let origin = Instant::now();
        Self::following(|| SystemClock.now(), move || origin.elapsed())
    }
}

impl SteadyClock {
    /// A clock that follows `wall`, and `monotonic` while that is behind.
    pub fn following(
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
        monotonic: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let (shown_ms, shown_at_ms) = (AtomicU64::new(wall().unix_ms()), AtomicU64::new(whole_ms(monotonic())));
        Self { wall: Box::new(wall), monotonic: Box::new(monotonic), shown_ms, shown_at_ms, behind: Mutex::new(None) }
    }

    /// Sees to it that no earlier moment than `moment` is ever shown: the newest in a log that was read.
    pub fn never_before(&self, moment: Timestamp) {
        self.shown_ms.fetch_max(moment.unix_ms(), Ordering::SeqCst);
    }

    fn show(&self, ms: u64) -> Timestamp {
        let shown = self.shown_ms.fetch_max(ms, Ordering::SeqCst).max(ms);
        self.shown_at_ms.store(whole_ms((self.monotonic)()), Ordering::Relaxed);
        Timestamp::from_unix_ms(shown)
    }

    /// The other clock moved on.
    fn forwards(&self, wall_ms: u64, shown_ms: u64) -> Timestamp {
        let passed_ms = whole_ms((self.monotonic)()).saturating_sub(self.shown_at_ms.load(Ordering::Relaxed));
        let step_ms = (wall_ms - shown_ms).saturating_sub(passed_ms);
        if step_ms >= STEP_TOLD_MS {
            tracing::warn!(step_ms, "the clock stepped forwards: what fell due meanwhile lapses now");
        }
        self.show(wall_ms)
    }

    /// The other clock is behind what was shown.
    fn backwards(&self, wall_ms: u64, shown_ms: u64) -> Timestamp {
        let now = (self.monotonic)();
        let mut behind = self.behind.lock();
        let Behind { from_ms, since } = *behind.get_or_insert_with(|| {
            let step_ms = shown_ms - wall_ms;
            if step_ms >= STEP_TOLD_MS {
                tracing::warn!(step_ms, "the clock stepped back: time goes on at half its speed until it has caught up");
            }
            Behind { from_ms: shown_ms, since: now }
        });
        drop(behind);
        self.show(from_ms.saturating_add(whole_ms(now.saturating_sub(since)) / 2))
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        // In this order, so that what another thread shows between the two looks is no step back.
        let shown_ms = self.shown_ms.load(Ordering::Acquire);
        let wall_ms = (self.wall)().unix_ms();
        // Most looks are within one millisecond, and cost two loads.
        match wall_ms.cmp(&shown_ms) {
            std::cmp::Ordering::Equal => Timestamp::from_unix_ms(shown_ms),
            std::cmp::Ordering::Greater => {
                if let Some(mut behind) = self.behind.try_lock() {
                    *behind = None;
                }
                self.forwards(wall_ms, shown_ms)
            }
            std::cmp::Ordering::Less => self.backwards(wall_ms, shown_ms),
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that stands still until it is told to move: for tests and benches.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now`.
    pub const fn new(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.unix_ms()))
    }

    /// Moves the clock to `now`, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A steady clock over a wall clock and a monotonic one that are set by hand, in milliseconds.
    fn steady(wall_ms: u64) -> (SteadyClock, Arc<ManualClock>, Arc<AtomicU64>) {
        let wall = Arc::new(ManualClock::new(Timestamp::from_unix_ms(wall_ms)));
        let monotonic = Arc::new(AtomicU64::new(0));
        let (source, passed) = (Arc::clone(&wall), Arc::clone(&monotonic));
        let clock = SteadyClock::following(move || source.now(), move || Duration::from_millis(passed.load(Ordering::SeqCst)));
        (clock, wall, monotonic)
    }

    fn set(wall: &ManualClock, ms: u64) {
        wall.set(Timestamp::from_unix_ms(ms));
    }

    #[test]
    fn a_step_forwards_is_followed_at_once() {
        let (clock, wall, _) = steady(1_000_000);
        set(&wall, 4_600_000);
        assert_eq!(clock.now().unix_ms(), 4_600_000);
        set(&wall, 4_600_001);
        assert_eq!(clock.now().unix_ms(), 4_600_001);
    }

    #[test]
    fn after_a_step_back_time_goes_on_at_half_its_speed_until_the_clock_has_caught_up() {
        let (clock, wall, monotonic) = steady(1_000_000);
        set(&wall, 990_000);
        assert_eq!(clock.now().unix_ms(), 1_000_000);
        monotonic.store(4_000, Ordering::SeqCst);
        set(&wall, 994_000);
        assert_eq!(clock.now().unix_ms(), 1_002_000);
        monotonic.store(20_000, Ordering::SeqCst);
        set(&wall, 1_010_000);
        assert_eq!(clock.now().unix_ms(), 1_010_000);
        monotonic.store(21_000, Ordering::SeqCst);
        set(&wall, 1_011_000);
        assert_eq!(clock.now().unix_ms(), 1_011_000, "caught up, it follows again");
        set(&wall, 1_010_000);
        assert_eq!(clock.now().unix_ms(), 1_011_000, "a second step is a step of its own");
        monotonic.store(21_500, Ordering::SeqCst);
        assert_eq!(clock.now().unix_ms(), 1_011_250);
    }

    #[test]
    fn time_never_falls_behind_what_a_log_says() {
        let (clock, _, monotonic) = steady(1_000_000);
        clock.never_before(Timestamp::from_unix_ms(5_000_000));
        assert_eq!(clock.now().unix_ms(), 5_000_000);
        monotonic.store(1_000, Ordering::SeqCst);
        assert_eq!(clock.now().unix_ms(), 5_000_500);
    }
}
