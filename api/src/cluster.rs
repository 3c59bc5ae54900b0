//! The calls about the cluster: how it stands, and who is in it. What a cluster is, is for whoever offers one.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use schemars::JsonSchema;
use serde::Serialize;

use crate::backup::OCTET_STREAM;
use crate::bodies::{self, MemberBody};
use crate::call::{Call, Unread};
use crate::problem::Problem;
use crate::replies;
use crate::schema::{Count, Opaque};
use crate::status::{self, Code};

/// The term of whoever leads a shard that has never been led by another.
const FIRST_TERM: u64 = 1;

/// What somebody who is asked for the cluster gives.
pub type ClusterFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Offers the cluster that the node behind a door is a member of.
pub trait ClusterSource: Send + Sync {
    /// The cluster as this node sees it now.
    fn view(&self) -> ClusterView;

    /// Why commands may not be taken for want of a quorum; `None` while there is one.
    fn lacks_quorum(&self) -> Option<String>;

    /// Who decides for shard `shard`, as far as this node knows.
    fn decider(&self, shard: u16) -> Decider;

    /// Has `leader` answer a request about shard `shard` that is [`crate::Forwarded`], and gives the [`crate::ForwardedAnswer`] that it is
    /// answered with, within `limit`. However late the request comes there, it does nothing once that node leads in another term.
    fn forward(
        &self,
        shard: u16,
        leader: Leader,
        request: Vec<u8>,
        limit: Duration,
    ) -> ClusterFuture<Result<Vec<u8>, ForwardFailure>>;

    /// Is done when this node itself shows everything that any node had acknowledged before the call. Fails after `limit`, with what is missing.
    fn settle(&self, limit: Duration) -> ClusterFuture<Result<(), String>>;

    /// Makes another node a member: the one with number `node`, or with the next that is free, which is reached at `address`. Gives what its data
    /// directory is made of. Does the same again when it is asked again.
    fn add(&self, node: Option<u64>, address: String) -> ClusterFuture<Result<Vec<u8>, ClusterRefusal>>;

    /// Takes the node with number `node` out of the cluster for good. Does nothing more when it is asked again before all is done.
    fn remove(&self, node: u64) -> ClusterFuture<Result<(), ClusterRefusal>>;

    /// Has the node with number `node` lead nothing from now on, if it `drains`, or again what it gets. Is done when it leads nothing.
    fn drain(&self, node: u64, drains: bool) -> ClusterFuture<Result<(), ClusterRefusal>>;
}

/// Who decides for a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// This node.
    Here,
    /// Another node.
    There(Leader),
    /// Nobody that this node knows.
    Nobody,
}

/// A node that decides for a shard, for as long as one term lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Its number.
    pub node: u64,
    /// The term.
    pub term: u64,
}

/// Why another node has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardFailure {
    /// It was not asked.
    NotSent(String),
    /// It may have done what was asked or not.
    Unknown(String),
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Its name.
    pub cluster: String,
    /// The number of the node that sees it.
    pub node: u64,
    /// Every member, by number.
    pub nodes: Vec<NodeView>,
    /// Every shard, by number.
    pub shards: Vec<ShardView>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its number.
    pub node: u64,
    /// Where other nodes reach it.
    pub address: String,
    /// Whether it is counted for a quorum of every shard.
    pub is_voter: bool,
    /// Whether it is to lead nothing, as far as this node knows.
    pub is_draining: bool,
    /// How long ago this node heard of it, in milliseconds; `None` if not lately.
    pub heard_ms: Option<u64>,
    /// How far its clock is ahead of this node's, in milliseconds; `None` if it was not heard of lately.
    pub clock_ahead_ms: Option<i64>,
    /// By how much that may be wrong at most, in milliseconds.
    pub clock_error_ms: Option<u64>,
    /// Whether its clock is further from those of most others than it may be.
    pub is_clock_off: bool,
    /// The settings that all should have alike and that it has otherwise than this node.
    pub settings_differ: Vec<String>,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardView {
    /// Its number.
    pub shard: u16,
    /// The node that leads it, as far as this node knows.
    pub leader: Option<u64>,
    /// In which term.
    pub term: u64,
    /// The newest group that this node knows to be committed.
    pub committed: u64,
    /// Every member, by number: the newest group that it has applied, if it was heard of lately.
    pub replicas: Vec<(u64, Option<u64>)>,
}

/// Why members were not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterRefusal {
    /// What was asked for is none.
    Invalid(String),
    /// Another node has the number, or the node is another's.
    Exists(String),
    /// No member has the number.
    NoMember(String),
    /// Too few nodes can be reached. Parts of it may have been done; the same may be asked again.
    NoQuorum(String),
    /// Nobody knows whether it was done; the same may be asked again.
    Unknown(String),
}

impl From<ClusterRefusal> for Problem {
    fn from(refusal: ClusterRefusal) -> Self {
        match refusal {
            ClusterRefusal::Invalid(detail) => Self::invalid_request(detail),
            ClusterRefusal::Exists(detail) => Self::new(Code::MemberExists, detail),
            ClusterRefusal::NoMember(detail) => Self::new(Code::NotFound, detail),
            ClusterRefusal::NoQuorum(detail) => Self::new(Code::NoQuorum, detail),
            ClusterRefusal::Unknown(detail) => Self::new(Code::OutcomeUnknown, detail),
        }
    }
}

/// The cluster as this node sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Cluster")]
pub(crate) struct ClusterDocument {
    /// The cluster's name; null for a node that stands alone.
    #[schemars(with = "Option<Opaque>")]
    cluster: Option<String>,
    /// This node's number.
    #[schemars(with = "Count")]
    node: u64,
    /// Every node, this one included.
    nodes: Vec<NodeDocument>,
    /// The shards that every node's stocks are spread over.
    shards: Vec<ShardDocument>,
}

/// A node.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Node")]
struct NodeDocument {
    /// Its number.
    #[schemars(with = "Count")]
    node: u64,
    /// Where other nodes reach it; null for a node that stands alone.
    #[schemars(with = "Option<Opaque>")]
    address: Option<String>,
    /// voter, or learner for one that has joined and is not counted yet.
    #[schemars(with = "Opaque")]
    role: &'static str,
    /// Whether it is to lead nothing.
    draining: bool,
    /// How long ago this node heard of it, in milliseconds; null if not lately.
    #[schemars(with = "Option<Count>")]
    heard_ms: Option<u64>,
    /// How far its clock is ahead of this node's, in milliseconds; null if it was not heard of lately.
    clock_ahead_ms: Option<i64>,
    /// By how much that may be wrong at most, in milliseconds; null if it was not heard of lately.
    #[schemars(with = "Option<Count>")]
    clock_error_ms: Option<u64>,
    /// Whether its clock is further from those of most others than `cluster.clock_skew_ms_max`. Such a node leads nothing that another can lead.
    clock_off: bool,
    /// The settings that all nodes should have alike and that it has otherwise than this node.
    #[schemars(with = "Vec<Opaque>")]
    settings_differ: Vec<String>,
}

/// A shard.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Shard")]
struct ShardDocument {
    /// Its number.
    #[schemars(with = "Count")]
    shard: u16,
    /// The node that decides for it; null while none is known.
    #[schemars(with = "Option<Count>")]
    leader: Option<u64>,
    /// Rises with every change of its leader.
    #[schemars(with = "Count")]
    term: u64,
    /// Up to where its log is committed, as far as this node knows.
    #[schemars(with = "Count")]
    committed: u64,
    /// How far each node is.
    replicas: Vec<ReplicaDocument>,
}

/// A shard on one node.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Replica")]
struct ReplicaDocument {
    /// The node.
    #[schemars(with = "Count")]
    node: u64,
    /// Up to where it has applied the log; null if it was not heard of lately.
    #[schemars(with = "Option<Count>")]
    applied: Option<u64>,
    /// How many groups it lacks of those that are committed; null if it was not heard of lately.
    #[schemars(with = "Option<Count>")]
    lag: Option<u64>,
}

impl From<ClusterView> for ClusterDocument {
    fn from(view: ClusterView) -> Self {
        let ClusterView { cluster, node, nodes, shards } = view;
        let nodes = nodes.into_iter().map(|of| NodeDocument {
            node: of.node,
            address: Some(of.address),
            role: role(of.is_voter),
            draining: of.is_draining,
            heard_ms: of.heard_ms,
            clock_ahead_ms: of.clock_ahead_ms,
            clock_error_ms: of.clock_error_ms,
            clock_off: of.is_clock_off,
            settings_differ: of.settings_differ,
        });
        let shards = shards.into_iter().map(|ShardView { shard, leader, term, committed, replicas }| {
            let replicas = replicas.into_iter().map(|(node, applied)| ReplicaDocument {
                node,
                applied,
                lag: applied.map(|applied| committed.saturating_sub(applied)),
            });
            ShardDocument { shard, leader, term, committed, replicas: replicas.collect() }
        });
        Self { cluster: Some(cluster), node, nodes: nodes.collect(), shards: shards.collect() }
    }
}

const fn role(is_voter: bool) -> &'static str {
    if is_voter { "voter" } else { "learner" }
}

/// `GET /v1/cluster`: who leads what. A node that stands alone leads everything. A member answers whether it may serve or not.
pub(crate) async fn read(call: Call) -> Result<Response, Problem> {
    if let Some(cluster) = call.door().cluster() {
        return replies::json(status::OK, &ClusterDocument::from(cluster.view()));
    }
    let engine = call.engine()?;
    let node = call.door().node();
    let shards = engine.streams().into_iter().filter_map(|stream| {
        let committed = engine.committed(stream)?.0;
        let replicas = vec![ReplicaDocument { node, applied: Some(committed), lag: Some(0) }];
        Some(ShardDocument { shard: stream.0, leader: Some(node), term: FIRST_TERM, committed, replicas })
    });
    let shards = shards.collect();
    let alone = NodeDocument {
        node,
        address: None,
        role: role(true),
        draining: false,
        heard_ms: Some(0),
        clock_ahead_ms: Some(0),
        clock_error_ms: Some(0),
        clock_off: false,
        settings_differ: Vec::new(),
    };
    replies::json(status::OK, &ClusterDocument { cluster: None, node, nodes: vec![alone], shards })
}

/// `POST /v1/cluster/leave`: a node leaves.
pub(crate) async fn leave(call: Call, body: Unread) -> Result<Response, Problem> {
    let node = bodies::member_number(&call.read(body).await?)?;
    let Some(cluster) = call.door().cluster() else {
        return Err(Problem::new(Code::NotFound, "this node stands alone: there is no cluster to leave"));
    };
    call.bounded(cluster.remove(node)).await??;
    replies::json(status::OK, &ClusterDocument::from(cluster.view()))
}

/// `POST /v1/cluster/drain`: a node leads nothing any more.
pub(crate) async fn drain(call: Call, body: Unread) -> Result<Response, Problem> {
    drain_or_resume(call, body, true).await
}

/// `POST /v1/cluster/resume`: a node that was drained leads again.
pub(crate) async fn resume(call: Call, body: Unread) -> Result<Response, Problem> {
    drain_or_resume(call, body, false).await
}

async fn drain_or_resume(call: Call, body: Unread, drains: bool) -> Result<Response, Problem> {
    let node = bodies::member_number(&call.read(body).await?)?;
    let Some(cluster) = call.door().cluster() else {
        return Err(Problem::new(Code::NotFound, "this node stands alone: there is nobody else to lead"));
    };
    call.bounded(cluster.drain(node, drains)).await??;
    replies::json(status::OK, &ClusterDocument::from(cluster.view()))
}

/// `POST /v1/cluster/members`: another node joins.
pub(crate) async fn join(call: Call, body: Unread) -> Result<Response, Problem> {
    let MemberBody { node, address } = bodies::member(&call.read(body).await?)?;
    let Some(cluster) = call.door().cluster() else {
        let detail = "this node stands alone: tidegate cluster init makes it the first member of a cluster";
        return Err(Problem::new(Code::NotFound, detail));
    };
    let directory = call.bounded(cluster.add(node, address)).await??;
    let mut response = Response::new(Body::from(directory));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTET_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
