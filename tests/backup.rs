//! `tidegate backup` from a running node, and nodes that are started on what it made: what was answered is there, and they go on.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

mod support;

use support::{Finished, Server, WAIT_MAX, connect, finish, program, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// Runs `tidegate backup` against `server`.
fn backup(server: &Server, directory: &Path, more: &[&str]) -> Finished {
    let target = url(server);
    run(&[&["backup", text(directory), "--target", &target], more].concat())
}

/// The folder beside `directory` that a backup is made in.
fn partial(directory: &Path) -> PathBuf {
    let name = directory.file_name().expect("it has a name").to_str().expect("it is UTF-8");
    directory.with_file_name(format!("{name}.partial"))
}

/// An answer, as far as these tests look at it.
#[derive(Debug)]
struct Answer {
    status: u16,
    is_replay: bool,
    body: Value,
}

/// One request with more header fields, on a connection of its own.
#[track_caller]
fn ask(address: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)], body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\n{}",
        fields.concat()
    );
    let mut stream = connect(address).expect("the node takes connections");
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).expect("the node takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the node answers");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("the answer is cut off: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer has a status");
    let is_replay = head.to_ascii_lowercase().contains("idempotency-replayed: true");
    Answer { status, is_replay, body: serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer:?}")) }
}

#[track_caller]
fn get(server: &Server, path: &str) -> Value {
    let answer = ask(server.address, "GET", path, &[], &Value::Null);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

#[track_caller]
fn open(server: &Server, sku: &str, quantity: u64) {
    let answer = ask(server.address, "PUT", &format!("/v1/stocks/{sku}"), &[], &json!({ "quantity": quantity }));
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// The stock's `available`, `reserved` and `sold`, which must add up.
#[track_caller]
fn conserved(server: &Server, sku: &str) -> (u64, u64, u64) {
    let stock = get(server, &format!("/v1/stocks/{sku}"));
    let units = |name: &str| stock[name].as_u64().expect("a count of units");
    assert_eq!(units("available") + units("reserved") + units("sold"), units("allotted"), "{stock}");
    (units("available"), units("reserved"), units("sold"))
}

/// A reservation that was acknowledged.
#[derive(Debug, Clone)]
struct Acknowledged {
    name: String,
    id: String,
    sequence: u64,
    is_confirmed: bool,
}

/// Reserves as `name`, under the key of that name.
fn reserve(address: SocketAddr, sku: &str, name: &str) -> Answer {
    let path = format!("/v1/stocks/{sku}/reservations");
    ask(address, "POST", &path, &[("idempotency-key", name)], &json!({ "user": name }))
}

fn reserve_and_maybe_confirm(address: SocketAddr, name: String, is_confirmed: bool) -> Acknowledged {
    let answer = reserve(address, "book", &name);
    assert_eq!((answer.status, answer.is_replay), (201, false), "{answer:?}");
    let id = answer.body["id"].as_str().expect("a reservation has an id").to_owned();
    if is_confirmed {
        let answer = ask(address, "POST", &format!("/v1/reservations/{id}/confirm"), &[], &json!({}));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    Acknowledged { name, id, sequence: answer.body["sequence"].as_u64().expect("a sequence"), is_confirmed }
}

#[test]
fn a_copy_made_under_load_holds_everything_that_was_answered_before_and_goes_on() {
    /// Reservations that one buyer makes at most.
    const ROUNDS_MAX: usize = 20_000;
    let folder = TempDir::new().expect("a temporary folder can be made");
    let [data, copy] = ["data", "copy"].map(|name| folder.path().join(name));
    let server = Server::start_with(&data, &["--shards", "2", "--set", "engine.resolved_in_memory_max=0"]);
    server.wait_ready();
    open(&server, "book", 1_000_000);
    // Enough products for both shards to have some.
    let others = ["cap", "cup", "hat", "key", "lamp", "pen"];
    for sku in others {
        open(&server, sku, 10);
    }
    let (acknowledged, is_over) = (Mutex::new(Vec::<Acknowledged>::new()), AtomicBool::new(false));
    let count = || acknowledged.lock().expect("no buyer has failed").len();
    let (before, page, finished) = thread::scope(|scope| {
        for buyer in 0..4 {
            let (acknowledged, is_over, address) = (&acknowledged, &is_over, server.address);
            scope.spawn(move || {
                for round in (0..ROUNDS_MAX).take_while(|_| !is_over.load(Ordering::SeqCst)) {
                    let one = reserve_and_maybe_confirm(address, format!("buyer-{buyer}-{round}"), round % 2 == 1);
                    acknowledged.lock().expect("no buyer has failed").push(one);
                }
            });
        }
        let began = Instant::now();
        while count() < 200 {
            assert!(began.elapsed() < WAIT_MAX, "the buyers have {} answers after {WAIT_MAX:?}", count());
            thread::yield_now();
        }
        let page = get(&server, "/v1/events?limit=50");
        let before = acknowledged.lock().expect("no buyer has failed").clone();
        let finished = backup(&server, &copy, &["--json"]);
        let at_end = count();
        // The buyers were not held up.
        while count() == at_end {
            assert!(began.elapsed() < WAIT_MAX, "the buyers have no answers any more after {WAIT_MAX:?}");
            thread::yield_now();
        }
        is_over.store(true, Ordering::SeqCst);
        (before, page, finished)
    });
    let cursor = page["next_cursor"].as_str().expect("a page has a cursor");
    let next_page = get(&server, &format!("/v1/events?limit=50&after={cursor}"));
    server.signal(Signal::KILL);
    let _ = server.finish();

    let finished = finished.expect(0, &[]);
    let summary: Value = serde_json::from_str(&finished.stdout).expect("the summary is JSON");
    assert_eq!(summary["snapshots"], 2, "{summary}");
    assert!(summary["history_records"].as_u64() > Some(0) && summary["groups"].as_u64() > Some(0), "{summary}");
    assert!(!summary["verified"].is_null() && !partial(&copy).exists(), "{summary}");

    let restored = Server::start_with(&copy, &["--set", "engine.resolved_in_memory_max=0"]);
    restored.wait_ready();
    let (_, held, sold) = conserved(&restored, "book");
    let confirmed = before.iter().filter(|one| one.is_confirmed).count() as u64;
    assert!(sold >= confirmed && held + sold >= before.len() as u64, "{held} held, {sold} sold, {} before", before.len());
    assert!(others.iter().all(|sku| conserved(&restored, sku) == (10, 0, 0)));
    for one in &before {
        let found = get(&restored, &format!("/v1/reservations/{}", one.id));
        let state = if one.is_confirmed { "confirmed" } else { "reserved" };
        assert_eq!(
            (&found["user"], &found["sequence"], &found["state"]),
            (&one.name.as_str().into(), &one.sequence.into(), &state.into())
        );
        let again = reserve(restored.address, "book", &one.name);
        assert_eq!((again.is_replay, &again.body["id"]), (true, &one.id.as_str().into()), "{again:?}");
    }
    assert_eq!(conserved(&restored, "book").1 + conserved(&restored, "book").2, held + sold);
    assert_eq!(get(&restored, &format!("/v1/events?limit=50&after={cursor}"))["events"], next_page["events"]);
    let new = reserve_and_maybe_confirm(restored.address, "a-new-buyer".to_owned(), true);
    assert_eq!(new.sequence, held + sold + 1);
    restored.terminate().expect(0, &[]);
    run(&["verify", text(&copy)]).expect(0, &[]);
}

/// Runs batches of `commands`; gives the reservations in their order.
fn batch(server: &Server, commands: &[Value], status: u16) -> Vec<Value> {
    let answer = ask(server.address, "POST", "/v1/batch", &[], &json!({ "commands": commands }));
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.body["results"].as_array().expect("a batch has results").clone();
    assert_eq!(results.len(), commands.len());
    results
        .into_iter()
        .map(|mut result| {
            assert_eq!(result["status"], status, "{result}");
            result["reservation"].take()
        })
        .collect()
}

/// Settings under which a log of some MiB is compacted soon, and what is over leaves memory at once.
const TIERED: [&str; 8] = [
    "--set",
    "engine.resolved_in_memory_max=0",
    "--set",
    "snapshots.log_bytes=1048576",
    "--set",
    "log.segment_bytes_max=1048576",
    "--set",
    "feed.retention_bytes=16777216",
];

/// Reservations of a big node, and how many of them are sold in one batch.
const MANY: usize = 30_000;
const BATCH: usize = 5_000;

/// A node with [`MANY`] sold reservations in its history and some twenty-five MiB of log, and those reservations.
fn big_node(data: &Path) -> (Server, Vec<Value>) {
    let server = Server::start_with(data, &TIERED);
    server.wait_ready();
    open(&server, "book", 2 * MANY as u64);
    let (padding, mut sold) = ("x".repeat(100), Vec::with_capacity(MANY));
    for from in (0..MANY).step_by(BATCH) {
        let reserve = |number: usize| {
            json!({ "op": "reserve", "sku": "book", "user": format!("user-{number}-{padding}"), "reference": format!("order-{number}-{padding}"),
                    "idempotency_key": format!("key-{number}") })
        };
        let commands: Vec<Value> = (from..from + BATCH).map(reserve).collect();
        let reserved = batch(&server, &commands, 201);
        let commands: Vec<Value> = reserved.iter().map(|one| json!({ "op": "confirm", "id": one["id"] })).collect();
        sold.extend(batch(&server, &commands, 200));
    }
    (server, sold)
}

#[test]
fn a_copy_of_a_compacted_log_and_a_history_is_whole() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let [data, first, second, small] = ["data", "first", "second", "small"].map(|name| folder.path().join(name));
    let (server, sold) = big_node(&data);
    // The space of the log's beginning is given back once two snapshots lie behind it.
    backup(&server, &first, &[]).expect(0, &[]);
    let late = reserve(server.address, "book", "late");
    assert_eq!(late.status, 201, "{late:?}");
    let began = Instant::now();
    while data.join("log/0000000001").exists() {
        assert!(began.elapsed() < WAIT_MAX, "the log was not compacted after {WAIT_MAX:?}");
        thread::yield_now();
    }
    let finished = backup(&server, &second, &["--json"]).expect(0, &[]);
    let summary: Value = serde_json::from_str(&finished.stdout).expect("the summary is JSON");
    assert!(summary["history_records"].as_u64() > Some(MANY as u64 / 2), "{summary}");
    let end = get(&server, "/v1/stocks/book")["as_of"].as_str().expect("a stock says as of when").to_owned();
    backup(&server, &small, &["--without-feed"]).expect(0, &[]);
    server.signal(Signal::KILL);
    let _ = server.finish();
    assert!(!second.join("log/0000000001").exists(), "the copy of a compacted log has a beginning");

    for (copy, has_late) in [(&first, false), (&second, true), (&small, true)] {
        let restored = Server::start_with(copy, &TIERED);
        restored.wait_ready();
        let held = u64::from(has_late);
        let (many, all) = (MANY as u64, 2 * MANY as u64);
        assert_eq!(conserved(&restored, "book"), (all - many - held, held, many));
        for one in sold.iter().step_by(97) {
            let id = one["id"].as_str().expect("a reservation has an id");
            assert_eq!(&get(&restored, &format!("/v1/reservations/{id}")), one);
        }
        let again = reserve(restored.address, "book", "late");
        assert_eq!((again.status == 201, again.is_replay), (true, has_late), "{again:?}");
        if has_late {
            assert_eq!(again.body["id"], late.body["id"], "{again:?}");
            let after = get(&restored, &format!("/v1/events?after={end}"));
            assert_eq!(after["events"], json!([]), "{after}");
        }
        // One that left memory long ago comes back for a change.
        let id = sold[0]["id"].as_str().expect("a reservation has an id");
        let returned = ask(restored.address, "POST", &format!("/v1/reservations/{id}/return"), &[], &json!({}));
        assert_eq!((returned.status, &returned.body["returned"]), (200, &1.into()), "{returned:?}");
        assert_eq!(conserved(&restored, "book").2, many - 1);
        restored.terminate().expect(0, &[]);
    }
}

/// Asks for a backup of which only the status is read.
#[track_caller]
fn begin_unread(server: &Server) -> (TcpStream, u16) {
    let mut stream = connect(server.address).expect("the node takes connections");
    stream.write_all(b"GET /v1/backup HTTP/1.1\r\nhost: node\r\n\r\n").expect("the node takes a request");
    let mut line = [0; 12];
    stream.read_exact(&mut line).expect("the node answers");
    let status = std::str::from_utf8(&line[9..]).ok().and_then(|status| status.parse().ok());
    (stream, status.expect("an answer has a status"))
}

#[test]
fn one_backup_is_made_at_a_time_and_a_stop_waits_for_none() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (server, _) = big_node(&folder.path().join("data"));
    let (unread, status) = begin_unread(&server);
    assert_eq!(status, 200);
    let copy = folder.path().join("copy");
    backup(&server, &copy, &[]).expect(1, &["503", "overloaded", "another backup"]);
    assert!(!copy.exists() && !partial(&copy).exists());
    // Whoever leaves makes room.
    drop(unread);
    let began = Instant::now();
    let unread = loop {
        let (stream, status) = begin_unread(&server);
        if status == 200 {
            break stream;
        }
        assert_eq!(status, 503);
        assert!(began.elapsed() < WAIT_MAX, "no other backup is made after {WAIT_MAX:?}");
        thread::yield_now();
    };
    server.terminate().expect(0, &[]);
    drop(unread);
}

/// Takes a request without a body: who answers before it has come is not understood.
fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
}

/// Answers one request with `answer`, and closes.
fn answer_once(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        read_head(&mut stream);
        // Whoever has heard enough may have left.
        let _ = stream.write_all(&answer);
    });
    address
}

#[test]
fn a_stream_that_breaks_off_or_is_damaged_leaves_nothing() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(&folder.path().join("data"));
    open(&server, "book", 100);
    for number in 0..20 {
        assert_eq!(reserve(server.address, "book", &format!("u{number}")).status, 201);
    }
    let mut stream = connect(server.address).expect("the node takes connections");
    stream.write_all(b"GET /v1/backup HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").expect("the node takes a request");
    let mut whole = Vec::new();
    stream.read_to_end(&mut whole).expect("the node answers");
    let body_at = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer has a head") + 4;
    let copy = folder.path().join("copy");
    let made_of = |answer: Vec<u8>| {
        let address = answer_once(answer);
        run(&["backup", text(&copy), "--target", &format!("http://{address}")])
    };
    let length = whole.len() - body_at;
    // In front of everything, within each part of it, and right before the end of the last chunk.
    for kept in (0..length).step_by(length / 12).chain([length - 5]) {
        let finished = made_of(whole[..body_at + kept].to_vec());
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{kept} bytes: {finished:?}");
        assert!(!copy.exists() && !partial(&copy).exists(), "{kept} bytes left something");
    }
    // Behind the sizes of chunks, so that the stream itself is whole.
    for at in [length / 3, length / 2, length - 40] {
        let mut damaged = whole.clone();
        damaged[body_at + at] ^= 0x10;
        made_of(damaged).expect(1, &["backup"]);
        assert!(!copy.exists() && !partial(&copy).exists(), "a flip of byte {at} left something");
    }
    made_of(whole).expect(0, &[]);
    assert!(copy.join("identity.json").exists());
}

#[test]
fn a_signal_ends_a_backup_and_leaves_nothing() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let copy = folder.path().join("copy");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let target = format!("http://{}", listener.local_addr().expect("it has an address"));
    let process = program(&["backup", text(&copy), "--target", &target]).spawn().expect("the program starts");
    let (mut stream, _) = listener.accept().expect("the program connects");
    read_head(&mut stream);
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\ntgback\x00\x01\r\n";
    stream.write_all(head).expect("the program takes an answer");
    assert!(partial(&copy).exists());
    kill_process(Pid::from_child(&process), Signal::TERM).expect("a process that has not been waited for can be signalled");
    finish(process).expect(1, &["interrupted"]);
    assert!(!copy.exists() && !partial(&copy).exists());
    drop(stream);
}

#[test]
fn a_signal_ends_the_check_of_a_copy_and_leaves_nothing() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let copy = folder.path().join("copy");
    let whole = {
        let server = Server::start(&folder.path().join("data"));
        open(&server, "book", 100);
        let mut stream = connect(server.address).expect("the node takes connections");
        stream.write_all(b"GET /v1/backup HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").expect("the node takes a request");
        let mut whole = Vec::new();
        stream.read_to_end(&mut whole).expect("the node answers");
        whole
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let target = format!("http://{}", listener.local_addr().expect("it has an address"));
    let process = program(&["backup", text(&copy), "--target", &target]).spawn().expect("the program starts");
    let (mut stream, _) = listener.accept().expect("the program connects");
    read_head(&mut stream);
    let (most, rest) = whole.split_at(whole.len() - 40);
    stream.write_all(most).expect("the program takes an answer");
    let snapshots = partial(&copy).join("snapshots");
    let began = Instant::now();
    while !snapshots.exists() {
        assert!(began.elapsed() < WAIT_MAX, "no snapshot was copied after {WAIT_MAX:?}");
        thread::yield_now();
    }
    // The check reads the oldest snapshot first, and this one never ends.
    let endless = snapshots.join("00000-00000000000000000000.snapshot");
    mkfifoat(CWD, &endless, Mode::RUSR | Mode::WUSR).expect("a pipe can be made");
    stream.write_all(rest).expect("the program takes an answer");
    // Opening it for writing waits for who reads it.
    let (opened, is_open) = mpsc::channel();
    thread::spawn(move || opened.send(fs::OpenOptions::new().write(true).open(endless)));
    let writer = is_open.recv_timeout(WAIT_MAX).expect("the check reads the pipe").expect("the pipe can be opened");
    kill_process(Pid::from_child(&process), Signal::INT).expect("a process that has not been waited for can be signalled");
    finish(process).expect(1, &["interrupted"]);
    drop(writer);
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("the folder is there").map(|entry| entry.map(|entry| entry.file_name())).collect();
    assert!(matches!(&left[..], [Ok(name)] if name == "data"), "{left:?}");
}

#[test]
fn ids_that_were_granted_after_a_copy_are_told_by_their_sequence_before_they_name_somebody_elses() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let copy = folder.path().join("copy");
    let server = Server::start(&folder.path().join("data"));
    open(&server, "book", 100);
    let before = reserve(server.address, "book", "ann").body;
    let told: Value = serde_json::from_str(&backup(&server, &copy, &["--json"]).expect(0, &[]).stdout).expect("it is JSON");
    let after = reserve(server.address, "book", "bob").body;
    server.terminate().expect(0, &[]);

    // What the copy holds of the sku is the number that tells them apart, in the report of the backup and of whoever looks at it later.
    let verdict: Value = serde_json::from_str(&run(&["verify", "--json", text(&copy)]).expect(0, &[]).stdout).expect("it is JSON");
    for report in [&told["verified"], &verdict["report"]] {
        let grants = report["stocks"][0]["grants"].as_u64().expect("a count");
        let is_in_the_copy = |reservation: &Value| reservation["sequence"].as_u64().expect("a place") <= grants;
        assert_eq!((is_in_the_copy(&before), is_in_the_copy(&after)), (true, false), "{report}");
    }
    let server = Server::start(&copy);
    let path = |reservation: &Value| format!("/v1/reservations/{}", reservation["id"].as_str().expect("it has an id"));
    assert_eq!(get(&server, &path(&before))["user"], "ann");
    let lost = ask(server.address, "GET", &path(&after), &[], &Value::Null);
    assert_eq!((lost.status, &lost.body["code"]), (404, &"unknown_reservation".into()), "{lost:?}");
    // This is why those who hold such an id must drop it before anything is sold.
    assert_eq!(reserve(server.address, "book", "cyd").status, 201);
    assert_eq!(get(&server, &path(&after))["user"], "cyd");
    server.terminate().expect(0, &[]);
}

#[test]
fn a_copy_is_fetched_over_tls_from_a_node_that_is_trusted() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
    let [certificate, key, data, copy] = ["certificate.pem", "key.pem", "data", "copy"].map(|name| folder.path().join(name));
    fs::write(&certificate, certified.cert.pem()).expect("a temporary folder can be written");
    fs::write(&key, certified.signing_key.serialize_pem()).expect("a temporary folder can be written");
    let [file, key] = [format!("tls.certificate_file={}", text(&certificate)), format!("tls.private_key_file={}", text(&key))];
    let mut node = program(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0", "--set", &file, "--set", &key])
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let stdout = node.stdout.as_mut().expect("the standard output is piped");
    BufReader::with_capacity(1, stdout).read_line(&mut line).expect("the standard output can be read");
    let port = line.trim_end().rsplit(':').next().expect("an address ends with a port").to_owned();
    let backup = |more: &[&str]| run(&[&["backup", text(&copy), "--target", &format!("https://localhost:{port}")], more].concat());
    let refused = backup(&["--ca-file", text(&folder.path().join("key.pem"))]);
    let began = Instant::now();
    // It may still be reading its log.
    let copied = loop {
        let copied = backup(&["--ca-file", text(&certificate)]);
        if copied.code == Some(0) || !copied.stderr.contains("recovering") || began.elapsed() > WAIT_MAX {
            break copied;
        }
    };
    kill_process(Pid::from_child(&node), Signal::TERM).expect("a process that has not been waited for can be signalled");
    finish(node).expect(0, &[]);
    refused.expect(2, &["--ca-file", "no certificate"]);
    copied.expect(0, &[]);
    assert!(copy.join("identity.json").exists());
}

#[test]
fn a_backup_goes_into_a_new_or_an_empty_folder_only() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(&folder.path().join("data"));
    open(&server, "book", 100);
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).expect("a folder can be made");
    fs::write(copy.join("mine"), "kept").expect("a file can be written");
    backup(&server, &copy, &[]).expect(2, &["copy", "not empty"]);
    assert_eq!(fs::read_to_string(copy.join("mine")).expect("it is still there"), "kept");
    fs::remove_file(copy.join("mine")).expect("a file can be removed");
    fs::create_dir(partial(&copy)).expect("a folder can be made");
    backup(&server, &copy, &[]).expect(2, &["copy.partial", "another command"]);
    fs::remove_dir(partial(&copy)).expect("an empty folder can be removed");
    backup(&server, &copy, &[]).expect(0, &[]);
    let names: BTreeSet<String> = fs::read_dir(&copy)
        .expect("the copy is there")
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("names are UTF-8"))
        .collect();
    assert!(["identity.json", "log", "snapshots", "durable"].iter().all(|name| names.contains(*name)), "{names:?}");
    backup(&server, Path::new("/"), &[]).expect(2, &["/"]);
    let nowhere = folder.path().join("no/such/parent");
    backup(&server, &nowhere, &[]).expect(2, &["parent"]);
    run(&["backup", text(&folder.path().join("other")), "--target", "ftp://shop"]).expect(2, &["ftp://shop"]);
    server.terminate().expect(0, &[]);
    let original = ["identity.json"].map(|name| fs::read(folder.path().join("data").join(name)).expect("it is there"));
    assert_eq!(original, ["identity.json"].map(|name| fs::read(copy.join(name)).expect("it is there")));
    let gone = folder.path().join("gone");
    run(&["backup", text(&gone), "--target", "http://127.0.0.1:1"]).expect(1, &["no connection"]);
    assert!(!gone.exists() && !partial(&gone).exists());
}

#[test]
fn only_a_key_with_the_role_admin_gets_a_copy() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let [file, data, copy] = ["keys.toml", "data", "copy"].map(|name| folder.path().join(name));
    let key = |name: &str, role: &str| {
        let made = run(&["key", "new", "--name", name, "--role", role]).expect(0, &[]).stdout;
        let (key, entry) = made.split_once("\n\n").expect("an empty line stands between the key and its entry");
        (key.to_owned(), entry.to_owned())
    };
    let ((admin, admins), (operator, operators)) = (key("keeper", "admin"), key("office", "operator"));
    fs::write(&file, admins + &operators).expect("a temporary folder can be written");
    let keys = format!("auth.keys_file={}", text(&file));
    let server = Server::start_with(&data, &["--set", &keys]);
    server.wait_ready();
    let (target, key_file) = (url(&server), folder.path().join("key.txt"));
    let backup = |key: Option<&str>| {
        let mut command = program(&["backup", text(&copy), "--target", &target]);
        if let Some(key) = key {
            fs::write(&key_file, key).expect("a temporary folder can be written");
            command.args(["--key-file", text(&key_file)]);
        }
        finish(command.spawn().expect("the program starts"))
    };
    backup(None).expect(1, &["401", "unauthenticated"]);
    backup(Some(&operator)).expect(1, &["403", "forbidden", "admin"]);
    assert!(!copy.exists() && !partial(&copy).exists());
    assert_eq!(
        ask(server.address, "GET", "/v1/backup?feed=maybe", &[("authorization", &format!("Bearer {admin}"))], &Value::Null).status,
        400
    );
    let finished = backup(Some(&admin)).expect(0, &[]);
    assert!(finished.stdout.contains("secret") && !finished.stdout.contains(&admin), "{finished:?}");
    server.terminate().expect(0, &[]);
    run(&["verify", text(&copy)]).expect(0, &[]);
}
