//! Where a connection stands between two bytes: which wait it is in, and whether that wait has lasted too long.
//!
//! One connection is one task: its socket, its request's handler and its timer are polled by the same one, one after the other. They
//! share an [`Exchange`], so that a single timer per connection, which is seldom touched, bounds every wait of every request. The
//! cells are atomic so that the task may move between threads, and so that who accepts connections can see which of them wait for
//! nothing; nobody contends for them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::labels::Route;
use crate::options::HttpOptions;

/// How long the rest of a refused body is read and thrown away, so that its sender can take the answer.
const LINGER: Duration = Duration::from_secs(2);

/// Longer than any process runs.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 100);

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The first byte of a header.
    Idle,
    /// The rest of a header.
    Header,
    /// The rest of a body.
    Body,
    /// The answer of a complete request.
    Answer,
    /// The client to take an answer.
    Writing,
    /// The client to stop sending what nobody reads.
    Lingering,
    /// The client to take some of an answer that goes on.
    Sending,
    /// More of an answer that goes on.
    Streaming,
}

impl Phase {
    const ALL: [Self; 8] =
        [Self::Idle, Self::Header, Self::Body, Self::Answer, Self::Writing, Self::Lingering, Self::Sending, Self::Streaming];

    /// How long it may last.
    pub(crate) fn limit(self, options: &HttpOptions) -> Duration {
        match self {
            Self::Idle | Self::Writing => Duration::from_secs(options.idle_seconds_max),
            Self::Header => Duration::from_secs(options.header_seconds_max),
            Self::Body => Duration::from_secs(options.body_seconds_max),
            Self::Answer => Duration::from_secs(options.answer_seconds_max),
            Self::Lingering => LINGER,
            Self::Sending => Duration::from_secs(options.feed_stall_seconds_max),
            Self::Streaming => FOR_EVER,
        }
    }
}

/// A phase and its place among all of the connection: two are equal only when nothing happened between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u32);

const PHASE_BITS: u32 = 3;
const PHASE_MASK: u32 = (1 << PHASE_BITS) - 1;
const _: () = assert!(Phase::ALL.len() <= 1 << PHASE_BITS);

impl Mark {
    pub(crate) const fn phase(self) -> Phase {
        Phase::ALL[(self.0 & PHASE_MASK) as usize]
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    mark: AtomicU32,
    expired: AtomicBool,
    body_left: AtomicBool,
    route: AtomicU8,
    has_asked: AtomicBool,
    opened: Instant,
    /// How long after that its task last saw it enter a phase, in milliseconds.
    since_ms: AtomicU64,
    should_leave: AtomicBool,
    leave: Notify,
}

/// The wait has lasted longer than its limit.
#[derive(Debug)]
pub(crate) struct Expired;

impl Exchange {
    /// A connection that waits for its first request.
    pub(crate) fn new() -> Self {
        Self {
            mark: AtomicU32::new(Phase::Idle as u32),
            expired: AtomicBool::new(false),
            body_left: AtomicBool::new(false),
            route: AtomicU8::new(Route::Unmatched as u8),
            has_asked: AtomicBool::new(false),
            opened: Instant::now(),
            since_ms: AtomicU64::new(0),
            should_leave: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    /// Its task has seen at `now` that it is in another phase.
    pub(crate) fn note(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(since, Ordering::Relaxed);
    }

    /// Since when it has been in its phase, or in one before.
    pub(crate) fn since(&self) -> Instant {
        self.opened + Duration::from_millis(self.since_ms.load(Ordering::Relaxed))
    }

    /// Whether a request has ever come.
    pub(crate) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    /// Its place is needed: whoever awaits [`Exchange::leave_notice`] hears of it.
    pub(crate) fn ask_to_leave(&self) {
        self.should_leave.store(true, Ordering::SeqCst);
        self.leave.notify_one();
    }

    /// Whether its place is needed, which is forgotten with this.
    pub(crate) fn take_leave(&self) -> bool {
        self.should_leave.load(Ordering::SeqCst) && self.should_leave.swap(false, Ordering::SeqCst)
    }

    /// Is done when its place is needed.
    pub(crate) fn leave_notice(&self) -> Notified<'_> {
        self.leave.notified()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.mark.load(Ordering::Relaxed))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.mark().phase()
    }

    /// A new phase begins now, also when it is of the kind of the one before.
    pub(crate) fn enter(&self, phase: Phase) {
        let turn = (self.mark.load(Ordering::Relaxed) >> PHASE_BITS).wrapping_add(1);
        self.mark.store((turn << PHASE_BITS) | phase as u32, Ordering::Relaxed);
    }

    /// A request's header is complete.
    pub(crate) fn begin_request(&self, has_body: bool) {
        self.expired.store(false, Ordering::Relaxed);
        self.body_left.store(has_body, Ordering::Relaxed);
        self.route.store(Route::Unmatched as u8, Ordering::Relaxed);
        self.has_asked.store(true, Ordering::Relaxed);
        self.enter(if has_body { Phase::Body } else { Phase::Answer });
    }

    /// The request is complete; nothing of its body is left on the way.
    pub(crate) fn complete_request(&self) {
        self.body_left.store(false, Ordering::Relaxed);
        self.enter(Phase::Answer);
    }

    /// Nobody will read the request's body, if it has one, so its answer is what is waited for.
    pub(crate) fn await_answer(&self) {
        if self.phase() == Phase::Body {
            self.enter(Phase::Answer);
        }
    }

    /// The client may still be sending what nobody will read.
    pub(crate) fn leave_unread(&self) {
        self.body_left.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_body_left(&self) -> bool {
        self.body_left.load(Ordering::Relaxed)
    }

    pub(crate) fn set_route(&self, route: Route) {
        self.route.store(route as u8, Ordering::Relaxed);
    }

    pub(crate) fn route(&self) -> Route {
        Route::ALL[usize::from(self.route.load(Ordering::Relaxed))]
    }

    /// The wait of the request in hand is over: whoever is in [`Exchange::bounded`] returns at its next poll.
    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// Awaits `future`, no longer than the phase may last. What is dropped at expiry is `future`.
    pub(crate) async fn bounded<F: Future>(&self, future: F) -> Result<F::Output, Expired> {
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if self.expired.load(Ordering::Relaxed) => Poll::Ready(Err(Expired)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}
