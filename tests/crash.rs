//! A rush on four products through the door of a real node that is killed three times, judged by what its buyers were answered.
//!
//! The buyers keep books of every answer that they got. After a kill they ask again, with the same key, for what they never heard of;
//! in the end the node's own state must be exactly the buyers' books. The client here is its own, and shares nothing with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

mod support;

use support::{Server, WAIT_MAX, program, run};

const PRODUCTS: usize = 4;
const UNITS: u64 = 3_000;
const USERS: usize = 40_000;
const CONNECTIONS: usize = 32;
const KILLS: u64 = 3;

/// Buyers come in waves, one a kill and a last one that takes everything; so there is stock left at every kill, and every connection
/// is busy when it comes.
const WAVE_USERS: usize = 2_700;
const WAVE_EVERY: Duration = Duration::from_millis(3_500);

/// Times that one request is asked again before the test gives up.
const ASKED_MAX: u32 = 20;

const _: () = assert!(WAVE_USERS as u64 * KILLS < PRODUCTS as u64 * UNITS);

/// What the rush is about to the eyes of all its buyers.
struct Rush {
    /// The user that comes next.
    next: AtomicUsize,
    began: Instant,
    /// Reservations acknowledged so far; the killer hears of every one.
    granted: AtomicU64,
    killer: mpsc::Sender<u64>,
    /// Which start of the node answers.
    starts: watch::Receiver<u64>,
    address: SocketAddr,
    unknown: AtomicU64,
    replayed: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reserved,
    Confirmed,
    Released,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Confirmed => "confirmed",
            Self::Released => "released",
        }
    }
}

/// A reservation as its buyer was last answered.
#[derive(Debug, Clone)]
struct Granted {
    user: usize,
    id: String,
    sequence: u64,
    state: State,
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_sold_twice_through_three_kills() {
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("data");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut server = start(&directory, "127.0.0.1:0");
    let address = server.address;
    for product in 0..PRODUCTS {
        let terms = format!(r#"{{"quantity":{UNITS},"per_user_limit":1,"hold_seconds":3600}}"#);
        assert_eq!(server.put(&format!("/v1/stocks/{}", sku(product)), &terms).status, 201);
    }

    let (killer, grants) = mpsc::channel();
    let (started, starts) = watch::channel(0);
    let rush = Arc::new(Rush {
        next: AtomicUsize::new(0),
        began: Instant::now(),
        granted: AtomicU64::new(0),
        killer,
        starts,
        address,
        unknown: AtomicU64::new(0),
        replayed: AtomicU64::new(0),
    });
    let buyers = (0..CONNECTIONS).map(|_| runtime.spawn(buy_all(Arc::clone(&rush)))).collect::<Vec<_>>();

    for kill in 0..KILLS {
        // In the middle of a wave.
        let enough = kill * WAVE_USERS as u64 + WAVE_USERS as u64 / 2;
        while grants.recv_timeout(WAIT_MAX).expect("grants go on") < enough {}
        let (at, granted) = (rush.began.elapsed(), rush.granted.load(Ordering::Relaxed));
        server.signal(Signal::KILL);
        assert_eq!(server.finish().code, None, "a killed process has no exit code");
        let restarting = Instant::now();
        server = start(&directory, &address.to_string());
        println!(
            "kill {} at {:.1} s with {granted} reservations acknowledged; ready again in {} ms",
            kill + 1,
            at.as_secs_f64(),
            restarting.elapsed().as_millis()
        );
        assert!(granted < PRODUCTS as u64 * UNITS, "the kill came when everything was sold");
        started.send(kill + 1).expect("buyers are there");
    }

    let bought = runtime.block_on(async {
        let mut bought = Vec::new();
        for buyer in buyers {
            bought.extend(tokio::time::timeout(WAIT_MAX, buyer).await.expect("the rush ends").expect("no buyer panics"));
        }
        bought
    });
    let took = rush.began.elapsed();
    let unknown = rush.unknown.load(Ordering::Relaxed);
    assert!(unknown > 0, "no request was under way at any kill");
    let grants = judge(&server, &bought);
    runtime.block_on(look_at_all(&rush, &bought));
    let count = |state| bought.iter().filter(|granted| granted.state == state).count();
    println!(
        "{USERS} users in {:.1} s: {} granted, of which {} are reserved, {} confirmed, {} released; {unknown} answers unknown and asked again, \
         of which {} had happened",
        took.as_secs_f64(),
        bought.len(),
        count(State::Reserved),
        count(State::Confirmed),
        count(State::Released),
        rush.replayed.load(Ordering::Relaxed)
    );

    server.terminate().expect(0, &[]);
    let directory = directory.to_str().expect("temporary paths are UTF-8");
    let verified: Value = serde_json::from_str(&run(&["verify", "--json", directory]).expect(0, &[]).stdout).unwrap();
    assert_eq!(verified["good"], true, "{verified}");
    assert_eq!(verified["report"]["grants"], grants, "{verified}");
}

/// Holds the buyers' books against the node's stocks. Gives the number of grants.
fn judge(server: &Server, bought: &[Granted]) -> u64 {
    let users = bought.iter().map(|granted| granted.user).collect::<BTreeSet<_>>();
    assert_eq!(users.len(), bought.len(), "a user was granted twice");
    let ids = bought.iter().map(|granted| &granted.id).collect::<BTreeSet<_>>();
    assert_eq!(ids.len(), bought.len(), "an id was given twice");
    let mut grants = 0;
    for product in 0..PRODUCTS {
        let mine = || bought.iter().filter(|granted| product_of(granted.user) == product);
        let mut sequences = mine().map(|granted| granted.sequence).collect::<Vec<_>>();
        sequences.sort_unstable();
        // Every grant was asked for until it was answered, so the buyers know them all.
        let expected = (1..=sequences.len() as u64).collect::<Vec<_>>();
        assert!(sequences == expected, "grants of {} have gaps or duplicates", sku(product));
        grants += sequences.len() as u64;

        let count = |state| mine().filter(|granted| granted.state == state).count() as u64;
        let (reserved, sold) = (count(State::Reserved), count(State::Confirmed));
        assert!(reserved + sold <= UNITS, "{} was sold {} times", sku(product), reserved + sold);
        let stock = server.get(&format!("/v1/stocks/{}", sku(product))).json();
        let counters = ["allotted", "available", "reserved", "sold"].map(|name| stock[name].as_u64());
        assert_eq!(counters, [UNITS, UNITS - reserved - sold, reserved, sold].map(Some), "{stock}");
    }
    grants
}

/// Looks every acknowledged reservation up.
async fn look_at_all(rush: &Arc<Rush>, bought: &[Granted]) {
    let next = Arc::new(AtomicUsize::new(0));
    let bought = Arc::new(bought.to_vec());
    let looking = (0..CONNECTIONS).map(|_| {
        let (rush, next, bought) = (Arc::clone(rush), Arc::clone(&next), Arc::clone(&bought));
        tokio::spawn(async move {
            let mut connection = Connection::new(&rush);
            while let Some(granted) = bought.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = connection.ask("GET", &format!("/v1/reservations/{}", granted.id), None, "").await;
                assert_eq!(found.status, 200, "{granted:?} is lost: {found:?}");
                check(&found, granted);
            }
        })
    });
    for looking in looking.collect::<Vec<_>>() {
        tokio::time::timeout(WAIT_MAX, looking).await.expect("looking ends").expect("every reservation is as it was acknowledged");
    }
}

/// Checks that an answer shows a reservation as it was acknowledged.
fn check(found: &Answer, granted: &Granted) {
    let body = found.json();
    let quantity_in = |state| u64::from(granted.state == state);
    assert_eq!(body["id"], *granted.id, "{body}");
    assert_eq!(body["sku"], *sku(product_of(granted.user)), "{body}");
    assert_eq!(body["user"], *user_name(granted.user), "{body}");
    assert_eq!(body["sequence"], granted.sequence, "{body}");
    assert_eq!(body["state"], *granted.state.name(), "{body}");
    let counts = ["quantity", "reserved", "confirmed", "released"].map(|name| body[name].as_u64());
    let expected = [1, quantity_in(State::Reserved), quantity_in(State::Confirmed), quantity_in(State::Released)];
    assert_eq!(counts, expected.map(Some), "{body}");
}

/// One connection's share of the rush.
async fn buy_all(rush: Arc<Rush>) -> Vec<Granted> {
    let mut connection = Connection::new(&rush);
    let mut bought = Vec::new();
    loop {
        let user = rush.next.fetch_add(1, Ordering::Relaxed);
        if user >= USERS {
            return bought;
        }
        let wave = (user / WAVE_USERS).min(usize::try_from(KILLS).expect("a few kills fit"));
        let starts_at = rush.began + WAVE_EVERY * u32::try_from(wave).expect("a few waves fit");
        tokio::time::sleep_until(starts_at.into()).await;
        bought.extend(buy(&rush, &mut connection, user).await);
    }
}

/// One buyer: reserves, and then pays, cancels or leaves it; some click twice, some come back for more.
async fn buy(rush: &Rush, connection: &mut Connection, user: usize) -> Option<Granted> {
    let path = format!("/v1/stocks/{}/reservations", sku(product_of(user)));
    let body = format!(r#"{{"user":"{}"}}"#, user_name(user));
    let answer = connection.ask("POST", &path, Some(&format!("reserve-{user}")), &body).await;
    if answer.status == 409 && answer.json()["code"] == "sold_out" {
        return None;
    }
    assert_eq!(answer.status, 201, "{answer:?}");
    let (reservation, state) = (answer.json(), State::Reserved);
    let id = reservation["id"].as_str().expect("an id is a text").to_owned();
    let mut granted = Granted { user, id, sequence: reservation["sequence"].as_u64().expect("a sequence is a number"), state };
    check(&answer, &granted);
    // The killer may have seen enough.
    let _ = rush.killer.send(rush.granted.fetch_add(1, Ordering::Relaxed) + 1);

    let reservation = format!("/v1/reservations/{}", granted.id);
    match user / PRODUCTS % 20 {
        0..8 => {
            let answer = connection.ask("POST", &format!("{reservation}/confirm"), Some(&format!("confirm-{user}")), "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            granted.state = State::Confirmed;
            check(&answer, &granted);
        }
        8..11 => {
            let answer = connection.ask("POST", &format!("{reservation}/release"), Some(&format!("release-{user}")), "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            granted.state = State::Released;
            check(&answer, &granted);
        }
        11..13 => {
            let again = connection.ask("POST", &path, Some(&format!("reserve-{user}")), &body).await;
            assert!(again.status == 201 && again.is_replayed, "{again:?}");
            check(&again, &granted);
        }
        13..15 => {
            let more = connection.ask("POST", &path, Some(&format!("more-{user}")), &body).await;
            assert_eq!((more.status, &more.json()["code"]), (409, &Value::from("limit_reached")), "{more:?}");
        }
        _ => {}
    }
    Some(granted)
}

fn product_of(user: usize) -> usize {
    user % PRODUCTS
}

fn sku(product: usize) -> String {
    format!("sneaker-{product}")
}

fn user_name(user: usize) -> String {
    format!("buyer-{user}")
}

fn start(directory: &Path, listen: &str) -> Server {
    let directory = directory.to_str().expect("temporary paths are UTF-8");
    let server = Server::from_command(program(&["serve", "--data-dir", directory, "--listen", listen]));
    server.wait_ready();
    server
}

#[derive(Debug)]
struct Answer {
    status: u16,
    is_replayed: bool,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

/// A connection that is kept, and made anew after a kill.
struct Connection {
    address: SocketAddr,
    starts: watch::Receiver<u64>,
    /// The start of the node that it belongs to.
    start: u64,
    stream: Option<TcpStream>,
    unread: Vec<u8>,
    rush: Arc<Rush>,
}

impl Connection {
    fn new(rush: &Arc<Rush>) -> Self {
        let starts = rush.starts.clone();
        let start = *starts.borrow();
        Self { address: rush.address, start, starts, stream: None, unread: Vec::new(), rush: Arc::clone(rush) }
    }

    /// Asks until the answer is known, with the same key each time.
    async fn ask(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> Answer {
        let mut is_unknown = false;
        for _ in 0..ASKED_MAX {
            let answered = tokio::time::timeout(WAIT_MAX, self.ask_once(method, path, key, body)).await;
            match answered.unwrap_or_else(|_| panic!("{method} {path} was not answered within {WAIT_MAX:?}")) {
                // Refused, or too slow: the same question is right for both.
                Ok(answer) if answer.status == 503 => is_unknown = true,
                Ok(answer) => {
                    self.rush.replayed.fetch_add(u64::from(is_unknown && answer.is_replayed), Ordering::Relaxed);
                    return answer;
                }
                Err(_) => {
                    is_unknown = true;
                    self.rush.unknown.fetch_add(1, Ordering::Relaxed);
                    self.wait_for_the_next_start().await;
                }
            }
        }
        panic!("{method} {path} was asked {ASKED_MAX} times");
    }

    /// A connection breaks only because the node was killed, so there will be another start.
    async fn wait_for_the_next_start(&mut self) {
        self.stream = None;
        self.unread.clear();
        let before = self.start;
        let next = tokio::time::timeout(WAIT_MAX, self.starts.wait_for(|start| *start > before)).await;
        self.start = *next.expect("the node is started again").expect("the starter is there");
    }

    async fn ask_once(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> io::Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{key}\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await?;

        let head_end = loop {
            if let Some(end) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            read_more(stream, &mut self.unread).await?;
        };
        let head = String::from_utf8(self.unread[..head_end].to_vec()).map_err(io::Error::other)?;
        let fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim())).collect::<BTreeMap<_, _>>();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
        let length = fields.get("content-length").and_then(|length| length.parse::<usize>().ok());
        let body_end = head_end + 4 + length.ok_or_else(|| io::Error::other(format!("no length in {head:?}")))?;
        while self.unread.len() < body_end {
            read_more(stream, &mut self.unread).await?;
        }
        let body = String::from_utf8(self.unread[head_end + 4..body_end].to_vec()).map_err(io::Error::other)?;
        self.unread.drain(..body_end);
        let is_replayed = fields.get("idempotency-replayed") == Some(&"true");
        Ok(Answer { status, is_replayed, body })
    }
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    if stream.read_buf(bytes).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
