//! `tidegate cluster`: the first member of a cluster is made, another one joins, and how the cluster stands is shown.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tidegate_cluster::{Member as Address, PositionAt, RecoveredMember, ReplicatedLog, adopt};
use tidegate_config::Settings;
use tidegate_engine::{Clock, EngineMetrics, LocalCommits, SystemClock};
use tidegate_persistence::{DataDirectory, OpenError, RestoreError, Wal, WalError, restore};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::endpoint::{EndpointFault, Membership, endpoint, membership};
use super::member::{MemberError, recover};
use crate::backup::{BackupError, Partial, check_place};
use crate::client::ClusterSeen;
use crate::node::{HISTORY_FOLDER, open_directory};
use crate::options::{directory_options, wal_options};
use crate::target::{Target, TargetError};

/// Longest wait for a connection, and for an answer. Longer than a change of the members takes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A node to ask.
#[derive(Debug, Args)]
pub(crate) struct TargetOptions {
    /// A member of the cluster: http:// or https:// and HOST[:PORT]
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8700")]
    target: String,

    /// The file that holds the API key [default: the variable `TIDEGATE_KEY`, or no key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The certificates to trust, in PEM, instead of this machine's own
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// How a status is shown.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    target: TargetOptions,

    /// Print the node's own answer, one JSON object
    #[arg(long)]
    json: bool,
}

/// Why what was asked for was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The settings name no cluster.
    #[error("cluster.listen is none: a member of a cluster needs the settings of [cluster]")]
    NoCluster,
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// What other nodes are to know of it cannot be had.
    #[error(transparent)]
    Endpoint(#[from] EndpointFault),
    /// The directory cannot be a member's.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The directory cannot be opened.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The folder cannot be used.
    #[error(transparent)]
    Place(#[from] BackupError),
    /// The log cannot be written.
    #[error("the write-ahead log failed")]
    Log(#[from] WalError),
    /// The members cannot be written.
    #[error("the directory cannot be made a member's: {0}")]
    Adopt(#[source] io::Error),
    /// No data directory could be made of what the cluster gave.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The node gave no answer.
    #[error("{url} gave no answer")]
    Answer {
        /// The target.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The node said no.
    #[error("{url} refuses: {status} {said}")]
    Refused {
        /// The target.
        url: String,
        /// The answer's status.
        status: StatusCode,
        /// Its code and words.
        said: String,
    },
    /// The operating system failed.
    #[error("the process could not be set up, or its output not be written")]
    System(#[from] io::Error),
}

impl ClusterError {
    /// Whether what was asked for is wrong, and not what came of it.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::NoCluster => true,
            Self::Target(error) => error.is_usage(),
            Self::Place(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// Makes the data directory of `settings`, of a node that stood alone or a new one, the first member of a cluster, and says so. Does nothing
/// where that has been done. Durable at return.
pub(crate) fn init(settings: &Settings) -> Result<(), ClusterError> {
    let membership = membership(&settings.cluster).ok_or(ClusterError::NoCluster)?;
    let directory = open_directory(settings)?;
    let identity = directory.identity().clone();
    // Before anything is written: what a start would refuse.
    endpoint(&settings.cluster, &identity)?;
    let adopted = adopt_all(settings, &membership, directory)?;
    let mut out = io::stdout().lock();
    if adopted == 0 {
        writeln!(out, "{} is a member of a cluster already", settings.node.data_dir.display())?;
    } else {
        writeln!(
            out,
            "{} is node {} of cluster {} now, with {} shards, reached at {}",
            settings.node.data_dir.display(),
            identity.node,
            identity.cluster,
            identity.shards,
            membership.advertise
        )?;
        writeln!(out, "Start it with tidegate serve; others join with tidegate cluster join.")?;
    }
    Ok(out.flush()?)
}

/// Writes into every shard's log that the node is its only member. Gives how many had not been told before.
fn adopt_all(settings: &Settings, membership: &Membership, directory: DataDirectory) -> Result<usize, ClusterError> {
    let node = directory.identity().node;
    let recovered = recover(settings, &directory)?;
    let commits = Arc::new(LocalCommits::new([], Arc::new(EngineMetrics::default()), |_| {}));
    let tails = recovered.iter().flat_map(|shard| [shard.replica.log, shard.replica.votes]);
    let wal = Wal::start(directory, tails, wal_options(&settings.log), commits)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let adopted = runtime.block_on(async {
        let mut count = 0;
        for RecoveredMember { standing, replica, .. } in &recovered {
            // What is in front of the log is in the snapshot that it begins behind.
            let begin = standing.position;
            let position_at: PositionAt = Arc::new(move |index| Some(begin).filter(|begin| begin.index == index));
            let mut log = ReplicatedLog::open(wal.writer(), wal.reader(), replica, position_at)?;
            let member = Address::new(membership.advertise.clone());
            count += usize::from(adopt(&mut log, node, member).await.map_err(ClusterError::Adopt)?);
        }
        Ok::<_, ClusterError>(count)
    });
    wal.stop()?;
    adopted
}

#[derive(Serialize)]
struct NewMember<'a> {
    node: Option<u64>,
    address: &'a str,
}

/// Has the cluster that `options` lead to take this node as a member, `node` if it is to be that one, and makes the data directory of
/// `settings` of what it gives. Durable at return.
pub(crate) fn join(settings: &Settings, options: &TargetOptions, node: Option<u64>) -> Result<(), ClusterError> {
    let membership = membership(&settings.cluster).ok_or(ClusterError::NoCluster)?;
    let target = options.find()?;
    let directory = &settings.node.data_dir;
    check_place(directory)?;
    let partial = Partial::create(directory)?;
    let body = serde_json::to_vec(&NewMember { node, address: &membership.advertise }).map_err(io::Error::other)?;
    let archive = ask(&target, Method::POST, "/v1/cluster/members", body)?;
    restore(&archive[..], partial.path(), HISTORY_FOLDER, |_| {})?;
    let identity = {
        let made = DataDirectory::open_existing(partial.path(), &directory_options(settings, SystemClock.now()))?;
        made.identity().clone()
    };
    // What a start would refuse, while the directory can still be thrown away.
    endpoint(&settings.cluster, &identity)?;
    partial.finish(directory)?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} is node {} of cluster {} now, with {} shards, reached at {}",
        directory.display(),
        identity.node,
        identity.cluster,
        identity.shards,
        membership.advertise
    )?;
    writeln!(out, "Start it with tidegate serve: it gets the log, and is counted once it has it (tidegate cluster status).")?;
    Ok(out.flush()?)
}

impl TargetOptions {
    fn find(&self) -> Result<Target, TargetError> {
        Target::find(&self.target, self.key_file.as_deref(), self.ca_file.as_deref())
    }
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

/// The body of a 2xx answer.
fn ask(target: &Target, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClusterError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(async { timeout(ANSWER_WAIT_MAX, exchange(target, method, path, body)).await });
    let no_answer = |source| ClusterError::Answer { url: target.url.clone(), source };
    let (status, body) = answered.map_err(|_| no_answer(io::ErrorKind::TimedOut.into()))?.map_err(no_answer)?;
    if status.is_success() {
        return Ok(body);
    }
    let said =
        serde_json::from_slice(&body).map_or_else(|_| String::new(), |Problem { code, detail }| format!("({code}: {detail})"));
    Err(ClusterError::Refused { url: target.url.clone(), status, said })
}

async fn exchange(target: &Target, method: Method, path: &str, body: Vec<u8>) -> io::Result<(StatusCode, Bytes)> {
    let stream = target.connect().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the answer; its error comes by the answer too.
    tokio::spawn(connection);
    let mut request =
        Request::builder().method(method).uri(path).header(HOST, &target.name).header(CONTENT_TYPE, "application/json");
    if let Some(key) = &target.key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}

#[derive(Serialize)]
struct Member {
    node: u64,
}

/// Has node `node` taken out of the cluster that `options` lead to.
pub(crate) fn leave(options: &TargetOptions, node: u64) -> Result<(), ClusterError> {
    let target = options.find()?;
    let body = serde_json::to_vec(&Member { node }).map_err(io::Error::other)?;
    let body = ask(&target, Method::POST, "/v1/cluster/leave", body)?;
    let mut out = io::stdout().lock();
    writeln!(out, "Node {node} is no member any more. Stop it if it runs; its directory is of no use.\n")?;
    out.write_all(table(&read_seen(&target, &body)?).as_bytes())?;
    Ok(out.flush()?)
}

/// Has node `node` of the cluster that `options` lead to lead nothing any more, or again what it gets, if it `resumes`.
pub(crate) fn drain(options: &TargetOptions, node: u64, resumes: bool) -> Result<(), ClusterError> {
    let target = options.find()?;
    let body = serde_json::to_vec(&Member { node }).map_err(io::Error::other)?;
    let body = ask(&target, Method::POST, if resumes { "/v1/cluster/resume" } else { "/v1/cluster/drain" }, body)?;
    let mut out = io::stdout().lock();
    if resumes {
        writeln!(out, "Node {node} may lead again, and gets its share.\n")?;
    } else {
        writeln!(out, "Node {node} leads nothing, and will not until it is started again or resumed. It can be stopped.\n")?;
    }
    out.write_all(table(&read_seen(&target, &body)?).as_bytes())?;
    Ok(out.flush()?)
}

/// Shows how the cluster stands, as the node that `options` name sees it.
pub(crate) fn status(options: &StatusOptions) -> Result<(), ClusterError> {
    let target = options.target.find()?;
    let body = ask(&target, Method::GET, "/v1/cluster", Vec::new())?;
    let mut out = io::stdout().lock();
    if options.json {
        out.write_all(&body)?;
        writeln!(out)?;
    } else {
        out.write_all(table(&read_seen(&target, &body)?).as_bytes())?;
    }
    Ok(out.flush()?)
}

fn read_seen(target: &Target, body: &[u8]) -> Result<ClusterSeen, ClusterError> {
    serde_json::from_slice(body).map_err(|error| ClusterError::Answer {
        url: target.url.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, format!("its answer is none of the contract's: {error}")),
    })
}

fn table(seen: &ClusterSeen) -> String {
    let mut text = match &seen.cluster {
        Some(cluster) => format!("cluster {cluster}, as node {} sees it\n\n", seen.node),
        None => format!("node {} stands alone\n\n", seen.node),
    };
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    // Writing to a text does not fail.
    let _ = writeln!(text, "{:>5}  {:<28} {:<8} {:>9} {:>9}", "node", "address", "role", "heard ms", "clock ms");
    for of in &seen.nodes {
        let _ = writeln!(
            text,
            "{:>5}  {:<28} {:<8} {:>9} {:>9}",
            of.node,
            or_none(of.address.clone()),
            if of.draining { "draining" } else { &of.role },
            or_none(of.heard_ms.map(|heard| heard.to_string())),
            or_none(of.clock_ahead_ms.map(|ahead| format!("{ahead:+}"))),
        );
    }
    for of in seen.nodes.iter().filter(|of| of.clock_off) {
        let _ = writeln!(
            text,
            "\nThe clock of node {} is off from those of most others: it leads nothing that another can lead.",
            of.node
        );
    }
    for of in seen.nodes.iter().filter(|of| !of.settings_differ.is_empty()) {
        let names = of.settings_differ.join(", ");
        let _ = writeln!(text, "\nNode {} has other values than node {} of: {names}.", of.node, seen.node);
    }
    let _ = writeln!(text, "\n{:>5}  {:>6} {:>6} {:>12}  groups that each node lacks", "shard", "leader", "term", "committed");
    for of in &seen.shards {
        let lags =
            of.replicas.iter().map(|replica| format!("{}: {}", replica.node, or_none(replica.lag.map(|lag| lag.to_string()))));
        let lags: Vec<String> = lags.collect();
        let leader = or_none(of.leader.map(|leader| leader.to_string()));
        let _ = writeln!(text, "{:>5}  {:>6} {:>6} {:>12}  {}", of.shard, leader, of.term, of.committed, lags.join("  "));
    }
    text
}
