//! The door itself: whether it is open, what stands behind it, and what it counts.

use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tidegate_engine::{ActorName, Clock, Engine, SystemClock};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::metrics::Metrics;
use crate::options::{HttpOptions, HttpOptionsError};
use crate::problem::Problem;
use crate::status::Code;

/// Who acts while there are no API keys: whoever reaches the loopback address.
pub const LOOPBACK_ACTOR: &str = "loopback";

/// A door: shut while the engine behind it recovers, then open, then stopping. It never goes back. Any thread may use it.
pub struct Door {
    options: HttpOptions,
    registry: Registry,
    metrics: Metrics,
    actor: ActorName,
    engine: OnceLock<Engine>,
    recovery: Mutex<String>,
    is_stopping: AtomicBool,
    stop_notice: Notify,
    request_prefix: String,
    requests_named: AtomicU64,
}

impl Door {
    /// A door that is shut: probes and metrics are answered, every command is `recovering`. `registry` holds what the rest of the node
    /// counts; the door adds its own and shows all of it.
    ///
    /// # Errors
    /// When an option is impossible.
    pub fn new(options: HttpOptions, mut registry: Registry) -> Result<Arc<Self>, HttpOptionsError> {
        options.check()?;
        let metrics = Metrics::register(&mut registry);
        let actor = ActorName::new(LOOPBACK_ACTOR).expect("the name is an identifier");
        Ok(Arc::new(Self {
            options,
            registry,
            metrics,
            actor,
            engine: OnceLock::new(),
            recovery: Mutex::new("the log has not been read yet".to_owned()),
            is_stopping: AtomicBool::new(false),
            stop_notice: Notify::new(),
            // Names must differ between processes, not be secret.
            request_prefix: format!("{:x}-{:x}", SystemClock.now().unix_ms(), process::id()),
            requests_named: AtomicU64::new(0),
        }))
    }

    /// Says how far recovery has come, for `/readyz`.
    pub fn report_recovery(&self, progress: impl Into<String>) {
        *self.recovery.lock() = progress.into();
    }

    /// Opens the door: from now on commands reach `engine`.
    ///
    /// # Panics
    /// When the door has been opened before.
    pub fn open(&self, engine: Engine) {
        assert!(self.engine.set(engine).is_ok(), "the door is opened once");
    }

    /// Lets nobody in any more: further commands are `stopping`, and connections close as soon as they have nothing under way. What
    /// is under way is answered. While [`serve`](crate::serve) still accepts, a new connection gets one answer, so that a probe can
    /// hear of the stop. A second call does nothing.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.stop_notice.notify_waiters();
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

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Is done when the door begins to stop, if it has not begun when this is called.
    pub(crate) fn stop_notice(&self) -> Notified<'_> {
        self.stop_notice.notified()
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

    pub(crate) fn actor(&self) -> ActorName {
        self.actor.clone()
    }

    /// A name for a request whose sender gave none.
    pub(crate) fn new_request_id(&self) -> HeaderValue {
        let number = self.requests_named.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number:x}", self.request_prefix);
        HeaderValue::try_from(name).expect("hexadecimal digits and hyphens make a header")
    }
}
