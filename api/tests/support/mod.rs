//! A node behind a real socket: a door, an engine over a log that commits at once or when told to, a clock that stands still; and a
//! client that speaks bytes, so that nothing between the test and the wire mends anything.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

pub mod contract;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tidegate_api::{AccessOptions, Door, HttpOptions, serve};
use tidegate_engine::{
    CommitLog, CommitProgress, Engine, EngineMetrics, EngineOptions, EngineParts, Feed, ManualClock, Sealing, ShardStart, Told,
    quorum_line,
};
use tidegate_persistence::record::encode_value;
use tidegate_persistence::{
    ChainHash, Group, GroupSequence, LogIndex, LogStore, MemoryStore, NodeId, RecordHeader, RecordKey, RecordKind, RecoveredStream,
    StreamId, SyncReport, Term, VALUE_BYTES_MAX, Wal, WalError, WalListener, WalOptions,
};
use tidegate_stock::{Ledger, Rules, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The longest that any wait of these tests may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The moment at which every test's clock stands: 2027-01-15T08:00:00.000Z.
pub const START: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// The only shard's log.
const STREAM: StreamId = StreamId::log(0);

/// The log under a test's engine.
#[derive(Clone)]
pub struct TestLog {
    progress: Arc<CommitProgress>,
    state: Arc<Mutex<LogState>>,
    /// What the change feed reads.
    pub store: MemoryStore,
}

struct LogState {
    holds: bool,
    proposed: u64,
    chain: ChainHash,
}

impl CommitLog for TestLog {
    fn propose(&mut self, _: Term, group: Group) {
        let mut state = self.state.lock();
        state.proposed = group.sequence.0;
        self.write(&mut state, &group);
        if !state.holds {
            self.progress.commit(group.sequence);
        }
    }
}

impl TestLog {
    fn new(progress: Arc<CommitProgress>) -> Self {
        let state = LogState { holds: false, proposed: 0, chain: ChainHash::GENESIS };
        Self { progress, state: Arc::new(Mutex::new(state)), store: MemoryStore::new() }
    }

    /// Writes `group` as the real log does.
    fn write(&self, state: &mut LogState, group: &Group) {
        let header = RecordHeader {
            kind: RecordKind::Group,
            term: Term(1),
            leader: NodeId(1),
            sequence: group.sequence,
            predecessor: state.chain,
            time: group.time,
        };
        let parts: Vec<&[u8]> = group.payload.chunks(VALUE_BYTES_MAX / 2).collect();
        for (number, part) in parts.iter().enumerate() {
            let key = RecordKey { stream: STREAM, index: LogIndex(group.sequence.0), part: u16::try_from(number).unwrap() };
            let mut value = Vec::new();
            encode_value(key, &header, number + 1 == parts.len(), part, &mut value);
            self.store.append(key, &value).unwrap();
        }
        state.chain = header.chain(&group.payload);
    }

    /// Gives up the groups before `group`, so that the change feed begins there.
    pub fn give_up_before(&self, group: u64) {
        self.store.remove(RecordKey { stream: STREAM, index: LogIndex(1), part: 0 }, LogIndex(group - 1)).unwrap();
    }

    /// From now on nothing is committed.
    pub fn hold(&self) {
        self.state.lock().holds = true;
    }

    /// Commits what was held, and from now on everything at once.
    pub fn release(&self) {
        let mut state = self.state.lock();
        state.holds = false;
        self.progress.commit(GroupSequence(state.proposed));
    }

    /// The log breaks.
    pub fn fail(&self) {
        self.progress.fail();
    }

    /// Another node decides from now on.
    pub fn depose(&self) {
        let (voice, _) = quorum_line(&self.progress);
        voice.tell(Told::Follow);
    }

    /// Waits until `count` groups have been proposed in all.
    pub async fn wait_proposed(&self, count: u64) {
        eventually(|| self.state.lock().proposed >= count).await;
    }
}

/// Lets other tasks run until `holds` does.
pub async fn eventually(holds: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("what the test waits for should come");
}

/// The log that reads what a [`TestLog`] wrote writes nothing itself.
struct Deaf;

impl WalListener for Deaf {
    fn committed(&self, _: StreamId, _: GroupSequence) {}

    fn synced(&self, _: &SyncReport) {}

    fn disk_low(&self, _: bool) {}

    fn failed(&self, error: &WalError) {
        panic!("the log failed: {error}");
    }
}

/// An engine and what moves it.
pub struct Machine {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    pub log: TestLog,
    pub feed: Feed,
    _wal: Wal,
    pub disk_low: Arc<AtomicBool>,
}

impl Drop for Machine {
    /// However a test has gone, no unit has been made or lost.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for stock in self.engine.stocks(None, usize::MAX) {
            let view = &stock.view;
            assert_eq!(view.available + view.reserved + view.sold, view.allotted, "not conserved: {view:?}");
        }
    }
}

pub fn machine(options: EngineOptions, idempotency_keys_max: usize) -> Machine {
    let progress = CommitProgress::new(GroupSequence(0));
    let log = TestLog::new(Arc::clone(&progress));
    let clock = Arc::new(ManualClock::new(START));
    let disk_low = Arc::new(AtomicBool::new(false));
    let sealing = Sealing::new(&[7; 32]);
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max,
        retention_seconds: 604_800,
        reservations_in_memory_max: 1_000_000,
        users_in_memory_max: 1_000_000,
    };
    let engine = Engine::start(EngineParts {
        options,
        sealing: sealing.clone(),
        clock: Arc::<ManualClock>::clone(&clock),
        metrics: Arc::new(EngineMetrics::default()),
        disk_low: Arc::clone(&disk_low),
        history: None,
        shards: vec![ShardStart {
            ledger: Ledger::new(rules, sealing.table_seed()),
            log: Box::new(log.clone()),
            progress,
            quorum: None,
        }],
    });
    let engine = engine.unwrap();
    let tails = [RecoveredStream::empty(StreamId::votes(0))];
    let wal = Wal::start_on(Box::new(log.store.clone()), NodeId(1), tails, WalOptions::default(), Arc::new(Deaf)).unwrap();
    let feed = Feed::new(engine.clone(), wal.reader());
    Machine { engine, clock, log, feed, _wal: wal, disk_low }
}

/// A door behind a socket, and perhaps a machine behind the door.
pub struct Node {
    pub address: SocketAddr,
    pub door: Arc<Door>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// A door with no machine behind it yet.
pub async fn shut_node(options: HttpOptions) -> Node {
    node_counting(options, Registry::default()).await
}

pub async fn node_counting(options: HttpOptions, registry: Registry) -> Node {
    node_of(options, AccessOptions::default(), registry).await
}

/// An open door that not everybody is let in at, or over plain HTTP.
pub async fn guarded_node(options: HttpOptions, access: AccessOptions) -> (Node, Machine) {
    let node = node_of(options, access, Registry::default()).await;
    let machine = machine(EngineOptions::default(), 1_000);
    node.door.open(machine.engine.clone(), machine.feed.clone());
    (node, machine)
}

async fn node_of(options: HttpOptions, access: AccessOptions, registry: Registry) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Tests that stop a node look at what comes behind the drain, unless they name one.
    let is_drain_named = options.drain_seconds != HttpOptions::default().drain_seconds;
    let options = HttpOptions { drain_seconds: if is_drain_named { options.drain_seconds } else { 0 }, ..options };
    let door = Door::new(options, access, registry).unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, Arc::clone(&door), async move {
        let _ = stopped.await;
    }));
    Node { address, door, stop: Some(stop), serving }
}

/// An open door with default limits.
pub async fn node() -> (Node, Machine) {
    node_with(HttpOptions::default(), EngineOptions::default()).await
}

pub async fn node_with(http: HttpOptions, engine: EngineOptions) -> (Node, Machine) {
    let node = shut_node(http).await;
    let machine = machine(engine, 1_000);
    node.door.open(machine.engine.clone(), machine.feed.clone());
    (node, machine)
}

impl Node {
    pub async fn client(&self) -> Client {
        Client::over(TcpStream::connect(self.address).await.unwrap())
    }

    /// Asks on a connection of its own.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.client().await.ask(method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "").await
    }

    pub async fn put(&self, path: &str, body: &str) -> Reply {
        self.ask("PUT", path, &[], body).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.ask("POST", path, &[], body).await
    }

    /// Posts with an idempotency key.
    pub async fn post_keyed(&self, path: &str, key: &str, body: &str) -> Reply {
        self.ask("POST", path, &[("idempotency-key", key)], body).await
    }

    pub async fn patch(&self, path: &str, body: &str) -> Reply {
        self.ask("PATCH", path, &[], body).await
    }

    /// Every page of a list, and what is in it under `name`.
    pub async fn pages(&self, path: &str, name: &str) -> Vec<Vec<Value>> {
        let mut pages: Vec<Vec<Value>> = Vec::new();
        let mut at = path.to_owned();
        loop {
            let reply = self.get(&at).await;
            assert_eq!(reply.status, 200, "{at}: {reply:?}");
            let page = reply.json();
            pages.push(page[name].as_array().unwrap().clone());
            let Some(cursor) = page["next_cursor"].as_str() else { return pages };
            assert!(pages.len() < 1_000, "{path} has no end");
            at = format!("{path}{}cursor={cursor}", if path.contains('?') { '&' } else { '?' });
        }
    }

    /// Checks that a stock's counters are the sums of its reservations'.
    pub async fn expect_conserved(&self, sku: &str) {
        let stock = self.get(&format!("/v1/stocks/{sku}")).await.json();
        let reservations = self.pages(&format!("/v1/stocks/{sku}/reservations?limit=1000"), "reservations").await.concat();
        let sum = |field: &str| reservations.iter().map(|reservation| reservation[field].as_u64().unwrap()).sum::<u64>();
        let count = |field: &str| stock[field].as_u64().unwrap();
        assert_eq!((sum("reserved"), sum("confirmed")), (count("reserved"), count("sold")), "{stock}");
        assert_eq!(count("available") + count("reserved") + count("sold"), count("allotted"), "{stock}");
        let parts = sum("reserved") + sum("confirmed") + sum("released") + sum("returned");
        assert_eq!(parts, sum("quantity"), "{reservations:?}");
    }

    /// Tells the server to shut down, and does not wait for it.
    pub fn begin_shutdown(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has returned.
    pub async fn wait_shutdown(self) {
        timeout(PATIENCE, self.serving).await.expect("the server should return").unwrap().unwrap();
    }
}

/// A connection.
pub struct Client<S = TcpStream> {
    pub stream: S,
    received: Vec<u8>,
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let fields = headers.iter().fold(String::new(), |fields, (name, value)| fields + name + ": " + value + "\r\n");
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the server should take bytes").unwrap();
    }

    pub async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send(request(method, path, headers, body)).await;
        let reply = if method == "HEAD" { self.reply_to_head().await } else { self.reply().await };
        contract::expect_foreseen(method, path, &reply);
        reply
    }

    /// Reads one answer.
    pub async fn reply(&mut self) -> Reply {
        let mut reply = self.reply_to_head().await;
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.receive().await > 0, "the connection ended within a body: {reply:?}");
        }
        reply.body = self.received.drain(..length).collect();
        reply
    }

    /// Reads one answer that has no body, whatever its header says.
    pub async fn reply_to_head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            let received = self.receive().await;
            assert!(received > 0, "the connection ended without an answer: {:?}", String::from_utf8_lossy(&self.received));
        };
        let head = String::from_utf8(self.received.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())).unwrap())
            .collect();
        let reply = Reply { status, headers, body: Vec::new() };
        assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()), "no request id: {reply:?}");
        reply
    }

    /// Waits until the server closes the connection, having said nothing more.
    pub async fn closed(mut self) {
        let received = self.receive().await;
        assert_eq!((received, self.received.len()), (0, 0), "{:?}", String::from_utf8_lossy(&self.received));
    }

    async fn receive(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("the server should say something").unwrap()
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The text in a field of the body.
    pub fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_else(|| panic!("no {field}: {self:?}")).to_owned()
    }

    /// Checks the whole form of a problem, and that its detail speaks of `about`.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str, about: &str) {
        assert_eq!(self.status, status, "{code} about {about}: {self:?} {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["code"], code, "{json}");
        assert_eq!(json["status"], status, "{json}");
        assert_eq!(json["type"], format!("urn:tidegate:problem:{code}"), "{json}");
        assert!(json["title"].as_str().is_some_and(|title| !title.is_empty()), "{json}");
        assert!(json["detail"].as_str().is_some_and(|detail| detail.contains(about)), "{json} should speak of {about}");
        assert_eq!(json.as_object().unwrap().len(), 5, "{json}");
        assert_eq!(self.header("retry-after").is_some(), status == 503 || status == 429, "{self:?}");
    }
}

/// `available`, `reserved` and `sold` of stock `s`.
pub async fn counts(node: &Node) -> [u64; 3] {
    let stock = node.get("/v1/stocks/s").await.json();
    ["available", "reserved", "sold"].map(|field| stock[field].as_u64().unwrap())
}
