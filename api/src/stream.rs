//! Event streams: changes as server-sent events, for as long as the reader takes them. A door of hyper, for the frames of a body.
//!
//! Nothing is made before the connection has room for it: the next piece is read from the log only when the one before went to the
//! network, so a slow reader costs its own place in the log and no memory. Before anything is sent the reader's key is looked at again:
//! one that is revoked or has expired hears of nothing more.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http::{HeaderMap, Method};
use hyper::body::Frame;
use tidegate_engine::Cursor;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use crate::access;
use crate::door::Door;
use crate::events::{Piece, STREAM_CHANGES_MAX};
use crate::exchange::{Exchange, Phase};
use crate::labels::Route;
use crate::metrics::OpenStream;
use crate::problem::Problem;

/// How long a reader should wait before it comes back, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// Shortest time between two looks at the log when there is nothing left: what came meanwhile goes out together, and many readers of
/// many changes do not become as many looks.
const REST: Duration = Duration::from_millis(50);

/// A comment: the connection stands.
const HEARTBEAT: &str = ": alive\n\n";

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Reader)>> + Send>>;

/// The body of an answer that goes on.
pub(crate) struct EventStream {
    next: Option<Next>,
    exchange: Arc<Exchange>,
}

impl EventStream {
    pub(crate) fn new(reader: Reader, exchange: Arc<Exchange>) -> Self {
        Self { next: Some(Box::pin(reader.next())), exchange }
    }
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let made = ready!(next.as_mut().poll(context));
        let frame = made.map(|(bytes, reader)| {
            self.next = Some(Box::pin(reader.next()));
            self.exchange.enter(Phase::Sending);
            Ok(Frame::data(bytes))
        });
        if frame.is_none() {
            self.next = None;
            self.exchange.enter(Phase::Writing);
        }
        Poll::Ready(frame)
    }
}

/// Follows the feed for one stream.
pub(crate) struct Reader {
    door: Arc<Door>,
    /// What it was let in with, to be let in with again.
    headers: HeaderMap,
    changes: watch::Receiver<()>,
    /// What was read and not yet handed over.
    ready: Option<Piece>,
    cursor: Cursor,
    is_greeted: bool,
    is_over: bool,
    /// Before this moment it does not look again.
    rests_until: Instant,
    _open: OpenStream,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// A reader with these `headers` that goes on behind `first`, and hears of further changes from `changes`.
    pub(crate) fn new(
        door: Arc<Door>,
        headers: HeaderMap,
        changes: watch::Receiver<()>,
        first: Piece,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let open = door.metrics().open_stream();
        Self {
            door,
            headers,
            changes,
            cursor: first.next.clone(),
            ready: Some(first),
            is_greeted: false,
            is_over: false,
            rests_until: Instant::now(),
            _open: open,
            _permit: permit,
        }
    }

    /// The next bytes of the stream, once there are any; `None` at its end.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let door = Arc::clone(&self.door);
        let mut stopped = pin!(async {
            let notice = door.stop_notice();
            if !door.is_stopping() {
                notice.await;
            }
        });
        if self.is_over || door.is_stopping() {
            return None;
        }
        if !self.is_greeted {
            self.is_greeted = true;
            return Some((Bytes::from(format!("retry: {RETRY_MS}\n\n")), self));
        }
        let heartbeat = Instant::now() + Duration::from_secs(door.options().feed_heartbeat_seconds);
        loop {
            let piece = if let Some(piece) = self.ready.take() {
                Ok(piece)
            } else {
                tokio::select! {
                    () = &mut stopped => return None,
                    () = sleep_until(self.rests_until) => {}
                }
                // Whatever is committed from here on is heard of.
                self.changes.borrow_and_update();
                let reading = door.events().read(Some(self.cursor.clone()), STREAM_CHANGES_MAX, Piece::of);
                tokio::select! {
                    () = &mut stopped => return None,
                    piece = reading => piece,
                }
            };
            match piece {
                Ok(piece) => {
                    let is_full = piece.changes == STREAM_CHANGES_MAX;
                    self.rests_until = if is_full { Instant::now() } else { Instant::now() + REST };
                    self.cursor = piece.next;
                    if piece.changes > 0 {
                        if let Err(problem) = self.admitted() {
                            return Some(self.end(problem));
                        }
                        door.metrics().count_events(piece.changes);
                        return Some((Bytes::from(piece.text), self));
                    }
                }
                Err(problem) => return Some(self.end(problem)),
            }
            tokio::select! {
                () = &mut stopped => return None,
                () = sleep_until(heartbeat) => {
                    return Some(match self.admitted() {
                        Ok(()) => (Bytes::from_static(HEARTBEAT.as_bytes()), self),
                        Err(problem) => self.end(problem),
                    });
                }
                // The engine is there for as long as the door is.
                _ = self.changes.changed() => {}
            }
        }
    }

    /// Whether the key that the stream began with still opens it.
    fn admitted(&self) -> Result<(), Problem> {
        access::admit(&self.door, Route::Events, &Method::GET, &self.headers).map(|_| ())
    }

    /// That the stream is over, and why.
    fn end(mut self, problem: Problem) -> (Bytes, Self) {
        self.is_over = true;
        let document = problem.into_text();
        (Bytes::from(format!("event: error\ndata: {document}\n\n")), self)
    }
}
