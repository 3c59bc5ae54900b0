//! A node as the contract's tests see it: calls and what they are to be answered, restarts of every kind, and books that must balance.
//! Knows nothing of what a test makes of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Response, Server, WAIT_MAX, finish, program, request_with, run};

/// The errors of the contract with their statuses.
const CODES: [(&str, u16); 24] = [
    ("invalid_request", 400),
    ("unauthenticated", 401),
    ("forbidden", 403),
    ("unknown_sku", 404),
    ("unknown_reservation", 404),
    ("sold_out", 409),
    ("limit_reached", 409),
    ("not_open", 409),
    ("paused", 409),
    ("closed", 409),
    ("stock_exists", 409),
    ("stock_in_use", 409),
    ("insufficient_stock", 409),
    ("reservation_released", 409),
    ("reservation_expired", 409),
    ("reservation_confirmed", 409),
    ("reservation_returned", 409),
    ("reservation_not_confirmed", 409),
    ("cursor_expired", 410),
    ("precondition_failed", 412),
    ("unsupported_media_type", 415),
    ("idempotency_key_reused", 422),
    ("invalid_quantity", 422),
    ("out_of_range", 422),
];

/// The counts of a stock and of a reservation, whose first is the sum of the others.
const STOCK_COUNTS: [&str; 4] = ["allotted", "available", "reserved", "sold"];
const RESERVATION_COUNTS: [&str; 5] = ["quantity", "reserved", "confirmed", "released", "returned"];

/// How long a test rests between two looks at what it waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A stock that no test looks at: changes to it let time pass in the log.
const FILLER: &str = "/v1/stocks/zz-filler";

/// When the rows of a test are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before any restart.
    Running,
    /// After a kill and a start from the log.
    Killed,
    /// After an orderly stop and a start from a snapshot and the log behind it, from now on with no room in memory for what is resolved.
    Snapshot,
    /// After a kill and a start from a snapshot without what was resolved before: that is in the history.
    History,
    /// After a kill and a start from the same snapshot, behind which the log changes what is in the history.
    Tail,
}

impl Phase {
    pub const ALL: [Self; 5] = [Self::Running, Self::Killed, Self::Snapshot, Self::History, Self::Tail];

    /// Its word in names of what is kept for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Killed => "killed",
            Self::Snapshot => "snapshot",
            Self::History => "history",
            Self::Tail => "tail",
        }
    }
}

/// Builds something once and looks at it in every phase; in the end of each the books must balance.
pub fn through_restarts<W>(settings: &[&str], build: impl FnOnce(&mut Node) -> W, check: impl FnMut(&mut Node, &mut W, Phase)) {
    through_restarts_of(Node::start(settings), build, check);
}

/// The same with a node that runs already.
pub fn through_restarts_of<W>(mut node: Node, build: impl FnOnce(&mut Node) -> W, mut check: impl FnMut(&mut Node, &mut W, Phase)) {
    let mut world = build(&mut node);
    for phase in Phase::ALL {
        node.enter(phase);
        eprintln!("phase {}", phase.name());
        check(&mut node, &mut world, phase);
        node.expect_conserved();
    }
    node.finish();
}

/// A node on a directory of its own that is stopped and started.
pub struct Node {
    folder: TempDir,
    settings: Vec<String>,
    server: Option<Server>,
    is_from_snapshot: bool,
    /// The key that it is called with, where it wants one.
    pub bearer: Option<String>,
    /// Names of reservations with their ids.
    ids: BTreeMap<String, String>,
    fillings: u64,
    snapshots: u64,
    /// Whether resolved reservations are forgotten while the test runs, so that more is sold than the lists show.
    pub forgets: bool,
}

impl Node {
    /// Starts a node with `settings`, each `section.name=value`.
    pub fn start(settings: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        Self::start_on(folder, settings)
    }

    /// Starts a node whose data is to be in the folder `data` of `folder`.
    pub fn start_on(folder: TempDir, settings: &[&str]) -> Self {
        let mut node = Self {
            folder,
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            server: None,
            is_from_snapshot: false,
            bearer: None,
            ids: BTreeMap::new(),
            fillings: 0,
            snapshots: 0,
            forgets: false,
        };
        node.resume(false);
        node
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the node runs")
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// Goes on into `phase` from the one before it.
    fn enter(&mut self, phase: Phase) {
        match phase {
            Phase::Running => {}
            Phase::Killed => {
                self.kill();
                self.resume(false);
                // What this phase does is the log behind the next one's snapshot.
                self.snapshot();
            }
            Phase::Snapshot => {
                self.stop();
                self.settings.push("engine.resolved_in_memory_max=0".to_owned());
                self.resume(true);
            }
            Phase::History => {
                self.wait_history();
                self.snapshot();
                self.kill();
                self.resume(true);
                assert!(self.holds_only(), "what is resolved came back into memory");
            }
            Phase::Tail => {
                self.kill();
                self.resume(true);
            }
        }
    }

    /// Starts it again, and checks at its end that it started from a snapshot, or from the log alone.
    pub fn resume(&mut self, is_from_snapshot: bool) {
        let settings = self.settings.iter().flat_map(|setting| ["--set", setting]);
        let server = Server::start_with(Path::new(&self.data()), &settings.collect::<Vec<_>>());
        server.wait_ready();
        self.is_from_snapshot = is_from_snapshot;
        self.server = Some(server);
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        let server = self.server.take().expect("the node runs");
        server.signal(Signal::KILL);
        let finished = server.finish();
        assert_eq!(finished.code, None, "a killed process has no exit code");
        self.expect_start(&finished.stderr);
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        let finished = self.server.take().expect("the node runs").terminate().expect(0, &[]);
        self.expect_start(&finished.stderr);
    }

    fn expect_start(&self, said: &str) {
        assert_eq!(said.contains("loaded a snapshot"), self.is_from_snapshot, "{said}");
    }

    /// Has it make a snapshot of everything answered so far: a backup begins with one.
    pub fn snapshot(&mut self) {
        self.snapshots += 1;
        let target = format!("http://{}", self.server().address);
        let copy = self.folder.path().join(format!("copy-{}", self.snapshots));
        let before = self.metric("tidegate_snapshots_total");
        let mut backup = program(&["backup", copy.to_str().expect("temporary paths are UTF-8"), "--target", &target]);
        backup.envs(self.bearer.iter().map(|key| ("TIDEGATE_KEY", key)));
        finish(backup.spawn().expect("the program starts")).expect(0, &[]);
        assert!(self.metric("tidegate_snapshots_total") > before, "no snapshot was made");
    }

    /// Waits until everything resolved has left memory for the history.
    fn wait_history(&mut self) {
        let put = self.call("PUT", FILLER, &[], r#"{"quantity":0}"#).response;
        assert!(matches!(put.status, 200 | 201), "{put:?}");
        // Only what is older than the newest change leaves, so there must be changes.
        let mut fillings = self.fillings;
        wait_until("the history to take what is resolved", || {
            fillings += 1;
            self.call("PATCH", FILLER, &[], &format!(r#"{{"hold_seconds":{}}}"#, 1 + fillings % 3_000)).done(200);
            self.holds_only()
        });
        self.fillings = fillings;
    }

    /// Whether no reservation in memory is resolved.
    fn holds_only(&self) -> bool {
        self.metric("tidegate_reservations") == self.metric("tidegate_open_holds")
    }

    /// The sum of a metric over its labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = self.call("GET", "/metrics", &[], "").response;
        assert_eq!(metrics.status, 200, "{metrics:?}");
        let samples = metrics.body.lines().filter_map(|line| line.rsplit_once(' '));
        let values = samples.filter(|(series, _)| series.split('{').next() == Some(name));
        let values: Vec<u64> = values.map(|(_, value)| value.parse().expect("a count is a whole number")).collect();
        assert!(!values.is_empty(), "no {name} in {}", metrics.body);
        values.iter().sum()
    }

    /// One call with header `fields`.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        self.call_as(self.bearer.as_deref(), method, path, fields, body)
    }

    /// The same by whoever has the key `bearer`.
    #[track_caller]
    pub fn call_as(&self, bearer: Option<&str>, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let bearer = bearer.map(|key| format!("Bearer {key}"));
        let mut fields = fields.to_vec();
        fields.extend(bearer.iter().map(|bearer| ("authorization", bearer.as_str())));
        let response = request_with(self.server().address, method, path, &fields, body).expect("the node answers");
        assert!(response.header("x-request-id").is_some(), "{method} {path}: {response:?}");
        Answer { call: format!("{method} {path} {fields:?} {body}"), response }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, &[], "").done(200)
    }

    /// A call that may have an idempotency key: none is the empty text.
    #[track_caller]
    pub fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        let fields = [("idempotency-key", key)];
        self.call("POST", path, if key.is_empty() { &[] } else { &fields }, body)
    }

    /// What is asked of the reservation that the test calls `name`.
    #[track_caller]
    pub fn act(&self, name: &str, verb: &str, key: &str, body: &str) -> Answer {
        self.post(&format!("/v1/reservations/{}/{verb}", self.id(name)), key, body)
    }

    /// Reserves, and has the test call it `name`.
    #[track_caller]
    pub fn reserve(&mut self, name: &str, sku: &str, key: &str, body: &str) -> Value {
        let reservation = self.post(&format!("/v1/stocks/{sku}/reservations"), key, body).done(201);
        self.note(name, &reservation);
        reservation
    }

    #[track_caller]
    pub fn note(&mut self, name: &str, reservation: &Value) {
        let known = self.ids.insert(name.to_owned(), text(reservation, "id"));
        assert_eq!(known, None, "{name} is there twice");
    }

    #[track_caller]
    pub fn id(&self, name: &str) -> &str {
        self.ids.get(name).unwrap_or_else(|| panic!("nothing is called {name}"))
    }

    #[track_caller]
    pub fn reservation(&self, name: &str) -> Value {
        self.get(&format!("/v1/reservations/{}", self.id(name)))
    }

    #[track_caller]
    pub fn stock(&self, sku: &str) -> Value {
        self.get(&format!("/v1/stocks/{sku}"))
    }

    /// The time that the node decides by.
    #[track_caller]
    pub fn now_ms(&self) -> u64 {
        number(&self.get("/v1/time"), "unix_ms")
    }

    /// Everything behind the cursor of a list: its pages from there, together.
    #[track_caller]
    pub fn list(&self, path: &str, entries: &str, cursor: Option<&str>) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), cursor.map(str::to_owned));
        let began = Instant::now();
        loop {
            let (page, next) = self.page(path, entries, cursor.as_deref());
            all.extend(page);
            cursor = next;
            if cursor.is_none() {
                return all;
            }
            assert!(began.elapsed() < WAIT_MAX, "{path} does not end");
        }
    }

    /// One page of a list, and the cursor behind it.
    #[track_caller]
    pub fn page(&self, path: &str, entries: &str, cursor: Option<&str>) -> (Vec<Value>, Option<String>) {
        let separator = if path.contains('?') { '&' } else { '?' };
        let cursor = cursor.map_or_else(String::new, |cursor| format!("{separator}cursor={cursor}"));
        let mut page = self.get(&format!("{path}{cursor}"));
        let Value::Array(shown) = page[entries].take() else { panic!("no {entries} in {page}") };
        (shown, page["next_cursor"].as_str().map(str::to_owned))
    }

    /// Checks that every stock's units add up, and that they are those of its reservations.
    #[track_caller]
    pub fn expect_conserved(&self) {
        for stock in self.list("/v1/stocks?limit=5", "stocks", None) {
            let sku = text(&stock, "sku");
            let mut listed = Vec::new();
            // A hold can lapse between two looks.
            wait_until("a stock to stand still", || {
                let before = counts(&self.stock(&sku), STOCK_COUNTS);
                listed = self.list(&format!("/v1/stocks/{sku}/reservations?limit=1000"), "reservations", None);
                counts(&self.stock(&sku), STOCK_COUNTS) == before
            });
            let [allotted, available, reserved, sold] = counts(&self.stock(&sku), STOCK_COUNTS);
            assert_eq!(available + reserved + sold, allotted, "{stock}");
            let (mut held, mut paid) = (0, 0);
            for reservation in &listed {
                let [quantity, reserved, confirmed, released, returned] = counts(reservation, RESERVATION_COUNTS);
                assert_eq!(reserved + confirmed + released + returned, quantity, "{reservation}");
                held += reserved;
                paid += confirmed;
            }
            assert_eq!(held, reserved, "{sku}: {listed:?}");
            assert!(paid == sold || self.forgets && paid < sold, "{sold} of {sku} are sold: {listed:?}");
        }
    }

    /// Ends the test: the books balance, the node stops in good order, and its directory is sound.
    pub fn finish(mut self) {
        self.expect_conserved();
        self.stop();
        run(&["verify", &self.data()]).expect(0, &[]);
    }
}

/// What a call was answered. The call is there to be shown where it was not as it should be.
#[derive(Debug)]
#[allow(dead_code, reason = "the call is read by whoever reads a failure")]
pub struct Answer {
    call: String,
    pub response: Response,
}

impl Answer {
    /// It was done now.
    #[track_caller]
    pub fn done(&self, status: u16) -> Value {
        assert_eq!(self.response.header("idempotency-replayed"), None, "{self:?}");
        self.document(status)
    }

    /// It was done before, under the same key.
    #[track_caller]
    pub fn replayed(&self, status: u16) -> Value {
        assert_eq!(self.response.header("idempotency-replayed"), Some("true"), "{self:?}");
        self.document(status)
    }

    #[track_caller]
    fn document(&self, status: u16) -> Value {
        assert_eq!(self.response.status, status, "{self:?}");
        assert_eq!(self.response.header("content-type"), Some("application/json"), "{self:?}");
        let document = self.response.json();
        if status == 201 {
            let place = match document["id"].as_str() {
                Some(id) => format!("/v1/reservations/{id}"),
                None => format!("/v1/stocks/{}", text(&document, "sku")),
            };
            assert_eq!(self.response.header("location"), Some(place.as_str()), "{self:?}");
        }
        document
    }

    /// It was rejected, as the contract says it is with this code.
    #[track_caller]
    pub fn refused(&self, code: &str) {
        let (_, status) = CODES.iter().find(|(known, _)| *known == code).unwrap_or_else(|| panic!("{code} is no code"));
        assert_eq!(self.response.status, *status, "not {code}: {self:?}");
        assert_eq!(self.response.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.response.json();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &(*status).into()), "{self:?}");
        assert!(["type", "title", "detail"].iter().all(|field| problem[field].is_string()), "{self:?}");
    }
}

#[track_caller]
pub fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_else(|| panic!("no {field} in {document}")).to_owned()
}

#[track_caller]
pub fn number(document: &Value, field: &str) -> u64 {
    document[field].as_u64().unwrap_or_else(|| panic!("no {field} in {document}"))
}

#[track_caller]
fn counts<const N: usize>(document: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| number(document, name))
}

/// `allotted`, `available`, `reserved` and `sold`.
#[track_caller]
pub fn stock_counts(stock: &Value) -> [u64; 4] {
    counts(stock, STOCK_COUNTS)
}

/// `quantity`, `reserved`, `confirmed`, `released` and `returned`.
#[track_caller]
pub fn reservation_counts(reservation: &Value) -> [u64; 5] {
    counts(reservation, RESERVATION_COUNTS)
}

/// A moment in milliseconds since 1970; they are shown in UTC with milliseconds.
#[track_caller]
pub fn ms(document: &Value, field: &str) -> u64 {
    let shown = text(document, field);
    assert!(shown.len() == 24 && shown.ends_with('Z'), "{field} is {shown}");
    let moment: jiff::Timestamp = shown.parse().unwrap_or_else(|error| panic!("{field} is {shown}: {error}"));
    u64::try_from(moment.as_millisecond()).unwrap_or_else(|_| panic!("{field} is {shown}"))
}

/// A stock without its place in the feed, which moves with whatever happens on its shard.
#[track_caller]
pub fn without_place(mut stock: Value) -> Value {
    let place = stock.as_object_mut().and_then(|fields| fields.remove("as_of"));
    assert!(place.is_some_and(|place| place.is_string()), "no as_of in {stock}");
    stock
}

/// Looks until something is so, for a bounded time.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "waited for {what} for {WAIT_MAX:?}");
        thread::park_timeout(LOOK_INTERVAL);
    }
}
