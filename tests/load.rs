//! `tidegate load` from the outside: against a real node, and against stand-ins that answer what a real one never should.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Finished, Server, WAIT_MAX, finish, program, run};
use tempfile::TempDir;

fn load(target: SocketAddr, words: &str) -> Vec<String> {
    let target = format!("http://{target}");
    ["load", "--target", &target].into_iter().chain(words.split_whitespace()).map(str::to_owned).collect()
}

#[track_caller]
fn run_load(target: SocketAddr, words: &str) -> Finished {
    let words = load(target, words);
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn report(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

#[track_caller]
fn sum_of(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(number).sum()
}

/// What must hold of every report of a run in which everything was answered.
#[track_caller]
fn adds_up(report: &Value) {
    let commands = &report["commands"];
    for kind in ["reserve", "confirm", "release"] {
        assert_eq!(sum_of(&report["outcomes"][kind]), number(&commands[kind]), "{kind} in {report:#}");
    }
    assert_eq!(report["requests"]["sent"], report["requests"]["answered"], "{report:#}");
    let latencies = report["latency_ms"].as_object().unwrap();
    let parts: u64 = latencies.iter().filter(|(kind, _)| *kind != "all").map(|(_, latency)| number(&latency["count"])).sum();
    assert_eq!(parts, number(&latencies["all"]["count"]), "{report:#}");
    for latency in latencies.values() {
        let places = ["p50", "p90", "p99", "p99.9", "p99.99", "max"].map(|place| latency[place].as_f64().unwrap());
        assert!(places.is_sorted() && places[0] > 0.0, "{report:#}");
    }
    let stocks = &report["stocks"];
    let [allotted, available, reserved, sold] =
        ["allotted", "available", "reserved", "sold"].map(|counter| number(&stocks[counter]));
    assert_eq!(available + reserved + sold, allotted, "{report:#}");
    let told = |what: &str| number(&stocks["told"][what]);
    assert_eq!(sold, told("confirmed"), "{report:#}");
    assert_eq!(reserved, told("granted") - told("confirmed") - told("released"), "{report:#}");
    let granted = report["outcomes"]["reserve"].get("201").map_or(0, number);
    assert_eq!(told("granted"), granted * number(&stocks["quantity"]), "{report:#}");
    assert_eq!(stocks["checked"], true, "{report:#}");
    assert_eq!(stocks["mismatches"].as_array().unwrap().len(), 0, "{report:#}");
}

#[test]
fn a_closed_loop_adds_up_and_closes_its_stocks() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let words = "--duration 1.5 --warmup 0.2 --products 5 --quantity 2 --confirm 0.5 --release 0.3 --keys --connections 8 --threads 2 \
                 --prefix sale --seed 7 --json";
    let report = report(&run_load(server.address, words).expect(0, &[]));
    adds_up(&report);
    assert_eq!((&report["ok"], &report["loop"], &report["ended"]), (&true.into(), &"closed".into(), &"duration".into()));
    assert_eq!(number(&report["stocks"]["allotted"]), 5_000_000_000);
    let outcomes = &report["outcomes"];
    assert_eq!(outcomes["reserve"].as_object().unwrap().keys().collect::<Vec<_>>(), ["201"]);

    // Of so many grants half are confirmed and three of ten released, within six standard deviations.
    let grants = number(&outcomes["reserve"]["201"]);
    for (kind, percent) in [("confirm", 50), ("release", 30)] {
        let found = number(&report["commands"][kind]);
        let expect = grants * percent / 100;
        assert!(found.abs_diff(expect) <= 3 * grants.isqrt() + 1, "{found} of {grants} are not {percent} of 100");
    }

    // The most popular is asked for most, and the stock shows what the report says.
    let first = server.get("/v1/stocks/sale-1").json();
    let last = server.get("/v1/stocks/sale-5").json();
    assert!(number(&first["sold"]) > number(&last["sold"]), "{first} {last}");
    assert_eq!((&report["stocks"]["closing"], &first["state"]), (&"closed".into(), &"closed".into()));
}

#[test]
fn an_open_loop_makes_what_is_due_and_tells_how_late() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let words = "--rate 400 --arrivals constant --duration 2 --warmup 0.5 --products 3 --keep --prefix slow --threads 2 --json";
    let report = report(&run_load(server.address, words).expect(0, &[]));
    adds_up(&report);
    let schedule = &report["schedule"];
    // 2.5 seconds of 400 a second; those of the warm-up are not measured.
    assert_eq!((number(&schedule["due"]), number(&schedule["sent"]), number(&schedule["unsent"])), (1_000, 1_000, 0));
    assert_eq!(number(&report["latency_ms"]["all"]["count"]), 800);
    assert_eq!(number(&schedule["behind_ms"]["count"]), 800);
    // A request is sent before it is answered, and both count from its time.
    for place in ["p50", "p99", "max"] {
        assert!(schedule["behind_ms"][place].as_f64() <= report["latency_ms"]["all"][place].as_f64(), "{report:#}");
    }
    assert_eq!(report["loop"], "open");
    assert_eq!(server.get("/v1/stocks/slow-1").json()["state"], "open");
}

#[test]
fn the_share_of_sold_out_is_what_was_asked_for() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let words = "--requests 4000 --sold-out 0.9 --products 3 --confirm 1 --warmup 0 --seed 3 --json";
    let finished = report(&run_load(server.address, words).expect(0, &[]));
    adds_up(&finished);
    assert_eq!(finished["ended"], "requests");
    assert_eq!(number(&finished["commands"]["reserve"]), 4_000);
    // Each product is asked for ten times as often as it has units, so every unit goes.
    assert_eq!(number(&finished["stocks"]["sold"]), 400);
    assert!((finished["sold_out"]["found"].as_f64().unwrap() - 0.9).abs() < 1e-9, "{finished:#}");

    let words = "--rate 1000 --duration 2 --warmup 0 --sold-out 0.95 --products 20 --seed 4 --json";
    let finished = report(&run_load(server.address, words).expect(0, &[]));
    adds_up(&finished);
    let found = finished["sold_out"]["found"].as_f64().unwrap();
    assert!((0.93..0.97).contains(&found), "{finished:#}");
}

#[test]
fn a_users_limit_is_met_and_is_no_error() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let words = "--requests 200 --users 10 --products 1 --per-user-limit 3 --warmup 0 --json";
    let report = report(&run_load(server.address, words).expect(0, &[]));
    adds_up(&report);
    let reserve = &report["outcomes"]["reserve"];
    assert_eq!((number(&reserve["201"]), number(&reserve["limit_reached"])), (30, 170), "{report:#}");
}

#[test]
fn batches_add_up_like_single_commands() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let words =
        "--requests 100 --batch 20 --sold-out 0.5 --products 4 --confirm 0.6 --release 0 --keys --warmup 0 --connections 4 --json";
    let report = report(&run_load(server.address, words).expect(0, &[]));
    adds_up(&report);
    assert_eq!(number(&report["commands"]["reserve"]), 2_000);
    assert_eq!(number(&report["outcomes"]["reserve"]["201"]), 1_000);
    assert!(number(&report["commands"]["confirm"]) > 500, "{report:#}");
    assert!(number(&report["requests"]["sent"]) <= 200, "{report:#}");
}

#[test]
fn the_table_says_the_same_in_words() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let finished = run_load(server.address, "--requests 50 --warmup 0 --products 2 --seed 9").expect(0, &[]);
    for said in ["reserve   201", " 100.00 %", "50 granted, 0 confirmed", "2 of 2 products add up", "load: ok"] {
        assert!(finished.stdout.contains(said), "{said:?} is not in {}", finished.stdout);
    }
    assert_eq!(finished.stderr, "");
    // Its stocks are there now, so the same seed is refused and nothing is asked.
    let again = run_load(server.address, "--requests 50 --products 2 --seed 9");
    assert_eq!(again.expect(1, &["load-9-1 exists already", "--prefix"]).stdout, "");
}

#[test]
fn what_cannot_be_is_refused_with_the_flag_and_its_bound() {
    let refused = |words: &str, said: &[&str]| {
        let finished = run_load(([127, 0, 0, 1], 1).into(), words);
        assert_eq!(finished.expect(2, said).stdout, "");
    };
    refused("--rate 0", &["--rate", "1..=10000000"]);
    refused("--connections 0", &["--connections", "1..=60000"]);
    refused("--duration 0.01", &["--duration", "0.1..=86400"]);
    refused("--sold-out 1.5", &["--sold-out", "0..=1"]);
    refused("--batch 10001", &["--batch", "1..=10000"]);
    refused("--sold-out 0.5", &["--sold-out 0.5", "--requests"]);
    refused("--confirm 0.8 --release 0.3", &["--confirm 0.8", "--release 0.3", "more than 1"]);
    refused("--threads 4 --connections 3", &["--threads is 4", "only 3"]);
    refused("--prefix a/b", &["--prefix", "124 characters"]);
    refused("--key-file /nowhere/key", &["--key-file /nowhere/key"]);
    run(&["load"]).expect(2, &["--target"]);
    run(&["load", "--target", "shop:8700"]).expect(2, &["--target", "http://"]);
    run(&["load", "--target", "https://shop.example", "--ca-file", "/nowhere/ca"]).expect(2, &["--ca-file /nowhere/ca"]);
    // Right words, and nobody there.
    run_load(([127, 0, 0, 1], 1).into(), "--duration 1").expect(1, &["opening", "no connection"]);
}

/// Waits until more than `count` units of the stock are granted. A connection asks again only after its answer, so more units than
/// connections mean that an answer has arrived.
#[track_caller]
fn wait_for_more_grants_than(count: u64, server: &Server, sku: &str) {
    let began = Instant::now();
    loop {
        let stock = server.get(&format!("/v1/stocks/{sku}"));
        if stock.status == 200 {
            let stock = stock.json();
            if number(&stock["reserved"]) + number(&stock["sold"]) > count {
                return;
            }
        }
        assert!(began.elapsed() < WAIT_MAX, "no more than {count} units granted after {WAIT_MAX:?}");
        thread::yield_now();
    }
}

#[test]
fn a_node_that_is_killed_ends_the_run_with_a_clear_word() {
    for pace in ["", "--rate 200"] {
        let directory = TempDir::new().unwrap();
        let server = Server::start(directory.path());
        let words =
            load(server.address, &format!("{pace} --connections 4 --duration 3600 --products 1 --prefix sale --timeout 3 --json"));
        let process = program(&words.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
        wait_for_more_grants_than(4, &server, "sale-1");
        server.signal(Signal::KILL);
        let finished = finish(process).expect(1, &["could not be reached any more", "could not be checked"]);
        let report = report(&finished);
        assert_eq!((&report["ended"], &report["ok"]), (&"unreachable".into(), &false.into()));
        assert!(number(&report["outcomes"]["reserve"]["connect_error"]) > 0, "{report:#}");
        assert!(number(&report["outcomes"]["reserve"]["201"]) > 0, "{report:#}");
        assert_eq!(report["stocks"]["checked"], false);
    }
}

#[test]
fn a_signal_ends_the_run_and_the_check_is_still_made() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let words = load(server.address, "--duration 3600 --warmup 0 --products 1 --prefix sale --json");
    let process = program(&words.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    wait_for_more_grants_than(0, &server, "sale-1");
    kill_process(Pid::from_child(&process), Signal::INT).unwrap();
    let report = report(&finish(process).expect(1, &["a signal ended the run early"]));
    adds_up(&report);
    assert_eq!(report["ended"], "interrupted");
}

/// What a stand-in answers to a reservation, and how many units it shows as reserved.
#[derive(Clone, Copy)]
struct Answers {
    status: u16,
    body: &'static str,
    reserved: u64,
    /// Wants this key.
    key: Option<&'static str>,
}

const GRANTED: Answers = Answers { status: 201, body: r#"{"id":"a1"}"#, reserved: 0, key: None };

/// A server that takes any stock of 10^9 units and answers as told. It lives as long as the test's process; status 0 is silence.
fn stand_in(answers: Answers) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || serve(&stream, answers));
        }
    });
    address
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, answers: Answers) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(read) if read > 0 => {}
                _ => return,
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_ascii_lowercase());
        }
        let length =
            lines.iter().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let shown = format!(
            r#"{{"allotted":1000000000,"available":{},"reserved":{},"sold":0}}"#,
            1_000_000_000 - answers.reserved,
            answers.reserved
        );
        let lets_in = answers.key.is_none_or(|key| lines.contains(&format!("authorization: bearer {key}")));
        let (status, body) = match lines[0].split(' ').next() {
            _ if !lets_in => (401, r#"{"code":"unauthenticated"}"#),
            Some("put") => (201, "{}"),
            Some("get") => (200, shown.as_str()),
            _ if lines[0].contains("/close ") => (405, r#"{"code":"method_not_allowed"}"#),
            _ if answers.status == 0 => continue,
            _ => (answers.status, answers.body),
        };
        let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn errors_are_told_by_name_and_allowed_up_to_their_number() {
    let address = stand_in(Answers { status: 503, body: r#"{"code":"overloaded"}"#, ..GRANTED });
    let words = "--requests 10 --warmup 0 --products 1 --json";
    let finished = run_load(address, &format!("{words} --errors-max 9")).expect(1, &["10 errors, where --errors-max allows 9"]);
    assert_eq!(number(&report(&finished)["outcomes"]["reserve"]["overloaded"]), 10);
    let finished = run_load(address, &format!("{words} --errors-max 10")).expect(0, &["not closed", "405"]);
    let report = report(&finished);
    assert_eq!((number(&report["errors"]), &report["ok"]), (10, &true.into()));
}

#[test]
fn a_product_that_does_not_add_up_is_named() {
    // Grants that the stock knows nothing of, and units held that nobody was granted.
    let words = "--requests 5 --warmup 0 --products 1 --prefix sale --keep";
    let finished = run_load(stand_in(GRANTED), words);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("sale-1: reserved + sold is 0 and not 5"), "{finished:?}");
    let sold_out = Answers { status: 409, body: r#"{"code":"sold_out"}"#, reserved: 1, ..GRANTED };
    let finished = run_load(stand_in(sold_out), words);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("sale-1: reserved + sold is 1 and not 0"), "{finished:?}");
    // As it should be.
    run_load(stand_in(Answers { reserved: 5, ..GRANTED }), words).expect(0, &[]);
}

#[test]
fn requests_without_an_answer_are_unknown_and_widen_the_check() {
    let words = "--requests 3 --connections 3 --warmup 0 --products 1 --timeout 0.3 --json";
    for reserved in [0, 1, 3] {
        let silent = stand_in(Answers { status: 0, reserved, ..GRANTED });
        let report = report(&run_load(silent, words).expect(1, &["3 errors"]));
        assert_eq!(number(&report["outcomes"]["reserve"]["no_answer_in_time"]), 3, "{report:#}");
        assert_eq!(number(&report["stocks"]["told"]["granted_unknown"]), 3);
        assert_eq!(report["stocks"]["mismatches"].as_array().unwrap().len(), 0, "{report:#}");
        // They count with the time that was waited.
        assert!(report["latency_ms"]["all"]["p50"].as_f64().unwrap() >= 299.0, "{report:#}");
    }
    let silent = stand_in(Answers { status: 0, reserved: 4, ..GRANTED });
    run_load(silent, words).expect(1, &["reserved + sold is 4 and not between 0 and 3"]);
}

#[test]
fn an_open_loop_that_cannot_keep_its_rate_says_so() {
    // One connection whose every answer takes its whole time-out cannot make 100 requests a second.
    let silent = stand_in(Answers { status: 0, ..GRANTED });
    let words =
        "--rate 100 --arrivals constant --connections 1 --duration 1 --warmup 0 --products 1 --timeout 0.3 --errors-max 100 --json";
    let report = report(&run_load(silent, words).expect(1, &["the rate was not kept"]));
    let schedule = &report["schedule"];
    assert_eq!(schedule["kept"], false);
    assert_eq!(number(&schedule["due"]), 100);
    assert_eq!(number(&schedule["sent"]) + number(&schedule["unsent"]), 100);
    assert!(number(&schedule["unsent"]) >= 80 && number(&schedule["waited_for_connection"]) >= 90, "{report:#}");
    // Nothing that was due is left out: not those that were never sent either.
    assert_eq!(number(&report["latency_ms"]["all"]["count"]), 100);
}

#[test]
fn a_key_is_sent_from_a_file_or_the_variable() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, "tg_secret\n").unwrap();
    let address = stand_in(Answers { reserved: 2, key: Some("tg_secret"), ..GRANTED });
    let words = "--requests 2 --warmup 0 --products 1 --keep";
    run_load(address, words).expect(1, &["opening", "401 unauthenticated"]);
    run_load(address, &format!("{words} --key-file {}", file.display())).expect(0, &[]);
    let words = load(address, words);
    let mut command = program(&words.iter().map(String::as_str).collect::<Vec<_>>());
    finish(command.env("TIDEGATE_KEY", "tg_secret").spawn().unwrap()).expect(0, &[]);
}
