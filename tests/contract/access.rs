//! Who may do what with which key, who is named as having done it, and which node that was: the same after restarts.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::run;

use super::node::{Node, number, text, through_restarts_of};

/// A key for each role, by the role's word.
const ROLES: [&str; 4] = ["read", "frontend", "operator", "admin"];

/// A call, its body, and the roles that may make it.
const CALLS: [(&str, &str, &str, &[&str]); 21] = [
    ("GET", "/v1/stocks/kept", "", &ROLES),
    ("GET", "/v1/stocks", "", &ROLES),
    ("GET", "/v1/stocks/kept/reservations", "", &ROLES),
    ("GET", "/v1/reservations/{id}", "", &ROLES),
    ("GET", "/v1/events", "", &ROLES),
    ("GET", "/v1/cluster", "", &ROLES),
    ("GET", "/metrics", "", &ROLES),
    ("PUT", "/v1/stocks/kept", r#"{"quantity":100}"#, &["operator", "admin"]),
    ("PATCH", "/v1/stocks/kept", "{}", &["operator", "admin"]),
    ("POST", "/v1/stocks/kept/adjustments", r#"{"delta":1,"reason":"x"}"#, &["operator", "admin"]),
    ("POST", "/v1/stocks/kept/pause", "", &["operator", "admin"]),
    ("POST", "/v1/stocks/kept/reopen", "", &["operator", "admin"]),
    ("POST", "/v1/stocks/closed/close", "", &["operator", "admin"]),
    ("POST", "/v1/stocks/closed/archive", "", &["operator", "admin"]),
    ("POST", "/v1/stocks/kept/reservations", r#"{"user":"u"}"#, &["frontend", "admin"]),
    ("POST", "/v1/reservations/{id}/extend", r#"{"hold_seconds":600}"#, &["frontend", "admin"]),
    ("POST", "/v1/reservations/{id}/confirm", r#"{"quantity":1}"#, &["frontend", "admin"]),
    ("POST", "/v1/reservations/{id}/release", r#"{"quantity":1}"#, &["frontend", "admin"]),
    ("POST", "/v1/reservations/{id}/return", r#"{"quantity":1}"#, &["frontend", "admin"]),
    ("POST", "/v1/batch", r#"{"commands":[{"op":"reserve","sku":"kept","user":"u"}]}"#, &["frontend", "admin"]),
    ("GET", "/v1/backup", "", &["admin"]),
];

/// What needs no key.
const OPEN: [&str; 5] = ["/livez", "/readyz", "/v1/time", "/openapi.json", "/docs"];

/// Keys by role, and what was seen before any restart.
struct World {
    keys: [String; 4],
    id: String,
    cluster: Value,
    events: Vec<Value>,
}

fn events(node: &Node) -> Vec<Value> {
    node.get("/v1/events?limit=1000")["events"].as_array().expect("a list").clone()
}

fn build(node: &mut Node, keys: [String; 4]) -> World {
    let [_, frontend, operator, admin] = &keys;
    for (sku, who) in [("kept", operator), ("closed", admin)] {
        node.call_as(Some(who), "PUT", &format!("/v1/stocks/{sku}"), &[], r#"{"quantity":100}"#).done(201);
    }
    let reserved = node.call_as(Some(frontend), "POST", "/v1/stocks/kept/reservations", &[], r#"{"user":"u","quantity":50}"#);
    let id = text(&reserved.done(201), "id");
    let events = events(node);
    let acted: Vec<_> = events.iter().map(|event| (text(event, "kind"), text(event, "actor"))).collect();
    let expected = [("stock_created", "the-operator"), ("stock_created", "the-admin"), ("reserved", "the-frontend")];
    assert_eq!(acted, expected.map(|(kind, actor)| (kind.to_owned(), actor.to_owned())));
    let cluster = node.get("/v1/cluster");
    World { keys, id, cluster, events }
}

#[test]
fn keys_roles_and_names_are_the_same() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (mut keys, mut entries) = (Vec::new(), String::new());
    for role in ROLES {
        let made = run(&["key", "new", "--name", &format!("the-{role}"), "--role", role]).expect(0, &[]).stdout;
        let (key, entry) = made.split_once("\n\n").expect("an empty line stands between the key and its entry");
        keys.push(key.to_owned());
        entries += entry;
    }
    let keys: [String; 4] = keys.try_into().expect("a key for each role");
    let file = folder.path().join("keys.toml");
    fs::write(&file, entries).expect("a temporary folder can be written");
    let setting = format!("auth.keys_file={}", file.to_str().expect("temporary paths are UTF-8"));
    let mut node = Node::start_on(folder, &[&setting, "node.shards=2"]);
    node.bearer = Some(keys[3].clone());
    through_restarts_of(
        node,
        |node| build(node, keys),
        |node, world, _| {
            expect_cluster(node, world);
            // Who did it is told of what happened before.
            assert_eq!(events(node)[..world.events.len()], world.events[..]);
            expect_roles(node, world);
            let newest = events(node).into_iter().rev().take(2).map(|event| text(&event, "actor"));
            assert_eq!(newest.collect::<Vec<_>>(), ["the-admin", "the-frontend"]);
            world.events = events(node);
        },
    );
}

fn expect_roles(node: &Node, world: &World) {
    for path in OPEN {
        assert_eq!(node.call_as(None, "GET", path, &[], "").response.status, 200, "{path}");
    }
    for (method, path, body, may) in CALLS {
        let path = path.replace("{id}", &world.id);
        for key in [None, Some("tg_never-given-to-anybody-0123456789"), Some("tg_")] {
            node.call_as(key, method, &path, &[], body).refused("unauthenticated");
        }
        for (role, key) in ROLES.iter().zip(&world.keys) {
            if !may.contains(role) {
                node.call_as(Some(key), method, &path, &[], body).refused("forbidden");
            } else if path != "/v1/backup" {
                // The test's snapshots are made by backups.
                let answer = node.call_as(Some(key), method, &path, &[], body);
                assert!(matches!(answer.response.status, 200 | 201), "{role}: {answer:?}");
            }
        }
    }
}

/// The same node leads the same shards, and has forgotten nothing.
fn expect_cluster(node: &Node, world: &mut World) {
    let cluster = node.get("/v1/cluster");
    assert_eq!((&cluster["node"], &cluster["nodes"]), (&world.cluster["node"], &world.cluster["nodes"]));
    let shards = |cluster: &Value| cluster["shards"].as_array().expect("a list").clone();
    assert_eq!(shards(&cluster).len(), 2, "{cluster}");
    for (now, before) in shards(&cluster).iter().zip(shards(&world.cluster)) {
        for field in ["shard", "leader", "term"] {
            assert_eq!(now[field], before[field], "{cluster}");
        }
        assert!(number(now, "committed") >= number(&before, "committed"), "{cluster} after {}", world.cluster);
    }
    world.cluster = cluster;
}
