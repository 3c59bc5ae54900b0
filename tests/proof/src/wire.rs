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
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) body: &'a str,
    /// Whether to hang up as soon as it is sent.
    pub(crate) hangs_up: bool,
}

impl<'a> Request<'a> {
    /// A read without a key.
    pub(crate) const fn get(path: &'a str) -> Self {
        Self { method: "GET", path, secret: "", idempotency_key: None, body: "", hangs_up: false }
    }

    /// The same as bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Request { method, path, secret, body, .. } = self;
        let key = self.idempotency_key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
        let secret = if secret.is_empty() { String::new() } else { format!("authorization: Bearer {secret}\r\n") };
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: node\r\n{secret}content-type: application/json\r\ncontent-length: {length}\r\n{key}\r\n{body}"
        )
        .into_bytes()
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) is_replayed: bool,
    pub(crate) body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No connection could be made, so nothing was sent.
    NotSent,
    /// Something was sent, and the answer is not whole.
    Unknown,
}

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Wire {
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks once. After a loss the next request makes a new connection.
    pub(crate) fn ask(&mut self, request: Request<'_>) -> Result<Response, Lost> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(connect(self.address).map_err(|_| Lost::NotSent)?),
        };
        stream.get_mut().write_all(&request.bytes()).map_err(|_| Lost::Unknown)?;
        if request.hangs_up {
            return Err(Lost::Unknown);
        }
        let response = read(&mut stream).map_err(|_| Lost::Unknown)?;
        self.stream = Some(stream);
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

fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Response> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut line = String::new();
    let mut next = |line: &mut String| -> io::Result<()> {
        line.clear();
        if stream.read_line(line)? == 0 { Err(cut()) } else { Ok(()) }
    };
    next(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let (mut length, mut is_replayed) = (None, false);
    loop {
        next(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok().filter(|length| *length <= ANSWER_BYTES_MAX);
        }
        is_replayed |= name.eq_ignore_ascii_case("idempotency-replayed") && value.trim() == "true";
    }
    let length = length.ok_or_else(cut)?;
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 == length { Ok(Response { status, is_replayed, body }) } else { Err(cut()) }
}
