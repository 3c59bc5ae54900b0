//! A door whose node decides about nothing, in front of one that decides: requests go on and come back, and what is told when they cannot.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod support;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::{Node, node};
use tidegate_api::{
    Answering, ClusterFuture, ClusterRefusal, ClusterSource, ClusterView, Decider, ForwardFailure, Forwarded, Leader, NodeView,
    ShardView,
};
use tokio::time::timeout;

/// Shorter than callers wait for an answer, and longer than anything else here takes.
const SILENT_MAX: Duration = Duration::from_secs(4);

/// Who decides at first, the same later on, and another one.
const LEADER: Leader = Leader { node: 2, term: 7 };
const AGAIN: Leader = Leader { node: 2, term: 9 };
const OTHER: Leader = Leader { node: 3, term: 8 };

/// What becomes of a request that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is not sent.
    NotSent,
    /// It is lost.
    Lost,
    /// It is lost, and the node decides in another term by then.
    LostWithTerm,
    /// It is done, and its answer is lost.
    AnswerLost,
    /// It is done, its answer is lost, and the node decides in another term by then, with a full disk.
    AnswerLostThenFull,
    /// Its disk is full.
    Full,
    /// It is done, another node decides from then on, and no answer ever comes.
    SilentAndReplaced,
}

struct Front {
    behind: Arc<Answering>,
    decider: Arc<Mutex<Decider>>,
    /// What happens to the next requests; those behind arrive.
    fates: Arc<Mutex<VecDeque<Fate>>>,
    asked: Arc<Mutex<u64>>,
    /// Whether the disk of the node behind it is full.
    disk_low: Arc<AtomicBool>,
}

impl ClusterSource for Front {
    fn view(&self) -> ClusterView {
        ClusterView {
            cluster: "c".to_owned(),
            node: 1,
            nodes: vec![NodeView {
                node: 2,
                address: "b:1".to_owned(),
                is_voter: false,
                is_draining: true,
                heard_ms: None,
                clock_ahead_ms: None,
                clock_error_ms: None,
                is_clock_off: true,
                settings_differ: vec!["rules.retention_seconds".to_owned()],
            }],
            shards: vec![ShardView { shard: 0, leader: Some(2), term: 7, committed: 9, replicas: vec![(1, Some(4)), (2, None)] }],
        }
    }

    fn lacks_quorum(&self) -> Option<String> {
        (*self.decider.lock().unwrap() == Decider::Nobody).then(|| "nobody decides".to_owned())
    }

    fn decider(&self, _: u16) -> Decider {
        *self.decider.lock().unwrap()
    }

    fn forward(&self, _: u16, _: Leader, request: Vec<u8>, _: Duration) -> ClusterFuture<Result<Vec<u8>, ForwardFailure>> {
        *self.asked.lock().unwrap() += 1;
        let fate = self.fates.lock().unwrap().pop_front();
        let (behind, decider, disk_low) = (Arc::clone(&self.behind), Arc::clone(&self.decider), Arc::clone(&self.disk_low));
        Box::pin(async move {
            if fate == Some(Fate::NotSent) {
                return Err(ForwardFailure::NotSent("no connection".to_owned()));
            }
            if matches!(fate, Some(Fate::LostWithTerm | Fate::AnswerLostThenFull)) {
                *decider.lock().unwrap() = Decider::There(AGAIN);
            }
            if matches!(fate, Some(Fate::Lost | Fate::LostWithTerm)) {
                return Err(ForwardFailure::Unknown("it broke".to_owned()));
            }
            if fate == Some(Fate::Full) {
                disk_low.store(true, Ordering::SeqCst);
            }
            let answer = behind.answer(Forwarded::decode(&request).unwrap()).await.encode();
            if fate == Some(Fate::SilentAndReplaced) {
                *decider.lock().unwrap() = Decider::There(OTHER);
                pending::<()>().await;
            }
            if fate == Some(Fate::AnswerLostThenFull) {
                disk_low.store(true, Ordering::SeqCst);
            }
            let is_lost = matches!(fate, Some(Fate::AnswerLost | Fate::AnswerLostThenFull));
            if is_lost { Err(ForwardFailure::Unknown("it broke".to_owned())) } else { Ok(answer) }
        })
    }

    fn settle(&self, _: Duration) -> ClusterFuture<Result<(), String>> {
        let unknown = self.lacks_quorum();
        Box::pin(async { unknown.map_or(Ok(()), Err) })
    }

    fn add(&self, node: Option<u64>, _: String) -> ClusterFuture<Result<Vec<u8>, ClusterRefusal>> {
        let answer = match node {
            None => Ok(b"a directory".to_vec()),
            Some(1) => Err(ClusterRefusal::Exists("node 1 is there".to_owned())),
            Some(_) => Err(ClusterRefusal::NoQuorum("nobody is there".to_owned())),
        };
        Box::pin(async { answer })
    }

    fn remove(&self, node: u64) -> ClusterFuture<Result<(), ClusterRefusal>> {
        let answer = if node == 2 { Ok(()) } else { Err(ClusterRefusal::NoMember(format!("{node} is none"))) };
        Box::pin(async { answer })
    }

    fn drain(&self, node: u64, drains: bool) -> ClusterFuture<Result<(), ClusterRefusal>> {
        let answer = if node == 2 { Ok(()) } else { Err(ClusterRefusal::NoQuorum(format!("{node} leads on: {drains}"))) };
        Box::pin(async { answer })
    }
}

/// A door in front, whose own node decides nothing in the eyes of callers, the node behind it, and what can be done to them.
struct Pair {
    front: Node,
    behind: Node,
    decider: Arc<Mutex<Decider>>,
    fates: Arc<Mutex<VecDeque<Fate>>>,
    asked: Arc<Mutex<u64>>,
    disk_low: Arc<AtomicBool>,
    _machines: Box<dyn std::any::Any>,
}

impl Pair {
    async fn start() -> Self {
        let ((front, one), (behind, other)) = (node().await, node().await);
        let (decider, fates, asked) =
            (Arc::new(Mutex::new(Decider::There(LEADER))), Arc::<Mutex<VecDeque<Fate>>>::default(), Arc::<Mutex<u64>>::default());
        let disk_low = Arc::clone(&other.disk_low);
        front.door.offer_cluster(Box::new(Front {
            behind: Arc::new(Answering::new(Arc::clone(&behind.door))),
            decider: Arc::clone(&decider),
            fates: Arc::clone(&fates),
            asked: Arc::clone(&asked),
            disk_low: Arc::clone(&disk_low),
        }));
        Self { front, behind, decider, fates, asked, disk_low, _machines: Box::new((one, other)) }
    }

    fn fates(&self, fates: &[Fate]) {
        self.fates.lock().unwrap().extend(fates);
    }
}

#[tokio::test]
async fn what_another_node_decides_is_answered_by_it() {
    let pair = Pair::start().await;
    let opened = pair.front.put("/v1/stocks/lamp", r#"{"quantity":2}"#).await;
    assert_eq!((opened.status, opened.header("location")), (201, Some("/v1/stocks/lamp")));
    let reserved = pair.front.post_keyed("/v1/stocks/lamp/reservations", "k", r#"{"user":"u"}"#).await;
    assert_eq!(reserved.status, 201);
    let id = reserved.text("id");
    assert_eq!(pair.behind.get(&format!("/v1/reservations/{id}")).await.json()["state"], "reserved");
    let again = pair.front.post_keyed("/v1/stocks/lamp/reservations", "k", r#"{"user":"u"}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    // Escapes in a path name the same.
    assert_eq!(pair.front.get("/v1/stocks/l%61mp").await.json()["reserved"], 1);
    // What is wrong with a request is told by whoever decides, and what is here is stale.
    pair.front.post("/v1/stocks/lamp/reservations", "{").await.expect_problem(400, "invalid_request", "body");
    pair.front.get("/v1/stocks/lamp?consistency=stale").await.expect_problem(404, "unknown_sku", "sku");
    let batch =
        r#"{"commands":[{"op":"reserve","sku":"lamp","user":"v"},{"op":"nothing"},{"op":"reserve","sku":"lamp","user":"w"}]}"#;
    let results = pair.front.post("/v1/batch", batch).await.json()["results"].clone();
    let statuses: Vec<_> = results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 400, 409]);
    assert_eq!(results[2]["code"], "sold_out");
}

#[tokio::test]
async fn what_was_not_sent_is_sent_again_and_what_may_have_been_done_only_where_it_is_done_once() {
    let pair = Pair::start().await;
    pair.fates(&[Fate::NotSent, Fate::NotSent]);
    assert_eq!(pair.front.put("/v1/stocks/lamp", r#"{"quantity":4}"#).await.status, 201);
    assert_eq!(*pair.asked.lock().unwrap(), 3);

    // With a key it is done once however often it is asked, so the node that the caller asked finds out what became of it.
    pair.fates(&[Fate::AnswerLost, Fate::AnswerLost]);
    let found = pair.front.post_keyed("/v1/stocks/lamp/reservations", "k", r#"{"user":"u"}"#).await;
    assert_eq!((found.status, found.header("idempotency-replayed")), (201, Some("true")));
    // Without one it is for the caller to find out.
    pair.fates(&[Fate::AnswerLost]);
    let lost = pair.front.post("/v1/stocks/lamp/reservations", r#"{"user":"v"}"#).await;
    lost.expect_problem(503, "outcome_unknown", "may have happened");

    // What changes nothing may be asked again.
    pair.fates(&[Fate::AnswerLost, Fate::AnswerLost]);
    assert_eq!(pair.front.get("/v1/stocks/lamp").await.json()["reserved"], 2);
    pair.fates(&[Fate::AnswerLost]);
    let keyed = r#"{"op":"reserve","sku":"lamp","user":"w","idempotency_key":"b"}"#;
    let found = pair.front.post("/v1/batch", &format!(r#"{{"commands":[{keyed}]}}"#)).await.json()["results"][0].clone();
    assert_eq!((&found["status"], &found["replayed"]), (&json!(201), &json!(true)));
    // One without a key makes the node that was sent all of them ask for none of them again.
    pair.fates(&[Fate::AnswerLost]);
    let batch = format!(r#"{{"commands":[{keyed},{{"op":"reserve","sku":"lamp","user":"x"}}]}}"#);
    let results = pair.front.post("/v1/batch", &batch).await.json()["results"].clone();
    for result in results.as_array().unwrap() {
        assert_eq!((&result["status"], &result["code"]), (&json!(503), &json!("outcome_unknown")));
    }
    assert_eq!(pair.behind.get("/v1/stocks/lamp").await.json()["reserved"], 4);
}

#[tokio::test]
async fn a_node_that_is_silent_is_not_waited_for_once_another_one_decides() {
    let pair = Pair::start().await;
    assert_eq!(pair.front.put("/v1/stocks/lamp", r#"{"quantity":4}"#).await.status, 201);
    for _ in 0..2 {
        pair.fates(&[Fate::SilentAndReplaced]);
        let read = timeout(SILENT_MAX, pair.front.get("/v1/stocks/lamp")).await.unwrap();
        assert_eq!(read.json()["available"], 4);
        *pair.decider.lock().unwrap() = Decider::There(LEADER);
    }
    pair.fates(&[Fate::SilentAndReplaced]);
    let keyed = pair.front.post_keyed("/v1/stocks/lamp/reservations", "k", r#"{"user":"u"}"#);
    let keyed = timeout(SILENT_MAX, keyed).await.unwrap();
    assert_eq!((keyed.status, keyed.header("idempotency-replayed")), (201, Some("true")));
    *pair.decider.lock().unwrap() = Decider::There(LEADER);
    pair.fates(&[Fate::SilentAndReplaced]);
    let unkeyed = pair.front.post("/v1/stocks/lamp/reservations", r#"{"user":"v"}"#);
    let unkeyed = timeout(SILENT_MAX, unkeyed).await.unwrap();
    unkeyed.expect_problem(503, "outcome_unknown", "another node has come to decide");
    assert_eq!(pair.behind.get("/v1/stocks/lamp").await.json()["reserved"], 2);
}

#[tokio::test]
async fn a_no_counts_behind_a_lost_attempt_where_another_term_has_begun() {
    let pair = Pair::start().await;
    assert_eq!(pair.front.put("/v1/stocks/lamp", r#"{"quantity":1}"#).await.status, 201);
    assert_eq!(pair.front.post("/v1/stocks/lamp/reservations", r#"{"user":"first"}"#).await.status, 201);
    // The first attempt has not been done, and in the same term it may be on its way still.
    for (number, fate, status, code) in [(1, Fate::Lost, 503, "outcome_unknown"), (2, Fate::LostWithTerm, 409, "sold_out")] {
        *pair.decider.lock().unwrap() = Decider::There(LEADER);
        pair.fates(&[fate]);
        let alone = pair.front.post_keyed("/v1/stocks/lamp/reservations", &format!("k-{number}"), r#"{"user":"u"}"#).await;
        alone.expect_problem(status, code, "");
        *pair.decider.lock().unwrap() = Decider::There(LEADER);
        pair.fates(&[fate]);
        let command = format!(r#"{{"op":"reserve","sku":"lamp","user":"v","idempotency_key":"b-{number}"}}"#);
        let batch = pair.front.post("/v1/batch", &format!(r#"{{"commands":[{command}]}}"#)).await.json();
        assert_eq!((&batch["results"][0]["status"], &batch["results"][0]["code"]), (&json!(status), &json!(code)));
    }
}

#[tokio::test]
async fn what_may_have_happened_is_unknown_when_nobody_tells_in_the_end() {
    let pair = Pair::start().await;
    assert_eq!(pair.front.put("/v1/stocks/lamp", r#"{"quantity":4}"#).await.status, 201);
    // Longer than it is kept while nobody decides.
    pair.fates(&[Fate::AnswerLost]);
    pair.fates(&[Fate::NotSent; 1_000]);
    let lost = pair.front.post_keyed("/v1/stocks/lamp/reservations", "k", r#"{"user":"u"}"#).await;
    lost.expect_problem(503, "outcome_unknown", "may have happened");
}

#[tokio::test]
async fn whoever_is_asked_second_and_does_not_look_at_it_does_not_say_that_it_has_not_happened() {
    let pair = Pair::start().await;
    assert_eq!(pair.front.put("/v1/stocks/lamp", r#"{"quantity":4}"#).await.status, 201);
    // Its answer is lost or not, and then the disk of whoever decides is full.
    for (number, fate, code) in [(1, Fate::AnswerLostThenFull, "outcome_unknown"), (2, Fate::Full, "overloaded")] {
        let is_again = || {
            *pair.decider.lock().unwrap() = Decider::There(LEADER);
            pair.disk_low.store(false, Ordering::SeqCst);
            pair.fates(&[fate]);
        };
        is_again();
        let alone = pair.front.post_keyed("/v1/stocks/lamp/reservations", &format!("k-{number}"), r#"{"user":"u"}"#).await;
        alone.expect_problem(503, code, "");
        is_again();
        let command = format!(r#"{{"op":"reserve","sku":"lamp","user":"v","idempotency_key":"b-{number}"}}"#);
        let batch = pair.front.post("/v1/batch", &format!(r#"{{"commands":[{command}]}}"#)).await.json();
        assert_eq!((&batch["results"][0]["status"], &batch["results"][0]["code"]), (&json!(503), &json!(code)));
    }
    // With room again, all that was unknown is found to be done, and nothing else.
    pair.disk_low.store(false, Ordering::SeqCst);
    let again = pair.front.post_keyed("/v1/stocks/lamp/reservations", "k-1", r#"{"user":"u"}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(pair.behind.get("/v1/stocks/lamp").await.json()["reserved"], 2);
}

#[tokio::test]
async fn whoever_decides_no_longer_shows_only_what_may_be_stale() {
    let (node, machine) = node().await;
    assert_eq!(node.put("/v1/stocks/lamp", r#"{"quantity":4}"#).await.status, 201);
    let id = node.post("/v1/stocks/lamp/reservations", r#"{"user":"u"}"#).await.text("id");
    let paths = ["/v1/stocks/lamp", "/v1/stocks/chair", "/v1/stocks/lamp/reservations", "/v1/stocks/chair/reservations"];
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).chain([format!("/v1/reservations/{id}")]).collect();
    for (path, status) in paths.iter().zip([200, 404, 200, 404, 200]) {
        assert_eq!(node.get(path).await.status, status, "{path}");
    }
    machine.log.depose();
    for path in &paths {
        node.get(path).await.expect_problem(503, "not_leader", "does not decide for the stock");
    }
    assert_eq!(node.get("/v1/stocks/lamp?consistency=stale").await.json()["reserved"], 1);
}

#[tokio::test]
async fn while_nobody_decides_a_request_waits_and_then_changes_nothing() {
    let pair = Pair::start().await;
    *pair.decider.lock().unwrap() = Decider::Nobody;
    assert_eq!(pair.front.get("/readyz").await.json()["code"], "no_quorum");
    let opening = pair.front.put("/v1/stocks/lamp", r#"{"quantity":2}"#);
    opening.await.expect_problem(503, "no_quorum", "no node is known that decides for shard 0");
    assert_eq!(*pair.asked.lock().unwrap(), 0);
    // A list of what is here may lack what was acknowledged elsewhere, and says so unless it is asked for all the same.
    pair.front.get("/v1/stocks").await.expect_problem(503, "no_quorum", "nobody decides");
    assert_eq!(pair.front.get("/v1/stocks?consistency=stale").await.json()["stocks"], json!([]));
    // Who decides may be found out meanwhile, and be this node.
    let (opened, ()) = tokio::join!(pair.front.put("/v1/stocks/lamp", r#"{"quantity":2}"#), async {
        *pair.decider.lock().unwrap() = Decider::Here;
    });
    assert_eq!(opened.status, 201);
    pair.behind.get("/v1/stocks/lamp").await.expect_problem(404, "unknown_sku", "sku");
}

#[tokio::test]
async fn the_change_feed_goes_on_at_another_node_once_that_has_what_was_seen() {
    let pair = Pair::start().await;
    *pair.decider.lock().unwrap() = Decider::Here;
    assert_eq!(pair.behind.put("/v1/stocks/lamp", r#"{"quantity":2}"#).await.status, 201);
    let seen = pair.behind.get("/v1/events").await.json();
    assert_eq!(seen["events"].as_array().unwrap().len(), 1);
    let address = format!("/v1/events?after={}", seen["next_cursor"].as_str().unwrap());

    // It stands behind what the node in front has: too long, and until it has that too.
    pair.front.get(&address).await.expect_problem(503, "timeout", "still does not have");
    let (page, opened) = tokio::join!(pair.front.get(&address), pair.front.put("/v1/stocks/lamp", r#"{"quantity":2}"#));
    assert_eq!((page.status, opened.status), (200, 201), "{page:?}");
    assert_eq!(page.json(), json!({"events": [], "next_cursor": seen["next_cursor"]}));
    assert_eq!(pair.front.post("/v1/stocks/lamp/reservations", r#"{"user":"u"}"#).await.status, 201);
    let rest = pair.front.get(&address).await.json();
    assert_eq!((rest["events"].as_array().unwrap().len(), &rest["events"][0]["kind"]), (1, &json!("reserved")));

    // A node that stands alone has nobody to wait for, and a cursor of another number of shards is nobody's.
    let ahead = pair.behind.get("/v1/events?after=0.9.1").await;
    ahead.expect_problem(400, "invalid_request", "ends at");
    pair.front.get("/v1/events?after=7.9.1").await.expect_problem(400, "invalid_request", "streams");
}

#[tokio::test]
async fn the_cluster_is_shown_and_members_come_and_go() {
    let pair = Pair::start().await;
    let seen = pair.front.get("/v1/cluster").await.json();
    assert_eq!(
        seen,
        json!({
            "cluster": "c",
            "node": 1,
            "nodes": [{"node": 2, "address": "b:1", "role": "learner", "draining": true, "heard_ms": null, "clock_ahead_ms": null,
                       "clock_error_ms": null, "clock_off": true, "settings_differ": ["rules.retention_seconds"]}],
            "shards": [{
                "shard": 0,
                "leader": 2,
                "term": 7,
                "committed": 9,
                "replicas": [{"node": 1, "applied": 4, "lag": 5}, {"node": 2, "applied": null, "lag": null}],
            }],
        })
    );
    let join = async |body: &str| pair.front.post("/v1/cluster/members", body).await;
    join(r#"{"node":1,"address":"b:1"}"#).await.expect_problem(409, "member_exists", "node 1 is there");
    join(r#"{"node":3,"address":"b:1"}"#).await.expect_problem(503, "no_quorum", "nobody is there");
    join(r#"{"node":1.5,"address":"b:1"}"#).await.expect_problem(422, "out_of_range", "from 1 to 1000000");
    join(r#"{"node":1}"#).await.expect_problem(400, "invalid_request", "address");
    let leave = async |body: &str| pair.front.post("/v1/cluster/leave", body).await;
    assert_eq!(leave(r#"{"node":2}"#).await.json()["node"], 1);
    leave(r#"{"node":9}"#).await.expect_problem(404, "not_found", "9 is none");
    for (path, drains) in [("/v1/cluster/drain", "true"), ("/v1/cluster/resume", "false")] {
        assert_eq!(pair.front.post(path, r#"{"node":2}"#).await.json()["nodes"][0]["draining"], true);
        pair.front.post(path, r#"{"node":3}"#).await.expect_problem(503, "no_quorum", &format!("3 leads on: {drains}"));
        pair.front.post(path, r#"{"node":0}"#).await.expect_problem(422, "out_of_range", "from 1 to 1000000");
        pair.front.post(path, "{}").await.expect_problem(400, "invalid_request", "node");
        pair.behind.post(path, r#"{"node":2}"#).await.expect_problem(404, "not_found", "stands alone");
    }
    // Who stands alone has no cluster.
    pair.behind.post("/v1/cluster/members", r#"{"address":"b:1"}"#).await.expect_problem(404, "not_found", "stands alone");
    pair.behind.post("/v1/cluster/leave", r#"{"node":2}"#).await.expect_problem(404, "not_found", "stands alone");
}
