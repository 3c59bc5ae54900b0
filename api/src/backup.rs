//! `GET /v1/backup`: a copy of everything behind the door, as a stream of bytes for whoever may have all of it. What is in it and how it
//! is made is for whoever offers it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::call::Call;
use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::problem::Problem;
use crate::status::Code;

/// The type of a backup.
pub(crate) const OCTET_STREAM: &str = "application/octet-stream";

/// Offers backups of what is behind a door.
pub trait BackupSource: Send + Sync {
    /// Begins a backup, with the changes that the feed still has or without; `None` while another one is under way.
    ///
    /// Its pieces come one after the other, at least one every few seconds; an error is the last of one that has failed, and tells the
    /// reader nothing but that. Whoever makes them ends when the receiver is dropped.
    fn try_begin(&self, with_feed: bool) -> Option<mpsc::Receiver<io::Result<Bytes>>>;
}

/// `GET /v1/backup`: everything, as one stream.
pub(crate) async fn read(call: Call) -> Result<Response, Problem> {
    let (source, with_feed) = asked(&call)?;
    let pieces = source.try_begin(with_feed).ok_or_else(|| Problem::new(Code::Overloaded, "another backup is under way"))?;
    Ok(answer(Body::new(BackupStream { pieces, door: call.shared_door(), exchange: call.exchange() })))
}

/// `HEAD /v1/backup`: what a backup would be answered with. None is begun, so whether another one is under way is not said.
pub(crate) async fn head(call: Call) -> Result<Response, Problem> {
    asked(&call)?;
    Ok(answer(Body::empty()))
}

/// Where the backup comes from, and whether it is to have the feed's changes.
fn asked(call: &Call) -> Result<(&dyn BackupSource, bool), Problem> {
    call.engine()?;
    let with_feed = match call.query().text("feed") {
        None | Some("true") => true,
        Some("false") => false,
        Some(text) => {
            return Err(Problem::invalid_request(format!("the parameter `feed` is {text:?} where true or false is needed")));
        }
    };
    let source = call.door().backups().ok_or_else(|| Problem::new(Code::NotFound, "no backups are offered here"))?;
    Ok((source, with_feed))
}

fn answer(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTET_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The body of the answer.
struct BackupStream {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    door: Arc<Door>,
    exchange: Arc<Exchange>,
}

impl HttpBody for BackupStream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = ready!(self.pieces.poll_recv(context));
        // A stop waits for no backup. There is a piece every few seconds, so this is seen in time.
        if self.door.is_stopping() && piece.is_some() {
            return Poll::Ready(Some(Err(io::Error::other("the node is stopping"))));
        }
        self.exchange.enter(if piece.is_some() { Phase::Sending } else { Phase::Writing });
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}
