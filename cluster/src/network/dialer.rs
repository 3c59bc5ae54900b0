//! What openraft asks other nodes by: one client a shard, a node and a purpose, over the links that all shards share.
//!
//! Heartbeats, votes and transfers of leadership have a lane of their own, appends have one, snapshots have one: none of them waits behind
//! another's bytes.
//!
//! How long is waited: for heartbeats, votes and transfers of leadership as long as openraft says they may take, less what it takes off itself
//! (`soft_ttl`). openraft's limits for an append with entries and for a snapshot are one interval between heartbeats and 200 ms. The other
//! node's disk may take longer, or others may be in front, and to send the same again would not make it faster. So these may take
//! [`BULK_MS_MIN`] and, for a snapshot to be installed, [`SNAPSHOT_INSTALL_SECONDS_MAX`] at least; that the other node is dead is found out by
//! the link.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::ErrorSourceOf;
use openraft::{OptionalSend, RPCTypes, StorageError};
use parking_lot::Mutex;
use tidegate_persistence::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use super::endpoint::Endpoint;
use super::link::{Link, LinkError, RECONNECT_MS_MAX, RECONNECT_MS_MIN};
use super::transfer::SnapshotTransfer;
use super::wire::{Answer, Asked, Failure, Question, SnapshotHead, WireError, decode_answer, encode_append, encode_question};
use crate::members::Member;
use crate::state_machine::MachineSnapshot;
use crate::transport::{FRAME_BYTES_MAX, Lane};
use crate::types::{LogId, Snapshot, TypeConfig, Vote};

/// Appends of one shard to one node that are asked before the first of them is answered. Each may hold as many bytes as the log gives at once,
/// and all of them are in memory.
pub const APPENDS_IN_FLIGHT_MAX: usize = 8;

/// How long the other node may take for an append with entries, or for a part of a snapshot, in milliseconds, if openraft does not give it
/// more.
pub const BULK_MS_MIN: u64 = 10_000;

/// Bytes of a snapshot that go over at once.
pub const SNAPSHOT_PART_BYTES: usize = 1024 * 1024;

const _: () = assert!(SNAPSHOT_PART_BYTES + 64 <= FRAME_BYTES_MAX);

/// Parts of a snapshot that are sent before the first of them is answered.
pub const SNAPSHOT_PARTS_IN_FLIGHT_MAX: usize = 4;

/// How long the other node may take to install a snapshot, in seconds, if openraft does not give it more.
pub const SNAPSHOT_INSTALL_SECONDS_MAX: u64 = 600;

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// The connections of a node to the others. Cheap to clone; all shards share one. Each runs on the runtime on which it was first asked for.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

/// Where nodes are, and the links to them.
#[derive(Default)]
struct Known {
    addresses: BTreeMap<NodeId, watch::Sender<Arc<str>>>,
    links: BTreeMap<(NodeId, Lane), Link>,
}

struct Shared {
    endpoint: Endpoint,
    known: Mutex<Known>,
    transfers: AtomicU64,
    stop: watch::Sender<bool>,
}

impl fmt::Debug for Links {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Links").field("node", &self.0.endpoint.node()).finish_non_exhaustive()
    }
}

impl Links {
    /// No connections yet, of `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        let (stop, _) = watch::channel(false);
        Self(Arc::new(Shared { endpoint, known: Mutex::default(), transfers: AtomicU64::new(1), stop }))
    }

    /// The network of shard `shard`, whose snapshots go over as `transfer` has it.
    pub fn dialer<T: SnapshotTransfer>(&self, shard: u16, transfer: Arc<T>) -> Dialer<T> {
        Dialer { shard, transfer, links: self.clone() }
    }

    /// Asks the desk of `node` at `address`, and waits `limit` for the answer. If it is dropped in between, or fails with anything but
    /// [`LinkError::Unreachable`] and [`LinkError::TooLong`], the other node may have heard it or not.
    pub async fn ask(&self, node: NodeId, address: &str, body: Vec<u8>, limit: Duration) -> Result<Vec<u8>, LinkError> {
        self.link(node, address, Lane::Requests).ask(body, limit).await
    }

    /// Closes all connections for good. What is asked afterwards fails.
    pub fn close(&self) {
        self.0.stop.send_replace(true);
        *self.0.known.lock() = Known::default();
    }

    /// The `lane` to `node`, which is at `address` now: whoever has a link to it already finds it there when it connects next.
    fn link(&self, node: NodeId, address: &str, lane: Lane) -> Link {
        let Known { addresses, links } = &mut *self.0.known.lock();
        let at = addresses.entry(node).or_insert_with(|| watch::channel(address.into()).0);
        at.send_if_modified(|known| {
            let has_moved = **known != *address;
            if has_moved {
                *known = address.into();
            }
            has_moved
        });
        let new = || Link::new(self.0.endpoint.clone(), node, at.subscribe(), lane, self.0.stop.subscribe());
        links.entry((node, lane)).or_insert_with(new).clone()
    }
}

/// The network of one shard, as openraft has it.
#[derive(Debug)]
pub struct Dialer<T> {
    shard: u16,
    transfer: Arc<T>,
    links: Links,
}

impl<T: SnapshotTransfer> Dialer<T> {
    fn client(&self, node: NodeId, member: &Member, appends: Lane) -> Client<T> {
        Client {
            shard: self.shard,
            us: self.links.0.endpoint.node(),
            node,
            appends: self.links.link(node, &member.address, appends),
            control: self.links.link(node, &member.address, Lane::Control),
            snapshots: self.links.link(node, &member.address, Lane::Snapshots),
            links: self.links.clone(),
            transfer: Arc::clone(&self.transfer),
        }
    }
}

impl<T: SnapshotTransfer> RaftNetworkFactory<TypeConfig> for Dialer<T> {
    type Network = Client<T>;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Client<T> {
        self.client(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Client<T> {
        self.client(target, node, Lane::Control)
    }
}

/// One node, as one shard asks it.
#[derive(Debug)]
pub struct Client<T> {
    shard: u16,
    us: NodeId,
    node: NodeId,
    appends: Link,
    control: Link,
    snapshots: Link,
    links: Links,
    transfer: Arc<T>,
}

/// Asks one thing, and says in openraft's words why there is no answer.
#[derive(Clone)]
struct Asking {
    link: Link,
    us: NodeId,
    node: NodeId,
    action: RPCTypes,
    limit: Duration,
}

impl Asking {
    async fn ask(&self, body: Vec<u8>) -> Rpc<Answer> {
        let body = self.link.ask(body, self.limit).await.map_err(|error| match error {
            LinkError::Unreachable(..) => Unreachable::new(&error).into(),
            LinkError::Slow(_) => {
                let (action, id, target, timeout) = (self.action, self.us, self.node, self.limit);
                RPCError::Timeout(Timeout { action, id, target, timeout })
            }
            LinkError::Lost(..) | LinkError::TooLong(_) => NetworkError::new(&error).into(),
        })?;
        match decode_answer(&body).map_err(|error| unreadable(&error))? {
            Answer::Failure(failure @ (Failure::NoShard | Failure::Stopped), text) => {
                // It will not be there at once.
                Err(Unreachable::from_string(format!("node {}: {failure:?}: {text}", self.node)).into())
            }
            Answer::Failure(failure, text) => Err(failed(format!("node {}: {failure:?}: {text}", self.node))),
            answer => Ok(answer),
        }
    }
}

fn bulk_limit(option: &RPCOption) -> Duration {
    option.hard_ttl().max(Duration::from_millis(BULK_MS_MIN))
}

fn failed(what: impl ToString) -> RPCError<TypeConfig> {
    NetworkError::from_string(what).into()
}

fn unreadable(error: &WireError) -> RPCError<TypeConfig> {
    NetworkError::new(error).into()
}

/// An answer to another question than was asked.
fn strange(answer: &Answer) -> RPCError<TypeConfig> {
    failed(format!("an answer to another question: {answer:?}"))
}

/// The answer to an append. Of more entries than go into a frame, the first are sent.
async fn append(asking: &Asking, shard: u16, request: AppendEntriesRequest<TypeConfig>) -> Rpc<AppendEntriesResponse<TypeConfig>> {
    let (body, count) = encode_append(shard, &request).map_err(|error| unreadable(&error))?;
    let front = request.prev_log_id;
    let sent = count.checked_sub(1).and_then(|last| request.entries.get(last)).map(RaftEntry::log_id).or(front);
    let is_all = count == request.entries.len();
    // Its entries are in the body now.
    drop(request);
    let response = match asking.ask(body).await? {
        Answer::Append(response) => response,
        answer => return Err(strange(&answer)),
    };
    match response {
        AppendEntriesResponse::Success if !is_all => Ok(AppendEntriesResponse::PartialSuccess(sent)),
        AppendEntriesResponse::PartialSuccess(last) if last < front || last > sent => {
            Err(failed("entries were taken that were not sent"))
        }
        AppendEntriesResponse::Conflict if front.is_none() => Err(failed("a conflict with the beginning of a log")),
        response => Ok(response),
    }
}

/// What openraft is told of an append in a stream of them, and whether the stream goes on behind it.
fn in_stream(
    response: Rpc<AppendEntriesResponse<TypeConfig>>,
    front: Option<LogId>,
    last: Option<LogId>,
) -> (Rpc<StreamAppendResult<TypeConfig>>, bool) {
    match response {
        Err(error) => (Err(error), false),
        Ok(response) => {
            let is_whole = match &response {
                AppendEntriesResponse::Success => true,
                AppendEntriesResponse::PartialSuccess(taken) => *taken == last,
                AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
            };
            (Ok(response.into_stream_result(front, last)), is_whole)
        }
    }
}

impl<T: SnapshotTransfer> Client<T> {
    fn asking(&self, link: &Link, action: RPCTypes, limit: Duration) -> Asking {
        Asking { link: link.clone(), us: self.us, node: self.node, action, limit }
    }

    fn appending(&self, option: &RPCOption, is_heartbeat: bool) -> Asking {
        let limit = if is_heartbeat { option.soft_ttl() } else { bulk_limit(option) };
        self.asking(&self.appends, RPCTypes::AppendEntries, limit)
    }

    async fn ask(&self, action: RPCTypes, asked: Asked, option: &RPCOption) -> Rpc<Answer> {
        let body = encode_question(&Question { shard: self.shard, asked }).map_err(|error| unreadable(&error))?;
        self.asking(&self.control, action, option.soft_ttl()).ask(body).await
    }

    /// Sends the snapshot with head `head`, as transfer number `transfer`, and has it installed.
    async fn send(
        &self,
        transfer: u64,
        head: SnapshotHead,
        snapshot: T::Snapshot,
        option: &RPCOption,
    ) -> Result<Vote, StreamingError<TypeConfig>> {
        let action = RPCTypes::InstallSnapshot;
        let whole = option.hard_ttl().max(Duration::from_secs(SNAPSHOT_INSTALL_SECONDS_MAX));
        let sending = &self.asking(&self.snapshots, action, bulk_limit(option));
        let installing = self.asking(&self.snapshots, action, whole);
        let encode = |asked| encode_question(&Question { shard: self.shard, asked }).map_err(|error| unreadable(&error));

        let signature = head.meta.signature();
        let unread = |error: &io::Error| {
            StorageError::read_snapshot(Some(signature.clone()), ErrorSourceOf::<TypeConfig>::from_error(error))
        };
        let bytes = self.transfer.open(snapshot).await.map_err(|error| unread(&error))?;
        match sending.ask(encode(Asked::SnapshotBegin(transfer, Box::new(head)))?).await? {
            Answer::SnapshotBegin => {}
            answer => return Err(strange(&answer).into()),
        }

        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        let parts = stream::unfold(Some(bytes), |bytes| async move {
            let mut bytes = bytes?;
            match read_part(&mut bytes).await {
                Ok(part) if part.is_empty() => None,
                Ok(part) => Some((Ok(part), Some(bytes))),
                Err(error) => Some((Err(error), None)),
            }
        });
        let answers = parts
            .map(|part| {
                let body = part.map_err(|error| StreamingError::from(unread(&error))).and_then(|bytes| {
                    hasher.update(&bytes);
                    let offset = length;
                    length += bytes.len() as u64;
                    Ok(encode(Asked::SnapshotBytes { transfer, offset, bytes })?)
                });
                async move { Ok::<_, StreamingError<TypeConfig>>(sending.ask(body?).await?) }
            })
            .buffered(SNAPSHOT_PARTS_IN_FLIGHT_MAX);
        {
            let mut answers = pin!(answers);
            while let Some(answer) = answers.next().await {
                match answer? {
                    Answer::SnapshotBytes => {}
                    answer => return Err(strange(&answer).into()),
                }
            }
        }
        let digest = *hasher.finalize().as_bytes();
        match installing.ask(encode(Asked::SnapshotEnd { transfer, length, digest })?).await? {
            Answer::SnapshotEnd(vote) => Ok(vote),
            answer => Err(strange(&answer).into()),
        }
    }
}

/// The next bytes, as many as go over at once, and none at the end.
async fn read_part(bytes: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut part = Vec::with_capacity(SNAPSHOT_PART_BYTES);
    bytes.take(SNAPSHOT_PART_BYTES as u64).read_to_end(&mut part).await?;
    Ok(part)
}

impl<T: SnapshotTransfer> RaftNetworkV2<TypeConfig> for Client<T> {
    type SnapshotData = MachineSnapshot<T::Snapshot>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        append(&self.appending(&option, request.entries.is_empty()), self.shard, request).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let answers = input
            .map(move |request| {
                let (asking, shard) = (self.appending(&option, request.entries.is_empty()), self.shard);
                async move {
                    let front = request.prev_log_id;
                    let last = request.entries.last().map(RaftEntry::log_id).or(front);
                    in_stream(append(&asking, shard, request).await, front, last)
                }
            })
            // In the order in which they were asked, which is that in which they are first polled.
            .buffered(APPENDS_IN_FLIGHT_MAX);
        // What was asked behind one that did not go through is of no use to anybody.
        let until_one_fails = stream::unfold(Some(Box::pin(answers)), |answers| async move {
            let mut answers = answers?;
            let (answer, goes_on) = answers.next().await?;
            Some((answer, goes_on.then_some(answers)))
        });
        Box::pin(async move { Ok(Box::pin(until_one_fails) as BoxStream<'s, _>) })
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        match self.ask(RPCTypes::Vote, Asked::Vote(request), &option).await? {
            Answer::Vote(response) => Ok(response),
            answer => Err(strange(&answer)),
        }
    }

    async fn pre_vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        match self.ask(RPCTypes::Vote, Asked::PreVote(request), &option).await? {
            Answer::PreVote(response) => Ok(response),
            answer => Err(strange(&answer)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Self::SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let MachineSnapshot { position, machine } = snapshot.snapshot;
        let head = SnapshotHead { vote, meta: snapshot.meta, position };
        let transfer = self.links.0.transfers.fetch_add(1, Ordering::Relaxed);
        let sent = tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send(transfer, head, machine, &option) => sent,
        };
        if sent.is_err()
            && let Ok(body) = encode_question(&Question { shard: self.shard, asked: Asked::SnapshotGivenUp { transfer } })
        {
            self.snapshots.tell(body);
        }
        sent.map(SnapshotResponse::new)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        match self.ask(RPCTypes::TransferLeader, Asked::TransferLeader(request), &option).await? {
            Answer::TransferLeader(response) => Ok(response),
            answer => Err(strange(&answer)),
        }
    }

    /// As often as the link connects: openraft asks no more often than there can be another answer.
    fn backoff(&self) -> Option<Backoff> {
        let pauses = (0_u32..)
            .map(|failures| Duration::from_millis(RECONNECT_MS_MIN.saturating_mul(1 << failures.min(16)).min(RECONNECT_MS_MAX)));
        Some(Backoff::new(pauses))
    }
}
