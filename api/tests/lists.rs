//! Lists in pages, and the parameters that ask for them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::Value;
use support::*;

const RESERVATIONS: &str = "/v1/stocks/s/reservations";

fn names(page: &[Value], field: &str) -> Vec<String> {
    page.iter().map(|entry| entry[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn stocks_are_listed_by_sku() {
    let (node, _machine) = node().await;
    let empty = node.get("/v1/stocks").await;
    assert_eq!((empty.status, empty.json()), (200, serde_json::json!({"stocks": [], "next_cursor": null})));
    for sku in ["b", "a", "B", "a.1", "~", "9"] {
        node.put(&format!("/v1/stocks/{sku}"), r#"{"quantity":1}"#).await;
    }
    let list = node.get("/v1/stocks").await;
    assert_eq!(list.header("cache-control"), Some("no-store"));
    let list = list.json();
    assert_eq!(names(list["stocks"].as_array().unwrap(), "sku"), ["9", "B", "a", "a.1", "b", "~"]);
    assert_eq!(list["next_cursor"], Value::Null);
    let a = node.get("/v1/stocks/a").await.json();
    assert_eq!(list["stocks"][2], a);
}

#[tokio::test]
async fn stocks_come_in_pages_that_neither_miss_nor_repeat_one() {
    let (node, _machine) = node().await;
    for number in 0..25 {
        node.put(&format!("/v1/stocks/s{number:02}"), r#"{"quantity":1}"#).await;
    }
    for (limit, sizes) in [(1, vec![1; 25]), (5, vec![5; 5]), (10, vec![10, 10, 5]), (25, vec![25]), (1_000, vec![25])] {
        let pages = node.pages(&format!("/v1/stocks?limit={limit}"), "stocks").await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{limit}");
        let all: Vec<String> = (0..25).map(|number| format!("s{number:02}")).collect();
        assert_eq!(names(&pages.concat(), "sku"), all, "{limit}");
    }
    // A stock that is opened behind the cursor is in the next page.
    let first = node.get("/v1/stocks?limit=10").await.text("next_cursor");
    node.put("/v1/stocks/s095", r#"{"quantity":1}"#).await;
    let second = node.get(&format!("/v1/stocks?cursor={first}&limit=1")).await.json();
    assert_eq!(second["stocks"][0]["sku"], "s095");
}

#[tokio::test]
async fn a_page_has_a_hundred_entries_where_nothing_else_is_asked_for() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":200}"#).await;
    for number in 0..101 {
        assert_eq!(node.post(RESERVATIONS, &format!(r#"{{"user":"u{number}"}}"#)).await.status, 201);
    }
    let page = node.get(RESERVATIONS).await.json();
    assert_eq!(page["reservations"].as_array().unwrap().len(), 100);
    assert!(page["next_cursor"].is_string());
    node.expect_conserved("s").await;
}

/// A stock `s` with eight reservations: the odd ones of `odd`, the others of `even`; the third confirmed, the fourth released, the fifth
/// returned, the others held.
async fn shelf(node: &Node) -> Vec<String> {
    node.put("/v1/stocks/s", r#"{"quantity":100}"#).await;
    let mut ids = Vec::new();
    for number in 1..=8 {
        let user = if number % 2 == 1 { "odd" } else { "even" };
        let id = node.post(RESERVATIONS, &format!(r#"{{"user":"{user}","reference":"r{number}"}}"#)).await.text("id");
        ids.push(id);
    }
    for (number, verbs) in [(3, &["confirm"][..]), (4, &["release"]), (5, &["confirm", "return"])] {
        for verb in verbs {
            assert_eq!(node.post(&format!("/v1/reservations/{}/{verb}", ids[number - 1]), "").await.status, 200);
        }
    }
    ids
}

#[tokio::test]
async fn reservations_are_listed_newest_first_by_user_and_state() {
    let (node, machine) = node().await;
    let ids = shelf(&node).await;
    let list = async |query: &str| {
        let list = node.get(&format!("{RESERVATIONS}{query}")).await.json();
        names(list["reservations"].as_array().unwrap(), "reference")
    };
    assert_eq!(list("").await, ["r8", "r7", "r6", "r5", "r4", "r3", "r2", "r1"]);
    assert_eq!(list("?user=odd").await, ["r7", "r5", "r3", "r1"]);
    assert_eq!(list("?user=even").await, ["r8", "r6", "r4", "r2"]);
    assert_eq!(list("?user=nobody").await, [""; 0]);
    assert_eq!(list("?state=reserved").await, ["r8", "r7", "r6", "r2", "r1"]);
    assert_eq!(list("?state=confirmed").await, ["r3"]);
    assert_eq!(list("?state=released").await, ["r4"]);
    assert_eq!(list("?state=returned").await, ["r5"]);
    assert_eq!(list("?state=expired").await, [""; 0]);
    assert_eq!(list("?user=odd&state=reserved").await, ["r7", "r1"]);
    assert_eq!(list("?state=confirmed&user=even").await, [""; 0]);
    let first = node.get(&format!("{RESERVATIONS}?limit=1")).await.json();
    assert_eq!(first["reservations"][0], node.get(&format!("/v1/reservations/{}", ids[7])).await.json());
    node.expect_conserved("s").await;
    // A tick of the clock must have passed before what is due in it lapses by itself.
    machine.clock.set(START.plus_seconds(601));
    node.post(RESERVATIONS, r#"{"user":"late"}"#).await;
    let lapsed = tokio::time::timeout(PATIENCE, async { while list("?state=expired").await.len() < 5 {} });
    lapsed.await.expect("what is due should lapse");
    assert_eq!(list("?state=expired").await, ["r8", "r7", "r6", "r2", "r1"]);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn reservations_come_in_pages_that_neither_miss_nor_repeat_one() {
    let (node, _machine) = node().await;
    shelf(&node).await;
    for limit in 1..=9 {
        let pages = node.pages(&format!("{RESERVATIONS}?limit={limit}"), "reservations").await;
        assert!(pages.iter().all(|page| page.len() <= limit), "{limit}");
        assert_eq!(names(&pages.concat(), "reference"), ["r8", "r7", "r6", "r5", "r4", "r3", "r2", "r1"], "{limit}");
        let pages = node.pages(&format!("{RESERVATIONS}?state=reserved&limit={limit}&user=odd"), "reservations").await;
        assert_eq!(names(&pages.concat(), "reference"), ["r7", "r1"], "{limit}");
    }
    // What is granted after a page was read is not in the next.
    let cursor = node.get(&format!("{RESERVATIONS}?limit=2")).await.text("next_cursor");
    node.post(RESERVATIONS, r#"{"user":"odd","reference":"r9"}"#).await;
    let next = node.get(&format!("{RESERVATIONS}?limit=2&cursor={cursor}")).await.json();
    assert_eq!(names(next["reservations"].as_array().unwrap(), "reference"), ["r6", "r5"]);
}

#[tokio::test]
async fn a_cursor_is_good_for_the_list_that_it_came_from_alone() {
    let (node, _machine) = node().await;
    shelf(&node).await;
    node.put("/v1/stocks/t", r#"{"quantity":1}"#).await;
    let of_stocks = node.get("/v1/stocks?limit=1").await.text("next_cursor");
    let of_all = node.get(&format!("{RESERVATIONS}?limit=1")).await.text("next_cursor");
    let of_odd = node.get(&format!("{RESERVATIONS}?limit=1&user=odd")).await.text("next_cursor");
    let of_state = node.get(&format!("{RESERVATIONS}?limit=1&state=reserved")).await.text("next_cursor");
    let mut cut = of_all.clone();
    cut.pop();
    for path in [
        format!("/v1/stocks?cursor={of_all}"),
        "/v1/stocks?cursor=".to_owned(),
        "/v1/stocks?cursor=!".to_owned(),
        "/v1/stocks?cursor=AAAA".to_owned(),
        format!("{RESERVATIONS}?cursor={of_stocks}"),
        format!("{RESERVATIONS}?cursor={of_odd}"),
        format!("{RESERVATIONS}?cursor={of_state}"),
        format!("{RESERVATIONS}?cursor={cut}"),
        format!("{RESERVATIONS}?user=odd&cursor={of_all}"),
        format!("{RESERVATIONS}?user=even&cursor={of_odd}"),
        format!("{RESERVATIONS}?state=released&cursor={of_state}"),
        format!("/v1/stocks/t/reservations?cursor={of_all}"),
    ] {
        node.get(&path).await.expect_problem(400, "invalid_request", "`cursor`");
    }
    // The limit is no part of the list.
    assert_eq!(
        node.get(&format!("{RESERVATIONS}?cursor={of_all}&limit=7")).await.json()["reservations"].as_array().unwrap().len(),
        7
    );
}

#[tokio::test]
async fn parameters_are_checked_and_named() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":1}"#).await;
    for list in ["/v1/stocks", RESERVATIONS] {
        for limit in ["0", "1001", "-1", "1.5", "x", "", "+5", "99999999999999999999999", "%31%30%30%31"] {
            node.get(&format!("{list}?limit={limit}")).await.expect_problem(400, "invalid_request", "`limit` is");
        }
        node.get(&format!("{list}?limit=1&limit=2")).await.expect_problem(
            400,
            "invalid_request",
            "`limit` is there more than once",
        );
        node.get(&format!("{list}?page=2")).await.expect_problem(400, "invalid_request", "`page`");
        node.get(&format!("{list}?Limit=2")).await.expect_problem(400, "invalid_request", "`Limit`");
        for limit in ["1", "1000", "007", "%31"] {
            assert_eq!(node.get(&format!("{list}?limit={limit}")).await.status, 200, "{limit}");
        }
        assert_eq!(node.get(&format!("{list}?")).await.status, 200);
    }
    node.get("/v1/stocks?user=u").await.expect_problem(400, "invalid_request", "`user`");
    for state in ["open", "Reserved", "", "reserved,confirmed"] {
        node.get(&format!("{RESERVATIONS}?state={state}")).await.expect_problem(400, "invalid_request", "`state` is");
    }
    for user in ["", "a%20b", "a+b", "%ff", "%C3%A9", &"x".repeat(129)] {
        node.get(&format!("{RESERVATIONS}?user={user}")).await.expect_problem(422, "invalid_identifier", "user");
    }
    node.get("/v1/stocks/none/reservations").await.expect_problem(404, "unknown_sku", "sku");
    node.get("/v1/stocks/a%20b/reservations").await.expect_problem(422, "invalid_identifier", "sku");
    assert_eq!(node.get(&format!("{RESERVATIONS}?user=u%3A1")).await.status, 200);
}

#[tokio::test]
async fn a_call_that_takes_no_parameters_says_so_and_a_probe_does_not_mind() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":1}"#).await;
    let path = node.post(RESERVATIONS, r#"{"user":"u"}"#).await.header("location").unwrap().to_owned();
    node.post(&format!("{path}/confirm?quantity=1"), "").await.expect_problem(400, "invalid_request", "`quantity`");
    node.get("/v1/stocks/s?fields=sku").await.expect_problem(400, "invalid_request", "`fields`");
    node.post(&format!("{RESERVATIONS}?limit=1"), r#"{"user":"u"}"#).await.expect_problem(400, "invalid_request", "`limit`");
    assert_eq!(node.get(&path).await.text("state"), "reserved");
    for probe in ["/livez?x=1", "/readyz?verbose", "/metrics?name=a&name=b", "/v1/time?now", "/openapi.json?v=3", "/docs?x"] {
        assert_eq!(node.get(probe).await.status, 200, "{probe}");
    }
}
