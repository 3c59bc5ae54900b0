//! A cluster of real processes on loopback addresses: it is made of a node that stood alone, sells on while nodes are killed, and in the end
//! everything that was acknowledged is there, on every node, and nothing was sold twice.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_cluster::network::{Endpoint, Links, NetworkLimits};
use tidegate_cluster::transport::{ClusterSecret, Greeting};
use tidegate_engine::{copy_whole, snapshot_items};
use tidegate_persistence::{
    DataDirectory, DirectoryOptions, NodeId, SnapshotExpectation, SnapshotReader, SnapshotWriter, StreamId, snapshots,
};
use tidegate_stock::{Loader, Rules, SnapshotItem, Timestamp};

mod support;

use support::{Response, Server, WAIT_MAX, program, request, request_with, run, sell_more};

const UNITS: u64 = 120;

/// Every limit at its least, so that little work gives space of the log back, and whoever is late finds its beginning gone.
const TIGHT: [&str; 6] = [
    "engine.resolved_in_memory_max=0",
    "snapshots.log_bytes=1048576",
    "snapshots.interval_seconds=10",
    "log.segment_bytes_max=1048576",
    "feed.retention_bytes=16777216",
    "cluster.late_entries_kept=0",
];

/// What the nodes of a cluster know.
const SECRET: &str = "a secret of the tests, long enough to be one";

/// Where another node listens for nodes: an address of the loopback network that nothing else uses, made of the process's number.
fn loopback() -> SocketAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | (high & 0x3f), low, TAKEN.fetch_add(1, Ordering::Relaxed)], 8_701))
}

/// A node's directory and settings, whether it runs or not.
#[derive(Clone)]
struct Place {
    folder: PathBuf,
    listen: SocketAddr,
    arguments: Vec<String>,
}

impl Place {
    fn new(root: &Path, name: &str, listen: SocketAddr) -> Self {
        let secret = root.join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let set = [
            format!("cluster.listen={listen}"),
            format!("cluster.secret_file={}", secret.display()),
            "log.disk_free_bytes_min=1048576".to_owned(),
        ];
        let arguments = set.into_iter().flat_map(|pair| ["--set".to_owned(), pair]).collect();
        Self { folder: root.join(name), listen, arguments }
    }

    /// Other nodes reach it at `listen` from its next start on.
    fn move_to(&mut self, listen: SocketAddr) {
        let listens = self.arguments.iter_mut().find(|argument| argument.starts_with("cluster.listen=")).unwrap();
        *listens = format!("cluster.listen={listen}");
        self.listen = listen;
    }

    fn folder(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// The same with these settings too.
    fn with(mut self, settings: &[&str]) -> Self {
        self.arguments.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]));
        self
    }

    /// The same with more free space of the disk asked for than there is.
    fn without_space(mut self) -> Self {
        self.arguments.retain(|argument| !argument.starts_with("log.disk_free_bytes_min="));
        self.arguments.extend(["--set".to_owned(), "log.disk_free_bytes_min=1099511627776".to_owned()]);
        self.arguments.dedup_by(|next, last| last == "--set" && next == "--set");
        self
    }

    /// Whether the log's first segment is gone.
    fn has_given_space_back(&self) -> bool {
        !self.folder.join("log/0000000001").exists()
    }

    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    fn start(&self) -> Server {
        Server::start_with(&self.folder, &self.arguments())
    }

    /// Runs a command on the directory.
    fn command(&self, words: &[&str], more: &[&str]) -> support::Finished {
        run(&[words, &["--data-dir", self.folder()], &self.arguments(), more].concat())
    }
}

/// Three nodes; the first stood alone before, and has sold `sold` units of the lamp.
struct Trio {
    _root: TempDir,
    places: Vec<Place>,
    nodes: Vec<Option<Server>>,
}

fn lamp(units: u64) -> String {
    json!({ "quantity": units, "per_user_limit": 1 }).to_string()
}

impl Trio {
    fn start(sold: u64) -> Self {
        Self::start_with(sold, &[])
    }

    fn start_with(sold: u64, settings: &[&str]) -> Self {
        let root = TempDir::new().unwrap();
        let place = |place| Place::new(root.path(), &format!("node-{}", place + 1), loopback()).with(settings);
        let places: Vec<Place> = (0..3).map(place).collect();
        let alone = Server::start_with(&places[0].folder, &["--shards", "2", "--set", "log.disk_free_bytes_min=1048576"]);
        alone.wait_ready();
        assert_eq!(alone.put("/v1/stocks/lamp", &lamp(UNITS)).status, 201);
        for buyer in 0..sold {
            let answer = alone.post("/v1/stocks/lamp/reservations", &json!({ "user": format!("early-{buyer}") }).to_string());
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        alone.terminate().expect(0, &[]);

        places[0].command(&["cluster", "init"], &[]).expect(0, &[]);
        let first = places[0].start();
        first.wait_ready();
        let mut nodes = vec![Some(first)];
        for place in &places[1..] {
            let target = format!("http://{}", nodes[0].as_ref().unwrap().address);
            place.command(&["cluster", "join"], &["--target", &target]).expect(0, &[]);
            let node = place.start();
            node.wait_ready();
            nodes.push(Some(node));
        }
        let trio = Self { _root: root, places, nodes };
        trio.wait_until("all three are counted and have everything", |seen| {
            let nodes = seen["nodes"].as_array().unwrap();
            nodes.len() == 3 && nodes.iter().all(|node| node["role"] == "voter") && lags(seen).all(|lag| lag == &json!(0))
        });
        trio
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.nodes.iter().enumerate().filter_map(|(place, node)| Some((place, node.as_ref()?)))
    }

    fn server(&self, place: usize) -> &Server {
        self.nodes[place].as_ref().unwrap()
    }

    /// Waits until every running node sees the cluster as `is_so`.
    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        let mut seen = Vec::new();
        while began.elapsed() < WAIT_MAX {
            seen = self.running().map(|(_, node)| node.get("/v1/cluster").json()).collect();
            // Each is looked at, whatever the others show: what is looked for may hold that something never is.
            if seen.iter().filter(|seen| !is_so(seen)).count() == 0 {
                return;
            }
            thread::yield_now();
        }
        panic!("not after {WAIT_MAX:?}: {what}: {seen:?}");
    }

    /// Which of them leads the shard of the lamp, once all agree.
    #[track_caller]
    fn leader(&self) -> usize {
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            let told: Vec<_> = self.running().map(|(_, node)| leader_of_lamp(node)).collect();
            if let Some(leader) = told[0].filter(|leader| told.iter().all(|told| *told == Some(*leader))) {
                return usize::try_from(leader).unwrap() - 1;
            }
            thread::yield_now();
        }
        panic!("no leader after {WAIT_MAX:?}");
    }

    fn kill(&mut self, place: usize) {
        let node = self.nodes[place].take().unwrap();
        node.signal(Signal::KILL);
        node.finish();
    }

    fn restart(&mut self, place: usize) {
        let node = self.places[place].start();
        node.wait_ready();
        self.nodes[place] = Some(node);
    }

    /// Asks whichever node answers, beginning with one, until it is known what became of it: 201, or 409 when nothing is left.
    #[track_caller]
    fn reserve(&self, buyer: &str, first: usize) -> Option<Value> {
        let (path, body) = ("/v1/stocks/lamp/reservations", json!({ "user": buyer }).to_string());
        let answer = self.persist(first, |address| request_with(address, "POST", path, &[("idempotency-key", buyer)], &body));
        match answer.status {
            // 200 does not happen: a repeat answers the status of the first call.
            201 => Some(answer.json()),
            409 if answer.json()["code"] == "sold_out" => None,
            _ => panic!("{answer:?}"),
        }
    }

    /// The first answer that is none of those after which the same is to be asked again.
    #[track_caller]
    fn persist(&self, first: usize, ask: impl Fn(SocketAddr) -> std::io::Result<Response>) -> Response {
        let began = Instant::now();
        let running: Vec<_> = self.running().map(|(_, node)| node.address).collect();
        for turn in first.. {
            let last = match ask(running[turn % running.len()]) {
                Ok(answer) if answer.status != 503 => return answer,
                Ok(answer) => answer.body,
                Err(error) => error.to_string(),
            };
            assert!(began.elapsed() < WAIT_MAX, "no answer after {WAIT_MAX:?}: {last}");
        }
        unreachable!("turns do not end")
    }

    /// Checks that all three nodes have the same and all of `granted`, stops them in order and reads their logs.
    fn end(mut self, granted: &BTreeMap<u64, String>, early: u64) {
        // Alone none of them would be ready.
        for (node, place) in self.nodes.iter_mut().zip(&self.places) {
            node.get_or_insert_with(|| place.start());
        }
        self.running().for_each(|(_, node)| node.wait_ready());
        self.wait_until("all have everything", have_everything);
        let sold = granted.len() as u64 + early;
        for (place, node) in self.running() {
            let stock = node.get("/v1/stocks?limit=10").json()["stocks"][0].clone();
            assert_eq!(stock["sku"], "lamp");
            assert_eq!(stock["reserved"], json!(sold), "node {}", place + 1);
            assert_eq!(stock["available"], json!(UNITS - sold), "node {}", place + 1);
        }
        for (sequence, id) in granted {
            let read = self.persist(0, |address| request(address, "GET", &format!("/v1/reservations/{id}"), "")).json();
            assert_eq!((read["sequence"].as_u64(), &read["state"]), (Some(*sequence), &json!("reserved")), "{read}");
        }
        for node in self.nodes.drain(..).flatten() {
            node.terminate().expect(0, &[]);
        }
        for place in &self.places {
            run(&["verify", place.folder()]).expect(0, &[]);
        }
    }
}

fn lags(seen: &Value) -> impl Iterator<Item = &Value> {
    seen["shards"].as_array().unwrap().iter().flat_map(|shard| shard["replicas"].as_array().unwrap()).map(|replica| &replica["lag"])
}

/// Whether all three nodes are heard of, and none lacks anything of either shard.
fn have_everything(seen: &Value) -> bool {
    lags(seen).count() == 6 && lags(seen).all(|lag| lag == &json!(0))
}

/// The leader, as `node` sees it, of the shard that the lamp belongs to: the one with groups in it.
fn leader_of_lamp(node: &Server) -> Option<u64> {
    let seen = node.get("/v1/cluster").json();
    let shards = seen["shards"].as_array()?;
    shards.iter().max_by_key(|shard| shard["committed"].as_u64())?["leader"].as_u64()
}

/// Has `count` buyers ask, one after the other and each another node first, and notes what they were granted.
fn buy(trio: &Trio, count: u64, granted: &mut BTreeMap<u64, String>, asked: &mut u64) {
    for _ in 0..count {
        *asked += 1;
        let buyer = format!("buyer-{asked}");
        if let Some(reservation) = trio.reserve(&buyer, usize::try_from(*asked).unwrap()) {
            let (sequence, id) = (reservation["sequence"].as_u64().unwrap(), reservation["id"].as_str().unwrap().to_owned());
            assert_eq!(reservation["user"], json!(buyer));
            assert_eq!(granted.insert(sequence, id), None, "grant {sequence} went to two buyers");
        }
    }
}

#[test]
fn a_sale_goes_on_when_the_leader_is_killed() {
    const EARLY: u64 = 5;
    let mut trio = Trio::start(EARLY);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 40, &mut granted, &mut asked);
    let leader = trio.leader();
    trio.kill(leader);
    let killed = Instant::now();
    buy(&trio, 1, &mut granted, &mut asked);
    // An election, and the settling of what was before it. Far below what a test may wait.
    assert!(killed.elapsed() < Duration::from_secs(20), "the first new grant took {:?}", killed.elapsed());
    assert_eq!(granted.len(), 41);
    buy(&trio, 30, &mut granted, &mut asked);
    trio.restart(leader);
    buy(&trio, UNITS, &mut granted, &mut asked);
    assert_eq!(granted.len() as u64, UNITS - EARLY, "every unit is sold once");
    assert!(granted.keys().copied().eq(EARLY + 1..=UNITS), "grants are numbered without a gap");
    trio.end(&granted, EARLY);
}

#[test]
fn a_follower_that_was_killed_comes_back_with_everything_and_counts() {
    let mut trio = Trio::start(0);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    let leader = trio.leader();
    let (killed, other) = ((leader + 1) % 3, (leader + 2) % 3);
    trio.kill(killed);
    buy(&trio, 20, &mut granted, &mut asked);
    trio.restart(killed);
    trio.wait_until("it has caught up", |seen| lags(seen).all(|lag| lag == &json!(0)));
    // Now the one that came back is what the majority hangs on.
    trio.kill(other);
    buy(&trio, 20, &mut granted, &mut asked);
    assert_eq!(granted.len(), 50);
    // Alone no node decides anything.
    trio.kill(killed);
    let node = trio.server(leader);
    let began = Instant::now();
    loop {
        let (path, body) = ("/v1/stocks/lamp/reservations", json!({ "user": "late" }).to_string());
        let answer = request_with(node.address, "POST", path, &[("idempotency-key", "late")], &body).unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        if answer.json()["code"] != "outcome_unknown" && answer.json()["code"] != "timeout" {
            break;
        }
        assert!(began.elapsed() < WAIT_MAX, "it still hopes after {WAIT_MAX:?}");
    }
    trio.restart(killed);
    trio.restart(other);
    // What was not known when it was asked may be there: asked again, it is.
    let late = trio.reserve("late", 0).unwrap();
    granted.insert(late["sequence"].as_u64().unwrap(), late["id"].as_str().unwrap().to_owned());
    trio.end(&granted, 0);
}

#[test]
fn a_node_whose_disk_is_low_has_others_lead() {
    let mut trio = Trio::start(0);
    let low = trio.leader();
    let [next, last] = [(low + 1) % 3, (low + 2) % 3];
    (0..3).for_each(|place| trio.kill(place));
    let place = trio.places[low].clone();
    trio.places[low] = place.without_space();
    // With one other there are two that can be elected, so half of the time it must hand over what it got.
    let nodes = [low, next].map(|place| (place, trio.places[place].start()));
    for (place, node) in nodes {
        trio.nodes[place] = Some(node);
    }
    trio.running().for_each(|(_, node)| node.wait_ready());
    let number = json!(low + 1);
    trio.wait_until("it leads nothing, and the others know", |seen| {
        let nodes = seen["nodes"].as_array().unwrap();
        let is_known = nodes.iter().any(|node| node["node"] == number && node["draining"] == json!(true));
        is_known && seen["shards"].as_array().unwrap().iter().all(|shard| !shard["leader"].is_null() && shard["leader"] != number)
    });
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    assert_eq!(granted.len(), 10);
    trio.restart(last);
    trio.end(&granted, 0);
}

#[test]
fn a_node_that_is_lost_leaves_and_another_takes_its_place() {
    let mut trio = Trio::start(0);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    let lost = trio.leader();
    trio.kill(lost);
    std::fs::remove_dir_all(&trio.places[lost].folder).unwrap();
    // Before an election there may be nobody to ask.
    buy(&trio, 1, &mut granted, &mut asked);
    let (helper, other) = ((lost + 1) % 3, (lost + 2) % 3);
    let target = format!("http://{}", trio.server(helper).address);
    let number = (lost + 1).to_string();
    let refused = trio.places[lost].command(&["cluster", "join"], &["--target", &target, "--node", &number]);
    refused.expect(1, &["member_exists", "another joins under another number"]);
    run(&["cluster", "leave", "--node", "9", "--target", &target]).expect(1, &["is no member of this cluster"]);
    run(&["cluster", "leave", "--node", &number, "--target", &target]).expect(0, &[]);
    trio.wait_until("it is gone", |seen| seen["nodes"].as_array().unwrap().len() == 2);

    // Its number is given to nobody else, whether a higher one is left or not.
    let refused = trio.places[lost].command(&["cluster", "join"], &["--target", &target, "--node", &number]);
    refused.expect(1, &["member_exists", "numbers are given once: the next is 4"]);
    for successor in [4, 5] {
        let joined = trio.places[lost].command(&["cluster", "join"], &["--target", &target]).expect(0, &[]);
        assert!(joined.stdout.contains(&format!("is node {successor} of")), "{joined:?}");
        trio.restart(lost);
        trio.wait_until("its successor is counted", |seen| {
            let nodes = seen["nodes"].as_array().unwrap();
            let is_there = nodes.iter().any(|node| node["node"] == json!(successor));
            nodes.len() == 3 && nodes.iter().all(|node| node["role"] == "voter") && have_everything(seen) && is_there
        });
        if successor == 4 {
            trio.kill(lost);
            std::fs::remove_dir_all(&trio.places[lost].folder).unwrap();
            run(&["cluster", "leave", "--node", "4", "--target", &target]).expect(0, &[]);
            trio.wait_until("it is gone", |seen| seen["nodes"].as_array().unwrap().len() == 2);
        }
    }
    // Now the successor is what the majority hangs on.
    trio.kill(other);
    buy(&trio, 20, &mut granted, &mut asked);
    assert_eq!(granted.len(), 31);
    trio.end(&granted, 0);
}

#[test]
fn a_node_that_comes_back_at_another_address_is_found_there() {
    let mut trio = Trio::start(0);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    let leader = trio.leader();
    let moved = (leader + 1) % 3;
    trio.nodes[moved].take().unwrap().terminate().expect(0, &[]);
    let address = loopback();
    trio.places[moved].move_to(address);
    trio.restart(moved);
    trio.wait_until("all know where it is", |seen| {
        let nodes = seen["nodes"].as_array().unwrap();
        let is_known = nodes.iter().any(|node| node["address"] == json!(address.to_string()) && node["heard_ms"].is_u64());
        is_known && have_everything(seen)
    });
    // Without it there is no majority.
    trio.kill(leader);
    buy(&trio, 10, &mut granted, &mut asked);
    assert_eq!(granted.len(), 20);
    trio.end(&granted, 0);
}

#[track_caller]
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "not after {WAIT_MAX:?}: {what}");
        thread::yield_now();
    }
}

/// A few holds of a second, of the stock that makes the log longer: they are over and have left memory soon.
fn short_holds(node: &Server) -> Vec<String> {
    node.put("/v1/stocks/more", r#"{"quantity":1000000000}"#);
    let hold = |buyer: u64| {
        let body = json!({ "user": format!("short-{buyer}"), "hold_seconds": 1 }).to_string();
        let answer = node.post("/v1/stocks/more/reservations", &body);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    (0..20).map(hold).collect()
}

/// What `node` says of them, now that they are over.
#[track_caller]
fn lapsed(node: &Server, ids: &[String]) -> Vec<Value> {
    let read = |id: &String| node.get(&format!("/v1/reservations/{id}")).json();
    let read: Vec<Value> = ids.iter().map(read).collect();
    assert!(read.iter().all(|reservation| reservation["state"] == json!("expired")), "{read:?}");
    read
}

#[test]
fn who_was_away_too_long_and_who_is_new_get_a_snapshot_and_what_has_left_memory() {
    let mut trio = Trio::start_with(0, &TIGHT);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    let leader = trio.leader();
    let (late, other) = ((leader + 1) % 3, (leader + 2) % 3);
    trio.kill(late);
    let short = short_holds(trio.server(leader));
    wait_for("the beginning of the log to be given back", || {
        sell_more(trio.server(leader));
        trio.places[leader].has_given_space_back() && trio.places[other].has_given_space_back()
    });
    buy(&trio, 10, &mut granted, &mut asked);
    trio.restart(late);
    trio.wait_until("it has caught up", have_everything);

    // Another takes the place of the leader, which is lost with its disk: it begins with a snapshot too.
    trio.kill(leader);
    std::fs::remove_dir_all(&trio.places[leader].folder).unwrap();
    buy(&trio, 10, &mut granted, &mut asked);
    let target = format!("http://{}", trio.server(late).address);
    run(&["cluster", "leave", "--node", &(leader + 1).to_string(), "--target", &target]).expect(0, &[]);
    trio.places[leader].command(&["cluster", "join"], &["--target", &target]).expect(0, &[]);
    trio.restart(leader);
    trio.wait_until("its successor is counted", |seen| {
        let nodes = seen["nodes"].as_array().unwrap();
        let has_all = have_everything(seen);
        nodes.len() == 3 && nodes.iter().all(|node| node["role"] == "voter") && has_all
    });
    // Without a third the two of them that began with snapshots are all there is. They know what had left memory long before.
    let known = lapsed(trio.server(other), &short);
    let third = trio.nodes[other].take().unwrap().terminate().expect(0, &[]);
    assert!(third.stderr.contains("gave space of the log back"), "{third:?}");
    buy(&trio, 10, &mut granted, &mut asked);
    for place in [late, leader] {
        trio.wait_until("somebody leads each shard", |seen| {
            seen["shards"].as_array().unwrap().iter().all(|shard| shard["leader"].is_u64())
        });
        for reservation in &known {
            let path = format!("/v1/reservations/{}", reservation["id"].as_str().unwrap());
            let read = trio.persist(place, |address| request(address, "GET", &path, "")).json();
            assert_eq!(&read, reservation);
        }
    }
    for place in [late, leader] {
        let node = trio.nodes[place].take().unwrap().terminate().expect(0, &[]);
        assert!(node.stderr.contains("took a snapshot from another node"), "{node:?}");
    }
    assert_eq!(granted.len(), 40);
    // A start from snapshots, of all three.
    trio.end(&granted, 0);
}

#[test]
fn a_node_alone_whose_log_begins_late_becomes_the_first_member() {
    const SOLD: u64 = 7;
    let root = TempDir::new().unwrap();
    let place = |name: &str| Place::new(root.path(), name, loopback()).with(&TIGHT);
    let (first, second) = (place("node-1"), place("node-2"));
    let settings: Vec<&str> = TIGHT[..5].iter().flat_map(|setting| ["--set", setting]).collect();
    let alone = Server::start_with(
        &first.folder,
        &[&["--shards", "2", "--set", "log.disk_free_bytes_min=1048576"], &settings[..]].concat(),
    );
    alone.wait_ready();
    assert_eq!(alone.put("/v1/stocks/lamp", &lamp(UNITS)).status, 201);
    for buyer in 0..SOLD {
        let answer = alone.post("/v1/stocks/lamp/reservations", &json!({ "user": format!("early-{buyer}") }).to_string());
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let short = short_holds(&alone);
    wait_for("the beginning of the log to be given back", || {
        sell_more(&alone);
        first.has_given_space_back()
    });
    let known = lapsed(&alone, &short);
    alone.terminate().expect(0, &[]);

    first.command(&["cluster", "init"], &[]).expect(0, &[]);
    let member = first.start();
    member.wait_ready();
    let target = format!("http://{}", member.address);
    second.command(&["cluster", "join"], &["--target", &target]).expect(0, &[]);
    let successor = second.start();
    successor.wait_ready();
    wait_for("the second to be counted and have everything", || {
        let seen = member.get("/v1/cluster").json();
        let nodes = seen["nodes"].as_array().unwrap();
        nodes.len() == 2 && nodes.iter().all(|node| node["role"] == "voter") && lags(&seen).all(|lag| lag == &json!(0))
    });
    // What the first has is all with the second, which goes on alone.
    run(&["cluster", "leave", "--node", "1", "--target", &target]).expect(0, &[]);
    member.terminate().expect(0, &[]);
    wait_for("the second to lead", || successor.get("/v1/stocks/lamp").status == 200);
    assert_eq!(successor.get("/v1/stocks/lamp").json()["reserved"], json!(SOLD));
    let answer = successor.post("/v1/stocks/lamp/reservations", &json!({ "user": "later" }).to_string());
    assert_eq!((answer.status, answer.json()["sequence"].as_u64()), (201, Some(SOLD + 1)), "{answer:?}");
    assert_eq!(lapsed(&successor, &short), known);
    successor.terminate().expect(0, &["took a snapshot from another node"]);
    run(&["verify", second.folder()]).expect(0, &[]);
}

#[test]
fn a_leader_may_leave_while_it_runs() {
    let mut trio = Trio::start(0);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    let leaving = trio.leader();
    let target = format!("http://{}", trio.server(leaving).address);
    run(&["cluster", "leave", "--node", &(leaving + 1).to_string(), "--target", &target]).expect(0, &[]);
    let left = trio.nodes[leaving].take().unwrap();
    trio.wait_until("the others are two", |seen| {
        let nodes = seen["nodes"].as_array().unwrap();
        nodes.len() == 2 && nodes.iter().all(|node| node["node"] != json!(leaving + 1))
    });
    buy(&trio, 10, &mut granted, &mut asked);
    assert_eq!(granted.len(), 20);
    left.terminate().expect(0, &[]);
    for node in trio.nodes.drain(..).flatten() {
        node.terminate().expect(0, &[]);
    }
}

#[test]
fn a_backup_of_any_member_stands_alone_and_begins_a_cluster_anew() {
    let trio = Trio::start(3);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    buy(&trio, 10, &mut granted, &mut asked);
    let sold_once = granted.values().next().unwrap().clone();
    let confirmed = trio.persist(0, |address| request(address, "POST", &format!("/v1/reservations/{sold_once}/confirm"), ""));
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    trio.wait_until("all have everything", have_everything);
    let root = TempDir::new().unwrap();
    let backups = trio
        .running()
        .flat_map(|(place, node)| [("whole", &[][..]), ("small", &["--without-feed"])].map(|kind| (place, node, kind)));
    let backups: Vec<PathBuf> = backups
        .map(|(place, node, (kind, more))| {
            let folder = root.path().join(format!("{kind}-{place}"));
            let target = format!("http://{}", node.address);
            run(&[&["backup", folder.to_str().unwrap(), "--target", &target], more].concat()).expect(0, &[]);
            folder
        })
        .collect();
    // What comes afterwards is in none of them.
    buy(&trio, 1, &mut granted.clone(), &mut asked);
    for folder in &backups {
        let alone = Server::start_with(folder, &["--set", "log.disk_free_bytes_min=1048576"]);
        alone.wait_ready();
        let stock = alone.get("/v1/stocks/lamp").json();
        assert_eq!((&stock["reserved"], &stock["sold"]), (&json!(12), &json!(1)), "{}", folder.display());
        for (sequence, id) in &granted {
            let read = alone.get(&format!("/v1/reservations/{id}")).json();
            let state = if *id == sold_once { "confirmed" } else { "reserved" };
            assert_eq!((read["sequence"].as_u64(), &read["state"]), (Some(*sequence), &json!(state)), "{read}");
        }
        // The opening, thirteen grants and a confirmation.
        let events = alone.get("/v1/events?limit=100").json()["events"].as_array().unwrap().len();
        assert!(if folder.ends_with("whole-0") { events == 15 } else { events <= 15 }, "{events} events in {}", folder.display());
        let next = alone.post("/v1/stocks/lamp/reservations", &json!({ "user": "somebody-new" }).to_string());
        assert_eq!((next.status, next.json()["sequence"].as_u64()), (201, Some(14)), "{next:?}");
        alone.terminate().expect(0, &[]);
        run(&["verify", folder.to_str().unwrap()]).expect(0, &[]);
    }
    let again = Place { folder: backups[1].clone(), ..Place::new(root.path(), "again", loopback()) };
    again.command(&["cluster", "init"], &[]).expect(0, &[]);
    let member = again.start();
    member.wait_ready();
    assert_eq!(member.get("/v1/stocks/lamp").json()["reserved"], json!(13));
    member.terminate().expect(0, &[]);
    run(&["verify", again.folder()]).expect(0, &[]);
}

#[test]
fn a_drained_node_leads_nothing_until_it_is_resumed_and_leaders_are_spread() {
    let mut trio = Trio::start(0);
    let (mut granted, mut asked) = (BTreeMap::new(), 0);
    let led_by = |seen: &Value, node: usize| {
        let leads = |shard: &&Value| shard["leader"] == json!(node + 1);
        seen["shards"].as_array().unwrap().iter().filter(leads).count()
    };
    let drained = trio.leader();
    let target = format!("http://{}", trio.server((drained + 1) % 3).address);
    let number = (drained + 1).to_string();
    let done = run(&["cluster", "drain", "--node", &number, "--target", &target]).expect(0, &[]);
    assert!(done.stdout.contains("leads nothing") && done.stdout.contains("draining"), "{done:?}");
    trio.wait_until("others lead both shards", |seen| {
        led_by(seen, drained) == 0 && seen["shards"].as_array().unwrap().iter().all(|shard| shard["leader"].is_u64())
    });
    buy(&trio, 20, &mut granted, &mut asked);
    // Drained as well, a second leaves all to the third; when that is killed, they lead all the same, for want of any other.
    let (second, third) = ((drained + 1) % 3, (drained + 2) % 3);
    run(&["cluster", "drain", "--node", &(second + 1).to_string(), "--target", &target]).expect(0, &[]);
    trio.wait_until("the third leads both", |seen| led_by(seen, third) == 2);
    run(&["cluster", "drain", "--node", "9", "--target", &target]).expect(1, &["not_found", "node 9 is no member"]);
    trio.kill(third);
    buy(&trio, 20, &mut granted, &mut asked);
    trio.restart(third);
    trio.wait_until("the third leads both again", |seen| led_by(seen, third) == 2);
    for node in [drained, second] {
        run(&["cluster", "drain", "--resume", "--node", &(node + 1).to_string(), "--target", &target]).expect(0, &[]);
    }
    trio.wait_until("nobody leads two", |seen| (0..3).all(|node| led_by(seen, node) < 2));
    buy(&trio, 10, &mut granted, &mut asked);
    assert_eq!(granted.len(), 50);
    trio.end(&granted, 0);
}

#[test]
fn a_drained_node_is_not_elected_while_the_others_make_a_majority() {
    // As likely as another if it stood: each kill has an election, and it would lead for up to half a second until it had handed over.
    const KILLS: usize = 4;
    let mut trio = Trio::start(0);
    let drained = (trio.leader() + 1) % 3;
    let number = (drained + 1).to_string();
    let target = format!("http://{}", trio.server(drained).address);
    run(&["cluster", "drain", "--node", &number, "--target", &target]).expect(0, &[]);
    let leaders =
        |seen: &Value| -> Vec<Value> { seen["shards"].as_array().unwrap().iter().map(|shard| shard["leader"].clone()).collect() };
    for kill in 0..KILLS {
        // Nothing is being handed over, and whoever is killed is known to be there: one that is not known to be leaves too few others.
        let began = Instant::now();
        trio.wait_until("the other two lead one each, and all have heard of all", |seen| {
            let is_new = |node: &Value| node["heard_ms"].as_u64().is_some_and(|ms| Duration::from_millis(ms) < began.elapsed());
            let leaders = leaders(seen);
            let leads_one = |node: usize| leaders.iter().filter(|leader| **leader == json!(node + 1)).count() == 1;
            (0..3).all(|node| leads_one(node) != (node == drained))
                && seen["nodes"].as_array().unwrap().iter().all(is_new)
                && have_everything(seen)
        });
        let killed = trio.leader();
        trio.kill(killed);
        let left = 3 - killed - drained;
        trio.wait_until("the one that is left leads both", |seen| {
            let leaders = leaders(seen);
            assert!(!leaders.contains(&json!(drained + 1)), "kill {kill}: {seen}");
            leaders.iter().all(|leader| *leader == json!(left + 1))
        });
        trio.restart(killed);
    }
    trio.end(&BTreeMap::new(), 0);
}

#[test]
fn any_node_takes_any_request() {
    let trio = Trio::start(0);
    // Some of them belong to either shard.
    let skus: Vec<String> = (0..8).map(|number| format!("tent-{number}")).collect();
    for (place, sku) in skus.iter().enumerate() {
        let opened = trio.server(place % 3).put(&format!("/v1/stocks/{sku}"), &lamp(10));
        assert_eq!(opened.status, 201, "{opened:?}");
    }
    for (place, node) in trio.running() {
        let user = format!("buyer-{place}");
        let commands: Vec<Value> = skus.iter().map(|sku| json!({ "op": "reserve", "sku": sku, "user": user })).collect();
        let done = node.post("/v1/batch", &json!({ "commands": commands }).to_string());
        let results = done.json()["results"].as_array().unwrap().clone();
        assert_eq!(results.len(), skus.len());
        for (sku, result) in skus.iter().zip(&results) {
            assert_eq!((&result["status"], &result["reservation"]["sku"]), (&json!(201), &json!(sku)), "node {}", place + 1);
        }
        // Whatever the node has answered, every read on every node shows.
        for (_, any) in trio.running() {
            let listed = any.get("/v1/stocks?limit=100").json();
            let of_tents = listed["stocks"].as_array().unwrap().iter().filter(|stock| stock["sku"] != "lamp");
            // Those of the nodes before are sold by now.
            let counted: Vec<_> = of_tents.map(|stock| (stock["reserved"].as_u64(), stock["sold"].as_u64())).collect();
            assert_eq!(counted, vec![(Some(1), Some(place as u64)); skus.len()], "at {}", any.address);
        }
        for (sku, result) in skus.iter().zip(&results) {
            let stock = node.get(&format!("/v1/stocks/{sku}")).json();
            assert_eq!((&stock["reserved"], &stock["sold"]), (&json!(1), &json!(place)));
            let id = result["reservation"]["id"].as_str().unwrap();
            let confirmed = trio.server((place + 1) % 3).post(&format!("/v1/reservations/{id}/confirm"), "");
            assert_eq!((confirmed.status, &confirmed.json()["state"]), (200, &json!("confirmed")));
            assert_eq!(node.get(&format!("/v1/reservations/{id}")).json()["state"], json!("confirmed"));
            let listed = node.get(&format!("/v1/stocks/{sku}/reservations?user={user}")).json();
            assert_eq!(listed["reservations"][0]["id"], json!(id));
        }
    }
    // A key is known wherever its call is repeated.
    let answers: Vec<Response> = trio
        .running()
        .map(|(_, node)| {
            let fields = [("idempotency-key", "once")];
            request_with(node.address, "POST", "/v1/stocks/tent-0/reservations", &fields, "{\"user\":\"keyed\"}").unwrap()
        })
        .collect();
    for answer in &answers {
        assert_eq!((answer.status, answer.json()["id"].clone()), (201, answers[0].json()["id"].clone()));
    }
    assert_eq!(
        answers.iter().map(|answer| answer.header("idempotency-replayed")).collect::<Vec<_>>(),
        [None, Some("true"), Some("true")]
    );
    for (_, node) in trio.running() {
        let stale = node.get("/v1/stocks/tent-0?consistency=stale");
        assert_eq!((stale.status, stale.json()["sku"].as_str()), (200, Some("tent-0")));
        assert!(stale.json()["as_of"].is_string());
        assert_eq!(node.get("/v1/stocks/tent-0?consistency=none").json()["code"], json!("invalid_request"));
        assert_eq!(node.get("/v1/stocks/no-such-tent").json()["code"], json!("unknown_sku"));
        assert_eq!(node.post("/v1/stocks/tent-0/reservations", "{").json()["code"], json!("invalid_request"));
        assert_eq!(node.get("/v1/reservations/forged").json()["code"], json!("unknown_reservation"));
    }
}

/// What the node at `place` answers another one that asks it to read the lamp, as of shard 0 and in `term`: the kind of the answer, and the rest.
fn ask_in_term(trio: &Trio, place: usize, term: u64) -> (u8, String) {
    let cluster = trio.server(place).get("/v1/cluster").json()["cluster"].as_str().unwrap().to_owned();
    let number = |place: usize| NodeId(place as u64 + 1);
    let us = Greeting { cluster, node: number((place + 1) % 3) };
    let secret = ClusterSecret::new(SECRET.as_bytes()).unwrap();
    let head = json!({ "method": "GET", "target": "/v1/stocks/lamp", "headers": [], "actor": "somebody" }).to_string();
    let length = u32::try_from(head.len()).unwrap().to_be_bytes();
    let question = [&[3, 0, 0][..], &term.to_be_bytes(), &length, head.as_bytes()].concat();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let links = Links::new(Endpoint::new(us, secret, None, NetworkLimits::default()).unwrap());
        links.ask(number(place), &trio.places[place].listen.to_string(), question, WAIT_MAX).await.unwrap()
    });
    (answer[0], String::from_utf8_lossy(&answer[1..]).into_owned())
}

#[test]
fn a_request_of_a_term_before_is_not_taken_in_a_later_one() {
    let mut trio = Trio::start(0);
    // Leaders are spread soon after a start, so it is asked until one was asked in its term.
    let began = Instant::now();
    let (leader, term) = loop {
        let shard = trio.server(0).get("/v1/cluster").json()["shards"][0].clone();
        let (leader, term) = (shard["leader"].as_u64(), shard["term"].as_u64().unwrap());
        if let Some(leader) = leader.map(|leader| usize::try_from(leader).unwrap() - 1)
            && ask_in_term(&trio, leader, term).0 == 3
        {
            break (leader, term);
        }
        assert!(began.elapsed() < WAIT_MAX, "nobody takes a request in its term: {shard}");
    };
    let (kind, said) = ask_in_term(&trio, leader, term - 1);
    assert_eq!((kind, said.as_str()), (255, "this node does not lead the shard in that term"));
    for node in trio.nodes.drain(..).flatten() {
        node.terminate().expect(0, &[]);
    }
}

#[test]
fn the_change_feed_is_read_on_at_any_node() {
    let mut trio = Trio::start(0);
    let (mut seen, mut cursor) = (Vec::<Value>::new(), String::new());
    for round in 0..60_usize {
        // At one node it is sold, and read at the others in turns, each from where the one before came to, however far it is itself.
        let sold =
            trio.server(round % 3).post("/v1/stocks/lamp/reservations", &json!({ "user": format!("reader-{round}") }).to_string());
        assert_eq!(sold.status, 201, "{sold:?}");
        let reader = trio.server((round + 1) % 3);
        let page = reader.get(&format!("/v1/events?limit=1000{}{cursor}", if cursor.is_empty() { "" } else { "&after=" }));
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(page.json()["events"].as_array().unwrap().iter().cloned());
        page.json()["next_cursor"].as_str().unwrap().clone_into(&mut cursor);
    }
    let until = Instant::now() + WAIT_MAX;
    let is_reader = |event: &Value| event["reservation"]["user"].as_str().is_some_and(|user| user.starts_with("reader-"));
    while seen.iter().filter(|event| is_reader(event)).count() < 60 {
        assert!(Instant::now() < until, "the feed lacks reservations: {seen:?}");
        let page = trio.server(seen.len() % 3).get(&format!("/v1/events?limit=1000&after={cursor}")).json();
        seen.extend(page["events"].as_array().unwrap().iter().cloned());
        page["next_cursor"].as_str().unwrap().clone_into(&mut cursor);
    }
    // Each once, in order.
    let lamps: Vec<u64> =
        seen.iter().filter(|event| event["sku"] == "lamp").map(|event| event["sku_sequence"].as_u64().unwrap()).collect();
    assert_eq!(lamps, (1..=lamps.len() as u64).collect::<Vec<_>>());
    for node in trio.nodes.drain(..).flatten() {
        node.terminate().expect(0, &[]);
    }
}

#[test]
fn a_cluster_of_one_goes_on_deciding() {
    let root = TempDir::new().unwrap();
    let times = ["cluster.heartbeat_ms=10", "cluster.election_ms_min=50", "cluster.election_ms_max=60"];
    let place = Place::new(root.path(), "node-1", loopback()).with(&times);
    place.command(&["cluster", "init"], &[]).expect(0, &[]);
    let node = place.start();
    node.wait_ready();
    assert_eq!(node.put("/v1/stocks/lamp", &lamp(1)).status, 201);
    // Many times as long as a leader decides that hears of no quorum, and nothing is written meanwhile.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let answer = node.get("/v1/stocks/lamp");
        assert_eq!(answer.status, 200, "after {:?}: {answer:?}", began.elapsed());
    }
    assert_eq!(node.get("/readyz").status, 200);
    node.terminate().expect(0, &[]);
}

#[test]
fn what_is_no_members_directory_is_not_started_as_one() {
    let root = TempDir::new().unwrap();
    let place = Place::new(root.path(), "node-1", loopback());
    let serve = |arguments: &[&str]| {
        let words = ["serve", "--data-dir", place.folder(), "--listen", "127.0.0.1:0"];
        support::finish(program(&[&words[..], arguments].concat()).spawn().unwrap())
    };
    serve(&place.arguments()).expect(1, &["is no data directory", "tidegate cluster init"]);
    assert!(!place.folder.exists(), "nothing was made");

    let alone = Server::start(&place.folder);
    assert_eq!(alone.put("/v1/stocks/lamp", &lamp(1)).status, 201);
    let seen = alone.get("/v1/cluster").json();
    assert_eq!((&seen["cluster"], &seen["nodes"][0]["role"]), (&Value::Null, &json!("voter")));
    assert_eq!(alone.post("/v1/cluster/members", &json!({ "address": "node-2:8701" }).to_string()).status, 404);
    alone.terminate().expect(0, &[]);
    serve(&place.arguments()).expect(1, &["stands alone", "tidegate cluster init"]);
    run(&["cluster", "init", "--data-dir", place.folder()]).expect(2, &["cluster.listen is none"]);

    place.command(&["cluster", "init"], &[]).expect(0, &[]);
    let again = place.command(&["cluster", "init"], &[]).expect(0, &[]);
    assert!(again.stdout.contains("already"), "{again:?}");
    serve(&[]).expect(1, &["does not start alone"]);

    let member = place.start();
    member.wait_ready();
    assert_eq!(member.get("/v1/stocks/lamp").json()["available"], json!(1));
    let join = |body: Value| member.post("/v1/cluster/members", &body.to_string());
    for (body, status, code) in [
        (json!({ "address": "node-2" }), 400, "invalid_request"),
        (json!({ "address": "node-2:8701", "node": 0 }), 422, "out_of_range"),
        (json!({ "address": "node-2:8701", "node": 1 }), 409, "member_exists"),
    ] {
        let answer = join(body.clone());
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{body}");
    }
    let secret = root.path().join("secret");
    let taken = place.command(&["cluster", "join"], &["--target", &format!("http://{}", member.address)]);
    taken.expect(2, &["is not empty"]);
    assert!(secret.exists());
    member.terminate().expect(0, &[]);
    run(&["verify", place.folder()]).expect(0, &[]);
}

/// Has the newest snapshot of `shard` in the directory at `folder` say of the first open hold that it ends a millisecond later, as bad memory would have
/// it: the file is whole, and its checksums are right.
fn damage_snapshot(folder: &Path, shard: u16) {
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max: 1_000_000,
        retention_seconds: 604_800,
        reservations_in_memory_max: 1_000_000,
        users_in_memory_max: 1_000_000,
    };
    let directory = DataDirectory::open_existing(folder, &DirectoryOptions::new(Timestamp::from_unix_ms(0))).unwrap();
    let stream = StreamId::log(shard);
    let newest = snapshots(folder, stream).unwrap().remove(0);
    let mut reader = SnapshotReader::open(&newest.path, &SnapshotExpectation::new(directory.identity(), stream)).unwrap();
    let header = reader.header().clone();
    let (mut loader, mut is_damaged) = (Loader::new(rules, 1), false);
    while let Some(block) = reader.block().unwrap() {
        for item in snapshot_items(block) {
            let mut item = item.unwrap();
            if let SnapshotItem::Reservation(record) = &mut item
                && record.reserved > 0
                && !is_damaged
            {
                record.expires_at = Timestamp::from_unix_ms(record.expires_at.unix_ms() + 1);
                is_damaged = true;
            }
            loader.add(item).unwrap();
        }
    }
    assert!(is_damaged, "the snapshot holds something");
    let mut ledger = loader.finish().unwrap();
    let mut file = SnapshotWriter::create(folder, &header, u64::MAX).unwrap();
    copy_whole(&mut ledger, |block| file.block(&block.bytes, block.items)).unwrap();
    assert_eq!(file.finish().unwrap().path, newest.path);
}

#[test]
fn a_member_whose_ledger_is_another_stops_and_says_so_again_and_the_others_go_on() {
    // The log is kept for whoever is away: from another's snapshot the node would get the right ledger, and nothing would be found.
    let tight: Vec<&str> = TIGHT.into_iter().filter(|setting| !setting.starts_with("cluster.late_entries_kept")).collect();
    let mut trio = Trio::start_with(4, &[&tight[..], &["cluster.sum_groups=1"]].concat());
    let leader = trio.leader();
    let damaged = (leader + 1) % 3;
    let shard = {
        let seen = trio.server(leader).get("/v1/cluster").json();
        let shards = seen["shards"].as_array().unwrap().clone();
        let lamp = shards.iter().max_by_key(|shard| shard["committed"].as_u64()).unwrap();
        u16::try_from(lamp["shard"].as_u64().unwrap()).unwrap()
    };
    assert!(trio.reserve("before", leader).is_some());
    let folder = trio.places[damaged].folder.clone();
    wait_for("a snapshot of the shard", || !snapshots(&folder, StreamId::log(shard)).unwrap().is_empty());
    trio.nodes[damaged].take().unwrap().terminate().expect(0, &[]);
    damage_snapshot(&folder, shard);

    let node = trio.places[damaged].start();
    assert!(trio.reserve("found", leader).is_some(), "two of three decide");
    let said = [
        format!("of the log of shard {shard} the ledger of the node that decided came to"),
        "and this node's to".to_owned(),
        "join a clean directory under a new number".to_owned(),
    ];
    let said = said.each_ref().map(String::as_str);
    node.finish().expect(1, &said);
    assert!(trio.reserve("after", leader).is_some(), "the others go on");
    // It says so again, and so does whoever looks at the directory.
    let serve = |more: &[&str]| {
        let words = ["serve", "--data-dir", trio.places[damaged].folder(), "--listen", "127.0.0.1:0"];
        support::finish(program(&[&words[..], &trio.places[damaged].arguments(), more].concat()).spawn().unwrap())
    };
    serve(&[]).expect(1, &[said[0], "diverged.json", "no start passes it over"]);
    serve(&["--set", "cluster.on_divergence=warn"]).expect(1, &["diverged.json"]);
    run(&["verify", trio.places[damaged].folder()]).expect(1, &[]);
    // Whoever takes the mark away finds the difference again.
    std::fs::remove_file(folder.join("diverged.json")).unwrap();
    serve(&[]).expect(1, &said);

    for node in trio.nodes.drain(..).flatten() {
        node.terminate().expect(0, &[]);
    }
    std::fs::remove_file(folder.join("diverged.json")).unwrap();
    let folders: Vec<&str> = trio.places.iter().map(Place::folder).collect();
    let others: Vec<&str> = folders.iter().enumerate().filter(|(place, _)| *place != damaged).map(|(_, folder)| *folder).collect();
    run(&[&["verify"], &others[..]].concat()).expect(0, &[]);
    let verdict = run(&[&["verify", "--json"], &folders[..]].concat()).expect(1, &[]).stdout;
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!(verdict["good"], json!(false));
    let differences = verdict["comparison"]["differences"].as_array().unwrap();
    let mut nodes: Vec<Vec<u64>> = serde_json::from_value(differences[0]["nodes"].clone()).unwrap();
    nodes.sort_by_key(Vec::len);
    assert_eq!((differences.len(), &differences[0]["shard"]), (1, &json!(shard)), "{verdict}");
    assert_eq!((nodes.len(), &nodes[0]), (2, &vec![damaged as u64 + 1]), "{verdict}");
}

#[test]
fn members_say_which_settings_differ_and_go_on() {
    let mut trio = Trio::start(1);
    assert!(trio.running().all(|(_, node)| {
        let seen = node.get("/v1/cluster").json();
        seen["nodes"].as_array().unwrap().iter().all(|of| of["settings_differ"] == json!([]) && of["clock_off"] == json!(false))
    }));
    let other = (trio.leader() + 1) % 3;
    trio.nodes[other].take().unwrap().terminate().expect(0, &[]);
    let arguments = [&trio.places[other].arguments()[..], &["--set", "rules.idempotency_seconds=3600"]].concat();
    let node = Server::start_with(&trio.places[other].folder, &arguments);
    node.wait_ready();
    trio.nodes[other] = Some(node);
    trio.wait_until("everybody sees what differs", |seen| {
        let number = |of: &Value| usize::try_from(of["node"].as_u64().unwrap()).unwrap();
        let is_other = |node: usize| node == other + 1;
        seen["nodes"].as_array().unwrap().iter().all(|of| {
            // Whoever differs sees all others differ.
            let differs = if is_other(number(seen)) { !is_other(number(of)) } else { is_other(number(of)) };
            of["settings_differ"] == if differs { json!(["rules.idempotency_seconds"]) } else { json!([]) }
        })
    });
    let shown = trio.server(trio.leader()).get("/metrics").body;
    assert!(shown.contains(&format!("tidegate_cluster_settings_differ{{node=\"{}\"}} 1", other + 1)), "{shown}");
    let target = format!("http://{}", trio.server(trio.leader()).address);
    let table = run(&["cluster", "status", "--target", &target]).expect(0, &[]).stdout;
    assert!(table.contains("has other values than") && table.contains("rules.idempotency_seconds"), "{table}");
    assert!(trio.reserve("buyer", other).is_some(), "it serves as before");
}
