//! HTTP/1.1 as one client needs it, blocking, on one connection that is kept. Knows what was sent and what was not, and nothing of what
//! it means.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for an answer: longer than the node's own limit of 10 s.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The secret of the API key; empty for none.
    pub secret: &'a str,
    /// The idempotency key.
    pub idempotency_key: Option<&'a str>,
    /// The entity tag that it is conditional on.
    pub if_match: Option<&'a str>,
    /// What the body is.
    pub content_type: &'a str,
    /// The body, or nothing.
    pub body: &'a str,
    /// Whether to hang up as soon as it is sent.
    pub hangs_up: bool,
}

impl Default for Request<'_> {
    fn default() -> Self {
        let (method, content_type) = ("GET", "application/json");
        Self { method, path: "", secret: "", idempotency_key: None, if_match: None, content_type, body: "", hangs_up: false }
    }
}

impl<'a> Request<'a> {
    /// A read without a key.
    pub fn get(path: &'a str) -> Self {
        Self { path, ..Self::default() }
    }

    /// The same as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let Request { method, path, content_type, body, .. } = self;
        let header = |name: &str, value: Option<&str>| value.map(|value| format!("{name}: {value}\r\n")).unwrap_or_default();
        let secret = Some(format!("Bearer {}", self.secret)).filter(|_| !self.secret.is_empty());
        let secret = header("authorization", secret.as_deref());
        let (key, condition) = (header("idempotency-key", self.idempotency_key), header("if-match", self.if_match));
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: node\r\n{secret}content-type: {content_type}\r\ncontent-length: {length}\r\n\
             {key}{condition}\r\n{body}"
        )
        .into_bytes()
    }
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Whether it is marked as the repeat of an earlier answer.
    pub is_replayed: bool,
    /// The entity tag of what it shows.
    pub etag: Option<String>,
    /// Whether it says after how many seconds to ask again.
    pub may_retry: bool,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug)]
pub enum Lost {
    /// No connection could be made, so nothing was sent.
    NotSent,
    /// Something was sent, and the answer is not whole.
    Unknown,
}

/// A connection that is made when it is needed.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Wire {
    /// Makes no connection yet.
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// To where.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks once. After a loss the next request makes a new connection.
    pub fn ask(&mut self, request: Request<'_>) -> Result<Response, Lost> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(connect(self.address).map_err(|_| Lost::NotSent)?),
        };
        stream.get_mut().write_all(&request.bytes()).map_err(|_| Lost::Unknown)?;
        if request.hangs_up {
            return Err(Lost::Unknown);
        }
        let (response, closes) = read(&mut stream).map_err(|_| Lost::Unknown)?;
        self.stream = (!closes).then_some(stream);
        Ok(response)
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_WAIT_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    Ok(stream)
}

/// An answer, and whether it is the last one on its connection.
fn read(stream: &mut BufReader<TcpStream>) -> io::Result<(Response, bool)> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut line = String::new();
    let mut next = |line: &mut String| -> io::Result<()> {
        line.clear();
        if stream.read_line(line)? == 0 { Err(cut()) } else { Ok(()) }
    };
    next(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let (mut length, mut is_replayed, mut etag, mut may_retry, mut closes) = (None, false, None, false, false);
    loop {
        next(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok().filter(|length| *length <= ANSWER_BYTES_MAX);
        }
        if name.eq_ignore_ascii_case("etag") {
            etag = Some(value.trim().to_owned());
        }
        may_retry |= name.eq_ignore_ascii_case("retry-after") && value.trim().parse::<u32>().is_ok();
        closes |= name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close");
        is_replayed |= name.eq_ignore_ascii_case("idempotency-replayed") && value.trim() == "true";
    }
    let length = length.ok_or_else(cut)?;
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    let response = Response { status, is_replayed, etag, may_retry, body };
    if response.body.len() as u64 == length { Ok((response, closes)) } else { Err(cut()) }
}
