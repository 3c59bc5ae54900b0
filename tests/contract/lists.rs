//! Lists in pages: what they show and where a cursor from before a restart goes on.

use serde_json::Value;

use super::node::{Node, Phase, text, through_restarts, wait_until};

/// A reservation of the stock `listed`: its name, its user, and the calls that follow. Each has one unit.
const RESERVATIONS: [(&str, &str, &[&str]); 10] = [
    ("r1", "ada", &[]),
    ("r2", "bob", &["confirm"]),
    ("r3", "ada", &["release"]),
    ("r4", "bob", &["confirm", "return"]),
    ("r5", "ada", &["confirm"]),
    ("r6", "ada", &[]),
    ("r7", "bob", &["confirm"]),
    ("r8", "ada", &["release"]),
    ("r9", "ada", &["confirm"]),
    // It lapses.
    ("r10", "cyd", &["extend"]),
];

/// What is asked for, and what is shown: newest first.
const SHOWN: [(&str, &[&str]); 10] = [
    ("", &["r10", "r9", "r8", "r7", "r6", "r5", "r4", "r3", "r2", "r1"]),
    ("user=ada", &["r9", "r8", "r6", "r5", "r3", "r1"]),
    ("user=bob", &["r7", "r4", "r2"]),
    ("user=cyd", &["r10"]),
    ("user=dan", &[]),
    ("state=reserved", &["r6", "r1"]),
    ("state=confirmed", &["r9", "r7", "r5", "r2"]),
    ("state=returned", &["r4"]),
    ("state=expired", &["r10"]),
    ("user=ada&state=released", &["r8", "r3"]),
];

/// Stocks, by sku.
const SKUS: [&str; 7] = ["A-1", "B_2", "a.1", "b:2", "b~", "listed", "other"];

/// A cursor, and what is behind it.
type Place = (String, &'static [&'static str]);

/// What was seen before any restart.
struct World {
    /// For each list of reservations its query, and its places.
    reservations: Vec<(&'static str, Vec<Place>)>,
    stocks: Vec<(String, usize)>,
}

fn path(query: &str, limit: usize) -> String {
    let and = if query.is_empty() { "" } else { "&" };
    format!("/v1/stocks/listed/reservations?limit={limit}{and}{query}")
}

#[track_caller]
fn expect_reservations(node: &Node, listed: &[Value], names: &[&str]) {
    let expected: Vec<Value> = names.iter().map(|name| node.reservation(name)).collect();
    assert_eq!(listed, expected, "{names:?}");
}

fn build(node: &mut Node) -> World {
    for sku in SKUS {
        node.call("PUT", &format!("/v1/stocks/{sku}"), &[], r#"{"quantity":20}"#).done(201);
    }
    for (name, user, calls) in RESERVATIONS {
        node.reserve(name, "listed", "", &format!(r#"{{"user":"{user}"}}"#));
        for call in calls {
            node.act(name, call, "", if *call == "extend" { r#"{"hold_seconds":1}"# } else { "" }).done(200);
        }
    }
    wait_until("a hold to lapse", || node.stock("listed")["reserved"] == 2);
    let reservations = SHOWN.map(|(query, names)| {
        let (mut places, mut seen, mut cursor) = (Vec::new(), 0, None);
        loop {
            let (page, next) = node.page(&path(query, 2), "reservations", cursor.as_deref());
            seen += page.len();
            let Some(next) = next else { break };
            places.push((next.clone(), &names[seen..]));
            cursor = Some(next);
        }
        assert_eq!(seen, names.len(), "{query}");
        (query, places)
    });
    let (mut stocks, mut seen, mut cursor) = (Vec::new(), 0, None);
    while let (page, Some(next)) = node.page("/v1/stocks?limit=2", "stocks", cursor.as_deref()) {
        seen += page.len();
        stocks.push((next.clone(), seen));
        cursor = Some(next);
    }
    assert_eq!(stocks.len(), 3, "seven stocks are four pages");
    World { reservations: reservations.into(), stocks }
}

#[test]
fn lists_show_the_same_and_cursors_go_on() {
    through_restarts(&[], build, |node, world, phase| {
        for (query, names) in SHOWN {
            for limit in [1, 4, 1_000] {
                let listed = node.list(&path(query, limit), "reservations", None);
                expect_reservations(node, &listed[listed.len() - names.len()..], names);
                // What came since stands in front.
                let newer = |phase: &Phase| listed.iter().any(|one| one["user"] == phase.name());
                let is_wide = query.is_empty() || query == "state=reserved";
                let before = Phase::ALL.iter().take_while(|other| **other != phase);
                assert!(before.clone().all(|other| newer(other) == is_wide), "{query}: {listed:?}");
                assert_eq!(listed.len(), names.len() + if is_wide { before.count() } else { 0 }, "{query}");
            }
        }
        for (query, places) in &world.reservations {
            for (cursor, behind) in places {
                let listed = node.list(&path(query, 3), "reservations", Some(cursor));
                expect_reservations(node, &listed, behind);
            }
        }
        expect_stocks(node, world);
        // A cursor is good for its own list alone.
        let (cursor, _) = &world.reservations[0].1[0];
        node.call("GET", &format!("{}&cursor={cursor}", path("user=ada", 2)), &[], "").refused("invalid_request");
        node.call("GET", "/v1/stocks/nothing/reservations", &[], "").refused("unknown_sku");
        node.reserve(phase.name(), "listed", "", &format!(r#"{{"user":"{}"}}"#, phase.name()));
    });
}

fn expect_stocks(node: &Node, world: &World) {
    let skus = |stocks: Vec<Value>| {
        let skus = stocks.iter().map(|stock| text(stock, "sku")).filter(|sku| !sku.starts_with("zz"));
        skus.collect::<Vec<_>>()
    };
    for limit in [1, 3, 1_000] {
        assert_eq!(skus(node.list(&format!("/v1/stocks?limit={limit}"), "stocks", None)), SKUS);
    }
    for stock in node.list("/v1/stocks", "stocks", None) {
        assert_eq!(node.stock(&text(&stock, "sku")), stock);
    }
    for (cursor, seen) in &world.stocks {
        assert_eq!(skus(node.list("/v1/stocks?limit=3", "stocks", Some(cursor))), SKUS[*seen..]);
    }
}
