//! TLS: what is spoken, what comes of those who do not speak it, and certificates that change while the door stands open.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use support::*;
use tempfile::TempDir;
use tidegate_api::{AccessOptions, CertificateFiles, Door, HttpOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

const RESERVE: &str = "/v1/stocks/s/reservations";
const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

fn certified() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// A certificate's files, in a folder of their own.
struct Files {
    names: CertificateFiles,
    _folder: TempDir,
}

impl Files {
    fn new(certified: &CertifiedKey<KeyPair>) -> Self {
        let folder = TempDir::new().unwrap();
        let [certificate, private_key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
        let files = Self { names: CertificateFiles { certificate, private_key }, _folder: folder };
        files.write(certified);
        files
    }

    fn write(&self, certified: &CertifiedKey<KeyPair>) {
        fs::write(&self.names.certificate, certified.cert.pem()).unwrap();
        fs::write(&self.names.private_key, certified.signing_key.serialize_pem()).unwrap();
    }

    fn options(&self) -> AccessOptions {
        AccessOptions { certificate: Some(self.names.clone()), ..AccessOptions::default() }
    }
}

/// A node behind TLS, and the certificate to trust.
struct Guarded {
    node: Node,
    machine: Machine,
    files: Files,
    root: CertificateDer<'static>,
}

async fn guarded(options: HttpOptions) -> Guarded {
    let certified = certified();
    let files = Files::new(&certified);
    let (node, machine) = guarded_node(options, files.options()).await;
    let guarded = Guarded { node, machine, files, root: certified.cert.der().clone() };
    assert_eq!(guarded.client().await.ask("PUT", "/v1/stocks/s", &[], r#"{"quantity":1000}"#).await.status, 201);
    guarded
}

fn client_config(root: &CertificateDer<'static>, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

impl Guarded {
    async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.node.address).await?;
        let shaking = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream);
        timeout(PATIENCE, shaking).await.expect("the server should shake hands or close")
    }

    async fn client_trusting(&self, root: &CertificateDer<'static>) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        Ok(Client::over(self.connect(client_config(root, BOTH, &[])).await?))
    }

    async fn client(&self) -> Client<TlsStream<TcpStream>> {
        self.client_trusting(&self.root).await.unwrap()
    }

    /// The value of a line of the metrics.
    async fn metric(&self, name: &str) -> u64 {
        let page = String::from_utf8(self.client().await.ask("GET", "/metrics", &[], "").await.body).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{page}"));
        value.parse().unwrap()
    }

    async fn broken(&self) -> u64 {
        self.metric(r#"tidegate_http_handshake_failures_total{cause="broken"}"#).await
    }

    async fn slow(&self) -> u64 {
        self.metric(r#"tidegate_http_handshake_failures_total{cause="slow"}"#).await
    }
}

/// Asks again until `holds` does.
async fn wait_until(holds: impl AsyncFn() -> bool) {
    let waited = timeout(PATIENCE, async { while !holds().await {} });
    waited.await.expect("what the test waits for should come");
}

/// Reads what is left of a plain connection until the server closes it.
async fn read_to_close(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset ends a connection as well as an end of it.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server should close the connection");
    rest
}

#[tokio::test]
async fn both_versions_are_spoken_and_a_connection_serves_many_calls() {
    let guarded = guarded(HttpOptions::default()).await;
    for (versions, spoken) in [(&[&TLS12], ProtocolVersion::TLSv1_2), (&[&TLS13], ProtocolVersion::TLSv1_3)] {
        let stream = guarded.connect(client_config(&guarded.root, versions, &["h2", "http/1.1"])).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut client = Client::over(stream);
        for buyer in 0..20 {
            let reply = client.ask("POST", RESERVE, &[], &format!(r#"{{"user":"u{buyer}"}}"#)).await;
            assert_eq!((reply.status, reply.text("user")), (201, format!("u{buyer}")));
        }
    }
    assert_eq!(guarded.client().await.ask("GET", "/v1/stocks/s", &[], "").await.json()["reserved"], 40);
    assert_eq!(guarded.metric("tidegate_http_connections").await, 1);
}

#[tokio::test]
async fn calls_may_come_in_one_piece_and_byte_by_byte() {
    let guarded = guarded(HttpOptions::default()).await;
    let mut client = guarded.client().await;
    client.send((0..50).map(|user| request("POST", RESERVE, &[], &format!(r#"{{"user":"u{user}"}}"#))).collect::<String>()).await;
    for user in 0..50 {
        assert_eq!(client.reply().await.text("user"), format!("u{user}"));
    }
    for byte in request("GET", "/livez", &[], "").as_bytes() {
        client.send([*byte]).await;
        client.stream.flush().await.unwrap();
    }
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_client_that_speaks_another_protocol_only_is_refused() {
    let guarded = guarded(HttpOptions::default()).await;
    let error = guarded.connect(client_config(&guarded.root, BOTH, &["h2"])).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    wait_until(async || guarded.broken().await == 1).await;
}

#[tokio::test]
async fn what_is_no_handshake_ends_its_own_connection_and_is_counted() {
    let guarded = guarded(HttpOptions::default()).await;
    let mut other = guarded.client().await;
    for bytes in [request("GET", "/v1/stocks/s", &[], "").into_bytes(), vec![0; 64], vec![0x16, 3, 1, 0, 4, 1, 2, 3, 4]] {
        let mut stream = TcpStream::connect(guarded.node.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let said = read_to_close(stream).await;
        // An alert of TLS, if anything.
        assert!(said.is_empty() || said[0] == 21, "{said:?}");
        assert_eq!(other.ask("GET", "/livez", &[], "").await.status, 200);
    }
    wait_until(async || guarded.broken().await == 3).await;
    // Who leaves at once is one more.
    drop(TcpStream::connect(guarded.node.address).await.unwrap());
    wait_until(async || guarded.broken().await == 4).await;
    assert_eq!(guarded.slow().await, 0);
}

#[tokio::test]
async fn half_open_handshakes_disturb_nobody_and_end_with_the_headers_limit() {
    let guarded = guarded(HttpOptions { header_seconds_max: 1, ..HttpOptions::default() }).await;
    let began = Instant::now();
    let mut half_open = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(guarded.node.address).await.unwrap();
        // Some say nothing, some begin a greeting of 512 bytes and leave it at that.
        if number % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        half_open.push(stream);
    }
    let mut client = guarded.client().await;
    assert_eq!(client.ask("POST", RESERVE, &[], r#"{"user":"u"}"#).await.status, 201);
    for stream in half_open {
        read_to_close(stream).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    wait_until(async || guarded.slow().await == 100).await;
    assert_eq!(guarded.broken().await, 0);
    assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_header_that_takes_too_long_closes_the_connection() {
    let guarded = guarded(HttpOptions { header_seconds_max: 1, ..HttpOptions::default() }).await;
    let mut client = guarded.client().await;
    client.send("GET /livez HTT").await;
    let mut rest = Vec::new();
    // What was under way is cut off, which TLS tells from an end.
    let ended = timeout(PATIENCE, client.stream.read_to_end(&mut rest)).await.expect("the server should close");
    assert!(ended.is_err() && rest.is_empty(), "{ended:?} {rest:?}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_good_order() {
    let guarded = guarded(HttpOptions { idle_seconds_max: 1, ..HttpOptions::default() }).await;
    let (silent, mut used) = (guarded.client().await, guarded.client().await);
    assert_eq!(used.ask("GET", "/livez", &[], "").await.status, 200);
    tokio::join!(silent.closed(), used.closed());
}

#[tokio::test]
async fn what_is_no_request_is_an_invalid_request() {
    let guarded = guarded(HttpOptions::default()).await;
    let mut client = guarded.client().await;
    client.send("HELLO\r\n\r\n").await;
    client.reply().await.expect_problem(400, "invalid_request", "not that of an HTTP/1.1 request");
    client.stream.shutdown().await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_sends_a_huge_body_to_its_end_can_still_take_its_answer() {
    let guarded = guarded(HttpOptions { body_bytes_max: 1_000, ..HttpOptions::default() }).await;
    let mut client = guarded.client().await;
    client.send(request("POST", RESERVE, &[], &"x".repeat(4 * 1024 * 1024))).await;
    client.reply().await.expect_problem(413, "body_too_large", "1000 bytes");
}

#[tokio::test]
async fn a_client_that_half_closes_after_a_complete_request_gets_its_answer() {
    let guarded = guarded(HttpOptions::default()).await;
    guarded.machine.log.hold();
    let mut client = guarded.client().await;
    client.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    client.stream.shutdown().await.unwrap();
    guarded.machine.log.wait_proposed(2).await;
    guarded.machine.log.release();
    assert_eq!(client.reply().await.status, 201);
    client.closed().await;
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_waits_for_no_handshake() {
    let mut guarded = guarded(HttpOptions { answer_seconds_max: 600, header_seconds_max: 600, ..HttpOptions::default() }).await;
    let idle = guarded.client().await;
    guarded.machine.log.hold();
    let mut waiting = guarded.client().await;
    waiting.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    guarded.machine.log.wait_proposed(2).await;
    let half_open = TcpStream::connect(guarded.node.address).await.unwrap();
    // Connections are accepted in their order, so the half-open one is in when a later one has been answered.
    assert_eq!(guarded.metric("tidegate_http_connections").await, 4);
    guarded.node.begin_shutdown();
    idle.closed().await;
    read_to_close(half_open).await;
    guarded.machine.log.release();
    let reply = waiting.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (201, Some("close")));
    waiting.closed().await;
    guarded.node.wait_shutdown().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_by_itself_and_a_bad_one_is_not() {
    let guarded = guarded(HttpOptions::default()).await;
    let mut standing = guarded.client().await;
    let (second, third) = (certified(), certified());
    assert!(guarded.client_trusting(second.cert.der()).await.is_err());

    guarded.files.write(&second);
    wait_until(async || guarded.client_trusting(second.cert.der()).await.is_ok()).await;
    assert!(guarded.client_trusting(&guarded.root).await.is_err(), "the old certificate is still shown");
    assert_eq!(standing.ask("GET", "/livez", &[], "").await.status, 200);

    // A certificate without its key changes nothing.
    let failures = async |client: &mut Client<TlsStream<TcpStream>>| {
        let page = String::from_utf8(client.ask("GET", "/metrics", &[], "").await.body).unwrap();
        let name = "tidegate_http_certificates_reload_failures_total ";
        page.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap()
    };
    // The two files above may have been seen one after the other.
    let before = failures(&mut standing).await;
    fs::write(&guarded.files.names.certificate, third.cert.pem()).unwrap();
    let waited = timeout(PATIENCE, async { while failures(&mut standing).await == before {} });
    waited.await.expect("a bad certificate should be counted");
    assert!(guarded.client_trusting(second.cert.der()).await.is_ok());
    assert!(guarded.client_trusting(third.cert.der()).await.is_err());

    guarded.files.write(&third);
    guarded.node.door.reload();
    assert!(guarded.client_trusting(third.cert.der()).await.is_ok());
}

#[test]
fn files_that_make_no_server_are_named_with_what_they_lack() {
    let (own, other) = (certified(), certified());
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    for (certificate, key, named, about) in [
        (None, Some(&*key), "certificate.pem", "cannot be read"),
        (Some(&*certificate), None, "key.pem", "cannot be read"),
        (Some(""), Some(&*key), "certificate.pem", "holds no certificate in PEM"),
        (Some("hello"), Some(&*key), "certificate.pem", "holds no certificate in PEM"),
        (Some(&*key), Some(&*key), "certificate.pem", "holds no certificate in PEM"),
        (Some(&certificate[..certificate.len() / 2]), Some(&*key), "certificate.pem", "holds no certificate in PEM"),
        (Some(&*certificate), Some(&*certificate), "key.pem", "holds no private key that is not encrypted"),
        (
            Some(&*certificate),
            Some("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAwAA==\n-----END ENCRYPTED PRIVATE KEY-----\n"),
            "key.pem",
            "holds no private key that is not encrypted",
        ),
        (Some(&*certificate), Some(&*other.signing_key.serialize_pem()), "key.pem", "cannot be used"),
        (
            Some("-----BEGIN CERTIFICATE-----\nMAAwAA==\n-----END CERTIFICATE-----\n"),
            Some(&*key),
            "certificate.pem",
            "cannot be used",
        ),
    ] {
        let files = Files::new(&own);
        for (path, text) in [(&files.names.certificate, certificate), (&files.names.private_key, key)] {
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        let error = Door::new(HttpOptions::default(), files.options(), Registry::default()).map(drop).unwrap_err();
        let source = error.source().map_or(String::new(), ToString::to_string);
        let said = format!("{error}: {source}");
        assert!(said.contains(named) && said.contains(about), "{named} {about} is not in: {said}");
    }
}

#[test]
fn a_chain_is_taken_whole() {
    let (own, above) = (certified(), certified());
    let files = Files::new(&own);
    fs::write(&files.names.certificate, own.cert.pem() + &above.cert.pem()).unwrap();
    assert!(Door::new(HttpOptions::default(), files.options(), Registry::default()).is_ok());
}

#[tokio::test]
async fn handshakes_that_are_not_begun_keep_nobody_out() {
    let guarded = guarded(HttpOptions { connections_max: 2, header_seconds_max: 600, ..HttpOptions::default() }).await;
    let silent = [TcpStream::connect(guarded.node.address).await.unwrap(), TcpStream::connect(guarded.node.address).await.unwrap()];
    let mut client = guarded.client().await;
    assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
    drop(client);
    let [first, second] = silent;
    assert!(read_to_close(first).await.is_empty());
    drop(second);
}
