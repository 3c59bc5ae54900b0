//! One kept-alive connection: a request out, its answer in, within a time. It must not know what they mean.
//!
//! There is no task and no timer per request: the connection has one timer, which is set anew only when it fires before the time
//! that matters.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout};

use super::wire::{ANSWER_BYTES_MAX, Answer, WireError, find_answer};
use crate::target::{Stream, Target};

/// Bytes that there is always room to read.
const READ_BYTES_MIN: usize = 16 * 1024;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// No connection was made: nothing was sent.
    #[error("no connection to the target")]
    Connect(#[source] io::Error),
    /// The connection failed with the request under way.
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// No whole answer came in time.
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
    /// What came is no answer.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A connection with at most one request under way. After an error it is of no further use.
pub(crate) struct Link {
    stream: Stream,
    read: Vec<u8>,
    /// How much of `read` holds bytes.
    filled: usize,
    timer: Pin<Box<Sleep>>,
    answer_wait_max: Duration,
    /// When its last answer came.
    pub(crate) used_at: Instant,
    /// Its last answer said that it will be closed.
    closes: bool,
}

impl Link {
    /// Connects within `answer_wait_max`, which bounds every answer too.
    pub(crate) async fn connect(target: &Target, answer_wait_max: Duration) -> Result<Self, LinkError> {
        let stream = match timeout(answer_wait_max, target.connect()).await {
            Ok(connected) => connected.map_err(LinkError::Connect)?,
            Err(_) => return Err(LinkError::Connect(io::ErrorKind::TimedOut.into())),
        };
        let now = Instant::now();
        let timer = Box::pin(sleep_until((now + answer_wait_max).into()));
        Ok(Self { stream, read: vec![0; READ_BYTES_MIN], filled: 0, timer, answer_wait_max, used_at: now, closes: false })
    }

    /// Whether it can be used again, having been idle for at most so long.
    pub(crate) fn is_good_for(&self, idle_max: Duration) -> bool {
        !self.closes && self.used_at.elapsed() <= idle_max
    }

    /// Sends a whole request and waits for its whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8], now: Instant) -> Result<Answer, LinkError> {
        let deadline = now + self.answer_wait_max;
        let mut sent = 0;
        self.filled = 0;
        let mut answer = poll_fn(|context| {
            let result = self.poll_exchange(context, request, &mut sent);
            if result.is_ready() {
                return result;
            }
            while self.timer.as_mut().poll(context).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(Err(LinkError::TimedOut(self.answer_wait_max)));
                }
                self.timer.as_mut().reset(deadline.into());
            }
            Poll::Pending
        })
        .await?;
        // What nobody asked for would be taken for the next answer.
        answer.closes |= answer.bytes != self.filled;
        self.closes = answer.closes;
        self.used_at = Instant::now();
        Ok(answer)
    }

    /// The body of the answer that came last.
    pub(crate) fn body<'a>(&'a self, answer: &'a Answer) -> &'a [u8] {
        answer.body(&self.read[..self.filled])
    }

    fn poll_exchange(&mut self, context: &mut Context<'_>, request: &[u8], sent: &mut usize) -> Poll<Result<Answer, LinkError>> {
        while *sent < request.len() {
            match Pin::new(&mut self.stream).poll_write(context, &request[*sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(LinkError::Lost(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => *sent += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(LinkError::Lost(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        // What is encrypted may still wait to be written, and reading does not see to it.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(context) {
            return Poll::Ready(Err(LinkError::Lost(error)));
        }
        loop {
            let ended = match self.poll_read(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(LinkError::Lost(error))),
                Poll::Ready(Ok(more)) => more == 0,
            };
            if ended && self.filled == 0 {
                return Poll::Ready(Err(LinkError::Lost(io::ErrorKind::UnexpectedEof.into())));
            }
            if let Some(answer) = find_answer(&self.read[..self.filled], ended)? {
                return Poll::Ready(Ok(answer));
            }
        }
    }

    /// Reads what is there; gives how much, 0 at the end of the connection.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.len() - self.filled < READ_BYTES_MIN / 2 && self.read.len() < ANSWER_BYTES_MAX {
            self.read.resize(self.read.len() * 2, 0);
        }
        let mut room = ReadBuf::new(&mut self.read[self.filled..]);
        let polled = Pin::new(&mut self.stream).poll_read(context, &mut room);
        let more = room.filled().len();
        self.filled += more;
        polled.map_ok(|()| more)
    }
}
