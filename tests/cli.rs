//! The program from outside: its words, its exit codes, and what it keeps over a stop and a start.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_config::Settings;

mod support;

use support::{Server, WAIT_MAX, connect, finish, head, program, request, response, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A stock of 1,000 units and `count` reservations of one unit each, of which every second is confirmed. Returns the reservations' ids.
fn sell(server: &Server, sku: &str, count: usize) -> Vec<String> {
    let created = server.put(&format!("/v1/stocks/{sku}"), r#"{"quantity":1000}"#);
    assert_eq!(created.status, 201, "{created:?}");
    let mut ids = Vec::new();
    for buyer in 0..count {
        let reserved = server.post(&format!("/v1/stocks/{sku}/reservations"), &format!(r#"{{"user":"u{buyer}"}}"#));
        assert_eq!(reserved.status, 201, "{reserved:?}");
        let id = reserved.json()["id"].as_str().expect("an id is a text").to_owned();
        if buyer % 2 == 0 {
            let confirmed = server.post(&format!("/v1/reservations/{id}/confirm"), "");
            assert_eq!(confirmed.status, 200, "{confirmed:?}");
        }
        ids.push(id);
    }
    ids
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("a folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file has a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

#[test]
fn the_version_is_told() {
    let finished = run(&["--version"]).expect(0, &[]);
    assert_eq!(finished.stdout.trim_end(), concat!("tidegate ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_allocator_takes_no_memory_before_it_is_needed() {
    let said = program(&["--version"]).env("MIMALLOC_VERBOSE", "1").output().expect("the program starts").stderr;
    let said = String::from_utf8_lossy(&said);
    let is_set = said.contains("option 'arena_eager_commit': 0");
    assert!(is_set, "built without the CFLAGS of .cargo/config.toml, an open reservation takes a fifth more memory: {said}");
}

#[test]
fn wrong_usage_is_code_2() {
    run(&[]).expect(2, &["Usage"]);
    run(&["sell"]).expect(2, &["sell"]);
    run(&["serve", "--quick"]).expect(2, &["--quick"]);
    run(&["serve", "--listen", "here"]).expect(2, &["--listen", "here"]);
    run(&["serve", "--set", "ring_slots"]).expect(2, &["ring_slots", "http.listen=127.0.0.1:8700"]);
    run(&["verify"]).expect(2, &["DATA_DIR"]);
    run(&["replay"]).expect(2, &["FILE"]);
}

#[test]
fn a_bad_setting_is_code_2_and_named_with_its_bounds_before_anything_is_made() {
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("data");
    let serve = |more: &[&str]| run(&[&["serve", "--data-dir", text(&directory)], more].concat());
    serve(&["--set", "engine.ring_slots=1000"]).expect(2, &["engine.ring_slots is 1000", "power of two of 64 to 1048576"]);
    serve(&["--set", "engine.slots=64"]).expect(2, &["unknown setting engine.slots"]);
    serve(&["--shards", "0"]).expect(2, &["node.shards is 0", "1 to 1024"]);
    serve(&["--durability", "hope"]).expect(2, &["log.durability is hope", "power_loss, process_crash, none"]);
    serve(&["--log-format", "xml"]).expect(2, &["output.format is xml", "human, json"]);
    serve(&["--log-filter", "tidegate=loud"]).expect(2, &["output.filter is tidegate=loud"]);
    serve(&["--config", text(&folder.path().join("none.toml"))]).expect(2, &["none.toml", "cannot be read"]);
    let file = folder.path().join("settings.toml");
    fs::write(&file, "[log]\ndurable = true\n").unwrap();
    serve(&["--config", text(&file)]).expect(2, &["settings.toml", "unknown setting log.durable"]);
    assert!(!directory.exists());
}

#[test]
fn a_bad_variable_is_code_2_and_named() {
    for (name, value, said) in [
        ("TIDEGATE_HTTP_LISTEN", "nowhere", "http.listen is nowhere"),
        ("TIDEGATE_HTTP_LISTENING", "127.0.0.1:0", "names no setting"),
        ("TIDEGATE_CONFIG", "/nonexistent/settings.toml", "cannot be read"),
    ] {
        let process = program(&["verify", "/nonexistent"]).env(name, value).spawn().unwrap();
        let named = if name == "TIDEGATE_CONFIG" { value } else { name };
        finish(process).expect(2, &[named, said]);
    }
}

#[test]
fn only_loopback_is_listened_on() {
    let folder = TempDir::new().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8700"] {
        run(&["serve", "--data-dir", text(&folder.path().join("data")), "--listen", address])
            .expect(2, &[address, "loopback", "API keys"]);
    }
}

#[test]
fn an_address_in_use_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(&["serve", "--data-dir", text(folder.path()), "--listen", &address]).expect(1, &["cannot listen on", &address]);
}

#[test]
fn a_node_starts_answers_and_stops_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = TempDir::new().unwrap();
        let server = Server::start(folder.path());
        assert_eq!(server.get("/livez").status, 200);
        server.signal(signal);
        let finished = server.finish().expect(0, &["ready", "recovery_ms=", "stopped"]);
        assert_eq!(finished.stdout, "", "only the address goes to the standard output");
    }
}

#[test]
fn what_was_sold_is_there_after_a_stop_and_a_start() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path());
    let ids = sell(&server, "book", 20);
    server.terminate().expect(0, &[]);

    let server = Server::start(folder.path());
    for (buyer, id) in ids.iter().enumerate() {
        let reservation = server.get(&format!("/v1/reservations/{id}")).json();
        let expected = if buyer % 2 == 0 { "confirmed" } else { "reserved" };
        assert_eq!((&reservation["user"], &reservation["state"]), (&format!("u{buyer}").into(), &expected.into()), "{reservation}");
    }
    let stock = server.get("/v1/stocks/book").json();
    assert_eq!((&stock["available"], &stock["reserved"], &stock["sold"]), (&980.into(), &10.into(), &10.into()), "{stock}");
    // 1 stock, 20 grants and 10 payments, each waited for and so a group of its own.
    server.terminate().expect(0, &["events=31", "groups=31"]);
}

#[test]
fn a_stop_in_the_middle_of_a_rush_keeps_every_answer_that_left() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path());
    let address = server.address;
    assert_eq!(server.put("/v1/stocks/rush", r#"{"quantity":1000000}"#).status, 201);
    let acknowledged = AtomicUsize::new(0);
    let (enough, reached) = mpsc::channel();
    let (ids, finished) = thread::scope(|scope| {
        let buyers: Vec<_> = (0..4)
            .map(|buyer| {
                let (acknowledged, enough) = (&acknowledged, enough.clone());
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    // Ends with the node; the bound is for a node that does not end.
                    for attempt in 0..1_000_000 {
                        let body = format!(r#"{{"user":"u{buyer}-{attempt}"}}"#);
                        let Ok(answer) = request(address, "POST", "/v1/stocks/rush/reservations", &body) else { break };
                        if answer.status != 201 {
                            assert_eq!((answer.status, &answer.json()["code"]), (503, &"stopping".into()), "{answer:?}");
                            break;
                        }
                        ids.push(answer.json()["id"].as_str().expect("an id is a text").to_owned());
                        if acknowledged.fetch_add(1, Ordering::Relaxed) == 100 {
                            enough.send(()).expect("the test waits for this");
                        }
                    }
                    ids
                })
            })
            .collect();
        reached.recv_timeout(WAIT_MAX).expect("the rush makes progress");
        // A second signal, and one of the other kind, change nothing.
        server.signal(Signal::TERM);
        server.signal(Signal::INT);
        server.signal(Signal::TERM);
        let finished = server.finish();
        (buyers.into_iter().flat_map(|buyer| buyer.join().expect("a buyer does not fail")).collect::<Vec<_>>(), finished)
    });
    finished.expect(0, &["stopped"]);

    assert!(ids.len() > 100);
    let server = Server::start(folder.path());
    for id in &ids {
        assert_eq!(server.get(&format!("/v1/reservations/{id}")).status, 200, "{id} was acknowledged and is gone");
    }
    server.terminate().expect(0, &[]);
    run(&["verify", text(folder.path())]).expect(0, &[]);
}

#[test]
fn a_request_under_way_is_answered_and_an_idle_connection_holds_nothing_up() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path());
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":1}"#).status, 201);
    let idle = connect(server.address).unwrap();
    let body = r#"{"user":"late"}"#;
    let mut under_way = connect(server.address).unwrap();
    under_way.write_all(head("POST", "/v1/stocks/lamp/reservations", body.len()).as_bytes()).unwrap();
    under_way.write_all(&body.as_bytes()[..5]).unwrap();
    // Its header has been read once a later connection is answered: connections are taken in their order.
    assert_eq!(server.get("/livez").status, 200);
    server.signal(Signal::TERM);
    under_way.write_all(&body.as_bytes()[5..]).unwrap();
    let answer = response(under_way).unwrap();
    let expected = u64::from(answer.status == 201);
    assert!(answer.status == 201 || (answer.status, &answer.json()["code"]) == (503, &"stopping".into()), "{answer:?}");
    server.finish().expect(0, &["stopped"]);
    drop(idle);

    let server = Server::start(folder.path());
    assert_eq!(server.get("/v1/stocks/lamp").json()["reserved"], expected);
    server.terminate().expect(0, &[]);
}

#[test]
fn a_directory_has_one_node() {
    let folder = TempDir::new().unwrap();
    let first = Server::start(folder.path());
    let second = Server::start_with(folder.path(), &[]);
    second.finish().expect(1, &["in use by another process", text(folder.path())]);
    run(&["verify", text(folder.path())]).expect(1, &["in use by another process", text(folder.path())]);
    assert_eq!(first.get("/readyz").status, 200);
    first.terminate().expect(0, &[]);
}

#[test]
fn a_directory_keeps_its_number_of_shards() {
    let folder = TempDir::new().unwrap();
    let three = Server::start_with(folder.path(), &["--shards", "3"]);
    three.wait_ready();
    three.terminate().expect(0, &["shards=3"]);
    Server::start_with(folder.path(), &["--shards", "2"]).finish().expect(1, &["shard_count 3 where 2"]);
    let any = Server::start(folder.path());
    any.terminate().expect(0, &["shards=3"]);
}

#[test]
fn settings_come_from_the_file_the_environment_and_flags_in_this_order() {
    let folder = TempDir::new().unwrap();
    let (by_file, by_variable, by_flag) = (folder.path().join("file"), folder.path().join("variable"), folder.path().join("flag"));
    let file = folder.path().join("settings.toml");
    fs::write(&file, format!("[node]\ndata_dir = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n", text(&by_file))).unwrap();
    let start = |variable: Option<&PathBuf>, flag: Option<&PathBuf>| {
        let mut command = program(&["serve"]);
        command.env("TIDEGATE_CONFIG", &file).env("TIDEGATE_OUTPUT_FORMAT", "json");
        variable.map(|path| command.env("TIDEGATE_NODE_DATA_DIR", path));
        flag.map(|path| command.arg("--data-dir").arg(path));
        let server = Server::from_command(command);
        server.wait_ready();
        let finished = server.terminate().expect(0, &[]);
        let ready = finished.stderr.lines().find(|line| line.contains("\"ready\"")).expect("a node says when it is ready");
        let ready: serde_json::Value = serde_json::from_str(ready).expect("a line is JSON");
        PathBuf::from(ready["directory"].as_str().expect("a directory is a text"))
    };
    assert_eq!(start(None, None), by_file);
    assert_eq!(start(Some(&by_variable), None), by_variable);
    assert_eq!(start(Some(&by_variable), Some(&by_flag)), by_flag);
}

#[test]
fn a_good_directory_is_verified() {
    let folder = TempDir::new().unwrap();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    server.wait_ready();
    sell(&server, "book", 10);
    sell(&server, "lamp", 5);
    server.terminate().expect(0, &[]);

    let table = run(&["verify", text(folder.path())]).expect(0, &[]).stdout;
    let row = |sku: &str| {
        let line = table.lines().find(|line| line.starts_with(sku)).expect("a stock has a row");
        line.split_whitespace().skip(1).map(|count| count.parse().expect("a count")).collect::<Vec<u64>>()
    };
    assert_eq!(row("book"), [1_000, 990, 5, 5, 10], "{table}");
    assert_eq!(row("lamp"), [1_000, 995, 2, 3, 5], "{table}");
    assert!(table.contains("good: 2 stocks, 15 grants, 25 events in 25 groups of 2 shards"), "{table}");

    let json: serde_json::Value =
        serde_json::from_str(&run(&["verify", "--json", text(folder.path())]).expect(0, &[]).stdout).unwrap();
    let expected = serde_json::json!({"sku": "book", "allotted": 1_000, "available": 990, "reserved": 5, "sold": 5, "grants": 10});
    assert_eq!((&json["good"], &json["report"]["stocks"][0]), (&true.into(), &expected), "{json}");
    assert_eq!((&json["report"]["events"], &json["report"]["confirmed_units"]), (&25.into(), &8.into()), "{json}");
}

#[test]
fn verify_makes_nothing_where_there_is_no_directory() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing");
    run(&["verify", text(&missing)]).expect(1, &["missing", "no data directory"]);
    assert!(!missing.exists());
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    run(&["verify", text(&empty)]).expect(1, &["empty", "no data directory"]);
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
}

#[test]
fn damage_is_found_with_its_place_and_not_served() {
    let folder = TempDir::new().unwrap();
    let good = folder.path().join("good");
    let server = Server::start(&good);
    sell(&server, "book", 40);
    server.terminate().expect(0, &[]);

    // The file is longer than what is in it.
    let segment = "log/0000000001/db";
    let bytes = fs::read(good.join(segment)).unwrap();
    let log_bytes = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for (name, length) in [("empty", 0), ("quarter", log_bytes / 4), ("half", log_bytes / 2)] {
        let bad = folder.path().join(name);
        copy_directory(&good, &bad);
        fs::OpenOptions::new().write(true).open(bad.join(segment)).unwrap().set_len(length).unwrap();
        let finished = run(&["verify", text(&bad)]).expect(1, &["damaged"]);
        assert!(finished.stderr.contains("entry ") || finished.stderr.contains(text(&bad.join("log"))), "{finished:?}");
        let json: serde_json::Value = serde_json::from_str(&run(&["verify", "--json", text(&bad)]).expect(1, &[]).stdout).unwrap();
        assert_eq!(json["good"], false, "{json}");
        // 61 groups were acknowledged, so a shorter log ends at one of them.
        let ends_at = json["place"]["index"].as_u64();
        assert!(length == 0 || ends_at.is_some_and(|index| (1..=61).contains(&index)), "{json}");
        Server::start_with(&bad, &[]).finish().expect(1, &["damaged"]);
    }
    run(&["verify", text(&good)]).expect(0, &[]);
}

/// What `tidegate config` with `arguments` and `variables` prints.
fn config(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = program(&[&["config"], arguments].concat());
    command.envs(variables.iter().copied());
    finish(command.spawn().expect("the program starts")).expect(0, &[]).stdout
}

fn config_json(arguments: &[&str], variables: &[(&str, &str)]) -> serde_json::Value {
    serde_json::from_str(&config(&[arguments, &["--json"]].concat(), variables)).expect("the settings are JSON")
}

/// A settings file, variables and flags that give settings of every kind, and each of which overrides one of the layer below.
fn layered(folder: &TempDir) -> (String, [(&'static str, &'static str); 3], [&'static str; 6]) {
    let file = folder.path().join("settings.toml");
    let content =
        "[node]\ndata_dir = \"a \\\"b\\\" # c\"\nshards = 3\n[http]\nlisten = \"127.0.0.1:1\"\n[engine]\nring_slots = 64\n";
    fs::write(&file, content).expect("a file can be written");
    let variables = [
        ("TIDEGATE_ENGINE_RING_SLOTS", "128"),
        ("TIDEGATE_HTTP_LISTEN", "[::1]:2"),
        ("TIDEGATE_OUTPUT_FILTER", "warn,tidegate_engine=debug"),
    ];
    (text(&file).to_owned(), variables, ["--listen", "127.0.0.1:3", "--durability", "none", "--set", "rules.idempotency_seconds=7"])
}

#[test]
fn config_tells_of_every_setting_what_counts_and_who_gave_it() {
    let folder = TempDir::new().unwrap();
    let (file, variables, flags) = layered(&folder);
    let arguments = [&["--config", &file], &flags[..]].concat();
    let json = config_json(&arguments, &variables);
    let by_file = serde_json::json!({"kind": "file", "path": file});
    let by_flag = serde_json::json!({"kind": "flag"});
    let by_variable = |name: &str| serde_json::json!({"kind": "variable", "name": name});
    for (section, name, value, origin) in [
        ("node", "data_dir", serde_json::json!("a \"b\" # c"), by_file.clone()),
        ("node", "shards", serde_json::json!(3), by_file),
        ("engine", "ring_slots", serde_json::json!(128), by_variable("TIDEGATE_ENGINE_RING_SLOTS")),
        ("output", "filter", serde_json::json!("warn,tidegate_engine=debug"), by_variable("TIDEGATE_OUTPUT_FILTER")),
        ("http", "listen", serde_json::json!("127.0.0.1:3"), by_flag.clone()),
        ("log", "durability", serde_json::json!("none"), by_flag.clone()),
        ("rules", "idempotency_seconds", serde_json::json!(7), by_flag),
        ("node", "worker_threads", serde_json::json!("auto"), serde_json::json!({"kind": "default"})),
        ("engine", "group_bytes_max", serde_json::json!(1_048_576), serde_json::json!({"kind": "default"})),
    ] {
        let shown = &json[section][name];
        assert_eq!((&shown["value"], &shown["origin"]), (&value, &origin), "{section}.{name}");
    }
    let toml = config(&arguments, &variables);
    for line in [
        format!("shards = 3 # settings file {file}"),
        "ring_slots = 128 # variable TIDEGATE_ENGINE_RING_SLOTS".to_owned(),
        "listen = \"127.0.0.1:3\" # command line".to_owned(),
        "group_bytes_max = 1048576 # default".to_owned(),
    ] {
        assert!(toml.lines().any(|printed| printed == line), "{line:?} is not in: {toml}");
    }
}

#[test]
fn what_config_prints_gives_the_same_settings_when_it_is_loaded() {
    let folder = TempDir::new().unwrap();
    let (file, variables, flags) = layered(&folder);
    let arguments = [&["--config", &file], &flags[..]].concat();
    let printed = folder.path().join("printed.toml");
    fs::write(&printed, config(&arguments, &variables)).unwrap();
    let given = config_json(&arguments, &variables);
    let loaded = config_json(&["--config", text(&printed)], &[]);
    let keys = Settings::keys();
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        let (section, name) = key.split_once('.').unwrap();
        let (given, loaded) = (&given[section][name], &loaded[section][name]);
        assert!(!given["value"].is_null(), "{key} is missing");
        assert_eq!(given["value"], loaded["value"], "{key}");
        assert_eq!(loaded["origin"]["kind"], "file", "{key} is not printed");
    }
}

#[test]
fn config_only_checks_where_that_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let (file, ..) = layered(&folder);
    assert_eq!(config(&["--config", &file, "--check"], &[]), "");
    let directory = folder.path().join("data");
    run(&["config", "--data-dir", text(&directory), "--check"]).expect(0, &[]);
    assert!(!directory.exists(), "a check makes nothing");
    run(&["config", "--check", "--set", "engine.ring_slots=5"]).expect(2, &["engine.ring_slots is 5"]);
    run(&["config", "--check", "--log-filter", "tidegate=loud"]).expect(2, &["output.filter is tidegate=loud"]);
    run(&["config", "--set", "engine.ring_slots=5"]).expect(2, &["engine.ring_slots is 5"]);
    run(&["config", "--check", "--json"]).expect(2, &["--check", "--json"]);
    let process = program(&["config", "--check"]).env("TIDEGATE_LOG_DURABLE", "yes").spawn().unwrap();
    finish(process).expect(2, &["TIDEGATE_LOG_DURABLE"]);
}

#[test]
fn what_ends_a_node_is_a_line_of_its_log_too() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let damaged = folder.path().join("damaged");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("identity.json"), "{").unwrap();
    let empty = folder.path().join("empty");
    for (data, listen, reason) in [(&empty, address.as_str(), "cannot listen on"), (&damaged, "127.0.0.1:0", "EOF while parsing")] {
        let arguments = ["serve", "--data-dir", text(data), "--listen", listen, "--log-format", "json"];
        let said = run(&arguments).expect(1, &[]).stderr;
        let lines = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let errors: Vec<_> = lines.filter(|line| line["level"] == "ERROR").collect();
        let [error] = &errors[..] else { panic!("one line says why: {said}") };
        assert_eq!(error["message"], "the node has ended");
        assert!(error["error"].as_str().is_some_and(|error| error.contains(reason)), "{error}");
    }
}
