//! A node that comes back to a long log: what it says meanwhile, what it has afterwards, and that it can be stopped at any moment.

use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_stock::Event;

mod support;

use support::log::{BOOK_PARTITION, created, reserved, write};
use support::{Server, WAIT_MAX};

/// Reservations in the log: enough that reading them takes longer than a request.
const GRANTS: u64 = 200_000;

/// Grants in one group.
const GROUP_GRANTS: u64 = 10_000;

fn long_log() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let first: Vec<(u64, Event)> = vec![(0, created(BOOK_PARTITION, 2 * GRANTS))];
    let grants = (0..GRANTS / GROUP_GRANTS).map(|group| {
        let sequences = group * GROUP_GRANTS + 1..=(group + 1) * GROUP_GRANTS;
        sequences.map(|sequence| (group, reserved(sequence, &format!("u{sequence}"), 1, group))).collect()
    });
    write(folder.path(), 1, 0, &std::iter::once(first).chain(grants).collect::<Vec<_>>());
    folder
}

#[test]
fn a_node_says_how_far_it_is_and_serves_once_everything_is_read() {
    let folder = long_log();
    let server = Server::start_with(folder.path(), &[]);
    let started_at = Instant::now();
    loop {
        assert_eq!(server.get("/livez").status, 200);
        let (ready, read) = (server.get("/readyz"), server.get("/v1/stocks/book"));
        if ready.status == 200 {
            break;
        }
        assert_eq!(ready.status, 503, "{ready:?}");
        // It may have become ready between the two requests.
        assert!(read.status == 200 || (read.status, &read.json()["code"]) == (503, &"recovering".into()), "{read:?}");
        assert!(started_at.elapsed() < WAIT_MAX, "the node is not ready after {WAIT_MAX:?}: {ready:?}");
    }
    let stock = server.get("/v1/stocks/book").json();
    assert_eq!((&stock["available"], &stock["reserved"]), (&GRANTS.into(), &GRANTS.into()), "{stock}");
    server.terminate().expect(0, &["events=200001", "groups=21"]);
}

#[test]
fn a_node_that_is_still_reading_stops_when_asked_and_reads_again_later() {
    let folder = long_log();
    let server = Server::start_with(folder.path(), &[]);
    server.signal(Signal::TERM);
    server.finish().expect(0, &["stopping"]);
    let server = Server::start(folder.path());
    assert_eq!(server.get("/v1/stocks/book").json()["reserved"], GRANTS);
    server.terminate().expect(0, &[]);
}
