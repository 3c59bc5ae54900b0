//! Keys and certificates of a whole node: made by the program, taken over on a signal, and needed where others could reach it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

mod support;

use support::{Finished, Response, Server, WAIT_MAX, connect, finish, program, response, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A new key with these roles, and its entry.
#[track_caller]
fn new_key(name: &str, roles: &[&str]) -> (String, String) {
    let roles = roles.iter().flat_map(|role| ["--role", role]);
    let arguments: Vec<&str> = ["key", "new", "--name", name].into_iter().chain(roles).collect();
    let finished = run(&arguments).expect(0, &[]);
    assert_eq!(finished.stderr, "");
    let (key, entry) = finished.stdout.split_once("\n\n").expect("an empty line stands between the key and its entry");
    (key.to_owned(), entry.to_owned())
}

/// Runs `tidegate key hash` with `input`.
#[track_caller]
fn hash(input: &str) -> Finished {
    let mut process = program(&["key", "hash"]).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = process.stdin.take().expect("the standard input is piped");
    // It may have read enough before everything was written.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    finish(process)
}

fn ask(server: &Server, key: Option<&str>, method: &str, path: &str, body: &str) -> Response {
    let mut stream = connect(server.address).expect("the node takes connections");
    stream.write_all(with_key(key, method, path, body).as_bytes()).expect("the node takes a request");
    response(stream).expect("the node answers")
}

fn with_key(key: Option<&str>, method: &str, path: &str, body: &str) -> String {
    let key = key.map_or_else(String::new, |key| format!("authorization: Bearer {key}\r\n"));
    format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{key}content-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_new_key_is_random_recognisable_and_comes_with_its_entry() {
    let (key, entry) = new_key("shop", &["frontend", "operator"]);
    let random = key.strip_prefix("tg_").expect("a key begins with tg_");
    assert_eq!(random.len(), 43, "{key}");
    assert!(random.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{key}");
    let hashed = hash(&format!("{key}\n")).expect(0, &[]).stdout;
    let expected = format!("[[key]]\nname = \"shop\"\nroles = [\"frontend\", \"operator\"]\nsha256 = \"{}\"\n", hashed.trim_end());
    assert_eq!(entry, expected);
    assert_ne!(new_key("shop", &["frontend"]).0, key);
}

#[test]
fn the_hash_is_plain_sha_256() {
    // As `printf %s abcdefghijklmnopqrstuvwxyz012345 | sha256sum` says.
    let expected = "653bb1245e828fcda4fa53fcd5a3def5bd7654e651f54b4132b73d74e64435c4";
    assert_eq!(hash("abcdefghijklmnopqrstuvwxyz012345\n").expect(0, &[]).stdout.trim_end(), expected);
}

#[test]
fn what_cannot_be_a_key_is_refused_and_not_repeated() {
    for input in ["", "\n", "secret-and-short\n", &"x".repeat(100_000), &"not one word ".repeat(4)] {
        let finished = hash(input).expect(1, &["the key has ", "32 to 512 visible ASCII"]);
        assert_eq!(finished.stdout, "");
        assert!(!finished.stderr.contains("secret-and-short"), "{finished:?}");
    }
    run(&["key", "new", "--name", "shop"]).expect(2, &["--role"]);
    run(&["key", "new", "--role", "read"]).expect(2, &["--name"]);
    run(&["key", "new", "--name", "shop", "--role", "boss"]).expect(2, &["boss", "read, frontend, operator, admin"]);
    run(&["key", "new", "--name", "clock", "--role", "read"]).expect(2, &["clock", "reserved"]);
    run(&["key", "new", "--name", "a b", "--role", "read"]).expect(2, &["a b"]);
    run(&["key"]).expect(2, &["new", "hash"]);
}

#[test]
fn keys_count_from_the_start_and_are_read_again_on_a_hangup() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let [file, data, log] = ["keys.toml", "data", "node.log"].map(|name| folder.path().join(name));
    let ((operator, operators), (frontend, frontends)) = (new_key("office", &["operator"]), new_key("shop", &["frontend"]));
    fs::write(&file, &operators).expect("a temporary folder can be written");
    let keys = format!("auth.keys_file={}", text(&file));
    let mut command = program(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0", "--set", &keys]);
    command.stderr(File::create(&log).expect("a temporary folder can be written"));
    let server = Server::from_command(command);
    server.wait_ready();
    let said = || fs::read_to_string(&log).expect("the log can be read");

    assert_eq!(ask(&server, None, "PUT", "/v1/stocks/s", r#"{"quantity":5}"#).status, 401);
    assert_eq!(ask(&server, Some(&operator), "PUT", "/v1/stocks/s", r#"{"quantity":5}"#).status, 201);
    let reserve = |key: &str| ask(&server, Some(key), "POST", "/v1/stocks/s/reservations", r#"{"user":"u"}"#).status;
    assert_eq!((reserve(&operator), reserve(&frontend)), (403, 401));

    // The file has not changed, so nothing but the signal can be the cause.
    assert!(!said().contains("the API keys were read again"), "{}", said());
    server.signal(Signal::HUP);
    wait_until(|| said().contains("the API keys were read again"));
    assert_eq!((reserve(&operator), reserve(&frontend)), (403, 401));

    fs::write(&file, operators + &frontends).expect("a temporary folder can be written");
    server.signal(Signal::HUP);
    wait_until(|| reserve(&frontend) == 201);
    server.terminate().expect(0, &[]);
    for key in [operator, frontend] {
        assert!(!said().contains(&key), "a key is in the log: {}", said());
    }
    run(&["verify", text(&data)]).expect(0, &[]);
}

/// Looks until `holds` does.
#[track_caller]
fn wait_until(holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WAIT_MAX, "what the test waits for has not come after {WAIT_MAX:?}");
        thread::yield_now();
    }
}

#[test]
fn with_keys_any_address_is_listened_on_and_a_plain_one_is_warned_of() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let file = folder.path().join("keys.toml");
    fs::write(&file, new_key("shop", &["frontend"]).1).expect("a temporary folder can be written");
    let keys = format!("auth.keys_file={}", text(&file));
    let data = folder.path().join("data");
    let mut command = program(&["serve", "--data-dir", text(&data), "--listen", "0.0.0.0:0", "--set", &keys]);
    command.env("TIDEGATE_OUTPUT_FORMAT", "json");
    let server = Server::from_command(command);
    assert!(server.address.ip().is_unspecified());
    server.terminate().expect(0, &["unencrypted", "tls.certificate_file"]);
}

#[test]
fn a_bad_keys_file_or_certificate_ends_the_start_and_is_named() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let file = folder.path().join("bad.toml");
    fs::write(&file, "[[key]]\nname = \"a b\"\nroles = [\"read\"]\nsha256 = \"\"\n").expect("a temporary folder can be written");
    let serve = |pairs: &[String]| {
        let data = folder.path().join("data");
        let mut command = program(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0"]);
        command.args(pairs.iter().flat_map(|pair| ["--set", pair]));
        finish(command.spawn().expect("the program starts"))
    };
    serve(&[format!("auth.keys_file={}", text(&file))]).expect(1, &["bad.toml, line 2: name "]);
    serve(&["auth.keys_file=/nonexistent/keys.toml".to_owned()]).expect(1, &["/nonexistent/keys.toml", "cannot be read"]);
    let certificate = format!("tls.certificate_file={}", text(&file));
    let key = format!("tls.private_key_file={}", text(&file));
    serve(&[certificate.clone(), key]).expect(1, &["bad.toml", "holds no certificate"]);
    serve(&[certificate]).expect(2, &["tls.private_key_file is none", "go together"]);
}

/// A node that speaks TLS. Dropped, it is killed.
struct TlsNode(Option<Child>);

impl Drop for TlsNode {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_node_with_a_certificate_speaks_tls() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
    let [certificate, key, data] = ["certificate.pem", "key.pem", "data"].map(|name| folder.path().join(name));
    fs::write(&certificate, certified.cert.pem()).expect("a temporary folder can be written");
    fs::write(&key, certified.signing_key.serialize_pem()).expect("a temporary folder can be written");
    let mut command = program(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0"]);
    command.env("TIDEGATE_TLS_CERTIFICATE_FILE", &certificate).env("TIDEGATE_TLS_PRIVATE_KEY_FILE", &key);
    let mut node = TlsNode(Some(command.spawn().expect("the program starts")));
    let mut line = String::new();
    let stdout = node.0.as_mut().and_then(|process| process.stdout.as_mut()).expect("the standard output is piped");
    BufReader::with_capacity(1, stdout).read_line(&mut line).expect("the standard output can be read");
    let address: Option<SocketAddr> =
        line.trim_end().strip_prefix("listening on https://").and_then(|address| address.parse().ok());
    let address = address.unwrap_or_else(|| panic!("{line:?} is no address"));

    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).expect("the certificate is one");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let config = builder.expect("the versions are known").with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("it is a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client can be made");
    let mut stream = StreamOwned::new(connection, connect(address).expect("the node takes connections"));
    stream.write_all(with_key(None, "GET", "/livez", "").as_bytes()).expect("the node takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends in good order");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(r#"{"status":"live"}"#), "{answer}");
}
