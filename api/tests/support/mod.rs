//! A node behind a real socket: a door, an engine over a log that commits at once or when told to, a clock that stands still; and a
//! client that speaks bytes, so that nothing between the test and the wire mends anything.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tidegate_api::{Door, HttpOptions, serve};
use tidegate_engine::{
    CommitLog, CommitProgress, Engine, EngineMetrics, EngineOptions, EngineParts, ManualClock, Sealing, ShardStart,
};
use tidegate_persistence::{Group, GroupSequence};
use tidegate_stock::{Ledger, Rules, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The longest that any wait of these tests may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The moment at which every test's clock stands: 2027-01-15T08:00:00.000Z.
pub const START: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// The log under a test's engine.
#[derive(Clone)]
pub struct TestLog {
    progress: Arc<CommitProgress>,
    state: Arc<Mutex<LogState>>,
}

#[derive(Default)]
struct LogState {
    holds: bool,
    proposed: u64,
}

impl CommitLog for TestLog {
    fn propose(&mut self, group: Group) {
        let mut state = self.state.lock();
        state.proposed = group.sequence.0;
        if !state.holds {
            self.progress.commit(group.sequence);
        }
    }
}

impl TestLog {
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

/// An engine and what moves it.
pub struct Machine {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    pub log: TestLog,
    pub disk_low: Arc<AtomicBool>,
}

pub fn machine(options: EngineOptions, idempotency_keys_max: usize) -> Machine {
    let progress = CommitProgress::new(GroupSequence(0));
    let log = TestLog { progress: Arc::clone(&progress), state: Arc::default() };
    let clock = Arc::new(ManualClock::new(START));
    let disk_low = Arc::new(AtomicBool::new(false));
    let sealing = Sealing::new(&[7; 32]);
    let rules = Rules { idempotency_seconds: 86_400, idempotency_keys_max };
    let engine = Engine::start(EngineParts {
        options,
        sealing: sealing.clone(),
        clock: Arc::<ManualClock>::clone(&clock),
        metrics: Arc::new(EngineMetrics::default()),
        disk_low: Arc::clone(&disk_low),
        shards: vec![ShardStart { ledger: Ledger::new(rules, sealing.table_seed()), log: Box::new(log.clone()), progress }],
    });
    Machine { engine: engine.unwrap(), clock, log, disk_low }
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
    node_counting(options, Registry::with_prefix("tidegate")).await
}

pub async fn node_counting(options: HttpOptions, registry: Registry) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Door::new(options, registry).unwrap();
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
    node.door.open(machine.engine.clone());
    (node, machine)
}

impl Node {
    pub async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), received: Vec::new() }
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
pub struct Client {
    pub stream: TcpStream,
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

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the server should take bytes").unwrap();
    }

    pub async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send(request(method, path, headers, body)).await;
        if method == "HEAD" { self.reply_to_head().await } else { self.reply().await }
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
