//! The bytes of a backup from the network to the disk: asked for, pulled as fast as the disk takes them, and made a data directory of on
//! a thread of their own.

use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use serde::Deserialize;
use tidegate_persistence::{ArchiveTotals, restore};
use tokio::sync::mpsc;
use tokio::task::{spawn, spawn_blocking};
use tokio::time::timeout;

use super::BackupError;
use crate::node::HISTORY_FOLDER;
use crate::target::Target;

/// Longest wait for a connection, and then for the first line of an answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// Longest wait for the next bytes. A node that makes snapshots says every second that it still does.
const BYTES_WAIT_MAX: Duration = Duration::from_mins(1);

/// Pieces that wait between the network and the disk at most.
const PIECES_WAITING_MAX: usize = 16;

/// Largest answer that is no backup, in bytes.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// Why the node gave no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No connection was made.
    #[error("no connection to {url}")]
    Connect {
        /// The target.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The request got no answer.
    #[error("{url} gave no answer")]
    Answer {
        /// The target.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The node said no.
    #[error("{url} gives no backup: {status} {said}")]
    Refused {
        /// The target.
        url: String,
        /// The answer's status.
        status: StatusCode,
        /// Its code and words.
        said: String,
    },
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

/// Fetches a backup from `target` and makes the data directory of it in the empty folder `path`, durable at return. Gives what it holds
/// and how many bytes came. Ends early, with an error, when `interrupted` is done.
pub(super) async fn fetch(
    target: &Target,
    with_feed: bool,
    path: &Path,
    bar: &ProgressBar,
    interrupted: impl Future<Output = Result<(), BackupError>>,
) -> Result<(ArchiveTotals, u64), BackupError> {
    let mut interrupted = std::pin::pin!(interrupted);
    let interruption = |result: Result<(), BackupError>| result.err().unwrap_or(BackupError::Interrupted);
    // Signals are heard before the node is: polled in this order.
    let body = tokio::select! {
        biased;
        result = &mut interrupted => return Err(interruption(result)),
        body = ask(target, with_feed) => body?,
    };
    let came = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    let pieces = Pieces { receiver, piece: Bytes::new(), came: Arc::clone(&came), bar: bar.clone() };
    let (path, planned) = (path.to_owned(), bar.clone());
    let mut restoring = spawn_blocking(move || {
        restore(pieces, &path, HISTORY_FOLDER, |bytes| {
            planned.set_prefix("copying");
            planned.set_message("");
            planned.set_length(bytes);
        })
    });
    let pulling = spawn(pull(body, sender));
    let mut interruption_seen = None;
    let restored = tokio::select! {
        restored = &mut restoring => restored,
        result = &mut interrupted => {
            interruption_seen = Some(interruption(result));
            // With nobody to send any more the directory's thread ends at its next read.
            pulling.abort();
            restoring.await
        }
    };
    let restored = restored.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()));
    match interruption_seen {
        Some(error) => Err(error),
        None => Ok((restored?, came.load(Ordering::Relaxed))),
    }
}

/// Asks for a backup; gives the body of the answer.
async fn ask(target: &Target, with_feed: bool) -> Result<Incoming, FetchError> {
    let url = || target.url.clone();
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let connected = timeout(ANSWER_WAIT_MAX, target.connect()).await.map_err(late).flatten();
    let stream = connected.map_err(|source| FetchError::Connect { url: url(), source })?;
    let no_answer = |source: io::Error| FetchError::Answer { url: url(), source };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| no_answer(io::Error::other(error)))?;
    // Ends with the body; its error comes by the body too.
    spawn(connection);
    let mut request = Request::get(if with_feed { "/v1/backup" } else { "/v1/backup?feed=false" }).header(HOST, &target.name);
    if let Some(key) = &target.key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| no_answer(io::Error::other(error)))?;
    let answered = timeout(ANSWER_WAIT_MAX, sender.send_request(request)).await.map_err(late);
    let answer = answered.and_then(|answer| answer.map_err(io::Error::other)).map_err(no_answer)?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let said = timeout(ANSWER_WAIT_MAX, Limited::new(answer.into_body(), PROBLEM_BYTES_MAX).collect()).await;
    let said = said.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let said = said.map_or_else(String::new, |Problem { code, detail }| format!("({code}: {detail})"));
    Err(FetchError::Refused { url: url(), status, said })
}

/// Hands the body's bytes to `sender` until they end, fail, or nobody takes them.
async fn pull(mut body: Incoming, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match timeout(BYTES_WAIT_MAX, body.frame()).await {
            Ok(None) => return,
            Ok(Some(Ok(frame))) => frame.into_data().map_or(Ok(Bytes::new()), Ok),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {BYTES_WAIT_MAX:?}"))),
        };
        let is_over = piece.is_err();
        if sender.send(piece).await.is_err() || is_over {
            return;
        }
    }
}

/// What came, as a stream for a thread that waits.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    came: Arc<AtomicU64>,
    bar: ProgressBar,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
            self.came.fetch_add(self.piece.len() as u64, Ordering::Relaxed);
            self.bar.inc(self.piece.len() as u64);
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
