//! The examples for callers (`examples/clients`) against a real node, through a proxy that loses answers.
//!
//! What they are about is the repeat with the same key: an attempt that took effect and whose answer was lost must not take a second
//! unit. An interpreter that is not on this machine is named on the standard error, and its example left out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

mod support;

use support::{Finished, Server, connect, finish};

/// An interpreter, what it needs besides, and the example that it runs.
struct Example {
    interpreter: &'static str,
    needs: &'static str,
    file: &'static str,
}

const EXAMPLES: [Example; 3] = [
    Example { interpreter: "bash", needs: "curl", file: "reserve.sh" },
    Example { interpreter: "python3", needs: "python3", file: "reserve.py" },
    Example { interpreter: "node", needs: "node", file: "reserve.mjs" },
];

const KEY: &str = "not-a-real-key";

impl Example {
    /// Whether this machine can run it; if not, says so.
    fn is_here(&self) -> bool {
        let missing = [self.interpreter, self.needs].into_iter().find(|tool| {
            let asked =
                Command::new(tool).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            matches!(asked, Err(error) if error.kind() == ErrorKind::NotFound)
        });
        if let Some(tool) = missing {
            // Not by a macro, whose output is kept back when a test passes.
            let _ = writeln!(io::stderr(), "SKIPPED: {tool} is not on this machine, so {} was not run", self.file);
        }
        missing.is_none()
    }

    fn command(&self, url: SocketAddr, arguments: &[&str]) -> Command {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/clients").join(self.file);
        let mut command = Command::new(self.interpreter);
        command.arg(path).args(arguments).env("STOCK_URL", format!("http://{url}")).env("STOCK_KEY", KEY);
        // Whoever runs the tests may have a proxy, which knows nothing of this one's loopback.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "STOCK_QUANTITY", "STOCK_ATTEMPTS", "STOCK_TIMEOUT"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, url: SocketAddr, arguments: &[&str]) -> Finished {
        finish(self.command(url, arguments).spawn().expect("the interpreter starts"))
    }
}

/// Runs `check` for every example that can be run here, each with a name of its own for a sku.
fn for_each(check: impl Fn(&Example, &str) + Sync) {
    thread::scope(|scope| {
        for example in &EXAMPLES {
            let check = &check;
            scope.spawn(move || {
                if example.is_here() {
                    check(example, &example.file.replace("reserve.", "sku-"));
                }
            });
        }
    });
}

/// What becomes of a request at the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is passed on and answered.
    Pass,
    /// It is passed on, the node answers, and the connection is cut before the client has a byte of the answer.
    Cut,
    /// As `Cut`, in the middle of the answer's body.
    CutInBody,
    /// It is passed on, and the client waits for its answer until it gives up.
    Hang,
    /// It never reaches the node; the proxy answers 503 with this `retry-after`.
    Refuse(u64),
}

/// A request as the proxy saw it.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    key: Option<String>,
    authorization: Option<String>,
    at: Instant,
    fate: Fate,
}

/// A proxy that treats the first requests to a path that ends with `/reservations` or `/confirm` as its script says, and passes
/// everything else. It ends with the process.
struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    fn start(node: SocketAddr, script: &[(&'static str, Fate)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("a socket has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script.to_vec()));
        let kept = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (seen, script) = (Arc::clone(&kept), Arc::clone(&script));
                // A client that is gone has nothing left to be told.
                thread::spawn(move || client.and_then(|client| serve(client, node, &seen, &script)));
            }
        });
        Self { address, seen }
    }

    /// The requests whose path ends with `end`.
    fn seen(&self, end: &str) -> Vec<Seen> {
        let path_ends = |seen: &&Seen| seen.line.split(' ').nth(1).is_some_and(|path| path.ends_with(end));
        self.seen.lock().expect("nobody panics with it").iter().filter(path_ends).cloned().collect()
    }
}

/// One request and its answer; the connection ends with it.
fn serve(
    mut client: TcpStream,
    node: SocketAddr,
    seen: &Mutex<Vec<Seen>>,
    script: &Mutex<Vec<(&'static str, Fate)>>,
) -> io::Result<()> {
    let (head, body) = read_request(&mut client)?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    let fate = {
        let mut script = script.lock().expect("nobody panics with it");
        script.iter().position(|(end, _)| path.ends_with(end)).map_or(Fate::Pass, |place| script.remove(place).1)
    };
    let (key, authorization) = (header(&head, "idempotency-key"), header(&head, "authorization"));
    seen.lock().expect("nobody panics with it").push(Seen { line, key, authorization, at: Instant::now(), fate });
    if let Fate::Refuse(seconds) = fate {
        let body = r#"{"code":"overloaded","status":503}"#;
        let length = body.len();
        return write!(
            client,
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: {seconds}\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
    }
    let answer = pass_on(node, &head, &body)?;
    match fate {
        Fate::Cut => {}
        Fate::CutInBody => client.write_all(&answer[..answer.len() - 10])?,
        // Ends with the client's connection.
        Fate::Hang => drop(client.read(&mut [0])?),
        Fate::Pass | Fate::Refuse(_) => client.write_all(&answer)?,
    }
    Ok(())
}

fn read_request(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).map_err(io::Error::other)?;
    let mut body = vec![0; header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    client.read_exact(&mut body)?;
    Ok((head, body))
}

/// The node's whole answer, read to the end of its connection.
fn pass_on(node: SocketAddr, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(node)?;
    let hop = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
    for line in head.trim_end().lines().filter(hop).chain(["connection: close", ""]) {
        stream.write_all(format!("{line}\r\n").as_bytes())?;
    }
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
}

#[track_caller]
fn open(server: &Server, sku: &str, body: &str) {
    let opened = server.put(&format!("/v1/stocks/{sku}"), body);
    assert_eq!(opened.status, 201, "{opened:?}");
}

#[track_caller]
fn expect_stock(server: &Server, sku: &str, available: u64, reserved: u64, sold: u64) {
    let stock = server.get(&format!("/v1/stocks/{sku}")).json();
    let counts = [&stock["available"], &stock["reserved"], &stock["sold"]];
    assert_eq!(counts, [&available.into(), &reserved.into(), &sold.into()] as [&serde_json::Value; 3], "{stock}");
}

#[test]
fn a_purchase_whose_answers_are_lost_takes_one_unit() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path());
    for_each(|example, sku| {
        let script = [
            ("/reservations", Fate::Cut),
            ("/reservations", Fate::Refuse(1)),
            ("/reservations", Fate::CutInBody),
            ("/confirm", Fate::Cut),
        ];
        let proxy = Proxy::start(server.address, &script);
        let mut command = example.command(proxy.address, &[sku, "anna", "order-7"]);
        let finished = finish(command.env("STOCK_QUANTITY", "10").spawn().unwrap()).expect(0, &["attempt 1: ", "attempt 2: 503"]);

        let said = &finished.stdout;
        assert!(said.contains("\noutcome: confirmed\n") && said.contains("replayed=true\n"), "{finished:?}");
        assert!(said.ends_with("stock: available=9 reserved=0 sold=1\n"), "{finished:?}");
        expect_stock(&server, sku, 9, 0, 1);

        // Four attempts for the first answer, and one to repeat it on purpose.
        let reserves = proxy.seen("/reservations");
        let fates: Vec<Fate> = reserves.iter().map(|seen| seen.fate).collect();
        assert_eq!(fates, [Fate::Cut, Fate::Refuse(1), Fate::CutInBody, Fate::Pass, Fate::Pass]);
        assert!(reserves.iter().all(|seen| seen.key.as_deref() == Some("order-7:reserve")), "{reserves:?}");
        assert!(reserves.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer not-a-real-key")), "{reserves:?}");
        let waited = reserves[2].at - reserves[1].at;
        assert!(waited >= Duration::from_secs(1), "retry-after was 1 s, and the next attempt came after {waited:?}");
        let confirms = proxy.seen("/confirm");
        assert_eq!(confirms.iter().map(|seen| seen.fate).collect::<Vec<_>>(), [Fate::Cut, Fate::Pass]);
        assert!(confirms.iter().all(|seen| seen.key.as_deref() == Some("order-7:confirm")), "{confirms:?}");
    });
    server.terminate().expect(0, &[]);
}

#[test]
fn an_attempt_that_is_never_answered_is_given_up_and_repeated() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path());
    for_each(|example, sku| {
        open(&server, sku, r#"{"quantity":5}"#);
        let proxy = Proxy::start(server.address, &[("/reservations", Fate::Hang)]);
        let mut command = example.command(proxy.address, &[sku, "bert", "order-8"]);
        let finished = finish(command.env("STOCK_TIMEOUT", "3").spawn().unwrap()).expect(0, &["attempt 1: "]);
        assert!(finished.stdout.contains("\noutcome: confirmed\n"), "{finished:?}");
        expect_stock(&server, sku, 4, 0, 1);
        let fates: Vec<Fate> = proxy.seen("/reservations").iter().map(|seen| seen.fate).collect();
        assert!(fates.starts_with(&[Fate::Hang, Fate::Pass]), "{fates:?}");
    });
    server.terminate().expect(0, &[]);
}

#[test]
fn a_plain_no_is_an_outcome_and_is_not_repeated() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path());
    for_each(|example, sku| {
        open(&server, sku, r#"{"quantity":2,"per_user_limit":1}"#);
        let proxy = Proxy::start(server.address, &[]);
        for (user, order, outcome) in [
            ("anna", "order-1", "confirmed"),
            ("anna", "order-2", "limit_reached"),
            ("bert", "order-3", "confirmed"),
            ("carl", "order-4", "sold_out"),
        ] {
            let finished = example.run(proxy.address, &[sku, user, order]).expect(0, &[]);
            assert!(finished.stdout.lines().any(|line| line == format!("outcome: {outcome}")), "{order}: {finished:?}");
            assert_eq!(finished.stderr, "", "{order}");
        }
        // A purchase that was confirmed is asked for twice each time, one that was refused once.
        assert_eq!(proxy.seen("/reservations").len(), 6);
        expect_stock(&server, sku, 0, 0, 2);

        let unknown = format!("{sku}-unknown");
        example.run(proxy.address, &[&unknown, "anna", "order-5"]).expect(1, &["404", "unknown_sku"]);
        assert_eq!(proxy.seen(&format!("{unknown}/reservations")).len(), 1, "a wrong call is not repeated");
    });
    server.terminate().expect(0, &[]);
}

#[test]
fn attempts_are_bounded_and_the_order_to_go_on_with_is_told() {
    for_each(|example, sku| {
        // Taken and closed: nobody listens there.
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let mut command = example.command(address, &[sku, "anna", "order-9"]);
        let finished = finish(command.env("STOCK_ATTEMPTS", "2").spawn().unwrap());
        let finished = finished.expect(1, &["not decided after 2 attempts", "ask again with the order order-9"]);
        assert_eq!(finished.stdout, "");
    });
}

#[test]
fn wrong_usage_is_told() {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    for_each(|example, sku| {
        example.run(nobody, &[]).expect(2, &["usage: ", "SKU USER [ORDER]"]);
        example.run(nobody, &[sku, "anna", "order-1", "more"]).expect(2, &["usage: "]);
    });
}
