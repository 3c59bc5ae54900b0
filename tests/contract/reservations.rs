//! The table of reservations and the batch: every state with what each call answers in it, before and after restarts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::node::{Node, Phase, ms, number, reservation_counts, text, through_restarts, wait_until};

/// A reservation, how it is made, and what it is then.
struct Made {
    name: &'static str,
    /// What it is reserved with.
    body: &'static str,
    /// Calls that follow, each with its body.
    calls: &'static [(&'static str, &'static str)],
    /// `quantity`, `reserved`, `confirmed`, `released` and `returned`.
    counts: [u64; 5],
    state: &'static str,
}

const MADE: [Made; 13] = [
    Made {
        name: "held",
        body: r#"{"user":"ada","quantity":3,"hold_seconds":1200,"reference":"order-7"}"#,
        calls: &[],
        counts: [3, 3, 0, 0, 0],
        state: "reserved",
    },
    Made {
        name: "in-part",
        body: r#"{"user":"bob","quantity":5}"#,
        calls: &[("confirm", r#"{"quantity":2}"#), ("release", r#"{"quantity":1}"#)],
        counts: [5, 2, 2, 1, 0],
        state: "reserved",
    },
    Made {
        name: "sold",
        body: r#"{"user":"bob","quantity":2,"reference":"order-8"}"#,
        calls: &[("confirm", "")],
        counts: [2, 0, 2, 0, 0],
        state: "confirmed",
    },
    Made {
        name: "sold-with-a-rest",
        body: r#"{"user":"bob","quantity":3}"#,
        calls: &[("release", r#"{"quantity":1}"#), ("confirm", "{}")],
        counts: [3, 0, 2, 1, 0],
        state: "confirmed",
    },
    Made {
        name: "released",
        body: r#"{"user":"cyd","quantity":2}"#,
        calls: &[("release", "")],
        counts: [2, 0, 0, 2, 0],
        state: "released",
    },
    Made {
        name: "returned",
        body: r#"{"user":"cyd","quantity":3}"#,
        calls: &[("confirm", ""), ("return", "")],
        counts: [3, 0, 0, 0, 3],
        state: "returned",
    },
    Made {
        name: "returned-in-part",
        body: r#"{"user":"cyd","quantity":4}"#,
        calls: &[("confirm", ""), ("return", r#"{"quantity":1}"#)],
        counts: [4, 0, 3, 0, 1],
        state: "confirmed",
    },
    Made {
        name: "returned-then-released",
        body: r#"{"user":"dan","quantity":6}"#,
        calls: &[("confirm", r#"{"quantity":4}"#), ("return", ""), ("release", "")],
        counts: [6, 0, 0, 2, 4],
        state: "released",
    },
    Made {
        name: "released-then-returned",
        body: r#"{"user":"dan","quantity":6}"#,
        calls: &[("confirm", r#"{"quantity":4}"#), ("release", ""), ("return", "")],
        counts: [6, 0, 0, 2, 4],
        state: "returned",
    },
    Made {
        name: "extended",
        body: r#"{"user":"eve"}"#,
        calls: &[("extend", r#"{"hold_seconds":3000}"#)],
        counts: [1, 1, 0, 0, 0],
        state: "reserved",
    },
    Made {
        name: "sold-after-it-was-extended",
        body: r#"{"user":"eve","quantity":2}"#,
        calls: &[("extend", r#"{"hold_seconds":60}"#), ("confirm", "")],
        counts: [2, 0, 2, 0, 0],
        state: "confirmed",
    },
    // These lapse.
    Made {
        name: "lapsed",
        body: r#"{"user":"fay","quantity":2,"hold_seconds":1}"#,
        calls: &[],
        counts: [2, 0, 0, 2, 0],
        state: "expired",
    },
    Made {
        name: "sold-and-lapsed",
        body: r#"{"user":"fay","quantity":4,"hold_seconds":3}"#,
        calls: &[("confirm", r#"{"quantity":1}"#), ("release", r#"{"quantity":1}"#)],
        counts: [4, 0, 1, 3, 0],
        state: "confirmed",
    },
];

/// Seconds from `reserved_at` to `expires_at` where they are known exactly; those that were extended count from another moment.
const HOLDS: [(&str, u64); 4] = [("held", 1_200), ("in-part", 600), ("lapsed", 1), ("sold-and-lapsed", 3)];

/// The end of a call that is answered 200 and changes nothing.
const DONE: &str = "";

/// What a call on a reservation comes to: its name, the verb, the body, and the code or [`DONE`].
const ANSWERED: [(&str, &str, &str, &str); 50] = [
    ("held", "return", "", "reservation_not_confirmed"),
    ("held", "return", r#"{"quantity":1}"#, "reservation_not_confirmed"),
    ("held", "confirm", r#"{"quantity":4}"#, "invalid_quantity"),
    ("held", "release", r#"{"quantity":4}"#, "invalid_quantity"),
    ("held", "extend", r#"{"hold_seconds":3601}"#, "out_of_range"),
    ("held", "extend", r#"{"hold_seconds":31536001}"#, "out_of_range"),
    ("in-part", "confirm", r#"{"quantity":3}"#, "invalid_quantity"),
    ("in-part", "release", r#"{"quantity":3}"#, "invalid_quantity"),
    ("in-part", "return", r#"{"quantity":3}"#, "invalid_quantity"),
    ("sold", "confirm", "", DONE),
    ("sold", "confirm", "{}", DONE),
    ("sold", "release", "", "reservation_confirmed"),
    ("sold", "return", r#"{"quantity":3}"#, "invalid_quantity"),
    ("sold", "extend", r#"{"hold_seconds":60}"#, "reservation_confirmed"),
    ("sold-with-a-rest", "confirm", "", DONE),
    ("sold-with-a-rest", "release", "", "reservation_confirmed"),
    ("sold-with-a-rest", "extend", r#"{"hold_seconds":60}"#, "reservation_confirmed"),
    ("released", "confirm", "", "reservation_released"),
    ("released", "release", "", DONE),
    ("released", "return", "", "reservation_not_confirmed"),
    ("released", "extend", r#"{"hold_seconds":60}"#, "reservation_released"),
    ("returned", "confirm", "", "reservation_returned"),
    ("returned", "release", "", "reservation_returned"),
    ("returned", "return", "", DONE),
    ("returned", "return", r#"{"quantity":1}"#, "invalid_quantity"),
    ("returned", "extend", r#"{"hold_seconds":60}"#, "reservation_returned"),
    ("returned-in-part", "confirm", "", DONE),
    ("returned-in-part", "release", "", "reservation_confirmed"),
    ("returned-in-part", "return", r#"{"quantity":4}"#, "invalid_quantity"),
    ("returned-in-part", "extend", r#"{"hold_seconds":60}"#, "reservation_confirmed"),
    ("returned-then-released", "confirm", "", "reservation_released"),
    ("returned-then-released", "release", "", "reservation_returned"),
    ("returned-then-released", "return", "", DONE),
    ("returned-then-released", "extend", r#"{"hold_seconds":60}"#, "reservation_released"),
    ("released-then-returned", "confirm", "", "reservation_returned"),
    ("released-then-returned", "release", "", "reservation_returned"),
    ("released-then-returned", "return", "", DONE),
    ("released-then-returned", "extend", r#"{"hold_seconds":60}"#, "reservation_returned"),
    ("extended", "extend", r#"{"hold_seconds":3601}"#, "out_of_range"),
    ("extended", "return", "", "reservation_not_confirmed"),
    ("sold-after-it-was-extended", "confirm", "", DONE),
    ("sold-after-it-was-extended", "release", "", "reservation_confirmed"),
    ("lapsed", "confirm", "", "reservation_expired"),
    ("lapsed", "confirm", r#"{"quantity":1}"#, "reservation_expired"),
    ("lapsed", "release", "", DONE),
    ("lapsed", "return", "", "reservation_not_confirmed"),
    ("lapsed", "extend", r#"{"hold_seconds":60}"#, "reservation_expired"),
    ("sold-and-lapsed", "confirm", "", DONE),
    ("sold-and-lapsed", "release", "", "reservation_confirmed"),
    ("sold-and-lapsed", "extend", r#"{"hold_seconds":60}"#, "reservation_confirmed"),
];

/// What was seen before any restart.
struct World {
    kept: BTreeMap<&'static str, Value>,
    /// Of the newest grant of `shop`.
    sequence: u64,
    /// Counts of `shop` after everything in the table, which each phase's own work leaves as they are.
    sku_counts: Value,
}

fn build(node: &mut Node) -> World {
    node.call("PUT", "/v1/stocks/shop", &[], r#"{"quantity":100}"#).done(201);
    let mut sequence = 0;
    for made in &MADE {
        let reserved = node.reserve(made.name, "shop", "", made.body);
        let asked: Value = serde_json::from_str(made.body).expect("the table is JSON");
        assert_eq!((&reserved["user"], &reserved["reference"]), (&asked["user"], &asked["reference"]));
        assert_eq!((text(&reserved, "sku").as_str(), text(&reserved, "state").as_str()), ("shop", "reserved"));
        assert_eq!(reservation_counts(&reserved), [made.counts[0], made.counts[0], 0, 0, 0]);
        assert!(number(&reserved, "sequence") > sequence, "{reserved}");
        sequence = number(&reserved, "sequence");
        for (verb, body) in made.calls {
            node.act(made.name, verb, "", body).done(200);
        }
    }
    // They are due, and nobody asks for them until the clock has taken them back.
    wait_until("holds to lapse", || number(&node.stock("shop"), "reserved") == 3 + 2 + 1);
    let kept: BTreeMap<_, _> = MADE.iter().map(|made| (made.name, node.reservation(made.name))).collect();
    for (name, seconds) in HOLDS {
        let reservation = &kept[name];
        assert_eq!(ms(reservation, "expires_at") - ms(reservation, "reserved_at"), seconds * 1_000, "{reservation}");
    }
    for (name, seconds) in [("extended", 3_000), ("sold-after-it-was-extended", 60)] {
        let reservation = &kept[name];
        assert!(ms(reservation, "expires_at") - ms(reservation, "reserved_at") >= seconds * 1_000, "{reservation}");
    }
    build_for_phases(node);
    World { kept, sequence, sku_counts: without_place(node) }
}

fn without_place(node: &Node) -> Value {
    super::node::without_place(node.stock("shop"))
}

/// Reservations that one phase each does something with.
fn build_for_phases(node: &mut Node) {
    node.call("PUT", "/v1/stocks/work", &[], r#"{"quantity":1000}"#).done(201);
    node.call("PUT", "/v1/stocks/limited", &[], r#"{"quantity":1000,"per_user_limit":3}"#).done(201);
    for (name, body) in [
        ("holds", r#"{"user":"holds","quantity":3}"#),
        ("buys", r#"{"user":"buys","quantity":3}"#),
        ("mixed", r#"{"user":"mixed","quantity":2}"#),
    ] {
        node.reserve(name, "limited", "", body);
    }
    node.act("buys", "confirm", "", "").done(200);
    node.act("mixed", "confirm", "", r#"{"quantity":1}"#).done(200);
    node.reserve("mixed-too", "limited", "", r#"{"user":"mixed"}"#);
    for phase in Phase::ALL.map(Phase::name) {
        for verb in ["confirm", "release", "return", "extend", "batch-confirm", "batch-release", "batch-return", "batch-extend"] {
            let name = format!("{verb}-{phase}");
            node.reserve(&name, "work", "", &format!(r#"{{"user":"{name}","quantity":3}}"#));
            if verb.ends_with("return") {
                node.act(&name, "confirm", "", "").done(200);
            }
        }
        for (user, is_sold) in [("gives", false), ("refunds", true)] {
            let name = format!("{user}-{phase}");
            node.reserve(&name, "limited", "", &format!(r#"{{"user":"{name}","quantity":3}}"#));
            if is_sold {
                node.act(&name, "confirm", "", "").done(200);
            }
        }
    }
}

#[track_caller]
fn expect_as_made(node: &Node, world: &World) {
    for made in &MADE {
        let reservation = node.reservation(made.name);
        assert_eq!(reservation, world.kept[made.name], "{}", made.name);
        assert_eq!((reservation_counts(&reservation), text(&reservation, "state").as_str()), (made.counts, made.state));
        assert_eq!(reservation["resolved_at"].is_null(), made.counts[1] > 0, "{reservation}");
    }
    assert_eq!(without_place(node), world.sku_counts);
}

#[test]
fn every_reservation_is_what_it_was_and_answers_as_it_did() {
    through_restarts(&[], build, |node, world, phase| {
        expect_as_made(node, world);
        for (name, verb, body, code) in ANSWERED {
            let answer = node.act(name, verb, "", body);
            if code == DONE {
                assert_eq!(answer.done(200), world.kept[name], "{verb} of {name}");
            } else {
                answer.refused(code);
            }
        }
        expect_as_made(node, world);
        act(node, phase.name());
        expect_limits(node, phase.name());
        run_batches(node, phase.name());
        // The order of grants goes on behind those from before. What this takes comes back.
        let next = node.reserve(&format!("next-{}", phase.name()), "shop", "", r#"{"user":"gus"}"#);
        assert!(number(&next, "sequence") > world.sequence, "{next}");
        world.sequence = number(&next, "sequence");
        node.act(&format!("next-{}", phase.name()), "release", "", "").done(200);
        expect_as_made(node, world);
    });
}

/// Checks that a call comes to a change that reads show too.
#[track_caller]
fn expect_change(node: &Node, name: &str, verb: &str, body: &str, counts: [u64; 5], state: &str) {
    let changed = node.act(name, verb, "", body).done(200);
    assert_eq!((reservation_counts(&changed), text(&changed, "state").as_str()), (counts, state), "{changed}");
    assert_eq!(node.reservation(name), changed);
}

/// Every verb on a reservation from before.
fn act(node: &mut Node, phase: &str) {
    let name = format!("confirm-{phase}");
    expect_change(node, &name, "confirm", r#"{"quantity":1}"#, [3, 2, 1, 0, 0], "reserved");
    expect_change(node, &name, "confirm", "", [3, 0, 3, 0, 0], "confirmed");
    node.act(&name, "release", "", "").refused("reservation_confirmed");

    let name = format!("release-{phase}");
    expect_change(node, &name, "release", r#"{"quantity":1}"#, [3, 2, 0, 1, 0], "reserved");
    expect_change(node, &name, "release", "", [3, 0, 0, 3, 0], "released");
    node.act(&name, "confirm", "", "").refused("reservation_released");

    let name = format!("return-{phase}");
    expect_change(node, &name, "return", r#"{"quantity":1}"#, [3, 0, 2, 0, 1], "confirmed");
    node.act(&name, "return", "", r#"{"quantity":3}"#).refused("invalid_quantity");
    expect_change(node, &name, "return", "", [3, 0, 0, 0, 3], "returned");
    node.act(&name, "confirm", "", "").refused("reservation_returned");

    let name = format!("extend-{phase}");
    node.act(&name, "extend", "", r#"{"hold_seconds":3601}"#).refused("out_of_range");
    for hold in [3_000, 30] {
        let before = node.now_ms();
        let extended = node.act(&name, "extend", "", &format!(r#"{{"hold_seconds":{hold}}}"#)).done(200);
        let counted_from = ms(&extended, "expires_at") - hold * 1_000;
        assert!((before..=node.now_ms()).contains(&counted_from), "{extended} at {before}");
        assert_eq!(node.reservation(&name), extended);
    }
    expect_change(node, &name, "confirm", "", [3, 0, 3, 0, 0], "confirmed");
    node.act(&name, "extend", "", r#"{"hold_seconds":60}"#).refused("reservation_confirmed");

    let new = node.reserve(&format!("new-{phase}"), "work", "", r#"{"user":"new","quantity":2,"hold_seconds":90,"reference":"r"}"#);
    assert_eq!((reservation_counts(&new), text(&new, "reference").as_str()), ([2, 2, 0, 0, 0], "r"));
    assert_eq!(ms(&new, "expires_at") - ms(&new, "reserved_at"), 90_000);
    assert_eq!(node.reservation(&format!("new-{phase}")), new);
}

/// Units from before count, held and sold, and no longer once they were given back.
fn expect_limits(node: &Node, phase: &str) {
    let reserve = |user: &str, quantity: u32| {
        node.post("/v1/stocks/limited/reservations", "", &format!(r#"{{"user":"{user}","quantity":{quantity}}}"#))
    };
    for user in ["holds", "buys", "mixed"] {
        reserve(user, 1).refused("limit_reached");
    }
    for (user, verb) in [("gives", "release"), ("refunds", "return")] {
        let name = format!("{user}-{phase}");
        reserve(&name, 1).refused("limit_reached");
        node.act(&name, verb, "", r#"{"quantity":2}"#).done(200);
        reserve(&name, 3).refused("limit_reached");
        reserve(&name, 2).done(201);
        reserve(&name, 1).refused("limit_reached");
    }
    reserve(&format!("somebody-{phase}"), 3).done(201);
    reserve(&format!("somebody-{phase}"), 1).refused("limit_reached");
}

/// Batches in both forms, on reservations from before: each command stands alone.
fn run_batches(node: &mut Node, phase: &str) {
    let id = |verb: &str| node.id(&format!("batch-{verb}-{phase}"));
    let commands = [
        json!({"op": "reserve", "sku": "work", "user": "many", "quantity": 2, "hold_seconds": 120, "reference": "b"}),
        json!({"op": "confirm", "id": id("confirm"), "quantity": 1}),
        json!({"op": "release", "id": id("release"), "quantity": 1}),
        json!({"op": "return", "id": id("return"), "quantity": 1}),
        json!({"op": "extend", "id": id("extend"), "hold_seconds": 1000}),
        json!({"op": "confirm", "id": node.id("released")}),
        json!({"op": "reserve", "sku": "nothing", "user": "many"}),
        json!({"op": "extend", "id": id("extend"), "hold_seconds": 3601}),
        json!({"op": "return", "id": node.id("sold"), "quantity": 3}),
    ];
    let expected = [
        (201, Ok([2, 2, 0, 0, 0])),
        (200, Ok([3, 2, 1, 0, 0])),
        (200, Ok([3, 2, 0, 1, 0])),
        (200, Ok([3, 0, 2, 0, 1])),
        (200, Ok([3, 3, 0, 0, 0])),
        (409, Err("reservation_released")),
        (404, Err("unknown_sku")),
        (422, Err("out_of_range")),
        (422, Err("invalid_quantity")),
    ];
    let body = json!({ "commands": commands }).to_string();
    let results = node.post("/v1/batch", "", &body).done(200);
    let results = results["results"].as_array().expect("results are a list").clone();
    expect_results(node, &results, &expected);

    let lines: Vec<String> = commands[1..].iter().map(Value::to_string).collect();
    let fields = [("content-type", "application/x-ndjson")];
    let answer = node.call("POST", "/v1/batch", &fields, &format!("{}\n{{\n", lines.join("\n"))).response;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")), "{answer:?}");
    let results: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let expected = [
        (200, Ok([3, 1, 2, 0, 0])),
        (200, Ok([3, 1, 0, 2, 0])),
        (200, Ok([3, 0, 1, 0, 2])),
        (200, Ok([3, 3, 0, 0, 0])),
        (409, Err("reservation_released")),
        (404, Err("unknown_sku")),
        (422, Err("out_of_range")),
        (422, Err("invalid_quantity")),
        (400, Err("invalid_request")),
    ];
    expect_results(node, &results, &expected);
}

#[track_caller]
fn expect_results(node: &Node, results: &[Value], expected: &[(u64, Result<[u64; 5], &str>)]) {
    assert_eq!(results.len(), expected.len(), "{results:?}");
    for (result, (status, expected)) in results.iter().zip(expected) {
        assert_eq!((number(result, "status"), &result["replayed"]), (*status, &Value::Null), "{result}");
        match expected {
            Ok(counts) => {
                let reservation = &result["reservation"];
                assert_eq!(reservation_counts(reservation), *counts, "{result}");
                assert_eq!(node.get(&format!("/v1/reservations/{}", text(reservation, "id"))), *reservation);
            }
            Err(code) => assert_eq!(text(result, "code"), *code, "{result}"),
        }
    }
}

#[test]
fn an_id_that_another_node_made_is_unknown() {
    let other = Node::start(&[]);
    let reserve = |node: &Node| {
        node.call("PUT", "/v1/stocks/shop", &[], r#"{"quantity":5}"#).done(201);
        text(&node.post("/v1/stocks/shop/reservations", "", r#"{"user":"u"}"#).done(201), "id")
    };
    let forged = reserve(&other);
    through_restarts(
        &[],
        |node| reserve(node),
        |node, id, _| {
            assert_ne!(*id, forged, "the two nodes have one secret");
            let mut changed = id.clone();
            let last = if changed.pop() == Some('A') { 'B' } else { 'A' };
            changed.push(last);
            assert!(id.len() <= 64, "{id}");
            for unknown in [&forged, &changed] {
                let path = format!("/v1/reservations/{unknown}");
                node.call("GET", &path, &[], "").refused("unknown_reservation");
                for verb in ["confirm", "release", "return"] {
                    node.post(&format!("{path}/{verb}"), "", "").refused("unknown_reservation");
                }
                node.post(&format!("{path}/extend"), "", r#"{"hold_seconds":60}"#).refused("unknown_reservation");
            }
            assert_eq!(node.get(&format!("/v1/reservations/{id}"))["state"], "reserved");
        },
    );
    other.finish();
}
