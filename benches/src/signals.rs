//! SIGINT and SIGTERM: what is running is given up at the next look, so that every server is ended by what started it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::BenchError;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on both signals are noted instead of ending the process.
pub fn watch() -> Result<(), BenchError> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let watched = Builder::new_current_thread().enable_io().build().and_then(|runtime| {
                runtime.block_on(async {
                    let mut signals = signal(kind)?;
                    drop(ready.send(Ok(())));
                    while signals.recv().await.is_some() {
                        INTERRUPTED.store(true, Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
            watched.unwrap_or_else(|error: io::Error| drop(ready.send(Err(error))));
        });
        let watched = is_ready.recv().map_err(|_| BenchError::wrong("the thread that watches for signals ended"))?;
        watched.map_err(BenchError::io("watching for signals"))?;
    }
    Ok(())
}

/// Fails once a signal has come.
pub fn check() -> Result<(), BenchError> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(BenchError::wrong("interrupted")) } else { Ok(()) }
}
