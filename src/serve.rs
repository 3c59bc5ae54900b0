//! `tidegate serve`: a node behind its HTTP door, from the first bind to the last sync. Owns signals and the order of start and stop.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_api::{Door, HttpOptionsError};
use tidegate_config::Settings;
use tidegate_engine::{EngineMetrics, abort_on_panic};
use tidegate_persistence::{RecoveryProgress, WalError, sled_store};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinError, JoinHandle, spawn, spawn_blocking};
use tokio::time::interval;

use crate::node::{Node, StartError};
use crate::options::http_options;
use crate::parallel;

/// Open files that the process needs beside its connections.
const FILES_BESIDE_CONNECTIONS: u64 = 128;

/// How often the door hears how far the recovery is.
const RECOVERY_REPORT_INTERVAL: Duration = Duration::from_millis(100);

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
    /// The door's limits are impossible.
    #[error("the door was not opened")]
    Limits(#[from] HttpOptionsError),
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The door stopped by itself.
    #[error("the door stopped")]
    Door(#[source] io::Error),
    /// The log failed. What was acknowledged is safe; what was not has an unknown outcome.
    #[error("the write-ahead log failed, and the node has stopped")]
    Log(#[source] WalError),
}

/// Serves until a signal ends it or something breaks. At return nothing is admitted any more; everything that was is finished and on the
/// disk, and the directory is released.
///
/// One exception: a signal while the log is still being read ends this at once and leaves a thread reading. Nothing was admitted then, and
/// the caller ends the process.
pub(crate) fn run(settings: Settings) -> Result<(), ServeError> {
    abort_on_panic(sled_store::opening);
    raise_open_files(settings.http.connections_max);
    let address = settings.http.listen;
    let listen_error = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    let threads = settings.node.worker_threads.or(parallel::cores() as u64);
    let threads = usize::try_from(threads).expect("the setting's bounds fit a machine word");
    let runtime =
        Builder::new_multi_thread().worker_threads(threads).thread_name("http").enable_all().build().map_err(ServeError::Setup)?;
    let result = runtime.block_on(serve(listener, settings));
    runtime.shutdown_background();
    result
}

async fn serve(listener: TcpListener, settings: Settings) -> Result<(), ServeError> {
    let mut signals = Signals::install().map_err(ServeError::Setup)?;
    let address = listener.local_addr().map_err(ServeError::Setup)?;
    let metrics = Arc::new(EngineMetrics::default());
    let mut registry = Registry::with_prefix("tidegate");
    metrics.register(&mut registry);
    let door = Door::new(http_options(&settings.http), registry)?;
    let mut front = Front::open(listener, Arc::clone(&door)).map_err(ServeError::Setup)?;
    announce(address);

    let log_failed = Arc::new(Notify::new());
    let recovery = Arc::new(OnceLock::new());
    let directory = settings.node.data_dir.clone();
    let mut starting = spawn_blocking({
        let (recovery, log_failed) = (Arc::clone(&recovery), Arc::clone(&log_failed));
        move || Node::start(&settings, metrics, &recovery, move |_| log_failed.notify_one())
    });
    let node = tokio::select! {
        node = &mut starting => never_panics(node)?,
        never = report_recovery(&door, &recovery) => match never {},
        name = signals.next() => {
            tracing::info!(signal = name, "stopping while the log is being read");
            return front.close().await;
        }
        error = front.ended() => return Err(ServeError::Door(error)),
    };
    door.open(node.engine().clone());
    let recovered = node.recovered();
    tracing::info!(
        %address,
        directory = %directory.display(),
        shards = recovered.shards,
        groups = recovered.groups,
        events = recovered.events,
        recovery_ms = recovered.elapsed.as_millis(),
        "ready"
    );

    let end = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: what was admitted is being finished");
            Ok(())
        }
        // Stopping the node tells the error itself.
        () = log_failed.notified() => Ok(()),
        error = front.ended() => Err(ServeError::Door(error)),
    };
    let closed = front.close().await;
    node.stop().await.map_err(ServeError::Log)?;
    tracing::info!("stopped");
    end.and(closed)
}

/// Has the door say how far the recovery is, for as long as this is polled.
async fn report_recovery(door: &Door, recovery: &OnceLock<Arc<RecoveryProgress>>) -> Infallible {
    let mut every = interval(RECOVERY_REPORT_INTERVAL);
    loop {
        every.tick().await;
        door.report_recovery(match recovery.get() {
            Some(read) => format!("{} groups with {} events read, {} bytes", read.groups(), read.events(), read.bytes()),
            None => "the data directory is being opened".to_owned(),
        });
    }
}

/// Tells whoever started the process where it listens: one line, also for a port that the operating system chose.
fn announce(address: SocketAddr) {
    let mut output = io::stdout().lock();
    if let Err(error) = writeln!(output, "listening on http://{address}").and_then(|()| output.flush()) {
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
    door: Arc<Door>,
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
        let server = spawn(tidegate_api::serve(listener, Arc::clone(&door), shutdown));
        Ok(Self { door, close, server: Some(server) })
    }

    /// Waits until the server ends by itself, which it does only when something is wrong.
    async fn ended(&mut self) -> io::Error {
        let Some(server) = &mut self.server else { return std::future::pending().await };
        let result = never_panics(server.await);
        self.server = None;
        result.err().unwrap_or_else(|| io::Error::other("it ended without being asked to"))
    }

    /// Lets nobody in any more, and waits until the requests under way are answered.
    async fn close(self) -> Result<(), ServeError> {
        self.door.begin_stop();
        drop(self.close);
        match self.server {
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
fn raise_open_files(connections_max: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let needed = connections_max + FILES_BESIDE_CONNECTIONS;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < needed) {
        tracing::warn!(files, needed, connections_max, "fewer files may be open than http.connections_max needs");
    }
}
