//! Takes the connections of other nodes, and lets the shards answer them.
//!
//! Whoever connects has [`super::NetworkLimits::handshake_ms_max`] to show that it is a node of the cluster. A node has one connection for each
//! lane: one that it makes anew takes the place of the one before, so that what a dead connection leaves takes nobody's place.
//!
//! What a node asks is handed to its shard in the order in which it came, and answered when the shard has answered, in any order. What is asked
//! and not answered yet is bounded in number ([`REQUESTS_IN_FLIGHT_MAX`]) and in bytes ([`REQUESTS_IN_FLIGHT_BYTES_MAX`]): beyond that nothing
//! is read. A node speaks for itself only: a vote that is another's, or a kind of question that is not the lane's, is refused. After a frame
//! that did not come as it was sent, nothing of that connection counts any more.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::{Mutex, RwLock};
use tidegate_persistence::NodeId;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::endpoint::Endpoint;
use super::link::IDLE_SECONDS_MAX;
use super::reception::{Broken, Received, Receptions};
use super::transfer::{IncomingSnapshot, SnapshotTransfer};
use super::wire::{Answer, Asked, Failure, Question, WireError, decode_question, encode_answer};
use crate::abstention::Abstention;
use crate::state_machine::{Machine, MachineSnapshot};
use crate::transport::{Connection, FRAME_BYTES_MAX, Frame, Guest, Lane, read_frame, write_frame};
use crate::types::{Raft, TypeConfig, Vote};

/// What a node may have asked over one connection without an answer yet.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1_024;

/// Bytes of what a node may have asked over one connection without an answer yet. One more may have been read.
pub const REQUESTS_IN_FLIGHT_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// How long a connection may be silent, in seconds: longer than the other side lets it be idle.
pub const SILENT_SECONDS_MAX: u64 = 2 * IDLE_SECONDS_MAX;

/// How long answers that are due may take when the listener stops, in milliseconds.
pub const STOP_MS_MAX: u64 = 2_000;

/// For how long nobody is taken when the operating system gives no connection, for want of files for example, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;

/// How often the log says that somebody was refused, in milliseconds: strangers must not fill it.
const COMPLAINT_MS: u64 = 1_000;

/// Bytes that are read, or of answers that are written, at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// The shards of a node that other nodes may ask. Cheap to clone.
pub struct Shards<M: Machine, T>(Arc<RwLock<BTreeMap<u16, Shard<M, T>>>>);

struct Shard<M: Machine, T> {
    raft: Raft<M>,
    abstention: Abstention,
    transfer: Arc<T>,
}

impl<M: Machine, T> Clone for Shard<M, T> {
    fn clone(&self) -> Self {
        Self { raft: self.raft.clone(), abstention: self.abstention, transfer: Arc::clone(&self.transfer) }
    }
}

impl<M: Machine, T> Clone for Shards<M, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Machine, T> Default for Shards<M, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M: Machine, T> fmt::Debug for Shards<M, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.read().keys()).finish()
    }
}

impl<M: Machine, T: SnapshotTransfer<Snapshot = M::Snapshot>> Shards<M, T> {
    /// Lets shard `shard` be asked, by `raft`, which takes part in elections after `abstention`; its snapshots are received as `transfer` has it.
    pub fn insert(&self, shard: u16, raft: Raft<M>, abstention: Abstention, transfer: Arc<T>) {
        self.0.write().insert(shard, Shard { raft, abstention, transfer });
    }

    /// Lets shard `shard` be asked no more. What was asked is answered.
    pub fn remove(&self, shard: u16) {
        self.0.write().remove(&shard);
    }

    fn get(&self, shard: u16) -> Option<Shard<M, T>> {
        self.0.read().get(&shard).cloned()
    }
}

/// What a node answers other nodes beside consensus. What is asked, and what an answer means, is for whoever asks and answers.
pub trait Desk: Send + Sync + 'static {
    /// Answers `body`, which `node` asks. Dropped in between when the connection ends. Bounded in number and bytes as everything that is asked.
    fn answer(&self, node: NodeId, body: Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;
}

/// Answers nothing, with nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDesk;

impl Desk for NoDesk {
    fn answer(&self, _: NodeId, _: Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> {
        Box::pin(async { Vec::new() })
    }
}

/// The listener of a node.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Takes connections of `listener` from now on, as `endpoint`, for `shards`. What else is asked is answered by `desk`.
    pub fn start<M, T>(listener: TcpListener, endpoint: Endpoint, shards: Shards<M, T>, desk: Arc<dyn Desk>) -> io::Result<Self>
    where
        M: Machine,
        T: SnapshotTransfer<Snapshot = M::Snapshot>,
    {
        let address = listener.local_addr()?;
        let (stop, stopping) = watch::channel(false);
        let door = Door { endpoint, shards, desk, seats: Arc::default(), stopping };
        Ok(Self { address, stop, accepting: tokio::spawn(accept(listener, door)) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nobody any more, reads nothing any more, answers what is due, for [`STOP_MS_MAX`] at most, and closes all connections. Dropped
    /// in between, or never called, everything is closed at once.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // It has panicked, or it is done.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What every connection has.
struct Door<M: Machine, T> {
    endpoint: Endpoint,
    shards: Shards<M, T>,
    desk: Arc<dyn Desk>,
    seats: Arc<Mutex<Seats>>,
    stopping: watch::Receiver<bool>,
}

impl<M: Machine, T> Clone for Door<M, T> {
    fn clone(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            shards: self.shards.clone(),
            desk: Arc::clone(&self.desk),
            seats: Arc::clone(&self.seats),
            stopping: self.stopping.clone(),
        }
    }
}

/// Who is there.
#[derive(Default)]
struct Seats {
    number: u64,
    refusals: Refusals,
    /// Who is shaking hands, the oldest first.
    strangers: VecDeque<(u64, AbortHandle)>,
    /// Which node is connected; whose other half is dropped gives its place away.
    guests: BTreeMap<(NodeId, Lane), (u64, oneshot::Sender<()>)>,
}

/// Who was refused without a word in the log.
#[derive(Default)]
struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// Says in the log that `address` was refused, and how many were before, unless it has said so just now.
    fn tell(&mut self, address: SocketAddr, why: &dyn fmt::Display) {
        if self.told.is_some_and(|told| told.elapsed() < Duration::from_millis(COMPLAINT_MS)) {
            self.untold += 1;
            return;
        }
        tracing::warn!(%address, %why, others = self.untold, "a connection was refused");
        *self = Self { told: Some(Instant::now()), untold: 0 };
    }
}

async fn accept<M, T>(listener: TcpListener, door: Door<M, T>)
where
    M: Machine,
    T: SnapshotTransfer<Snapshot = M::Snapshot>,
{
    let mut connections = JoinSet::new();
    let mut stopping = door.stopping.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|is_stopping| *is_stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a node's connection was not taken");
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            }
        };
        let mut seats = door.seats.lock();
        seats.number += 1;
        let number = seats.number;
        let handle = connections.spawn(meet(door.clone(), number, stream, address));
        seats.strangers.push_back((number, handle));
        if seats.strangers.len() > door.endpoint.limits().handshakes_max
            && let Some((_, oldest)) = seats.strangers.pop_front()
        {
            oldest.abort();
            seats.refusals.tell(address, &"too many shake hands at once: who waits for the longest is cut off for it");
        }
    }
    drop(listener);
    let ending = async { while connections.join_next().await.is_some() {} };
    // Whoever is left is cut off with the set.
    let _ = timeout(Duration::from_millis(STOP_MS_MAX), ending).await;
}

/// Finds out who has connected by `stream`, as number `number`, and serves it if it is a node.
async fn meet<M, T>(door: Door<M, T>, number: u64, stream: TcpStream, address: SocketAddr)
where
    M: Machine,
    T: SnapshotTransfer<Snapshot = M::Snapshot>,
{
    let mut stopping = door.stopping.clone();
    let limit = door.endpoint.handshake_limit();
    let shaken = tokio::select! {
        biased;
        _ = stopping.wait_for(|is_stopping| *is_stopping) => None,
        shaken = timeout(limit, door.endpoint.accept(stream)) => Some(shaken),
    };
    let (guest, connection, replaced) = {
        let mut seats = door.seats.lock();
        seats.strangers.retain(|(stranger, _)| *stranger != number);
        match shaken {
            None => return,
            Some(Err(_)) => {
                seats.refusals.tell(address, &format_args!("no handshake within {} ms", limit.as_millis()));
                return;
            }
            Some(Ok(Err(error))) => {
                seats.refusals.tell(address, &error);
                return;
            }
            Some(Ok(Ok((guest, connection)))) => {
                let place = (guest.node, guest.lane);
                seats.guests.retain(|_, (_, seat)| !seat.is_closed());
                if !seats.guests.contains_key(&place) && seats.guests.len() >= door.endpoint.limits().connections_max {
                    seats.refusals.tell(address, &format_args!("node {}: all connections are taken", guest.node));
                    return;
                }
                let (seat, replaced) = oneshot::channel();
                // The one before, if there is one, finds out when its half is dropped.
                seats.guests.insert(place, (number, seat));
                (guest, connection, replaced)
            }
        }
    };
    tracing::info!(%address, node = %guest.node, lane = ?guest.lane, "a node has connected");
    let why = serve(&door, guest, connection, replaced).await;
    tracing::info!(%address, node = %guest.node, lane = ?guest.lane, why, "a node's connection has ended");
    let mut seats = door.seats.lock();
    let place = (guest.node, guest.lane);
    if seats.guests.get(&place).is_some_and(|(taken, _)| *taken == number) {
        seats.guests.remove(&place);
    }
}

/// The answer to one frame, when it is there.
type Answering = Pin<Box<dyn Future<Output = (u64, Vec<u8>)> + Send>>;

/// Answers `guest` until the connection ends, and says why it did.
async fn serve<M, T>(door: &Door<M, T>, guest: Guest, connection: Connection, replaced: oneshot::Receiver<()>) -> String
where
    M: Machine,
    T: SnapshotTransfer<Snapshot = M::Snapshot>,
{
    let (reader, writer) = tokio::io::split(connection);
    let (due, queue) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
    let mut stopping = door.stopping.clone();
    let reading = async {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|is_stopping| *is_stopping) => Ok("this node is stopping".to_owned()),
            end = hear(reader, door, guest, due) => end,
        }
    };
    let writing = speak(BufWriter::with_capacity(BUFFER_BYTES, writer), queue, door.endpoint.silence_limit());
    let (mut reading, mut writing, mut replaced) = (Box::pin(reading), Box::pin(writing), replaced);
    let ended = tokio::select! {
        biased;
        _ = &mut replaced => return "the node has connected again".to_owned(),
        ended = &mut reading => ended,
        why = &mut writing => return why,
    };
    match ended {
        // Nothing is read any more; what was asked is answered.
        Ok(why) => {
            tokio::select! {
                biased;
                _ = &mut replaced => {}
                _ = &mut writing => {}
            }
            why
        }
        Err(why) => why,
    }
}

/// Hands out what is asked, until there is nothing more. An error ends the connection at once, with everything that is due.
async fn hear<M, T>(
    reader: ReadHalf<Connection>,
    door: &Door<M, T>,
    guest: Guest,
    due: mpsc::Sender<Answering>,
) -> Result<String, String>
where
    M: Machine,
    T: SnapshotTransfer<Snapshot = M::Snapshot>,
{
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let mut receptions = Receptions::new();
    let (count, bytes) = (bound(REQUESTS_IN_FLIGHT_MAX), bound(REQUESTS_IN_FLIGHT_BYTES_MAX));
    loop {
        let frame = match timeout(Duration::from_secs(SILENT_SECONDS_MAX), read_frame(&mut reader)).await {
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) => return Ok("it was closed by the other side".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("it was silent for {SILENT_SECONDS_MAX} s")),
        };
        let size = u32::try_from(frame.body.len()).map_err(|error| error.to_string())?;
        let permits = (permit(&count, 1).await?, permit(&bytes, size).await?);
        let Frame { number, body } = frame;
        let mut answering = if guest.lane == Lane::Requests && !body.is_empty() {
            door.desk.answer(guest.node, body)
        } else {
            ask(&door.shards, &mut receptions, guest, body).await
        };
        // Polled here, so that what came first is with its shard first. A shard that takes nothing keeps who waits for it in order.
        let first = poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))).await;
        let answering: Answering = Box::pin(async move {
            let answer = match first {
                Poll::Ready(answer) => answer,
                Poll::Pending => answering.await,
            };
            drop(permits);
            (number, answer)
        });
        if due.send(answering).await.is_err() {
            return Err("nothing can be answered any more".to_owned());
        }
    }
}

fn bound(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits))
}

async fn permit(of: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, String> {
    Arc::clone(of).acquire_many_owned(permits).await.map_err(|error| error.to_string())
}

/// Writes answers as they come, until no more can come. Says why it ended.
async fn speak(mut writer: BufWriter<WriteHalf<Connection>>, mut queue: mpsc::Receiver<Answering>, limit: Duration) -> String {
    let mut due = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !due.is_empty() {
        let (number, body) = tokio::select! {
            biased;
            Some(answer) = due.next(), if !due.is_empty() => answer,
            next = queue.recv(), if is_open => {
                match next {
                    Some(answering) => due.push(answering),
                    None => is_open = false,
                }
                continue;
            }
        };
        let writing = async {
            write_frame(&mut writer, number, &body).await?;
            // What is there already goes out together.
            for _ in 1..REQUESTS_IN_FLIGHT_MAX {
                let Some(Some((number, body))) = due.next().now_or_never() else { break };
                write_frame(&mut writer, number, &body).await?;
            }
            Ok(writer.flush().await?)
        };
        let written: Result<Result<(), crate::transport::FrameError>, _> = timeout(limit, writing).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("it takes no answers for {} ms", limit.as_millis()),
        }
    }
    "all is answered".to_owned()
}

/// What is to be answered to one frame: it is with its shard when first polled.
type Asking = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

fn at_once(answer: &Answer) -> Asking {
    let body = encode_answer(answer);
    Box::pin(async { body })
}

fn later(answer: impl Future<Output = Answer> + Send + 'static) -> Asking {
    Box::pin(async { encode_answer(&answer.await) })
}

fn refused(failure: Failure, what: &(impl ToString + ?Sized)) -> Asking {
    at_once(&Answer::Failure(failure, what.to_string()))
}

/// The vote that a question is asked under, and the lane that it belongs to.
fn sender(asked: &Asked) -> (Option<&Vote>, bool, bool) {
    let (on_any, on_snapshots) = ((true, false), (false, true));
    let (vote, (elsewhere, snapshots)) = match asked {
        Asked::Append(request) => (Some(&request.vote), on_any),
        Asked::Vote(request) | Asked::PreVote(request) => (Some(&request.vote), on_any),
        Asked::TransferLeader(request) => (Some(request.from_leader()), on_any),
        Asked::SnapshotBegin(_, head) => (Some(&head.vote), on_snapshots),
        Asked::SnapshotBytes { .. } | Asked::SnapshotEnd { .. } | Asked::SnapshotGivenUp { .. } => (None, on_snapshots),
    };
    (vote, elsewhere, snapshots)
}

async fn ask<M, T>(shards: &Shards<M, T>, receptions: &mut Receptions<T::Incoming>, guest: Guest, body: Vec<u8>) -> Asking
where
    M: Machine,
    T: SnapshotTransfer<Snapshot = M::Snapshot>,
{
    if body.is_empty() {
        return Box::pin(async { Vec::new() });
    }
    let Question { shard, asked } = match decode_question(&body) {
        Ok(question) => question,
        Err(error) => return unreadable(guest, &error),
    };
    drop(body);
    let (vote, elsewhere, snapshots) = sender(&asked);
    if vote.is_some_and(|vote| vote.leader_id.node_id != guest.node) {
        return unreadable(guest, &WireError::Contradiction("a node speaks for another"));
    }
    if !(if guest.lane == Lane::Snapshots { snapshots } else { elsewhere }) {
        return unreadable(guest, &WireError::Contradiction("it is not asked on this lane"));
    }
    let Some(Shard { raft, abstention, transfer: by }) = shards.get(shard) else {
        return refused(Failure::NoShard, &format!("shard {shard} is not here"));
    };
    let stopped = |error: &dyn fmt::Display| Answer::Failure(Failure::Stopped, error.to_string());
    match asked {
        Asked::Append(request) => {
            later(async move { raft.append_entries(request).await.map_or_else(|error| stopped(&error), Answer::Append) })
        }
        Asked::Vote(request) => {
            later(async move { abstention.vote(&raft, request).await.map_or_else(|error| stopped(&error), Answer::Vote) })
        }
        Asked::PreVote(request) => {
            later(async move { abstention.pre_vote(&raft, request).await.map_or_else(|error| stopped(&error), Answer::PreVote) })
        }
        Asked::TransferLeader(request) => {
            later(
                async move { raft.handle_transfer_leader(request).await.map_or_else(|error| stopped(&error), Answer::TransferLeader) },
            )
        }
        Asked::SnapshotBegin(transfer, head) => match receptions.begin(shard, transfer, *head, &*by).await {
            Ok(()) => at_once(&Answer::SnapshotBegin),
            Err(error) => broken(guest, shard, &error),
        },
        Asked::SnapshotBytes { transfer, offset, bytes } => match receptions.take(shard, transfer, offset, &bytes).await {
            Ok(()) => at_once(&Answer::SnapshotBytes),
            Err(error) => broken(guest, shard, &error),
        },
        Asked::SnapshotGivenUp { transfer } => {
            receptions.give_up(shard, transfer);
            at_once(&Answer::SnapshotGivenUp)
        }
        Asked::SnapshotEnd { transfer, length, digest } => match receptions.end(shard, transfer, length, digest) {
            Ok(received) => later(install(raft, received)),
            Err(error) => broken(guest, shard, &error),
        },
    }
}

async fn install<M: Machine, I: IncomingSnapshot<Snapshot = M::Snapshot>>(raft: Raft<M>, received: Received<I>) -> Answer {
    let Received { head, incoming } = received;
    let machine = match incoming.finish().await {
        Ok(machine) => machine,
        Err(error) => return Answer::Failure(Failure::Snapshot, error.to_string()),
    };
    let snapshot = MachineSnapshot { position: head.position, machine };
    let snapshot = SnapshotOf::<TypeConfig, _> { meta: head.meta, snapshot };
    match raft.install_full_snapshot(head.vote, snapshot).await {
        Ok(response) => Answer::SnapshotEnd(response.vote),
        Err(error) => Answer::Failure(Failure::Stopped, error.to_string()),
    }
}

fn unreadable(guest: Guest, error: &WireError) -> Asking {
    tracing::warn!(node = %guest.node, lane = ?guest.lane, %error, "a node asks what cannot be read");
    refused(Failure::Unreadable, error)
}

fn broken(guest: Guest, shard: u16, Broken(why): &Broken) -> Asking {
    tracing::warn!(node = %guest.node, shard, why, "a snapshot is not taken");
    refused(Failure::Snapshot, why)
}
