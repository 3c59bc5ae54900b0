//! Waiting for a moment more finely than the runtime's timers do, which count whole milliseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;

/// Waits shorter than this are spent looking at the clock, between looks at the connections: arming a timer takes about as long.
const LOOK_INSTEAD: Duration = Duration::from_micros(30);

/// A timer of the operating system with nanoseconds.
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// Must be made inside a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "its fault is with types whose descriptor can change, and an `OwnedFd`'s cannot")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Returns at `at` or as soon after it as may be. Lets other tasks run once at the least. A dropped future leaves nothing behind.
    pub(crate) async fn wait_until(&self, at: Instant) -> io::Result<()> {
        yield_now().await;
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if left < LOOK_INSTEAD {
                yield_now().await;
                continue;
            }
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: timespec(left) };
            timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            let mut ready = self.timer.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8])?));
            // Armed anew it counts from 0, so a look that was too early only leads to another.
            if let Ok(read) = read {
                read?;
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_wait_ends_before_its_time() {
        let pacer = Pacer::new().unwrap();
        for wait_us in [0, 1, 20, 31, 100, 999, 1_500, 20_000] {
            let at = Instant::now() + Duration::from_micros(wait_us);
            pacer.wait_until(at).await.unwrap();
            assert!(Instant::now() >= at, "{wait_us}");
        }
        // A moment that has passed.
        let passed = Instant::now();
        pacer.wait_until(passed + Duration::from_micros(1)).await.unwrap();
        pacer.wait_until(passed).await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_leaves_the_next_one_whole() {
        let pacer = Pacer::new().unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        let given_up = tokio::select! {
            biased;
            result = pacer.wait_until(soon + Duration::from_mins(1)) => panic!("{result:?}"),
            () = yield_now() => true,
        };
        let at = Instant::now() + Duration::from_millis(5);
        pacer.wait_until(at).await.unwrap();
        assert!(given_up && Instant::now() >= at);
    }
}
