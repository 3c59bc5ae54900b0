//! One connection to another node, for one lane, over and over again: it is made when something is asked, and made anew after it failed.
//!
//! Everything that is asked goes out in the order in which it was asked, without waiting for answers; an answer finds its question by the
//! frame's number. When the connection fails, everything that was asked over it fails: whether the other node has done it is not known.
//!
//! One task owns the connection. After a failure nobody connects for a while, which grows from failure to failure
//! ([`RECONNECT_MS_MIN`] to [`RECONNECT_MS_MAX`]); what is asked in between fails at once. A node that owes an answer and from which nothing
//! comes is asked for a sign of life, and given up after [`super::NetworkLimits::silence_ms_max`]. It knows nothing of what is asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_persistence::NodeId;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::endpoint::Endpoint;
use crate::transport::{Connection, FRAME_BYTES_MAX, FrameError, Lane, read_frame, write_frame};

/// For how long nobody connects after a first failure, in milliseconds. It doubles from failure to failure.
pub const RECONNECT_MS_MIN: u64 = 50;

/// For how long nobody connects after a failure at most, in milliseconds. Below the time after which elections begin, so that a node
/// that comes back is found before.
pub const RECONNECT_MS_MAX: u64 = 1_000;

const _: () = assert!(0 < RECONNECT_MS_MIN && RECONNECT_MS_MIN <= RECONNECT_MS_MAX);

/// For how long a connection over which nothing is asked stays open, in seconds.
pub const IDLE_SECONDS_MAX: u64 = 60;

/// Questions that wait for their turn to be written, of one lane to one node. Who asks more waits.
pub const LINK_QUEUE_MAX: usize = 64;

/// Bytes that are written, or read, at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why nothing was answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no connection, and nothing was asked.
    #[error("node {0} is not reached: {1}")]
    Unreachable(NodeId, Arc<str>),
    /// The connection has failed, and what was asked may have been done.
    #[error("connection to node {0} failed: {1}")]
    Lost(NodeId, Arc<str>),
    /// There was no answer in time.
    #[error("node {0} has not answered in time")]
    Slow(NodeId),
    /// The question is too long.
    #[error("{0} bytes are too many for a frame")]
    TooLong(usize),
}

/// A question, and who waits for its answer.
struct Call {
    body: Vec<u8>,
    answer: Option<oneshot::Sender<Result<Vec<u8>, LinkError>>>,
}

impl Call {
    fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| !answer.is_closed())
    }

    fn fail(self, error: LinkError) {
        if let Some(answer) = self.answer {
            // Whoever asked may have given up meanwhile.
            let _ = answer.send(Err(error));
        }
    }
}

/// The lane to a node. Clones share the connection, which is closed when the last of them is gone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    node: NodeId,
    calls: mpsc::Sender<Call>,
}

impl Link {
    /// The `lane` to `node`, which is where `address` says when it is connected to. Connects to nobody yet. Ends when `stop` says so.
    pub(crate) fn new(
        endpoint: Endpoint,
        node: NodeId,
        address: watch::Receiver<Arc<str>>,
        lane: Lane,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (calls, queue) = mpsc::channel(LINK_QUEUE_MAX);
        tokio::spawn(Task { endpoint, node, address, lane, stop, queue, backoff: Backoff::new(), number: 0 }.run());
        Self { node, calls }
    }

    /// Asks `body`, and waits `limit` for the answer. Is in its place in the queue, if there is one, when first polled. If it is dropped in
    /// between, the other node may do what it is asked or not.
    pub(crate) async fn ask(&self, body: Vec<u8>, limit: Duration) -> Result<Vec<u8>, LinkError> {
        if body.len() > FRAME_BYTES_MAX {
            return Err(LinkError::TooLong(body.len()));
        }
        let (answer, answered) = oneshot::channel();
        let asking = async {
            let stopped = || LinkError::Unreachable(self.node, "this node is stopping".into());
            self.calls.send(Call { body, answer: Some(answer) }).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        };
        timeout(limit, asking).await.map_err(|_| LinkError::Slow(self.node))?
    }

    /// Says `body`, if that is possible without waiting, and does not care for an answer.
    pub(crate) fn tell(&self, body: Vec<u8>) {
        // It is told as a courtesy: the other node finds out by itself.
        let _ = self.calls.try_send(Call { body, answer: None });
    }
}

/// Since when, and until when, nobody connects.
struct Backoff {
    failures: u32,
    until: Instant,
    why: Arc<str>,
}

impl Backoff {
    fn new() -> Self {
        Self { failures: 0, until: Instant::now(), why: "".into() }
    }

    fn failed(&mut self, why: Arc<str>) {
        let pause = RECONNECT_MS_MIN.saturating_mul(1 << self.failures.min(16)).min(RECONNECT_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Instant::now() + Duration::from_millis(pause);
        self.why = why;
    }
}

/// Who waits for which answer. Who has given up stays until the answer comes, because it is owed: otherwise short questions would hide that the
/// other side is silent. There are no more than it may owe ([`super::REQUESTS_IN_FLIGHT_MAX`]) before it reads nothing further.
type Waiting = BTreeMap<u64, oneshot::Sender<Result<Vec<u8>, LinkError>>>;

/// What the two halves of a connection share.
struct Shared {
    waiting: Waiting,
    /// When something came last.
    heard: Instant,
    /// Whether anything ever came.
    is_alive: bool,
}

/// The end of a connection.
enum End {
    /// There is nothing to do for it any more: it is idle.
    Idle,
    /// There is nobody who could ask any more.
    Stopped,
    /// It failed.
    Failed(String),
}

struct Task {
    endpoint: Endpoint,
    node: NodeId,
    address: watch::Receiver<Arc<str>>,
    lane: Lane,
    stop: watch::Receiver<bool>,
    queue: mpsc::Receiver<Call>,
    backoff: Backoff,
    number: u64,
}

impl Task {
    async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut stop = pin!(async move { stop.wait_for(|is_stopping| *is_stopping).await.is_ok() });
        loop {
            let first = tokio::select! {
                biased;
                _ = &mut stop => return,
                call = self.queue.recv() => match call {
                    Some(call) => call,
                    None => return,
                },
            };
            if !first.is_wanted() {
                continue;
            }
            // Whoever has moved was not there to be reached.
            let has_moved = self.address.has_changed().unwrap_or(false);
            if Instant::now() < self.backoff.until && !has_moved {
                first.fail(LinkError::Unreachable(self.node, Arc::clone(&self.backoff.why)));
                continue;
            }
            let address = Arc::clone(&self.address.borrow_and_update());
            let connecting = self.endpoint.connect(self.node, &address, self.lane);
            let connected = tokio::select! {
                biased;
                _ = &mut stop => return,
                connected = timeout(self.endpoint.handshake_limit(), connecting) => connected,
            };
            let failure = match connected {
                Ok(Ok(connection)) => {
                    if let End::Stopped = self.serve(connection, first, &mut stop).await {
                        return;
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no handshake within {} ms", self.endpoint.limits().handshake_ms_max),
            };
            if self.backoff.failures == 0 {
                tracing::warn!(node = %self.node, %address, lane = ?self.lane, %failure, "a node is not reached");
            }
            self.backoff.failed(failure.into());
            let error = LinkError::Unreachable(self.node, Arc::clone(&self.backoff.why));
            first.fail(error.clone());
            while let Ok(call) = self.queue.try_recv() {
                call.fail(error.clone());
            }
        }
    }

    /// Asks over `connection`, beginning with `first`, until it ends.
    async fn serve(&mut self, connection: Connection, first: Call, stop: &mut (impl Future<Output = bool> + Unpin)) -> End {
        let shared = Mutex::new(Shared { waiting: Waiting::new(), heard: Instant::now(), is_alive: false });
        let (reader, writer) = tokio::io::split(connection);
        let end = {
            let reading = hear(reader, &shared);
            let writing = self.speak(BufWriter::with_capacity(BUFFER_BYTES, writer), first, &shared);
            tokio::select! {
                biased;
                _ = stop => End::Stopped,
                why = reading => End::Failed(why),
                end = writing => end,
            }
        };
        let Shared { waiting, is_alive, .. } = shared.into_inner();
        let why: Arc<str> = match &end {
            End::Idle => "it was idle".into(),
            End::Stopped => "this node is stopping".into(),
            End::Failed(why) => why.as_str().into(),
        };
        if let End::Failed(why) = &end {
            tracing::warn!(node = %self.node, lane = ?self.lane, why, "a connection to a node failed");
            if is_alive {
                self.backoff.failures = 0;
            }
            // Also after a connection that worked for a while: whoever closes it again and again is not asked again and again.
            self.backoff.failed(why.as_str().into());
        } else {
            self.backoff = Backoff::new();
        }
        for answer in waiting.into_values() {
            // Whoever asked may have given up meanwhile.
            let _ = answer.send(Err(LinkError::Lost(self.node, Arc::clone(&why))));
        }
        end
    }

    /// Writes what is asked. Returns when nothing was asked for long, or the other side is silent, or does not take what it is sent.
    async fn speak(&mut self, mut writer: BufWriter<WriteHalf<Connection>>, first: Call, shared: &Mutex<Shared>) -> End {
        let silence = self.endpoint.silence_limit();
        let mut ticks = interval(silence / 5);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut next, mut asked) = (Some(first), Instant::now());
        loop {
            // What waits already goes out together; the bound lets the ticks have their turn.
            for _ in 0..LINK_QUEUE_MAX {
                let Some(call) = next.take().or_else(|| self.queue.try_recv().ok()) else { break };
                if !call.is_wanted() {
                    continue;
                }
                self.number += 1;
                asked = Instant::now();
                if let Some(answer) = call.answer {
                    let mut shared = shared.lock();
                    if shared.waiting.is_empty() {
                        // Nothing was owed until now, so nobody was silent.
                        shared.heard = asked;
                    }
                    shared.waiting.insert(self.number, answer);
                }
                if let Err(end) = in_time(silence, write_frame(&mut writer, self.number, &call.body)).await {
                    return end;
                }
            }
            if let Err(end) = in_time(silence, async { Ok(writer.flush().await?) }).await {
                return end;
            }
            tokio::select! {
                call = self.queue.recv() => match call {
                    Some(call) => next = Some(call),
                    None => return End::Stopped,
                },
                now = ticks.tick() => {
                    let (is_owed, heard) = {
                        let shared = shared.lock();
                        (!shared.waiting.is_empty(), shared.heard)
                    };
                    let quiet = now.saturating_duration_since(heard);
                    if is_owed && quiet > silence {
                        return End::Failed(format!("nothing came for {} ms", silence.as_millis()));
                    }
                    if is_owed && quiet > silence / 5 {
                        next = Some(Call { body: Vec::new(), answer: None });
                    }
                    if !is_owed && now.saturating_duration_since(asked) > Duration::from_secs(IDLE_SECONDS_MAX) {
                        return End::Idle;
                    }
                }
            }
        }
    }
}

/// Writes for as long as `limit` at most.
async fn in_time(limit: Duration, writing: impl Future<Output = Result<(), FrameError>>) -> Result<(), End> {
    match timeout(limit, writing).await {
        Ok(written) => written.map_err(|error| End::Failed(error.to_string())),
        Err(_) => Err(End::Failed(format!("it takes nothing for {} ms", limit.as_millis()))),
    }
}

/// Reads answers until the connection ends, and says why it did.
async fn hear(reader: ReadHalf<Connection>, shared: &Mutex<Shared>) -> String {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    loop {
        let frame = match read_frame(&mut reader).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "it was closed by the other side".to_owned(),
            Err(error) => return error.to_string(),
        };
        let answer = {
            let mut shared = shared.lock();
            shared.heard = Instant::now();
            shared.is_alive = true;
            shared.waiting.remove(&frame.number)
        };
        if let Some(answer) = answer {
            // Whoever asked may have given up meanwhile.
            let _ = answer.send(Ok(frame.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_with_every_failure_and_has_an_end() {
        let mut backoff = Backoff::new();
        assert!(backoff.until <= Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..100 {
            backoff.failed("gone".into());
            pauses.push((backoff.until - Instant::now()).as_millis());
        }
        assert_eq!(pauses[..6], [50, 100, 200, 400, 800, 1_000]);
        assert!(pauses[6..].iter().all(|pause| *pause == 1_000));
    }
}
