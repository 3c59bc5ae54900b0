//! SIGINT and SIGTERM: the rig stops where it stands and takes down what it set up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::RigError;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on both signals are noted instead of ending the process.
pub(crate) fn watch() -> Result<(), RigError> {
    let failed = |source| RigError::Io { what: "watching for signals".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        runtime.block_on(async move {
            let both = signal(SignalKind::interrupt()).and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
            let (mut interrupt, mut terminate) = match both {
                Ok(both) => both,
                Err(error) => return drop(ready.send(Err(error))),
            };
            drop(ready.send(Ok(())));
            // Whichever comes first: a current-thread runtime runs the other beside it.
            let other = tokio::spawn(async move {
                terminate.recv().await;
                INTERRUPTED.store(true, Ordering::Relaxed);
            });
            interrupt.recv().await;
            INTERRUPTED.store(true, Ordering::Relaxed);
            drop(other.await);
        });
    });
    is_ready.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread ended"))).map_err(failed)
}

/// Fails once a signal has come.
pub(crate) fn check() -> Result<(), RigError> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(RigError::Interrupted) } else { Ok(()) }
}
