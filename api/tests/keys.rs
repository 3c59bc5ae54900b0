//! Who is let in: keys, roles, and a keys file that changes while the door stands open.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use support::*;
use tempfile::TempDir;
use tidegate_api::{AccessOptions, BackupSource, Door, HttpOptions, KeyHash, key_name};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A key for each role, named after it; and what is none.
const KEYS: [(&str, &str); 4] = [
    ("read", "tg_reader-key-0123456789"),
    ("frontend", "tg_frontend-key-0123456789"),
    ("operator", "tg_operator-key-0123456789"),
    ("admin", "tg_admin-key-0123456789"),
];
const STRANGER: &str = "tg_nobodys-key-0123456789";

fn entry(name: &str, role: &str, key: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nroles = [\"{role}\"]\nsha256 = \"{}\"\n", KeyHash::of(key.as_bytes()))
}

fn entries() -> String {
    KEYS.iter().map(|(role, key)| entry(role, role, key)).collect()
}

/// A keys file in a folder of its own.
struct KeysFile {
    path: PathBuf,
    _folder: TempDir,
}

impl KeysFile {
    fn new(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keys.toml");
        fs::write(&path, text).unwrap();
        Self { path, _folder: folder }
    }

    fn options(&self) -> AccessOptions {
        AccessOptions { keys_file: Some(self.path.clone()), ..AccessOptions::default() }
    }

    /// Puts another file in its place, as careful people do.
    fn replace(&self, text: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }
}

async fn node_with_keys(text: &str) -> (Node, Machine, KeysFile) {
    let file = KeysFile::new(text);
    let (node, machine) = guarded_node(HttpOptions::default(), file.options()).await;
    (node, machine, file)
}

impl Node {
    async fn ask_with(&self, key: &str, method: &str, path: &str, body: &str) -> Reply {
        self.ask(method, path, &[("authorization", &format!("Bearer {key}"))], body).await
    }

    /// The value of a metric without labels, as the reader sees it.
    async fn metric(&self, name: &str) -> u64 {
        let page = String::from_utf8(self.ask_with(KEYS[0].1, "GET", "/metrics", "").await.body).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{page}"));
        value.parse().unwrap()
    }
}

/// Asks again until `holds` does.
async fn wait_until(holds: impl AsyncFn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("what the test waits for should come");
}

#[track_caller]
fn expect_unauthenticated(reply: &Reply, about: &str) {
    reply.expect_problem(401, "unauthenticated", about);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{reply:?}");
}

#[tokio::test]
async fn every_call_takes_exactly_the_roles_that_it_needs() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    let id = {
        assert_eq!(node.ask_with(KEYS[3].1, "PUT", "/v1/stocks/s", r#"{"quantity":100}"#).await.status, 201);
        node.ask_with(KEYS[3].1, "POST", "/v1/stocks/s/reservations", r#"{"user":"u"}"#).await.text("id")
    };
    let reservation = format!("/v1/reservations/{id}");
    let (confirm, release) = (format!("{reservation}/confirm"), format!("{reservation}/release"));
    let all = ["read", "frontend", "operator", "admin"];
    // A call, who may make it, and the status when they do.
    for (method, path, body, allowed, role, status) in [
        ("GET", "/v1/stocks/s", "", &all[..], "read", 200),
        ("HEAD", "/v1/stocks/s", "", &all, "read", 200),
        ("PUT", "/v1/stocks/s", r#"{"quantity":100}"#, &["operator", "admin"], "operator", 200),
        ("POST", "/v1/stocks/s/reservations", r#"{"user":"v"}"#, &["frontend", "admin"], "frontend", 201),
        ("GET", &reservation, "", &all, "read", 200),
        ("HEAD", &reservation, "", &all, "read", 200),
        ("POST", &confirm, "", &["frontend", "admin"], "frontend", 200),
        ("POST", &release, "", &["frontend", "admin"], "frontend", 409),
        ("GET", "/metrics", "", &all, "read", 200),
        ("HEAD", "/metrics", "", &all, "read", 200),
    ] {
        for (name, key) in KEYS {
            let reply = node.ask_with(key, method, path, body).await;
            if allowed.contains(&name) {
                assert_eq!(reply.status, status, "{name}: {method} {path}");
            } else {
                reply.expect_problem(403, "forbidden", &format!("{name} has not the role {role}"));
            }
        }
        if method == "HEAD" {
            assert_eq!(node.ask(method, path, &[], body).await.status, 401, "{path}");
        } else {
            expect_unauthenticated(&node.ask(method, path, &[], body).await, "Bearer KEY");
            expect_unauthenticated(&node.ask_with(STRANGER, method, path, body).await, "not known");
        }
    }
    // One unit for each of the two that may reserve, and the one that was confirmed above.
    let stock = node.ask_with(KEYS[0].1, "GET", "/v1/stocks/s", "").await.json();
    assert_eq!((&stock["reserved"], &stock["sold"], &stock["available"]), (&2.into(), &1.into(), &97.into()), "{stock}");
}

#[tokio::test]
async fn every_other_call_takes_exactly_the_roles_that_it_needs() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    let admin = KEYS[3].1;
    assert_eq!(node.ask_with(admin, "PUT", "/v1/stocks/s", r#"{"quantity":100}"#).await.status, 201);
    let id = node.ask_with(admin, "POST", "/v1/stocks/s/reservations", r#"{"user":"u"}"#).await.text("id");
    let (give_back, extend) = (format!("/v1/reservations/{id}/return"), format!("/v1/reservations/{id}/extend"));
    let batch = r#"{"commands":[{"op":"reserve","sku":"s","user":"b"}]}"#;
    // A call, who may make it, and the status when they do; nobody else changes anything.
    for (method, path, body, role, status) in [
        ("GET", "/v1/stocks", "", "read", 200),
        ("GET", "/v1/stocks/s/reservations", "", "read", 200),
        ("GET", "/v1/events", "", "read", 200),
        ("GET", "/v1/cluster", "", "read", 200),
        ("POST", &*extend, r#"{"hold_seconds":60}"#, "frontend", 200),
        ("POST", &give_back, "", "frontend", 409),
        ("POST", "/v1/batch", batch, "frontend", 200),
        ("PATCH", "/v1/stocks/s", "{}", "operator", 200),
        ("POST", "/v1/stocks/s/adjustments", r#"{"delta":1,"reason":"found"}"#, "operator", 200),
        ("POST", "/v1/stocks/s/pause", "", "operator", 200),
        ("POST", "/v1/stocks/s/reopen", "", "operator", 200),
        ("POST", "/v1/stocks/s/archive", "", "operator", 409),
        ("POST", "/v1/stocks/s/close", "", "operator", 200),
    ] {
        for (name, key) in KEYS {
            let reply = node.ask_with(key, method, path, body).await;
            if role == "read" || name == role || name == "admin" {
                assert_eq!(reply.status, status, "{name}: {method} {path} {reply:?}");
            } else {
                reply.expect_problem(403, "forbidden", &format!("{name} has not the role {role}"));
            }
        }
        expect_unauthenticated(&node.ask(method, path, &[], body).await, "Bearer KEY");
        expect_unauthenticated(&node.ask_with(STRANGER, method, path, body).await, "not known");
    }
    let stock = node.ask_with(KEYS[0].1, "GET", "/v1/stocks/s", "").await.json();
    // Two adjustments and two batches.
    assert_eq!((&stock["allotted"], &stock["reserved"], &stock["state"]), (&102.into(), &3.into(), &"closed".into()), "{stock}");
}

#[tokio::test]
async fn probes_and_the_time_need_no_key() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    for path in ["/livez", "/readyz", "/v1/time"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(node.ask(method, path, &[], "").await.status, 200, "{method} {path}");
        }
        assert_eq!(node.ask_with(STRANGER, "GET", path, "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_path_that_is_not_there_is_the_same_for_everybody() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    node.get("/v1/nothing").await.expect_problem(404, "not_found", "nothing");
    node.ask_with(KEYS[3].1, "GET", "/v1/nothing", "").await.expect_problem(404, "not_found", "nothing");
}

#[tokio::test]
async fn whoever_has_no_key_learns_nothing_of_what_is_behind_a_path() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    assert_eq!(node.ask_with(KEYS[2].1, "PUT", "/v1/stocks/there", r#"{"quantity":1}"#).await.status, 201);
    let body = async |method: &str, path: &str, body: &str| {
        let reply = node.ask(method, path, &[], body).await;
        expect_unauthenticated(&reply, "Bearer KEY");
        reply.body
    };
    let there = body("GET", "/v1/stocks/there", "").await;
    // What is not there, what is malformed, and what the path does not know, all look the same.
    assert_eq!(body("GET", "/v1/stocks/absent", "").await, there);
    assert_eq!(body("GET", "/v1/stocks/no%20identifier", "").await, there);
    assert_eq!(body("PUT", "/v1/stocks/there", "{").await, there);
    assert_eq!(body("DELETE", "/v1/stocks/there", "").await, there);
    assert_eq!(body("POST", "/v1/reservations/forged/confirm", "").await, there);
    // With any key, a method that the path does not know is told as such.
    node.ask_with(KEYS[0].1, "DELETE", "/v1/stocks/there", "").await.expect_problem(405, "method_not_allowed", "allow");
}

#[tokio::test]
async fn a_stopping_door_asks_for_the_key_first() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    node.door.begin_stop();
    expect_unauthenticated(&node.get("/v1/stocks/s").await, "Bearer KEY");
}

#[tokio::test]
async fn a_header_that_is_not_one_bearer_key_is_told_so() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    let good = format!("Bearer {}", KEYS[0].1);
    let ask = async |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        node.ask("GET", "/v1/stocks/none", &headers, "").await
    };
    let malformed = "not of the form Bearer KEY";
    for (values, about) in [
        (&[][..], "an API key is needed"),
        (&[""], malformed),
        (&["Bearer"], malformed),
        (&["Bearer "], malformed),
        (&[KEYS[0].1], malformed),
        (&[&*good.replace("Bearer", "Basic")], malformed),
        (&[&*good.replace("Bearer ", "Bearer\t")], malformed),
        (&[&*format!("{good} more")], malformed),
        (&[&*format!("{good}é")], malformed),
        (&[&*good, &*good], "more than once"),
        (&[&*good, "Bearer"], "more than once"),
        (&[&*format!("{good}x")], "not known"),
        (&[&good[..good.len() - 1]], "not known"),
        (&[&*good.to_uppercase()], "not known"),
        (&[&*format!("Bearer {}", "x".repeat(8_000))], "not known"),
    ] {
        expect_unauthenticated(&ask(values).await, about);
    }
    for value in [&*good, &good.replace("Bearer", "bearer"), &good.replace("Bearer", "BEARER"), &good.replace(' ', "   ")] {
        assert_eq!(ask(&[value]).await.status, 404, "{value}");
    }
}

#[tokio::test]
async fn a_request_that_is_not_let_in_leaves_its_connection_usable() {
    let (node, _machine, _file) = node_with_keys(&entries()).await;
    let mut client = node.client().await;
    let reserve = request("POST", "/v1/stocks/s/reservations", &[], r#"{"user":"u"}"#);
    client.send(reserve).await;
    expect_unauthenticated(&client.reply().await, "Bearer KEY");
    let headers = [("authorization", &*format!("Bearer {}", KEYS[0].1))];
    assert_eq!(client.ask("GET", "/v1/stocks/s", &headers, "").await.status, 404);
}

#[tokio::test]
async fn a_key_opens_until_the_moment_of_its_end() {
    let ended = entry("ended", "admin", "tg_ended-key") + "expires_at = 2026-01-01T00:00:00+01:00\n";
    let lasting = entry("lasting", "admin", "tg_lasting-key") + "expires_at = 9999-12-31T00:00:00Z\n";
    let (node, _machine, _file) = node_with_keys(&(ended + &lasting)).await;
    let reply = node.ask_with("tg_ended-key", "GET", "/v1/stocks/s", "").await;
    expect_unauthenticated(&reply, "ended expired at 2025-12-31T23:00:00.000Z");
    assert_eq!(node.ask_with("tg_lasting-key", "GET", "/v1/stocks/s", "").await.status, 404);
}

#[tokio::test]
async fn a_key_may_have_several_roles() {
    let both = entry("both", "frontend\", \"operator", "tg_both-key");
    let (node, _machine, _file) = node_with_keys(&both).await;
    assert_eq!(node.ask_with("tg_both-key", "PUT", "/v1/stocks/s", r#"{"quantity":1}"#).await.status, 201);
    assert_eq!(node.ask_with("tg_both-key", "POST", "/v1/stocks/s/reservations", r#"{"user":"u"}"#).await.status, 201);
}

#[tokio::test]
async fn metrics_may_be_shown_to_all_and_nothing_else_is() {
    let file = KeysFile::new(&entries());
    let access = AccessOptions { metrics_without_key: true, ..file.options() };
    let (node, _machine) = guarded_node(HttpOptions::default(), access).await;
    assert_eq!(node.get("/metrics").await.status, 200);
    assert_eq!(node.get("/v1/stocks/s").await.status, 401);
}

#[tokio::test]
async fn without_keys_nobody_is_asked_for_one() {
    let (node, _machine) = node().await;
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1}"#).await.status, 201);
    assert_eq!(node.ask_with(STRANGER, "GET", "/v1/stocks/s", "").await.status, 200);
    assert_eq!(node.metric("tidegate_http_keys").await, 0);
}

#[tokio::test]
async fn without_keys_no_web_page_may_act_and_with_them_a_key_is_enough() {
    let origin = ("origin", "https://shop.example");
    let (open, _machine) = node().await;
    assert_eq!(open.put("/v1/stocks/s", r#"{"quantity":1}"#).await.status, 201);
    // A page may send this without asking whether it may.
    for (method, path, body) in [
        ("POST", "/v1/stocks/s/close", ""),
        ("POST", "/v1/stocks/s/pause", ""),
        ("POST", "/v1/stocks/s/reservations", r#"{"user":"u"}"#),
        ("PUT", "/v1/stocks/t", r#"{"quantity":1}"#),
        ("GET", "/v1/stocks/s", ""),
    ] {
        open.ask(method, path, &[origin], body).await.expect_problem(403, "forbidden", "origin");
        open.ask(method, path, &[("origin", "null")], body).await.expect_problem(403, "forbidden", "origin");
    }
    assert_eq!(open.get("/v1/stocks/s").await.text("state"), "open");
    for path in ["/livez", "/readyz", "/v1/time", "/openapi.json", "/docs"] {
        assert_eq!(open.ask("GET", path, &[origin], "").await.status, 200, "{path}");
    }
    let (guarded, _machine, _file) = node_with_keys(&entries()).await;
    let headers = [origin, ("authorization", &*format!("Bearer {}", KEYS[3].1))];
    assert_eq!(guarded.ask("PUT", "/v1/stocks/s", &headers, r#"{"quantity":1}"#).await.status, 201);
}

/// Counts the backups that are begun.
struct Begun(Arc<AtomicUsize>);

impl BackupSource for Begun {
    fn try_begin(&self, _: bool) -> Option<mpsc::Receiver<std::io::Result<Bytes>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Some(mpsc::channel(1).1)
    }
}

#[tokio::test]
async fn only_a_get_begins_a_backup() {
    let (node, _machine) = node().await;
    let begun = Arc::new(AtomicUsize::new(0));
    node.door.offer_backups(Box::new(Begun(Arc::clone(&begun))));
    let head = node.ask("HEAD", "/v1/backup?feed=false", &[], "").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(node.ask("HEAD", "/v1/backup?feed=maybe", &[], "").await.status, 400);
    assert_eq!(begun.load(Ordering::SeqCst), 0);
    let mut client = node.client().await;
    client.send(request("GET", "/v1/backup", &[], "")).await;
    let reply = client.reply_to_head().await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_changed_file_is_taken_over_by_itself_and_a_bad_one_is_not() {
    let (node, _machine, file) = node_with_keys(&entries()).await;
    let opens = async |key: &str| node.ask_with(key, "GET", "/v1/stocks/s", "").await.status == 404;
    assert_eq!(node.metric("tidegate_http_keys").await, 4);
    assert!(!opens(STRANGER).await);

    // One comes, and one goes.
    let [reader, frontend, ..] = KEYS;
    file.replace(&(entry("read", "read", reader.1) + &entry("new", "read", STRANGER)));
    wait_until(async || opens(STRANGER).await).await;
    assert!(!opens(frontend.1).await && opens(reader.1).await);
    assert_eq!(node.metric("tidegate_http_keys").await, 2);

    // A file that is bad, or gone, changes nothing, and is complained of once.
    assert_eq!(node.metric("tidegate_http_keys_reload_failures_total").await, 0);
    file.replace("[[key]]\nname = \"read\"\n");
    wait_until(async || node.metric("tidegate_http_keys_reload_failures_total").await == 1).await;
    assert!(opens(STRANGER).await && opens(reader.1).await);
    fs::remove_file(&file.path).unwrap();
    wait_until(async || node.metric("tidegate_http_keys_reload_failures_total").await == 2).await;
    assert!(opens(STRANGER).await && opens(reader.1).await);

    // Written in place, not replaced.
    fs::write(&file.path, entries()).unwrap();
    wait_until(async || opens(frontend.1).await).await;
    assert!(!opens(STRANGER).await);
    assert_eq!(node.metric("tidegate_http_keys").await, 4);
    assert_eq!(node.metric("tidegate_http_keys_reload_failures_total").await, 2);
}

#[tokio::test]
async fn a_reload_that_is_asked_for_is_done_at_once() {
    let (node, _machine, file) = node_with_keys(&entries()).await;
    file.replace(&entry("only", "read", STRANGER));
    node.door.reload();
    assert_eq!(node.ask_with(STRANGER, "GET", "/v1/stocks/s", "").await.status, 404);
    assert_eq!(node.ask_with(KEYS[0].1, "GET", "/v1/stocks/s", "").await.status, 401);
}

fn door_of(path: &Path) -> Result<(), String> {
    let access = AccessOptions { keys_file: Some(path.to_owned()), ..AccessOptions::default() };
    let door = Door::new(HttpOptions::default(), access, Registry::default());
    door.map(drop).map_err(|error| {
        let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        format!("{error}{source}")
    })
}

#[test]
fn what_is_wrong_in_a_keys_file_is_told_with_its_line_and_field_and_never_repeats_a_key() {
    let hash = KeyHash::of(b"x");
    let of = |name: &str, roles: &str, more: &str| format!("[[key]]\nname = {name}\nroles = {roles}\n{more}");
    let sha = format!("sha256 = \"{hash}\"\n");
    let good = entry("shop", "read", KEYS[0].1);
    let secret = "tg_put-here-by-mistake-0123456789012345678901234";
    for (text, parts) in [
        (String::new(), &["line 1: ", "no [[key]]"][..]),
        ("[[key]\n".to_owned(), &["line 1: "]),
        (format!("{good}[[keys]]\n"), &["line 5: ", "unknown field `keys`"]),
        (of("\"shop\"", "[\"read\"]", &format!("key = \"{secret}\"\n")), &["line 4: ", "unknown field `key`"]),
        (of("\"shop\"", "[\"read\"]", ""), &["line 1: ", "missing field `sha256`"]),
        (format!("[[key]]\nname = \"shop\"\n{sha}"), &["missing field `roles`"]),
        (format!("[[key]]\nroles = [\"read\"]\n{sha}"), &["missing field `name`"]),
        (of("\"shop\"", "[\"read\"]", &format!("sha256 = \"{secret}\"\n")), &["line 4: sha256 is not 64 hexadecimal digits"]),
        (of("\"shop\"", "[\"read\"]", "sha256 = \"00\"\n"), &["line 4: sha256 is not 64"]),
        (of("\"\"", "[\"read\"]", &sha), &["line 2: name "]),
        (of("\"a b\"", "[\"read\"]", &sha), &["line 2: name "]),
        (of(&format!("\"{}\"", "n".repeat(129)), "[\"read\"]", &sha), &["line 2: name ", "129"]),
        (of("\"clock\"", "[\"read\"]", &sha), &["line 2: name is \"clock\", which is reserved"]),
        (of("\"loopback\"", "[\"read\"]", &sha), &["line 2: name is \"loopback\", which is reserved"]),
        (of("\"shop\"", "[]", &sha), &["line 3: roles is empty"]),
        (of("\"shop\"", "[\"read\",\n\"boss\"]", &sha), &["line 4: roles holds what is none of read, frontend, operator, admin"]),
        (of("\"shop\"", "\"read\"", &sha), &["line 3: "]),
        (
            of("\"shop\"", "[\"read\"]", &format!("{sha}expires_at = 2027-01-31\n")),
            &["line 5: expires_at is 2027-01-31 ", "offset"],
        ),
        (of("\"shop\"", "[\"read\"]", &format!("{sha}expires_at = \"soon\"\n")), &["line 5: "]),
        (format!("{good}{}", entry("shop", "read", "other")), &["line 6: name is \"shop\", as in line 2"]),
        (format!("{good}{}", entry("other", "read", KEYS[0].1)), &["line 8: sha256 is that of another key"]),
    ] {
        let file = KeysFile::new(&text);
        let said = door_of(&file.path).expect_err(&text);
        assert!(said.contains("keys.toml, line "), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert!(!said.contains(secret), "{said}");
    }
}

#[test]
fn a_keys_file_that_cannot_be_read_is_named() {
    let folder = TempDir::new().unwrap();
    let said = door_of(&folder.path().join("none.toml")).unwrap_err();
    assert!(said.contains("none.toml") && said.contains("cannot be read"), "{said}");
    let file = KeysFile::new(&"#".repeat(1024 * 1024 + 1));
    assert!(door_of(&file.path).unwrap_err().contains("longer than 1048576 bytes"));
    fs::write(&file.path, [0xff]).unwrap();
    assert!(door_of(&file.path).unwrap_err().contains("not UTF-8"));
}

#[test]
fn a_file_that_others_may_read_is_taken() {
    let file = KeysFile::new(&entries());
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(door_of(&file.path), Ok(()));
}

#[test]
fn thousands_of_keys_are_taken() {
    let mut text = String::new();
    for number in 0..5_000 {
        write!(text, "{}", entry(&format!("k{number}"), "read", &format!("key-{number}"))).unwrap();
    }
    assert_eq!(door_of(&KeysFile::new(&text).path), Ok(()));
}

#[test]
fn a_hash_is_shown_as_sha256sum_shows_it() {
    // The first test vector of FIPS 180-2.
    assert_eq!(KeyHash::of(b"abc").to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn a_name_is_an_identifier_and_not_one_of_our_own() {
    for name in ["shop", "a.b_c:d~e-f", &"n".repeat(128)] {
        assert_eq!(key_name(name).unwrap().as_str(), name);
    }
    for name in ["", "a b", "é", "clock", "loopback", &"n".repeat(129)] {
        assert!(key_name(name).is_err(), "{name}");
    }
}
