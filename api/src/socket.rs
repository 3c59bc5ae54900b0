//! The connection's bytes on their way between the network and the HTTP machine, which sees neither phases nor limits.
//!
//! Three things are done here because only here they can be: noticing a header's first byte; giving the HTTP machine's own answers to
//! what is no request the form that every answer has; and lingering, so that a client that is still sending can take its answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::problem::Problem;

/// Bytes thrown away at a time while lingering.
const LINGER_BUFFER_BYTES: usize = 16 * 1024;

/// Where the status stands in an answer's first line: behind `HTTP/1.1 `.
const STATUS_DIGITS: std::ops::Range<usize> = 9..12;

pub(crate) struct Socket<S> {
    stream: S,
    exchange: Arc<Exchange>,
    door: Arc<Door>,
    /// An answer of our own in the place of the HTTP machine's, as far as it is not yet written.
    substitute: Vec<u8>,
    is_write_shut: bool,
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    pub(crate) fn new(stream: S, exchange: Arc<Exchange>, door: Arc<Door>) -> Self {
        Self { stream, exchange, door, substitute: Vec::new(), is_write_shut: false }
    }

    /// Whether what is being written answers no request that reached a handler: then it is the HTTP machine's own word on a header
    /// that it could not read, after which it closes.
    fn is_unasked(&self, bytes: &[u8]) -> bool {
        matches!(self.exchange.phase(), Phase::Idle | Phase::Header) && bytes.starts_with(b"HTTP/1.1 4")
    }

    /// Whoever takes some of an answer that goes on may take as long for the next of it.
    fn note_progress(&self, written: usize) {
        if written > 0 && self.exchange.phase() == Phase::Sending {
            self.exchange.enter(Phase::Sending);
        }
    }

    fn substitute(&mut self, answer: &[u8]) {
        let status = answer.get(STATUS_DIGITS).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        let problem = Problem::unreadable_header(status, self.door.options().header_bytes_max);
        tracing::debug!(status, "a header could not be read");
        self.door.metrics().count_unreadable();
        self.substitute = problem.into_bytes(&self.door.new_request_id());
        self.exchange.leave_unread();
        self.exchange.enter(Phase::Writing);
    }

    fn poll_substitute(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.substitute.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.substitute))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.substitute.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        // A header that came in one piece with the request before it is noticed with its next byte only; until then it is bounded as
        // an idle connection is.
        if buffer.filled().len() > before && self.exchange.phase() == Phase::Idle {
            self.exchange.enter(Phase::Header);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_unasked(bytes) {
            self.substitute(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.note_progress(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let first = slices.first().map_or(&[][..], |slice| slice);
        if self.is_unasked(first) {
            self.substitute(first);
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.note_progress(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything has been handed over, so an answer that was being written is with the network now.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_substitute(context))?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        match self.exchange.phase() {
            Phase::Writing => self.exchange.enter(Phase::Idle),
            Phase::Sending => self.exchange.enter(Phase::Streaming),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_write_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.is_write_shut = true;
            if self.exchange.is_body_left() {
                self.exchange.enter(Phase::Lingering);
            }
        }
        if !self.exchange.is_body_left() {
            return Poll::Ready(Ok(()));
        }
        // Closing with bytes unread would reset the connection and take the answer from a client that is still sending.
        let mut discarded = [0; LINGER_BUFFER_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
