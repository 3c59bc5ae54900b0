//! When requests are due: as soon as a connection is free, or at a steady pace whatever the server does. Its timer wakes a poll to the
//! microsecond, where a poll's own time-out has milliseconds only.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};

/// When the next request is due.
#[derive(Debug)]
pub struct Pace {
    until: Instant,
    steady: Option<Steady>,
}

#[derive(Debug)]
struct Steady {
    due: Instant,
    between: Duration,
    timer: OwnedFd,
}

impl Pace {
    /// Requests from `start` until `until`: `rate` a second, or without one as fast as answers come. The timer wakes `registry`'s poll
    /// with `token`.
    pub fn new(start: Instant, until: Instant, rate: Option<f64>, registry: &Registry, token: Token) -> io::Result<Self> {
        let steady = match rate {
            None => None,
            Some(rate) => {
                let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
                registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
                Some(Steady { due: start, between: Duration::from_secs_f64(1.0 / rate), timer })
            }
        };
        Ok(Self { until, steady })
    }

    /// The moment at which a request was due that may be sent now, if there is one; it counts as sent.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let Some(steady) = &mut self.steady else { return (now < self.until).then_some(now) };
        let due = steady.due;
        if due > now || due >= self.until {
            return None;
        }
        steady.due += steady.between;
        Some(due)
    }

    /// Whether nothing is due any more. At a steady pace that is so once everything that was due has been sent, however late.
    pub fn is_over(&self, now: Instant) -> bool {
        self.steady.as_ref().map_or(now, |steady| steady.due) >= self.until
    }

    /// Has the poll wake when the next request is due.
    pub fn arm(&self, now: Instant) -> io::Result<()> {
        let Some(steady) = &self.steady else { return Ok(()) };
        // Zero would switch the timer off.
        let wait = steady.due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&steady.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_pace_counts_from_the_moment_that_was_due() {
        let poll = mio::Poll::new().unwrap();
        let start = Instant::now();
        let milliseconds = |count| start + Duration::from_millis(count);
        let mut pace = Pace::new(start, milliseconds(3), Some(1_000.0), poll.registry(), Token(0)).unwrap();
        assert_eq!(pace.next(milliseconds(1)), Some(start));
        assert_eq!(pace.next(milliseconds(1)), Some(milliseconds(1)));
        assert_eq!(pace.next(milliseconds(1)), None);
        assert!(!pace.is_over(milliseconds(9)), "one that was due is not sent yet");
        assert_eq!(pace.next(milliseconds(9)), Some(milliseconds(2)));
        assert_eq!(pace.next(milliseconds(9)), None);
        assert!(pace.is_over(milliseconds(9)));
    }

    #[test]
    fn the_timer_wakes_the_poll() {
        let mut poll = mio::Poll::new().unwrap();
        let start = Instant::now();
        let mut pace = Pace::new(start, start + Duration::from_secs(9), Some(500.0), poll.registry(), Token(7)).unwrap();
        assert_eq!(pace.next(start), Some(start));
        pace.arm(start).unwrap();
        let mut events = mio::Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
        assert_eq!(events.iter().map(mio::event::Event::token).collect::<Vec<_>>(), [Token(7)]);
        assert!(start.elapsed() >= Duration::from_millis(2));
    }
}
