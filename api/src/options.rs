//! The door's limits, by name, with their defaults; and who is let in.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::keys::KeysError;
use crate::tls::{CertificateError, CertificateFiles};

/// Limits of the HTTP door. Free per process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpOptions {
    /// Threads that serve connections; at least 1. A connection stays on one of them. Default one for each core.
    pub worker_threads: usize,
    /// Longest body of a request, in bytes; at least 1. A longer one is `body_too_large`. Default 1 MiB.
    pub body_bytes_max: usize,
    /// The same for a batch. Default 8 MiB.
    pub batch_body_bytes_max: usize,
    /// Most bytes of all bodies together that are in memory at once; at least as many as one body may have. A request whose body goes
    /// beyond it is `overloaded`, and its connection is closed. A body that comes in one piece is not counted: it stays in its
    /// connection's buffer, which is as long as a header may be. Default 256 MiB.
    pub bodies_bytes_max: usize,
    /// Longest header of a request, start line included, in bytes; at least 1,024. A longer one is `invalid_request`, and its
    /// connection is closed. Default 16 KiB.
    pub header_bytes_max: usize,
    /// Longest wait, from a header's first byte, for its last one, in seconds; at least 1. Then the connection is closed. A TLS
    /// handshake may take as long. Default 10.
    pub header_seconds_max: u64,
    /// Longest wait, from a request's header, for the end of its body, in seconds; at least 1. Then the request is `invalid_request`,
    /// and its connection is closed. Default 30.
    pub body_seconds_max: u64,
    /// How long a connection may stand open without a request, before the first as between two, and how long it may leave an answer
    /// untaken, in seconds; at least 1. Then it is closed. A header whose first bytes came in one piece with the request before it counts
    /// as none until more of it comes. Default 75.
    pub idle_seconds_max: u64,
    /// How long, at a stop, requests on open connections are still answered as ever. 0 for not at all. Default 1.
    pub drain_seconds: u64,
    /// Longest wait, from a complete request, for its answer, in seconds; at least 1. Then the request is `timeout`, and its command
    /// may still happen. Default 10.
    pub answer_seconds_max: u64,
    /// Most connections open at once; at least 1. For a further one, one that waits for its client is closed; while none does, further
    /// ones wait in the operating system's queue. Default 16,384.
    pub connections_max: usize,
    /// What the operating system may keep for each connection of answers that its client has not taken, in bytes; at least 4,096. It adds as
    /// much again for its own bookkeeping, and bounds it by what it allows at all. Default 128 KiB.
    pub send_buffer_bytes: usize,
    /// After how many seconds without a change an event stream says that it is alive; at least 1. Default 15.
    pub feed_heartbeat_seconds: u64,
    /// How many seconds the reader of an event stream may take nothing of what is there for it; at least 1. Then its connection is
    /// closed. Default 60.
    pub feed_stall_seconds_max: u64,
    /// Most event streams at once; at least 1. Further ones are `overloaded`. Default 256.
    pub feed_streams_max: usize,
}

/// The smallest header limit that leaves room for the contract's own fields.
const HEADER_BYTES_FLOOR: usize = 1_024;

/// Room for a whole answer to a single command.
const SEND_BUFFER_BYTES_FLOOR: usize = 4_096;

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            worker_threads: thread::available_parallelism().map_or(1, NonZero::get),
            body_bytes_max: 1024 * 1024,
            batch_body_bytes_max: 8 * 1024 * 1024,
            bodies_bytes_max: 256 * 1024 * 1024,
            header_bytes_max: 16 * 1024,
            header_seconds_max: 10,
            body_seconds_max: 30,
            idle_seconds_max: 75,
            drain_seconds: 1,
            answer_seconds_max: 10,
            connections_max: 16_384,
            send_buffer_bytes: 128 * 1024,
            feed_heartbeat_seconds: 15,
            feed_stall_seconds_max: 60,
            feed_streams_max: 256,
        }
    }
}

/// Who is let in, and over what. Free per process. By default everybody who reaches the door, over plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// The file that lists the API keys. Without one every caller may do everything, so the door must stand on a loopback address.
    /// Default none.
    pub keys_file: Option<PathBuf>,
    /// Whether `/metrics` is shown to callers without a key. Default no.
    pub metrics_without_key: bool,
    /// The certificate for TLS; without one, plain HTTP is spoken. Default none.
    pub certificate: Option<CertificateFiles>,
}

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// A limit is not possible.
    #[error(transparent)]
    Limits(#[from] HttpOptionsError),
    /// The keys cannot be had.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The certificate cannot be had.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A limit that is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {given} where at least {min} is needed")]
pub struct HttpOptionsError {
    name: &'static str,
    given: u64,
    min: u64,
}

impl HttpOptions {
    /// Checks every limit.
    pub fn check(&self) -> Result<(), HttpOptionsError> {
        let limits = [
            ("worker_threads", self.worker_threads as u64, 1),
            ("body_bytes_max", self.body_bytes_max as u64, 1),
            ("batch_body_bytes_max", self.batch_body_bytes_max as u64, 1),
            ("bodies_bytes_max", self.bodies_bytes_max as u64, self.body_bytes_max.max(self.batch_body_bytes_max) as u64),
            ("header_bytes_max", self.header_bytes_max as u64, HEADER_BYTES_FLOOR as u64),
            ("header_seconds_max", self.header_seconds_max, 1),
            ("body_seconds_max", self.body_seconds_max, 1),
            ("idle_seconds_max", self.idle_seconds_max, 1),
            ("answer_seconds_max", self.answer_seconds_max, 1),
            ("connections_max", self.connections_max as u64, 1),
            ("send_buffer_bytes", self.send_buffer_bytes as u64, SEND_BUFFER_BYTES_FLOOR as u64),
            ("feed_heartbeat_seconds", self.feed_heartbeat_seconds, 1),
            ("feed_stall_seconds_max", self.feed_stall_seconds_max, 1),
            ("feed_streams_max", self.feed_streams_max as u64, 1),
        ];
        match limits.into_iter().find(|(_, given, min)| given < min) {
            Some((name, given, min)) => Err(HttpOptionsError { name, given, min }),
            None => Ok(()),
        }
    }

    /// The shortest of the time limits: nothing that begins now is due earlier.
    pub(crate) fn shortest(&self) -> Duration {
        let seconds = [
            self.header_seconds_max,
            self.body_seconds_max,
            self.idle_seconds_max,
            self.answer_seconds_max,
            self.feed_stall_seconds_max,
        ];
        Duration::from_secs(seconds.into_iter().fold(u64::MAX, u64::min))
    }
}
