//! The door itself: whether it is open, who has a key to it, what stands behind it, and what it counts.

use std::error::Error;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::Guard;
use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tidegate_engine::{ActorName, Clock, Engine, Feed, SystemClock};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_rustls::rustls::ServerConfig;

use crate::backup::BackupSource;
use crate::cluster::ClusterSource;
use crate::events::Events;
use crate::keys::{Keys, KeysFile, LOOPBACK_ACTOR};
use crate::metrics::Metrics;
use crate::options::{AccessOptions, DoorError, HttpOptions};
use crate::problem::Problem;
use crate::reload::Reloaded;
use crate::status::Code;
use crate::tls::CertificateFiles;

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

/// What the names of the program's own metrics begin with, before an underscore.
pub const METRICS_PREFIX: &str = "tidegate";

/// A door: shut while the engine behind it recovers, then open, then stopping. It never goes back. Any thread may use it.
pub struct Door {
    options: HttpOptions,
    registry: Registry,
    metrics: Metrics,
    keys: Option<Reloaded<KeysFile>>,
    certificate: Option<Reloaded<CertificateFiles>>,
    metrics_without_key: bool,
    loopback_actor: ActorName,
    node: AtomicU64,
    engine: OnceLock<Engine>,
    events: Events,
    backups: OnceLock<Box<dyn BackupSource>>,
    cluster: OnceLock<Box<dyn ClusterSource>>,
    recovery: Mutex<String>,
    is_draining: AtomicBool,
    is_stopping: AtomicBool,
    stop_notice: Notify,
    request_prefix: String,
    requests_named: AtomicU64,
    body_bytes: AtomicUsize,
}

impl Door {
    /// A door that is shut: probes and metrics are answered, every command is `recovering`. `registry` holds what the rest of the node
    /// counts; the door adds its own under [`METRICS_PREFIX`] and shows all of it. Blocks for the files that `access` names.
    ///
    /// # Errors
    /// When an option is impossible, or a file is not what it should be.
    pub fn new(options: HttpOptions, access: AccessOptions, mut registry: Registry) -> Result<Arc<Self>, DoorError> {
        options.check()?;
        let metrics = Metrics::register(registry.sub_registry_with_prefix(METRICS_PREFIX));
        let keys = access.keys_file.map(|path| Reloaded::load(KeysFile(path))).transpose()?;
        metrics.show_api_keys(keys.as_ref().map_or(0, |keys| keys.get().len()));
        let certificate = access.certificate.map(Reloaded::load).transpose()?;
        let loopback_actor = ActorName::new(LOOPBACK_ACTOR).expect("the name is an identifier");
        Ok(Arc::new(Self {
            options,
            registry,
            metrics,
            keys,
            certificate,
            metrics_without_key: access.metrics_without_key,
            loopback_actor,
            node: AtomicU64::new(1),
            engine: OnceLock::new(),
            events: Events::new(&options),
            backups: OnceLock::new(),
            cluster: OnceLock::new(),
            recovery: Mutex::new("the log has not been read yet".to_owned()),
            is_draining: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            stop_notice: Notify::new(),
            // Names must differ between processes, not be secret.
            request_prefix: format!("{:x}-{:x}-", SystemClock.now().unix_ms(), process::id()),
            requests_named: AtomicU64::new(0),
            body_bytes: AtomicUsize::new(0),
        }))
    }

    /// Says how far recovery has come, for `/readyz`.
    pub fn report_recovery(&self, progress: impl Into<String>) {
        *self.recovery.lock() = progress.into();
    }

    /// Says which number this node has in its cluster, for `/v1/cluster`. A door that is told none says 1, which is the number of a node
    /// that was given none.
    pub fn name_node(&self, node: u64) {
        self.node.store(node, Ordering::Relaxed);
    }

    /// From now on backups are had from `source`.
    ///
    /// # Panics
    /// When there is a source already.
    pub fn offer_backups(&self, source: Box<dyn BackupSource>) {
        assert!(self.backups.set(source).is_ok(), "there is one source of backups");
    }

    /// The node is a member of the cluster that `source` offers. Without one it stands alone.
    ///
    /// # Panics
    /// When it has been said before.
    pub fn offer_cluster(&self, source: Box<dyn ClusterSource>) {
        assert!(self.cluster.set(source).is_ok(), "a node is a member of one cluster");
    }

    /// Opens the door: from now on commands reach `engine`, and its changes are read from `feed`.
    ///
    /// # Panics
    /// When the door has been opened before.
    pub fn open(&self, engine: Engine, feed: Feed) {
        self.events.open(feed);
        assert!(self.engine.set(engine).is_ok(), "the door is opened once");
    }

    /// Sends everybody away in good order: requests are answered as ever, but each answer closes its connection, and `/readyz` says that
    /// the node is stopping. A second call does nothing.
    pub fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    /// Lets nobody in any more: further commands are `stopping`, and connections close as soon as they have nothing under way. What
    /// is under way is answered. While [`serve`](crate::serve) still accepts, a new connection gets one answer, so that a probe can
    /// hear of the stop. A second call does nothing.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.stop_notice.notify_waiters();
    }

    /// Reads the keys and the certificate again, whether their files have changed or not. What cannot be taken over is told in the log
    /// and counted, and leaves what was there in force. Requests under way are not disturbed. Blocks for the files.
    pub fn reload(&self) {
        if let Some(keys) = &self.keys {
            self.tell_keys(keys.reload());
        }
        if let Some(certificate) = &self.certificate {
            self.tell_certificate(certificate.reload());
        }
    }

    /// As [`Door::reload`], but only what has changed since the last attempt.
    pub(crate) fn reload_what_changed(&self) {
        if let Some(result) = self.keys.as_ref().and_then(Reloaded::reload_if_changed) {
            self.tell_keys(result);
        }
        if let Some(result) = self.certificate.as_ref().and_then(Reloaded::reload_if_changed) {
            self.tell_certificate(result);
        }
    }

    fn tell_keys(&self, result: Result<(), impl Error + 'static>) {
        match result {
            Ok(()) => {
                let keys = self.keys.as_ref().map_or(0, |keys| keys.get().len());
                self.metrics.show_api_keys(keys);
                tracing::info!(keys, "the API keys were read again");
            }
            Err(error) => {
                self.metrics.count_keys_reload_failure();
                tracing::error!(error = &error as &dyn Error, "the API keys stay as they were");
            }
        }
    }

    fn tell_certificate(&self, result: Result<(), impl Error + 'static>) {
        match result {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => {
                self.metrics.count_certificate_reload_failure();
                tracing::error!(error = &error as &dyn Error, "the certificate stays as it was");
            }
        }
    }

    /// Whether anything is made from files that may change.
    pub(crate) const fn has_files(&self) -> bool {
        self.keys.is_some() || self.certificate.is_some()
    }

    /// The keys, if callers need one.
    pub(crate) fn keys(&self) -> Option<Guard<Arc<Keys>>> {
        self.keys.as_ref().map(Reloaded::get)
    }

    /// What TLS is spoken with, if it is.
    pub(crate) fn certificate(&self) -> Option<Arc<ServerConfig>> {
        self.certificate.as_ref().map(Reloaded::share)
    }

    pub(crate) const fn shows_metrics_to_all(&self) -> bool {
        self.metrics_without_key
    }

    /// The engine, if commands may go to it.
    pub(crate) fn engine(&self) -> Result<&Engine, Problem> {
        if self.is_stopping() {
            return Err(Problem::new(Code::Stopping, "the node is stopping"));
        }
        self.engine.get().ok_or_else(|| Problem::new(Code::Recovering, format!("recovery is under way: {}", self.recovery.lock())))
    }

    /// The engine, stopping or not; `None` while it recovers.
    pub(crate) fn engine_to_inspect(&self) -> Option<&Engine> {
        self.engine.get()
    }

    /// Whether connections are to close behind their next answer.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst) || self.is_stopping()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Is done when the door begins to stop, if it has not begun when this is called.
    pub(crate) fn stop_notice(&self) -> Notified<'_> {
        self.stop_notice.notified()
    }

    /// The number of this node in its cluster.
    pub(crate) fn node(&self) -> u64 {
        self.node.load(Ordering::Relaxed)
    }

    /// How many bytes of bodies are in memory now, of those that came in more than one piece.
    pub(crate) const fn body_bytes(&self) -> &AtomicUsize {
        &self.body_bytes
    }

    /// Where backups are had from, once that is known.
    pub(crate) fn backups(&self) -> Option<&dyn BackupSource> {
        self.backups.get().map(|source| &**source)
    }

    /// The cluster, if the node is a member of one.
    pub(crate) fn cluster(&self) -> Option<&dyn ClusterSource> {
        self.cluster.get().map(Box::as_ref)
    }

    /// The change feed.
    pub(crate) const fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) const fn options(&self) -> &HttpOptions {
        &self.options
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Who acts while no keys are configured.
    pub(crate) fn loopback_actor(&self) -> ActorName {
        self.loopback_actor.clone()
    }

    /// A name for a request whose sender gave none.
    pub(crate) fn new_request_id(&self) -> HeaderValue {
        let number = self.requests_named.fetch_add(1, Ordering::Relaxed);
        // By hand, because every request pays for it.
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
        let mut name = Vec::with_capacity(self.request_prefix.len() + digits as usize);
        name.extend_from_slice(self.request_prefix.as_bytes());
        name.extend((0..digits).rev().map(|place| {
            let [.., last] = (number >> (4 * place)).to_be_bytes();
            HEXADECIMAL[usize::from(last) % HEXADECIMAL.len()]
        }));
        HeaderValue::from_maybe_shared(Bytes::from(name)).expect("hexadecimal digits and hyphens make a header")
    }
}
