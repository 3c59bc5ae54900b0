//! `tidegate serve`: a node behind its HTTP door, from the first bind to the last sync. Owns signals and the order of start and stop.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_api::{Door, DoorError, METRICS_PREFIX};
use tidegate_config::Settings;
use tidegate_engine::{Engine, abort_on_panic};
use tidegate_persistence::{WalError, asking_history, sled_store};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, spawn, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cluster::{Member, MemberSource};
use crate::directory_metrics::DirectoryMetrics;
use crate::log_lines::LogLines;
use crate::node::{Node, NodeFailure, NodeMetrics, StartError, WHAT_TO_DO_DIVERGED};
use crate::options::{access_options, http_options};
use crate::process_metrics;
use crate::recovery::StartProgress;
use crate::sd_notify::ServiceManager;
use crate::telemetry::Telemetry;

/// Open files that the process needs beside its connections and the threads that serve them.
const FILES_BESIDE_CONNECTIONS: u64 = 128;

/// Open files that the runtime of each thread that serves connections needs.
const FILES_OF_A_THREAD: u64 = 4;

/// How often the door hears how far the recovery is.
const RECOVERY_REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// How often the log and the service manager hear of the recovery, while it makes progress, and how much time its next step may take.
const RECOVERY_NOTICE_INTERVAL: Duration = Duration::from_secs(1);
const RECOVERY_STEP_MAX: Duration = Duration::from_mins(5);

/// Why serving ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The operating system gives no thread, no socket or no signal handler.
    #[error("the process could not be set up")]
    Setup(#[source] io::Error),
    /// The door's limits are impossible, or its keys or its certificate cannot be had.
    #[error("the door was not opened")]
    Closed(#[from] DoorError),
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The door stopped by itself.
    #[error("the door stopped")]
    Door(#[source] io::Error),
    /// The log failed. What was acknowledged is safe; what was not has an unknown outcome.
    #[error("the write-ahead log failed, and the node has stopped")]
    Log(#[source] WalError),
    /// Consensus failed. What was acknowledged is safe; what was not has an unknown outcome.
    #[error("consensus failed, and the node has stopped: {0}")]
    Consensus(String),
    /// A ledger is not that of the node that decided. The log has everything that was acknowledged.
    #[error("the node has stopped, because its ledger is not that of the node that decided: {0}. {WHAT_TO_DO_DIVERGED}")]
    Diverged(String),
    /// The history takes nothing more. Everything that was acknowledged is in the log, and safe.
    #[error("the history failed, and the node has stopped: {0}")]
    History(String),
}

/// Serves until a signal ends it or something breaks. At return nothing is admitted any more; everything that was is finished and on the
/// disk, and the directory is released.
///
/// One exception: a signal while the log is still being read ends this at once and leaves a thread reading. Nothing was admitted then, and
/// the caller ends the process.
///
/// The last spans of requests go to `telemetry`'s collector before this returns, within its bound. `lines` is where the log goes.
pub(crate) fn run(settings: Settings, telemetry: Option<Telemetry>, lines: &LogLines) -> Result<(), ServeError> {
    let last_lines = lines.clone();
    abort_on_panic(|| sled_store::opening() || asking_history(), move || last_lines.flush_at_end());
    let threads = http_options(&settings).worker_threads as u64;
    raise_open_files(settings.http.connections_max, FILES_BESIDE_CONNECTIONS + threads * FILES_OF_A_THREAD);
    let address = settings.http.listen;
    let listen_error = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    // What is to be done for connections is done on the door's own threads.
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServeError::Setup)?;
    let result = runtime.block_on(serve(listener, settings, telemetry.as_ref(), lines));
    runtime.shutdown_background();
    if let Some(telemetry) = telemetry {
        telemetry.stop();
    }
    result
}

async fn serve(
    listener: TcpListener,
    settings: Settings,
    telemetry: Option<&Telemetry>,
    lines: &LogLines,
) -> Result<(), ServeError> {
    let manager = Arc::new(ServiceManager::from_environment());
    let mut signals = Signals::install().map_err(ServeError::Setup)?;
    let address = listener.local_addr().map_err(ServeError::Setup)?;
    let metrics = NodeMetrics::default();
    let recovery = Arc::new(StartProgress::default());
    let directory = settings.node.data_dir.clone();
    let directory_metrics = DirectoryMetrics::new(directory.clone(), settings.log.disk_free_bytes_min, Arc::clone(&recovery));
    let mut registry = Registry::default();
    process_metrics::register(&mut registry);
    let own = registry.sub_registry_with_prefix(METRICS_PREFIX);
    process_metrics::register_build(own);
    metrics.register(own);
    directory_metrics.register(own);
    lines.register(own);
    if let Some(telemetry) = telemetry {
        telemetry.register(own);
    }
    let door = Door::new(http_options(&settings), access_options(&settings), registry)?;
    let scheme = warn_of_exposure(address, &settings);
    let reloading = spawn(reload_on_hangup(signal(SignalKind::hangup()).map_err(ServeError::Setup)?, Arc::clone(&door)));
    let mut front = Front::open(listener, Arc::clone(&door)).map_err(ServeError::Setup)?;
    announce(scheme, address);

    let (failing, mut failures) = mpsc::channel(1);
    let mut starting = spawn_blocking({
        let recovery = Arc::clone(&recovery);
        // The first failure stops the node; what follows from it is no news.
        let on_failure = move |failure| drop(failing.try_send(failure));
        move || Node::start(&settings, metrics, &recovery, on_failure, Handle::current())
    });
    let node = tokio::select! {
        node = &mut starting => never_panics(node)?,
        never = report_recovery(&door, &recovery, &manager) => match never {},
        name = signals.next() => {
            tracing::info!(signal = name, "stopping while the log is being read");
            manager.stopping("stopping before the log was read");
            return front.close().await;
        }
        error = front.ended() => return Err(ServeError::Door(error)),
    };
    let recovered = node.recovered();
    door.name_node(recovered.node);
    door.offer_backups(Box::new(node.backups()));
    if let Some(member) = node.member() {
        door.offer_cluster(Box::new(MemberSource(member.shared())));
        tokio::select! {
            () = member.caught_up() => {}
            never = report_catching_up(&door, member, &manager) => match never {},
            name = signals.next() => {
                tracing::info!(signal = name, "stopping before the node has caught up");
                return stop(node, front, &manager, Ok(())).await;
            }
            Some(failure) = failures.recv() => return stop(node, front, &manager, failed(failure)).await,
            error = front.ended() => return stop(node, front, &manager, Err(ServeError::Door(error))).await,
        }
    }
    door.open(node.engine().clone(), node.feed());
    if let Some(member) = node.member() {
        member.answer_by(Arc::clone(&door));
    }
    directory_metrics.note_recovered(recovered.elapsed);
    tracing::info!(
        %address,
        directory = %directory.display(),
        shards = recovered.shards,
        groups = recovered.groups,
        events = recovered.events,
        from_snapshots = recovered.from_snapshots,
        recovery_ms = recovered.elapsed.as_millis(),
        "ready"
    );
    manager.ready(&format!("serving on {address}"));
    let watchdog = spawn(answer_watchdog(Arc::clone(&manager), node.engine().clone(), recovered.shards));

    let end = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: what was admitted is being finished");
            Ok(())
        }
        Some(failure) = failures.recv() => failed(failure),
        error = front.ended() => Err(ServeError::Door(error)),
    };
    watchdog.abort();
    let stopped = stop(node, front, &manager, end).await;
    reloading.abort();
    stopped
}

/// What ends the node by `failure`.
fn failed(failure: NodeFailure) -> Result<(), ServeError> {
    match failure {
        // Stopping the node tells the error itself.
        NodeFailure::Log => Ok(()),
        NodeFailure::History(what) => Err(ServeError::History(what)),
        NodeFailure::Consensus(what) => Err(ServeError::Consensus(what)),
        NodeFailure::Diverged(what) => Err(ServeError::Diverged(what)),
    }
}

/// Stops everything in order; `end` is why.
async fn stop(node: Node, front: Front, manager: &ServiceManager, end: Result<(), ServeError>) -> Result<(), ServeError> {
    manager.stopping("finishing what was admitted");
    if let Some(member) = node.member().filter(|_| end.is_ok()) {
        // First, while callers are still served: what comes meanwhile finds another leader.
        member.hand_over().await;
    }
    let closed = front.close().await;
    node.stop().await.map_err(ServeError::Log)?;
    tracing::info!("stopped");
    end.and(closed)
}

/// Has the door, the log and the service manager say what a member waits for, for as long as this is polled.
async fn report_catching_up(door: &Door, member: &Member, manager: &ServiceManager) -> Infallible {
    let mut every = interval(RECOVERY_REPORT_INTERVAL);
    let mut told: Option<(Instant, String)> = None;
    loop {
        every.tick().await;
        let Some(lacks) = member.lacks() else { continue };
        // A member may have to wait for others for as long as it takes: that is no start that hangs.
        if told.as_ref().is_none_or(|(at, said)| at.elapsed() >= RECOVERY_NOTICE_INTERVAL && *said != lacks) {
            tracing::info!(lacks, "the node does not serve yet");
            told = Some((Instant::now(), lacks.clone()));
        }
        manager.starting(&lacks, RECOVERY_STEP_MAX);
        door.report_recovery(lacks);
    }
}

/// Has the door, the log and the service manager say how far the recovery is, for as long as this is polled.
async fn report_recovery(door: &Door, recovery: &StartProgress, manager: &ServiceManager) -> Infallible {
    let mut every = interval(RECOVERY_REPORT_INTERVAL);
    let mut told: Option<(Instant, String)> = None;
    loop {
        every.tick().await;
        let progress = recovery.to_string();
        // Time is asked for only while something moves, so that a start that hangs is ended by whoever watches it.
        let is_due = told.as_ref().is_none_or(|(at, said)| at.elapsed() >= RECOVERY_NOTICE_INTERVAL && *said != progress);
        if is_due {
            manager.starting(&progress, RECOVERY_STEP_MAX);
            if let Some(reading) = recovery.reading() {
                tracing::info!(
                    snapshot_bytes = reading.snapshot_bytes,
                    snapshot_bytes_due = reading.snapshot_bytes_due,
                    reservations = reading.reservations,
                    groups = reading.groups,
                    groups_due = reading.groups_due,
                    events = reading.events,
                    bytes = reading.bytes,
                    "recovering"
                );
            }
            told = Some((Instant::now(), progress.clone()));
        }
        door.report_recovery(progress);
    }
}

/// Tells the service manager that the node is alive, at half the time that the manager waits for it, and only while every shard answers.
async fn answer_watchdog(manager: Arc<ServiceManager>, engine: Engine, shards: usize) {
    let Some(limit) = manager.watchdog() else { return };
    let mut every = interval(limit / 2);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if timeout(limit / 2, engine.inspect()).await.is_ok_and(|reports| reports.len() == shards) {
            manager.ping();
        }
    }
}

/// Has the door read its keys and its certificate again whenever the operator asks for it, for as long as this is polled.
async fn reload_on_hangup(mut hangup: Signal, door: Arc<Door>) {
    while hangup.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "reading the keys and the certificate again");
        let door = Arc::clone(&door);
        if spawn_blocking(move || door.reload()).await.is_err() {
            // The process is at its end.
            return;
        }
    }
}

/// The scheme that callers speak. Says so in the log if it shows their keys to whoever is on the way.
fn warn_of_exposure(address: SocketAddr, settings: &Settings) -> &'static str {
    if settings.tls.certificate_file.is_some() {
        return "https";
    }
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "keys and answers cross the network unencrypted: put a proxy with TLS in front, or set tls.certificate_file");
    }
    "http"
}

/// Tells whoever started the process where it listens: one line, also for a port that the operating system chose.
fn announce(scheme: &str, address: SocketAddr) {
    let mut output = io::stdout().lock();
    if let Err(error) = writeln!(output, "listening on {scheme}://{address}").and_then(|()| output.flush()) {
        tracing::warn!(%error, %address, "the address could not be told on the standard output");
    }
}

/// The signals that ask for an orderly stop. Once installed they never end the process by themselves, so a second one changes nothing.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The door's server on a task of its own, until it has ended.
struct Front {
    close: oneshot::Sender<()>,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl Front {
    fn open(listener: TcpListener, door: Arc<Door>) -> io::Result<Self> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (close, closed) = oneshot::channel::<()>();
        let shutdown = async move {
            // Sent or dropped, it means the same.
            let _ = closed.await;
        };
        let server = spawn(tidegate_api::serve(listener, door, shutdown));
        Ok(Self { close, server: Some(server) })
    }

    /// Waits until the server ends by itself, which it does only when something is wrong.
    async fn ended(&mut self) -> io::Error {
        let Some(server) = &mut self.server else { return std::future::pending().await };
        let result = never_panics(server.await);
        self.server = None;
        result.err().unwrap_or_else(|| io::Error::other("it ended without being asked to"))
    }

    /// Lets nobody in any more, sends those away who are there, and waits until the requests under way are answered.
    async fn close(self) -> Result<(), ServeError> {
        let Self { close, server } = self;
        drop(close);
        match server {
            Some(server) => never_panics(server.await).map_err(ServeError::Door),
            None => Ok(()),
        }
    }
}

/// A panic aborts the process before anybody could hear of it from a task.
fn never_panics<T>(joined: Result<T, JoinError>) -> T {
    joined.expect("a task neither panics, which would abort the process, nor is cancelled")
}

/// Raises the number of files that the process may have open as far as it may itself, because every connection needs one.
fn raise_open_files(connections_max: u64, beside: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let needed = connections_max + beside;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < needed) {
        tracing::warn!(files, needed, connections_max, "fewer files may be open than http.connections_max needs");
    }
}
