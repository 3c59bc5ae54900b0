//! What the log alone can write: groups of a fixed number of events, one stream, a real disk.
//!
//! `cargo run --release -p tidegate-persistence --example log_throughput -- <folder> [seconds] [durability] [groups in flight]`

use std::env;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_persistence::{
    Actor, ActorName, DataDirectory, DirectoryOptions, GroupBuilder, GroupSequence, StreamId, SyncReport, Wal, WalError,
    WalListener, WalOptions,
};
use tidegate_stock::{
    Event, Fingerprint, GrantSequence, Idempotency, Partition, Quantity, StockId, StockNumber, Timestamp, UserId,
};

const STREAM: StreamId = StreamId::log(0);

struct Told {
    committed: Sender<GroupSequence>,
    total: Mutex<SyncReport>,
    syncs: Mutex<u64>,
}

impl WalListener for Told {
    fn committed(&self, _stream: StreamId, sequence: GroupSequence) {
        self.committed.send(sequence).expect("main listens until the log has stopped");
    }

    fn synced(&self, report: &SyncReport) {
        let mut total = self.total.lock().expect("nobody panics with it");
        total.groups += report.groups;
        total.events += report.events;
        total.values += report.values;
        total.bytes += report.bytes;
        total.append += report.append;
        total.sync += report.sync;
        *self.syncs.lock().expect("nobody panics with it") += 1;
    }

    fn disk_low(&self, is_low: bool) {
        println!("disk low: {is_low}");
    }

    fn failed(&self, error: &WalError) {
        println!("failed: {error}");
    }
}

fn event(number: u64) -> Event {
    Event::Reserved {
        stock: StockId { partition: Partition(77), number: StockNumber(3) },
        sequence: GrantSequence(number),
        user: UserId::new(&format!("buyer-{number:012}")).expect("it is an identifier"),
        quantity: Quantity::ONE,
        expires_at: Timestamp::from_unix_ms(1_800_000_600_000),
        reference: None,
        idempotency: Some(Idempotency { key: Fingerprint(u128::MAX - u128::from(number)), request: Fingerprint(u128::MAX / 3) }),
    }
}

fn group(sequence: GroupSequence, events: u64, actor: &Actor) -> tidegate_persistence::Group {
    let time = Timestamp::from_unix_ms(1_800_000_000_000);
    let mut builder = GroupBuilder::new(sequence, time);
    for number in 0..events {
        builder.push(&event(sequence.0 * events + number), actor, time);
    }
    builder.finish()
}

fn main() {
    let mut arguments = env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the first argument names a folder"));
    let seconds: u64 = arguments.next().map_or(5, |text| text.parse().expect("seconds are a number"));
    let durability = arguments.next().map_or_else(Default::default, |text| text.parse().expect("durability is one of three"));
    let in_flight: Option<usize> = arguments.next().map(|text| text.parse().expect("groups in flight are a number"));
    let actor = Actor::Key(ActorName::new("shop").expect("it is an identifier"));
    for events in [1, 100, 1_000, 10_000] {
        let path = folder.join(format!("groups-of-{events}"));
        let directory = DataDirectory::open(&path, &DirectoryOptions::new(Timestamp::from_unix_ms(0))).expect("the folder opens");
        let tail = directory.replay(STREAM, |_| Ok(())).expect("the log is whole");
        let (committed, told): (_, Receiver<GroupSequence>) = mpsc::channel();
        let listener = Arc::new(Told { committed, total: Mutex::default(), syncs: Mutex::default() });
        let options = WalOptions { durability, ..WalOptions::default() };
        let wal = Wal::start(directory, [tail], options, Arc::clone(&listener) as Arc<dyn WalListener>).expect("the log starts");
        let writer = wal.writer();
        // Groups are made ahead so that the figures are the log's alone.
        let in_flight = in_flight.unwrap_or(if events == 1 { 1_024 } else { 8 });
        let (mut sent, mut done) = (tail.last_sequence, tail.last_sequence);
        let started = Instant::now();
        let mut building = Duration::ZERO;
        while started.elapsed() < Duration::from_secs(seconds) {
            while sent.0 - done.0 < in_flight as u64 {
                sent = sent.next();
                let build = Instant::now();
                let next = group(sent, events, &actor);
                building += build.elapsed();
                writer.append(STREAM, next);
            }
            done = told.recv_timeout(Duration::from_secs(30)).expect("the log goes on");
        }
        wal.stop().expect("the log stops");
        let elapsed = started.elapsed().as_secs_f64();
        let total = *listener.total.lock().expect("nobody panics with it");
        let syncs = *listener.syncs.lock().expect("nobody panics with it");
        let on_disk = std::fs::metadata(path.join("log/db")).expect("it is there").len();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        {
            let rate = |count: u64| count as f64 / elapsed;
            println!(
                "{durability}, groups of {events:>6}, {in_flight:>5} in flight: {:>9.0} groups/s {:>10.0} events/s {:>7.1} MB/s, {:>6.0} syncs/s of {:>7.1} groups; \
                 append {:>4.1} % sync {:>4.1} % of the thread; {:.1} B/event; build {:.0} ns/event; file {:.0} MB for {:.0} MB of values",
                rate(total.groups),
                rate(total.events),
                rate(total.bytes) / 1e6,
                rate(syncs),
                total.groups as f64 / syncs as f64,
                total.append.as_secs_f64() / elapsed * 100.0,
                total.sync.as_secs_f64() / elapsed * 100.0,
                total.bytes as f64 / total.events as f64,
                building.as_nanos() as f64 / total.events as f64,
                on_disk as f64 / 1e6,
                total.bytes as f64 / 1e6,
            );
        }
    }
}
