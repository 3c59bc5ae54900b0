//! The kinds of hostility: what each does, how many at once, and what a node may take for it. A table; knows nothing of running it.

use std::time::Duration;

use super::crowd::Manner;
use super::hits::{End, Sent, body_begun};
use tidegate_witness::wire::Request;

/// Connections that a node with few places may have open.
pub(crate) const PLACES_FEW: usize = 64;

/// Bytes of all bodies together that a node may have in memory.
pub(crate) const BODIES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The longest body that the nodes take, which is the longest batch too.
pub(crate) const BODY_BYTES_MAX: usize = 256 * 1024;

/// Connections that say nothing.
pub(crate) const IDLE: usize = 10_000;

/// Connections of most crowds.
const CROWD: usize = 1_000;

/// Visitors at once, and how often each comes.
const VISITORS: usize = 8;
const VISIT_EVERY: Duration = Duration::from_millis(40);

/// Requests in one packet. Few visitors have so many, because that is load and not only hostility.
const PIPELINED: usize = 64;
const PIPELINING_VISITORS: usize = 2;

/// Clients that read no answer: the kernel keeps megabytes for each.
const UNREAD: usize = 64;

/// The stock whose units clients reserve that leave before their answer, and the one of clients that leave before their request is whole.
pub(crate) const LEFT: &str = "left";
pub(crate) const TORN: &str = "torn";

/// The stock that the healthy client buys of.
pub(crate) const HEALTHY: &str = "healthy";

/// What is done.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Crowd { count: usize, opening: Vec<u8>, manner: Manner },
    Hits { visitors: usize, sent: Sent, end: End },
}

/// A kind of hostility.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Against a node with few places.
    pub(crate) is_crowded: bool,
    pub(crate) deed: Deed,
    /// Memory that the node's settings grant such clients together, in bytes.
    pub(crate) memory_granted: usize,
}

impl Kind {
    /// Connections that are open at once.
    pub(crate) fn connections(&self) -> usize {
        match &self.deed {
            Deed::Crowd { count, .. } => *count,
            Deed::Hits { visitors, .. } => *visitors,
        }
    }

    /// From one visit to the next.
    pub(crate) const fn every() -> Duration {
        VISIT_EVERY
    }
}

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Kind> {
    let read = Request::get("/v1/stocks/healthy").bytes();
    // A long answer, so that it takes few requests until no more can be sent.
    let read_long = Request::get("/openapi.json").bytes();
    let header = b"GET /v1/stocks/healthy HTTP/1.1\r\nhost: node\r\nx-slow: ".to_vec();
    let body = body_begun("/v1/stocks/torn/reservations", 200);
    let half = [&body[..], &b"{\"user\":\"half"[..]].concat();
    let crowd = |name, count, opening: &[u8], manner| Kind {
        name,
        is_crowded: false,
        deed: Deed::Crowd { count, opening: opening.to_vec(), manner },
        memory_granted: 0,
    };
    let hits =
        |name, visitors, sent, end| Kind { name, is_crowded: false, deed: Deed::Hits { visitors, sent, end }, memory_granted: 0 };
    let crowded = |name, opening: &[u8], manner| Kind { is_crowded: true, ..crowd(name, PLACES_FEW * 5 / 4, opening, manner) };
    let large_header = format!("GET /v1/time HTTP/1.1\r\nhost: node\r\nx-large: {}\r\n\r\n", "x".repeat(64 * 1024));
    let large_uri = format!("GET /v1/{} HTTP/1.1\r\nhost: node\r\n\r\n", "x".repeat(100_000));
    let over = BODY_BYTES_MAX + 64 * 1024;
    let large_body = [body_begun("/v1/stocks/torn/reservations", over), vec![b' '; over]].concat();
    let stalled = [body_begun("/v1/batch", BODY_BYTES_MAX), vec![b' '; BODY_BYTES_MAX / 2]].concat();
    vec![
        crowd("idle connections", IDLE, b"", Manner::Silent),
        crowd("headers byte by byte", CROWD, &header, Manner::Drips(b"slow")),
        crowd("bodies byte by byte", CROWD, &body, Manner::Drips(b" ")),
        crowd("half a header, then silence", CROWD, &header, Manner::Silent),
        crowd("half a body, then silence", CROWD, &half, Manner::Silent),
        Kind {
            // A body in the making may take twice its length.
            memory_granted: 2 * BODIES_BYTES_MAX,
            ..crowd("half of a large body, then silence", CROWD / 10, &stalled, Manner::Silent)
        },
        crowd("half a request, then half closed", CROWD / 4, &half, Manner::HalfCloses),
        crowd("answers never read", UNREAD, &read_long, Manner::Floods),
        hits("half closed behind a request", VISITORS, Sent::Text(read.clone()), End::HalfClosed(200)),
        hits("64 requests in one packet", PIPELINING_VISITORS, Sent::Text(read.repeat(PIPELINED)), End::AllAnswered(PIPELINED)),
        hits("a header of 64 KiB", VISITORS, Sent::Text(large_header.into_bytes()), End::Answered(400)),
        hits("a target of 100 kB", VISITORS, Sent::Text(large_uri.into_bytes()), End::Answered(400)),
        hits("a body over its limit", VISITORS, Sent::Text(large_body), End::Answered(413)),
        hits("garbage", VISITORS, Sent::Garbage, End::Answered(400)),
        hits("gone before the answer", VISITORS, Sent::Reserves { sku: LEFT, missing: 0 }, End::Leaves),
        hits("gone within the body", VISITORS, Sent::Reserves { sku: TORN, missing: 1 }, End::Leaves),
        hits("reset behind half a request", VISITORS, Sent::Text(half.clone()), End::Resets),
        crowded("more idle ones than places", b"", Manner::Silent),
        crowded("more slow headers than places", &header, Manner::Drips(b"slow")),
        crowded("more slow bodies than places", &body, Manner::Drips(b" ")),
        crowded("more unread answers than places", &read_long, Manner::Floods),
    ]
}
