//! A node that comes back to a long log: what it says meanwhile, what it has afterwards, and that it can be stopped at any moment.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_stock::Event;

mod support;

use support::log::{BOOK_PARTITION, created, reserved, write};
use support::{Server, WAIT_MAX, program};

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

/// A start that stands still for as long as the test wants: the newest snapshot of one shard is a pipe, which can be read only once
/// somebody writes to it.
#[test]
fn a_start_says_what_it_has_read_and_what_there_is_to_be_read() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    // Of two shards, the first owns partitions 0 to 511, and so the book.
    write(folder.path(), 2, 0, &[vec![(0, created(BOOK_PARTITION, 2))], vec![(1, reserved(1, "u", 1, 1))]]);
    write(folder.path(), 2, 1, &[vec![], vec![], vec![]]);
    let snapshot = folder.path().join("snapshots/00001-00000000000000000002.snapshot");
    fs::create_dir(folder.path().join("snapshots")).expect("a directory can be written");
    mkfifoat(CWD, &snapshot, Mode::RUSR | Mode::WUSR).expect("a pipe can be made");

    let (log, stderr) = std::io::pipe().expect("a pipe can be made");
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(log).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let directory = folder.path().to_str().expect("temporary paths are UTF-8");
    let mut command = program(&["serve", "--data-dir", directory, "--listen", "127.0.0.1:0"]);
    command.stderr(stderr);
    let server = Server::from_command(command);

    // Two groups of the one shard, and of the other the one behind the snapshot.
    let far = "2 of 3 groups of the log read, with 2 events";
    let began = Instant::now();
    let ready = loop {
        let ready = server.get("/readyz");
        if ready.body.contains(far) {
            break ready;
        }
        assert!(began.elapsed() < WAIT_MAX, "{far:?} is not in {ready:?}");
        thread::yield_now();
    };
    assert_eq!((ready.status, &ready.json()["code"]), (503, &"recovering".into()), "{ready:?}");
    let metrics = server.get("/metrics").body;
    for sample in ["tidegate_recovery_groups_total 2", "tidegate_recovery_groups_due 3", "tidegate_recovery_events_total 2"] {
        assert!(metrics.lines().any(|line| line == sample), "no {sample} in {metrics}");
    }
    let mut told = String::new();
    while !(told.contains("recovering") && told.contains("groups=2 groups_due=3 events=2")) {
        told = lines.recv_timeout(WAIT_MAX).expect("the log says how far the start is");
    }

    // Nothing comes out of the pipe. So the snapshot is of no use, and there is that much more of the log to be read.
    drop(OpenOptions::new().write(true).open(&snapshot).expect("the node reads"));
    server.wait_ready();
    let metrics = server.get("/metrics").body;
    for sample in ["tidegate_recovery_groups_total 5", "tidegate_recovery_groups_due 5"] {
        assert!(metrics.lines().any(|line| line == sample), "no {sample} in {metrics}");
    }
    assert_eq!(server.get("/v1/stocks/book").json()["reserved"], 1);
    assert_eq!(server.terminate().code, Some(0));
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
