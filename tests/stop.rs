//! An orderly stop under load: whoever sent a request gets its answer, and what was answered is there afterwards.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

mod support;

use support::{Server, WAIT_MAX, connect, program};

/// Callers at once, each on a connection that it keeps.
const KEEPING_CALLERS: u32 = 12;

/// Callers at once, each of which makes a connection for every request.
const CONNECTING_CALLERS: u32 = 24;

/// Answers of all callers together before the node is asked to stop.
const ANSWERS_BEFORE: u32 = 600;

/// What one caller has seen until it found nobody to connect to.
#[derive(Debug, Default)]
struct Seen {
    granted: u64,
    farewells: u64,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    closes: bool,
    body: String,
}

/// Reads one whole answer of a connection that may go on.
fn answer(connection: &mut BufReader<TcpStream>) -> Answer {
    let (mut status, mut length, mut closes, mut line) = (0, None, false, String::new());
    loop {
        line.clear();
        assert_ne!(connection.read_line(&mut line).expect("an answer"), 0, "the connection was closed instead of an answer");
        let field = line.trim_end().to_ascii_lowercase();
        if let Some(code) = field.strip_prefix("http/1.1 ") {
            status = code[..3].parse().expect("a status");
        } else if let Some(bytes) = field.strip_prefix("content-length: ") {
            length = bytes.parse::<usize>().ok();
        } else if field == "connection: close" {
            closes = true;
        } else if field.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length.expect("a length")];
    connection.read_exact(&mut body).expect("a whole answer");
    Answer { status, closes, body: String::from_utf8(body).expect("the node answers in UTF-8") }
}

/// Reserves without end, and comes back whenever it is sent away, until nobody is there any more. Every connection that is made is
/// answered: a reset, or an end without an answer, is a failure.
fn call(address: SocketAddr, caller: u32, keeps: bool, tell: &std::sync::mpsc::Sender<()>) -> Seen {
    let connection = if keeps { "keep-alive" } else { "close" };
    let mut seen = Seen::default();
    let mut number = 0_u32;
    loop {
        let stream = match connect(address) {
            Ok(stream) => stream,
            // Nobody listens: nothing was sent, so nothing failed.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return seen,
            Err(error) => panic!("{error}"),
        };
        let mut stream = BufReader::new(stream);
        loop {
            number += 1;
            let body = format!(r#"{{"user":"u-{caller}-{number}"}}"#);
            let request = format!(
                "POST /v1/stocks/lamp/reservations HTTP/1.1\r\nhost: node\r\nconnection: {connection}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.get_mut().write_all(request.as_bytes()).expect("whoever is connected can send a request");
            let answer = answer(&mut stream);
            assert_eq!(answer.status, 201, "a request under way at a stop is answered as ever");
            seen.granted += 1;
            // The test may have stopped listening.
            let _ = tell.send(());
            if answer.closes {
                seen.farewells += 1;
                break;
            }
        }
    }
}

#[test]
fn a_stop_under_load_fails_no_request_and_loses_nothing() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start(folder.path());
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":100000000}"#).status, 201);
    let (tell, told) = std::sync::mpsc::channel();
    let address = server.address;
    let callers: Vec<_> = (0..KEEPING_CALLERS + CONNECTING_CALLERS)
        .map(|caller| {
            let tell = tell.clone();
            thread::spawn(move || call(address, caller, caller < KEEPING_CALLERS, &tell))
        })
        .collect();
    for _ in 0..ANSWERS_BEFORE {
        told.recv_timeout(WAIT_MAX).expect("the node answers");
    }
    server.signal(Signal::TERM);
    let seen: Vec<Seen> = callers.into_iter().map(|caller| caller.join().expect("no request failed")).collect();
    server.finish().expect(0, &["stopped"]);
    assert!(seen.iter().all(|seen| seen.farewells > 0), "every caller was told that its connection closes: {seen:?}");

    let server = Server::start(folder.path());
    let stock = server.get("/v1/stocks/lamp").json();
    let granted: u64 = seen.iter().map(|seen| seen.granted).sum();
    assert_eq!((&stock["reserved"], &stock["available"]), (&granted.into(), &(100_000_000 - granted).into()), "{stock}");
    server.terminate().expect(0, &[]);
}

/// Requests whose lines are far more than a pipe takes.
const UNREAD_REQUESTS: u64 = 2_000;

#[test]
fn a_log_that_nobody_reads_stops_neither_a_sale_nor_a_stop() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (mut log, stderr) = std::io::pipe().expect("a pipe can be made");
    let directory = folder.path().to_str().expect("temporary paths are UTF-8");
    let mut command = program(&["serve", "--data-dir", directory, "--listen", "127.0.0.1:0", "--log-filter", "debug"]);
    command.env("TIDEGATE_OUTPUT_LINES_WAITING_MAX", "100").stderr(stderr);
    let server = Server::from_command(command);
    server.wait_ready();
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":100000}"#).status, 201);
    for user in 0..UNREAD_REQUESTS {
        assert_eq!(server.post("/v1/stocks/lamp/reservations", &format!(r#"{{"user":"u-{user}"}}"#)).status, 201);
    }
    let metrics = server.get("/metrics").body;
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("tidegate_log_lines_dropped_total "));
    let dropped: u64 = dropped.expect("dropped lines are counted").parse().expect("a count");
    // Nothing was read: what did not fit the pipe and the queue is dropped, and that is most.
    assert!((UNREAD_REQUESTS / 4..2 * UNREAD_REQUESTS).contains(&dropped), "{dropped}");
    server.signal(Signal::TERM);
    server.finish().expect(0, &[]);
    let mut text = String::new();
    log.read_to_string(&mut text).expect("the pipe can be read");
    assert!(text.contains("ready") && text.contains("answered"), "{text}");
}

/// Sends a request on a connection that goes on, and reads its answer.
#[track_caller]
fn ask(connection: &mut BufReader<TcpStream>, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    connection.get_mut().write_all((head + body).as_bytes()).expect("whoever is connected can send a request");
    answer(connection)
}

/// The next line of an event stream that begins with `prefix`.
#[track_caller]
fn line(stream: &mut BufReader<TcpStream>, prefix: &str) -> String {
    let mut line = String::new();
    while !line.starts_with(prefix) {
        line.clear();
        assert_ne!(stream.read_line(&mut line).expect("the node goes on within its time"), 0, "the stream has ended");
    }
    line.trim_end().to_owned()
}

/// Opens an event stream behind everything so far, and has it deliver one change, so that it stands.
fn open_stream(server: &Server) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(connect(server.address).expect("the node takes connections"));
    let request = "GET /v1/events HTTP/1.1\r\nhost: node\r\naccept: text/event-stream\r\n\r\n";
    stream.get_mut().write_all(request.as_bytes()).expect("the node takes a request");
    assert_eq!(line(&mut stream, "HTTP/1.1 "), "HTTP/1.1 200 OK");
    assert_eq!(line(&mut stream, "event: "), "event: stock_created");
    stream
}

/// Asks until the node says that it is stopping: it may hear of the signal later than whoever sent it. Where it does between an answer and
/// its last header, that answer is still a yes, and closes its connection; whoever asks on the other one hears of the stop.
fn hear_of_stop([mut probe, mut other]: [BufReader<TcpStream>; 2]) -> (Answer, BufReader<TcpStream>) {
    loop {
        let answer = ask(&mut probe, "GET", "/readyz", "");
        match (answer.status, answer.closes) {
            (200, false) => {}
            (200, true) => return (ask(&mut other, "GET", "/readyz", ""), other),
            _ => return (answer, probe),
        }
    }
}

#[test]
fn while_it_drains_a_node_tells_probes_that_it_stops_and_answers_everybody_else_as_ever() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    // Longer than this test waits for anything: the drain ends when all have closed. Of a stream that is noticed by its next sign of life.
    let server = Server::start_with(folder.path(), &["--set", "http.drain_seconds=3600", "--set", "feed.heartbeat_seconds=1"]);
    server.wait_ready();
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":10}"#).status, 201);
    let mut connections = [(); 4].map(|()| BufReader::new(connect(server.address).expect("the node takes connections")));
    for connection in &mut connections {
        let answer = ask(connection, "GET", "/readyz", "");
        assert_eq!((answer.status, answer.closes), (200, false), "{answer:?}");
    }
    let [one, other, mut buyer, mut reader] = connections;
    let mut stream = open_stream(&server);

    server.signal(Signal::TERM);
    let (told, probe) = hear_of_stop([one, other]);
    assert!(told.status == 503 && told.closes && told.body.contains(r#""code":"stopping""#), "{told:?}");

    let commands = r#"{"commands":[{"op":"reserve","sku":"lamp","user":"ann"},{"op":"reserve","sku":"lamp","user":"bob"}]}"#;
    let sold = ask(&mut buyer, "POST", "/v1/batch", commands);
    assert!(sold.status == 200 && sold.closes && sold.body.matches(r#""status":201"#).count() == 2, "{sold:?}");
    // A stream goes on meanwhile.
    for user in ["ann", "bob"] {
        assert_eq!(line(&mut stream, "event: "), "event: reserved");
        assert!(line(&mut stream, "data: ").contains(&format!(r#""user":"{user}""#)));
    }
    let read = ask(&mut reader, "GET", "/v1/stocks/lamp", "");
    assert!(read.status == 200 && read.closes && read.body.contains(r#""reserved":2"#), "{read:?}");
    // Each of them was told that its connection closes, and it does.
    for mut closed in [probe, buyer, reader] {
        assert_eq!(closed.read(&mut [0]).expect("no reset"), 0);
    }
    drop(stream);
    server.finish().expect(0, &["stopped"]);
}

#[test]
fn a_stream_ends_in_good_order_when_the_drain_is_over() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start_with(folder.path(), &["--set", "http.drain_seconds=1"]);
    server.wait_ready();
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":10}"#).status, 201);
    let mut stream = open_stream(&server);
    server.signal(Signal::TERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("no reset");
    // The last chunk: nothing is missing.
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
    server.finish().expect(0, &["stopped"]);
}
