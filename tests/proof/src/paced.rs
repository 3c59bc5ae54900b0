//! The healthy client: a few connections on each of which requests are due at fixed times, whatever became of those before them.
//!
//! Latency counts from the time at which a request was due (no coordinated omission). Half of the requests read a stock, half reserve a
//! unit of it. Some connections are kept; the others are newcomers: a new connection for every request. A newcomer is nobody's successor:
//! one that comes late because the one before had to wait is due when it comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::machine::wait_until;
use tidegate_witness::wire::{Request, Wire};

/// Who asks, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Connections that are kept.
    pub(crate) kept: u32,
    /// Clients that connect for each request.
    pub(crate) new: u32,
    /// Requests of each in a second.
    pub(crate) per_second: u32,
}

/// One request and what became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) due: Instant,
    pub(crate) latency: Duration,
    /// `None` when there was no whole answer.
    pub(crate) status: Option<u16>,
    pub(crate) is_new: bool,
}

impl Sample {
    /// Whether it got what it asked for.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.status, Some(200 | 201))
    }
}

/// A healthy client at work. Dropped, it ends.
pub(crate) struct Paced {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Paced {
    /// Begins to ask for units of `sku`, of which there must be enough.
    pub(crate) fn start(address: SocketAddr, sku: &str, pace: Pace) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let gap = Duration::from_secs(1) / pace.per_second.max(1);
        let count = pace.kept + pace.new;
        let threads = (0..count).map(|number| {
            let asker = Asker {
                address,
                sku: sku.to_owned(),
                number,
                is_new: number >= pace.kept,
                // Not all at the same time.
                due: began + gap * number / count,
                gap,
                ends: Arc::clone(&ends),
            };
            thread::spawn(move || asker.work())
        });
        Self { threads: threads.collect(), ends }
    }

    /// Ends it; gives all that it asked.
    pub(crate) fn stop(mut self) -> Vec<Sample> {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.drain(..).flat_map(|thread| thread.join().expect("a paced client does not panic")).collect()
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

struct Asker {
    address: SocketAddr,
    sku: String,
    number: u32,
    is_new: bool,
    due: Instant,
    gap: Duration,
    ends: Arc<AtomicBool>,
}

impl Asker {
    fn work(mut self) -> Vec<Sample> {
        let read = format!("/v1/stocks/{}", self.sku);
        let reserve = format!("{read}/reservations");
        let mut wire = Wire::new(self.address);
        let mut samples = Vec::new();
        while !self.ends.load(Ordering::Relaxed) {
            wait_until(self.due);
            if self.is_new {
                wire = Wire::new(self.address);
            }
            let asked = if samples.len() % 2 == 0 {
                wire.ask(Request::get(&read))
            } else {
                let body = format!(r#"{{"user":"healthy-{}-{}"}}"#, self.number, samples.len());
                wire.ask(Request { method: "POST", body: &body, ..Request::get(&reserve) })
            };
            let status = asked.ok().map(|response| response.status);
            samples.push(Sample { due: self.due, latency: self.due.elapsed(), status, is_new: self.is_new });
            self.due += self.gap;
            if self.is_new {
                self.due = self.due.max(Instant::now());
            }
        }
        samples
    }
}
