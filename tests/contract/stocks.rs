//! The table of stocks: every state, setting and count, every refusal, and every step of a stock's life, before and after restarts.

use std::collections::BTreeMap;
use std::thread;

use serde_json::{Value, json};

use super::node::{Node, Phase, stock_counts, text, through_restarts, wait_until, without_place};

/// A stock, how it is made, and what it is then.
struct Made {
    sku: &'static str,
    /// What it is opened with.
    put: &'static str,
    /// Calls that follow, each with its body; the one on the stock itself is a PATCH.
    calls: &'static [(&'static str, &'static str)],
    /// `allotted`, `available`, `reserved` and `sold`.
    counts: [u64; 4],
    /// `per_user_limit`, `hold_seconds`, `hold_seconds_max`, `opens_at` and `closes_at`.
    terms: &'static str,
    state: &'static str,
}

/// What is set where nothing is asked for.
const DEFAULTS: &str = "[null,600,3600,null,null]";

/// Without the one that is archived, in the order of their names.
const MADE: [Made; 31] = [
    Made {
        sku: "adjusted",
        put: r#"{"quantity":10}"#,
        calls: &[("/adjustments", r#"{"delta":-5,"reason":"damaged"}"#), ("/adjustments", r#"{"delta":2,"reason":"found again"}"#)],
        counts: [7, 7, 0, 0],
        terms: DEFAULTS,
        state: "open",
    },
    Made {
        sku: "adjusted-when-closed",
        put: r#"{"quantity":5}"#,
        calls: &[("/close", ""), ("/adjustments", r#"{"delta":-2,"reason":"damaged"}"#)],
        counts: [3, 3, 0, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made {
        sku: "adjusted-when-paused",
        put: r#"{"quantity":5}"#,
        calls: &[("/pause", ""), ("/adjustments", r#"{"delta":3,"reason":"delivered"}"#)],
        counts: [8, 8, 0, 0],
        terms: DEFAULTS,
        state: "paused",
    },
    Made {
        sku: "archived-past-its-end",
        put: r#"{"quantity":5,"closes_at":"2001-01-01T00:00:00Z"}"#,
        calls: &[("/archive", "")],
        counts: [5, 5, 0, 0],
        terms: r#"[null,600,3600,null,"2001-01-01T00:00:00.000Z"]"#,
        state: "archived",
    },
    Made {
        sku: "closed",
        put: r#"{"quantity":5}"#,
        calls: &[("/reservations", r#"{"user":"u","quantity":2}"#), ("/close", "")],
        counts: [5, 3, 2, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made {
        sku: "closed-by-time",
        put: r#"{"quantity":5,"closes_at":"2001-01-01T00:00:00Z"}"#,
        calls: &[],
        counts: [5, 5, 0, 0],
        terms: r#"[null,600,3600,null,"2001-01-01T00:00:00.000Z"]"#,
        state: "closed",
    },
    Made {
        sku: "closed-past-its-end",
        put: r#"{"quantity":5,"closes_at":"2001-01-01T00:00:00Z"}"#,
        calls: &[("/close", ""), ("", r#"{"closes_at":null}"#)],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made {
        sku: "closed-when-paused",
        put: r#"{"quantity":5}"#,
        calls: &[("/pause", ""), ("/close", "")],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made {
        sku: "closed-when-sold-out",
        put: r#"{"quantity":2}"#,
        calls: &[("/reservations", r#"{"user":"a","quantity":2}"#), ("/close", "")],
        counts: [2, 0, 2, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made { sku: "empty", put: r#"{"quantity":0}"#, calls: &[], counts: [0, 0, 0, 0], terms: DEFAULTS, state: "sold_out" },
    Made {
        sku: "lapsed-when-closed",
        put: r#"{"quantity":5}"#,
        calls: &[("/reservations", r#"{"user":"u","quantity":2,"hold_seconds":1}"#), ("/close", "")],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made {
        sku: "lapsed-when-paused",
        put: r#"{"quantity":5}"#,
        calls: &[("/reservations", r#"{"user":"u","quantity":2,"hold_seconds":1}"#), ("/pause", "")],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "paused",
    },
    Made {
        sku: "limited",
        put: r#"{"quantity":10,"per_user_limit":4,"hold_seconds":300,"hold_seconds_max":1200}"#,
        calls: &[("/reservations", r#"{"user":"full","quantity":3}"#), ("/reservations", r#"{"user":"full"}"#)],
        counts: [10, 6, 4, 0],
        terms: "[4,300,1200,null,null]",
        state: "open",
    },
    Made {
        sku: "long-holds",
        put: r#"{"quantity":1,"hold_seconds":7200}"#,
        calls: &[],
        counts: [1, 1, 0, 0],
        terms: "[null,7200,7200,null,null]",
        state: "open",
    },
    Made {
        sku: "open-for-a-while",
        put: r#"{"quantity":1,"opens_at":"2001-01-01T00:00:00Z","closes_at":"2099-01-01T00:00:00Z"}"#,
        calls: &[],
        counts: [1, 1, 0, 0],
        terms: r#"[null,600,3600,"2001-01-01T00:00:00.000Z","2099-01-01T00:00:00.000Z"]"#,
        state: "open",
    },
    Made {
        sku: "patched",
        put: r#"{"quantity":5,"per_user_limit":1}"#,
        calls: &[
            ("", r#"{"per_user_limit":2,"hold_seconds":60,"hold_seconds_max":900,"opens_at":"2001-01-01T00:00:00Z"}"#),
            ("", r#"{"opens_at":null,"closes_at":"2099-01-01T00:00:00Z"}"#),
        ],
        counts: [5, 5, 0, 0],
        terms: r#"[2,60,900,null,"2099-01-01T00:00:00.000Z"]"#,
        state: "open",
    },
    Made {
        sku: "patched-past-its-end",
        put: r#"{"quantity":5,"closes_at":"2001-01-01T00:00:00Z"}"#,
        calls: &[("", r#"{"per_user_limit":3}"#)],
        counts: [5, 5, 0, 0],
        terms: r#"[3,600,3600,null,"2001-01-01T00:00:00.000Z"]"#,
        state: "closed",
    },
    Made {
        sku: "patched-till-later",
        put: r#"{"quantity":5,"closes_at":"2001-01-01T00:00:00Z"}"#,
        calls: &[("", r#"{"closes_at":"2099-01-01T00:00:00Z"}"#)],
        counts: [5, 5, 0, 0],
        terms: r#"[null,600,3600,null,"2099-01-01T00:00:00.000Z"]"#,
        state: "open",
    },
    Made {
        sku: "patched-when-closed",
        put: r#"{"quantity":5}"#,
        calls: &[("/close", ""), ("", r#"{"per_user_limit":3,"closes_at":"2099-01-01T00:00:00Z"}"#)],
        counts: [5, 5, 0, 0],
        terms: r#"[3,600,3600,null,"2099-01-01T00:00:00.000Z"]"#,
        state: "closed",
    },
    Made {
        sku: "patched-when-paused",
        put: r#"{"quantity":5}"#,
        calls: &[("/pause", ""), ("", r#"{"hold_seconds":60}"#)],
        counts: [5, 5, 0, 0],
        terms: "[null,60,3600,null,null]",
        state: "paused",
    },
    Made {
        sku: "paused",
        put: r#"{"quantity":5}"#,
        calls: &[("/pause", "")],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "paused",
    },
    Made {
        sku: "paused-before-it-opens",
        put: r#"{"quantity":5,"opens_at":"2099-01-01T00:00:00Z"}"#,
        calls: &[("/pause", "")],
        counts: [5, 5, 0, 0],
        terms: r#"[null,600,3600,"2099-01-01T00:00:00.000Z",null]"#,
        state: "paused",
    },
    Made {
        sku: "paused-when-closed",
        put: r#"{"quantity":5}"#,
        calls: &[("/close", ""), ("/pause", "")],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "closed",
    },
    Made {
        sku: "paused-when-sold-out",
        put: r#"{"quantity":2}"#,
        calls: &[("/reservations", r#"{"user":"a","quantity":2}"#), ("/pause", "")],
        counts: [2, 0, 2, 0],
        terms: DEFAULTS,
        state: "paused",
    },
    Made { sku: "plain", put: r#"{"quantity":5}"#, calls: &[], counts: [5, 5, 0, 0], terms: DEFAULTS, state: "open" },
    Made {
        sku: "reopened",
        put: r#"{"quantity":5}"#,
        calls: &[("/pause", ""), ("/close", ""), ("/reopen", "")],
        counts: [5, 5, 0, 0],
        terms: DEFAULTS,
        state: "open",
    },
    Made {
        sku: "reopened-past-its-end",
        put: r#"{"quantity":5,"closes_at":"2001-01-01T00:00:00Z"}"#,
        calls: &[("/close", ""), ("/reopen", "")],
        counts: [5, 5, 0, 0],
        terms: r#"[null,600,3600,null,"2001-01-01T00:00:00.000Z"]"#,
        state: "closed",
    },
    Made {
        sku: "scheduled",
        put: r#"{"quantity":0,"opens_at":"2099-01-01T00:00:00Z"}"#,
        calls: &[],
        counts: [0, 0, 0, 0],
        terms: r#"[null,600,3600,"2099-01-01T00:00:00.000Z",null]"#,
        state: "scheduled",
    },
    Made {
        sku: "sold-out",
        put: r#"{"quantity":2,"per_user_limit":2}"#,
        calls: &[("/reservations", r#"{"user":"a","quantity":2}"#)],
        counts: [2, 0, 2, 0],
        terms: "[2,600,3600,null,null]",
        state: "sold_out",
    },
    Made {
        sku: "sold-out-by-hand",
        put: r#"{"quantity":5}"#,
        calls: &[("/adjustments", r#"{"delta":-5,"reason":"lost"}"#)],
        counts: [0, 0, 0, 0],
        terms: DEFAULTS,
        state: "sold_out",
    },
    Made {
        sku: "supplied",
        put: r#"{"quantity":0}"#,
        calls: &[("/adjustments", r#"{"delta":1000000000,"reason":"delivered"}"#)],
        counts: [1_000_000_000, 1_000_000_000, 0, 0],
        terms: DEFAULTS,
        state: "open",
    },
];

/// Eight units, of which two were sold and one came back, and another was lost; two were found after it was archived.
const ARCHIVED: Made =
    Made { sku: "archived", put: r#"{"quantity":8}"#, calls: &[], counts: [9, 8, 0, 1], terms: DEFAULTS, state: "archived" };

/// What is rejected: the call, its body and the code.
const REFUSED: [(&str, &str, &str, &str); 45] = [
    ("POST", "limited/reservations", r#"{"user":"full"}"#, "limit_reached"),
    ("POST", "limited/reservations", r#"{"user":"new","quantity":5}"#, "limit_reached"),
    ("POST", "limited/reservations", r#"{"user":"new","hold_seconds":1201}"#, "out_of_range"),
    ("POST", "patched/reservations", r#"{"user":"new","quantity":3}"#, "limit_reached"),
    ("POST", "patched/reservations", r#"{"user":"new","hold_seconds":901}"#, "out_of_range"),
    ("POST", "plain/reservations", r#"{"user":"new","quantity":6}"#, "sold_out"),
    ("POST", "adjusted/reservations", r#"{"user":"new","quantity":8}"#, "sold_out"),
    ("POST", "sold-out/reservations", r#"{"user":"b"}"#, "sold_out"),
    ("POST", "sold-out/reservations", r#"{"user":"a"}"#, "limit_reached"),
    ("POST", "sold-out-by-hand/reservations", r#"{"user":"b"}"#, "sold_out"),
    ("POST", "empty/reservations", r#"{"user":"b"}"#, "sold_out"),
    ("POST", "scheduled/reservations", r#"{"user":"b"}"#, "not_open"),
    ("POST", "paused/reservations", r#"{"user":"b"}"#, "paused"),
    ("POST", "paused-before-it-opens/reservations", r#"{"user":"b"}"#, "paused"),
    ("POST", "closed/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "closed-by-time/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "closed-when-paused/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "closed-when-sold-out/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "closed-past-its-end/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "patched-past-its-end/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "paused-when-closed/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "paused-when-sold-out/reservations", r#"{"user":"b"}"#, "paused"),
    ("POST", "reopened-past-its-end/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "archived-past-its-end/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "archived/reservations", r#"{"user":"b"}"#, "closed"),
    ("POST", "nothing/reservations", r#"{"user":"b"}"#, "unknown_sku"),
    ("PUT", "plain", r#"{"quantity":6}"#, "stock_exists"),
    ("PUT", "plain", r#"{"quantity":5,"per_user_limit":1}"#, "stock_exists"),
    ("PUT", "plain", r#"{"quantity":5,"opens_at":"2099-01-01T00:00:00Z"}"#, "stock_exists"),
    ("PUT", "adjusted", r#"{"quantity":7}"#, "stock_exists"),
    ("PUT", "patched", r#"{"quantity":5,"per_user_limit":1}"#, "stock_exists"),
    ("PUT", "archived", r#"{"quantity":7}"#, "stock_exists"),
    ("PATCH", "nothing", "{}", "unknown_sku"),
    ("PATCH", "archived", r#"{"per_user_limit":1}"#, "closed"),
    ("PATCH", "limited", r#"{"hold_seconds":1201}"#, "out_of_range"),
    ("PATCH", "patched", r#"{"opens_at":"2099-01-01T00:00:00Z"}"#, "out_of_range"),
    ("POST", "adjusted/adjustments", r#"{"delta":-8,"reason":"x"}"#, "insufficient_stock"),
    ("POST", "closed/adjustments", r#"{"delta":-4,"reason":"x"}"#, "insufficient_stock"),
    ("POST", "archived/adjustments", r#"{"delta":-9,"reason":"x"}"#, "insufficient_stock"),
    ("POST", "full/adjustments", r#"{"delta":1,"reason":"x"}"#, "out_of_range"),
    ("POST", "nothing/adjustments", r#"{"delta":1,"reason":"x"}"#, "unknown_sku"),
    ("POST", "plain/archive", "", "stock_in_use"),
    ("POST", "closed/archive", "", "stock_in_use"),
    ("POST", "archived/reopen", "", "closed"),
    ("POST", "archived/pause", "", "closed"),
];

/// What is asked in a form that nobody knows.
const UNKNOWN_FORMS: [(&str, &str, &str); 4] = [
    ("PUT", "new", r#"{"quantity":5}"#),
    ("PUT", "plain", r#"{"quantity":5}"#),
    ("PATCH", "plain", r#"{"per_user_limit":1}"#),
    ("POST", "plain/adjustments", r#"{"delta":1,"reason":"found"}"#),
];

/// What is asked once more and changes nothing.
const REPEATED: [(&str, &str, &str); 18] = [
    ("PUT", "plain", r#"{"quantity":5}"#),
    ("PUT", "plain", r#"{"quantity":5.0,"hold_seconds":600,"hold_seconds_max":3600,"per_user_limit":null,"opens_at":null}"#),
    ("PUT", "adjusted", r#"{"quantity":10}"#),
    ("PUT", "archived", r#"{"quantity":8}"#),
    ("PUT", "limited", r#"{"quantity":10,"per_user_limit":4,"hold_seconds":300,"hold_seconds_max":1200}"#),
    (
        "PUT",
        "patched",
        r#"{"quantity":5,"per_user_limit":2,"hold_seconds":60,"hold_seconds_max":900,"closes_at":"2099-01-01T00:00:00Z"}"#,
    ),
    ("PUT", "scheduled", r#"{"quantity":0,"opens_at":"2099-01-01T00:00:00Z"}"#),
    ("PATCH", "patched", r#"{"per_user_limit":2,"opens_at":null}"#),
    ("PATCH", "plain", "{}"),
    ("POST", "paused/pause", ""),
    ("POST", "closed/close", "{}"),
    ("POST", "archived/archive", ""),
    ("POST", "archived/close", ""),
    ("POST", "archived-past-its-end/archive", ""),
    ("POST", "reopened-past-its-end/reopen", ""),
    ("POST", "paused-when-closed/pause", ""),
    ("POST", "reopened/reopen", ""),
    ("POST", "plain/reopen", ""),
];

impl Made {
    fn document(&self) -> Value {
        let terms: Value = serde_json::from_str(self.terms).expect("the table is JSON");
        let [allotted, available, reserved, sold] = self.counts;
        json!({
            "sku": self.sku, "allotted": allotted, "available": available, "reserved": reserved, "sold": sold,
            "per_user_limit": terms[0], "hold_seconds": terms[1], "hold_seconds_max": terms[2], "opens_at": terms[3],
            "closes_at": terms[4], "state": self.state,
        })
    }

    fn make(&self, node: &Node) {
        let path = format!("/v1/stocks/{}", self.sku);
        node.call("PUT", &path, &[], self.put).done(201);
        for (call, body) in self.calls {
            let method = if call.is_empty() { "PATCH" } else { "POST" };
            node.call(method, &format!("{path}{call}"), &[], body).done(if *call == "/reservations" { 201 } else { 200 });
        }
    }
}

/// What was seen of the stocks before any restart.
struct World {
    /// By sku.
    etags: BTreeMap<&'static str, String>,
    /// Of `patched`, before its settings changed.
    old_etag: String,
    /// Of `changing`, which each phase changes.
    changing_etag: String,
}

fn all() -> impl Iterator<Item = &'static Made> {
    const ONE: &[Made] = &[ARCHIVED];
    MADE.iter().chain(ONE)
}

fn etag(node: &Node, sku: &str) -> String {
    let answer = node.call("GET", &format!("/v1/stocks/{sku}"), &[], "");
    answer.done(200);
    answer.response.header("etag").unwrap_or_else(|| panic!("no etag: {answer:?}")).to_owned()
}

fn build(node: &mut Node) -> World {
    let patched = MADE.iter().find(|made| made.sku == "patched").expect("it is in the table");
    let first = node.call("PUT", "/v1/stocks/patched", &[], patched.put);
    first.done(201);
    let old_etag = first.response.header("etag").expect("a stock has an etag").to_owned();
    for (_, body) in patched.calls {
        node.call("PATCH", "/v1/stocks/patched", &[], body).done(200);
    }
    for made in MADE.iter().filter(|made| made.sku != "patched") {
        made.make(node);
    }
    ARCHIVED.make(node);
    node.reserve("archived", "archived", "", r#"{"user":"a","quantity":2}"#);
    node.act("archived", "confirm", "", "").done(200);
    node.act("archived", "return", "", r#"{"quantity":1}"#).done(200);
    node.post("/v1/stocks/archived/adjustments", "", r#"{"delta":-1,"reason":"lost"}"#).done(200);
    node.post("/v1/stocks/archived/close", "", "").done(200);
    node.post("/v1/stocks/archived/archive", "", "").done(200);
    node.post("/v1/stocks/archived/adjustments", "", r#"{"delta":2,"reason":"found"}"#).done(200);
    fill(node);
    for sku in ["lapsed-when-closed", "lapsed-when-paused"] {
        wait_until("the clock to take a hold back", || stock_counts(&node.stock(sku)) == [5, 5, 0, 0]);
    }
    let etags = all().map(|made| (made.sku, etag(node, made.sku))).collect();
    node.call("PUT", "/v1/stocks/changing", &[], r#"{"quantity":5}"#).done(201);
    for phase in Phase::ALL.map(Phase::name) {
        node.call("PUT", &format!("/v1/stocks/life-{phase}"), &[], r#"{"quantity":5}"#).done(201);
        node.reserve(&format!("life-{phase}"), &format!("life-{phase}"), "", r#"{"user":"u"}"#);
        node.call("PUT", &format!("/v1/stocks/room-{phase}"), &[], r#"{"quantity":5}"#).done(201);
        node.reserve(&format!("room-{phase}"), &format!("room-{phase}"), "", r#"{"user":"u","quantity":2}"#);
        node.call("PUT", &format!("/v1/stocks/asleep-{phase}"), &[], r#"{"quantity":5}"#).done(201);
        node.reserve(&format!("asleep-{phase}"), &format!("asleep-{phase}"), "", r#"{"user":"u","quantity":4}"#);
        node.act(&format!("asleep-{phase}"), "confirm", "", r#"{"quantity":2}"#).done(200);
        node.post(&format!("/v1/stocks/asleep-{phase}/pause"), "", "").done(200);
        node.call("PUT", &format!("/v1/stocks/over-{phase}"), &[], r#"{"quantity":5}"#).done(201);
        node.reserve(&format!("over-{phase}"), &format!("over-{phase}"), "", r#"{"user":"u","quantity":2}"#);
        node.post(&format!("/v1/stocks/over-{phase}/close"), "", "").done(200);
    }
    World { etags, old_etag, changing_etag: etag(node, "changing") }
}

/// Gives `full` as many units as a stock can have. What is asked together is made durable together.
fn fill(node: &Node) {
    const CALLERS: u64 = 9;
    const BILLION: u64 = 1_000_000_000;
    node.call("PUT", "/v1/stocks/full", &[], r#"{"quantity":1000000000}"#).done(201);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..999 / CALLERS {
                    node.post("/v1/stocks/full/adjustments", "", r#"{"delta":1000000000,"reason":"delivered"}"#).done(200);
                }
            });
        }
    });
    assert_eq!(stock_counts(&node.stock("full")), [1_000 * BILLION, 1_000 * BILLION, 0, 0]);
}

#[track_caller]
fn expect_as_made(node: &Node, world: &World) {
    let listed = node.list("/v1/stocks?limit=3", "stocks", None);
    for made in all() {
        assert_eq!(without_place(node.stock(made.sku)), made.document());
        assert_eq!(etag(node, made.sku), world.etags[made.sku], "{}", made.sku);
        let entry = listed.iter().find(|stock| stock["sku"] == made.sku);
        assert_eq!(entry.cloned().map(without_place), Some(made.document()), "in the list");
    }
}

#[test]
fn every_stock_is_what_it_was_and_answers_as_it_did() {
    through_restarts(&[], build, |node, world, phase| {
        expect_as_made(node, world);
        for (method, path, body, code) in REFUSED {
            node.call(method, &format!("/v1/stocks/{path}"), &[], body).refused(code);
        }
        node.call("GET", "/v1/stocks/nothing", &[], "").refused("unknown_sku");
        for (method, path, body) in UNKNOWN_FORMS {
            let form = [("content-type", "text/plain")];
            node.call(method, &format!("/v1/stocks/{path}"), &form, body).refused("unsupported_media_type");
        }
        node.call("GET", "/v1/stocks/new", &[], "").refused("unknown_sku");
        for (method, path, body) in REPEATED {
            let answer = node.call(method, &format!("/v1/stocks/{path}"), &[], body);
            let sku = path.split('/').next().unwrap_or_default();
            let made = all().find(|made| made.sku == sku).expect("it is in the table");
            assert_eq!(without_place(answer.done(200)), made.document());
            assert_eq!(answer.response.header("etag"), Some(world.etags[sku].as_str()), "{answer:?}");
        }
        expect_preconditions(node, world, phase);
        expect_as_made(node, world);
        live(node, phase.name());
        adjust(node, phase.name());
        wake(node, phase.name());
    });
}

/// The etags from before hold, and none but the newest does.
fn expect_preconditions(node: &Node, world: &mut World, phase: Phase) {
    let patch = |sku: &str, etag: &str, body: &str| node.call("PATCH", &format!("/v1/stocks/{sku}"), &[("if-match", etag)], body);
    patch("patched", &world.old_etag, "{}").refused("precondition_failed");
    patch("patched", "\"never-given\"", "{}").refused("precondition_failed");
    patch("patched", &world.etags["patched"], "{}").done(200);
    patch("nothing", "*", "{}").refused("unknown_sku");
    // Each phase changes the version that the one before it left.
    let hold = 100 + phase as u32;
    let old = world.changing_etag.clone();
    let changed = patch("changing", &old, &format!(r#"{{"hold_seconds":{hold}}}"#));
    assert_eq!(changed.done(200)["hold_seconds"], hold);
    world.changing_etag = etag(node, "changing");
    assert_eq!(changed.response.header("etag"), Some(world.changing_etag.as_str()));
    assert_ne!(world.changing_etag, old);
    patch("changing", &old, r#"{"hold_seconds":1}"#).refused("precondition_failed");
    assert_eq!(node.stock("changing")["hold_seconds"], hold);
    assert_eq!(etag(node, "changing"), world.changing_etag);
}

#[track_caller]
fn step(node: &Node, sku: &str, step: &str, state: &str) {
    let before = etag(node, sku);
    let answer = node.post(&format!("/v1/stocks/{sku}/{step}"), "", "");
    let stock = answer.done(200);
    assert_eq!(text(&stock, "state"), state, "after {step}");
    // It is another version of the stock.
    assert_ne!(answer.response.header("etag"), Some(before.as_str()), "after {step}");
    assert_eq!(answer.response.header("etag"), Some(etag(node, sku).as_str()), "after {step}");
    assert_eq!(without_place(node.stock(sku)), without_place(stock), "after {step}");
}

/// A stock from before goes through its whole life.
fn live(node: &mut Node, phase: &str) {
    let sku = format!("life-{phase}");
    let reserve = |node: &Node| node.post(&format!("/v1/stocks/{sku}/reservations"), "", r#"{"user":"v"}"#);
    node.note(&format!("a-{phase}"), &reserve(node).done(201));
    step(node, &sku, "pause", "paused");
    reserve(node).refused("paused");
    step(node, &sku, "reopen", "open");
    node.note(&format!("b-{phase}"), &reserve(node).done(201));
    node.post(&format!("/v1/stocks/{sku}/archive"), "", "").refused("stock_in_use");
    step(node, &sku, "close", "closed");
    reserve(node).refused("closed");
    step(node, &sku, "reopen", "open");
    step(node, &sku, "close", "closed");
    node.post(&format!("/v1/stocks/{sku}/archive"), "", "").refused("stock_in_use");
    // What was granted is still settled.
    node.act(&format!("life-{phase}"), "confirm", "", "").done(200);
    node.act(&format!("a-{phase}"), "release", "", "").done(200);
    node.act(&format!("b-{phase}"), "confirm", "", "").done(200);
    node.act(&format!("b-{phase}"), "return", "", "").done(200);
    step(node, &sku, "archive", "archived");
    reserve(node).refused("closed");
    node.post(&format!("/v1/stocks/{sku}/reopen"), "", "").refused("closed");
    assert_eq!(stock_counts(&node.stock(&sku)), [5, 4, 0, 1]);
    // Archived, it stays readable, and so do its reservations.
    assert_eq!(node.reservation(&format!("life-{phase}"))["state"], "confirmed");
    let listed = node.list(&format!("/v1/stocks/{sku}/reservations?user=v"), "reservations", None);
    assert_eq!(listed.iter().map(|one| text(one, "state")).collect::<Vec<_>>(), ["returned", "released"]);
}

/// Units come and go, down to nothing and no further.
fn adjust(node: &Node, phase: &str) {
    let sku = format!("room-{phase}");
    let adjust =
        |delta: &str| node.post(&format!("/v1/stocks/{sku}/adjustments"), "", &format!(r#"{{"delta":{delta},"reason":"x"}}"#));
    adjust("-4").refused("insufficient_stock");
    assert_eq!(stock_counts(&adjust("3").done(200)), [8, 6, 2, 0]);
    let stock = adjust("-6").done(200);
    assert_eq!((stock_counts(&stock), text(&stock, "state").as_str()), ([2, 0, 2, 0], "sold_out"));
    adjust("-1").refused("insufficient_stock");
    // What is given back is for sale again at once.
    node.act(&sku, "release", "", r#"{"quantity":1}"#).done(200);
    let stock = node.stock(&sku);
    assert_eq!((stock_counts(&stock), text(&stock, "state").as_str()), ([2, 1, 1, 0], "open"));
    node.post(&format!("/v1/stocks/{sku}/reservations"), "", r#"{"user":"w"}"#).done(201);
}

/// Reopening undoes a pause and a close from before the restart; neither stops a settlement.
fn wake(node: &Node, phase: &str) {
    let (asleep, over) = (format!("asleep-{phase}"), format!("over-{phase}"));
    let reserve = |sku: &str| node.post(&format!("/v1/stocks/{sku}/reservations"), "", r#"{"user":"w"}"#);
    reserve(&asleep).refused("paused");
    // A pause stops what is granted, and nothing else.
    node.act(&asleep, "extend", "", r#"{"hold_seconds":900}"#).done(200);
    node.act(&asleep, "release", "", r#"{"quantity":1}"#).done(200);
    node.act(&asleep, "return", "", r#"{"quantity":1}"#).done(200);
    let stock = node.stock(&asleep);
    assert_eq!((stock_counts(&stock), text(&stock, "state").as_str()), ([5, 3, 1, 1], "paused"));
    node.act(&asleep, "confirm", "", "").done(200);
    step(node, &asleep, "reopen", "open");
    reserve(&asleep).done(201);
    reserve(&over).refused("closed");
    node.act(&over, "extend", "", r#"{"hold_seconds":900}"#).done(200);
    node.act(&over, "confirm", "", r#"{"quantity":1}"#).done(200);
    step(node, &over, "reopen", "open");
    reserve(&over).done(201);
    assert_eq!(stock_counts(&node.stock(&over)), [5, 2, 2, 1]);
}
