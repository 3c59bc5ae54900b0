//! Bytes of HTTP/1.1, both ways: requests as they are sent, answers as they come. Pure. The door of httparse.
//!
//! An answer is found in what has arrived so far, and looked at again when more has. What it means is for the caller.

use std::io::Write as _;
use std::ops::Range;

use crate::target::Target;

/// Largest answer that is read, head included: more than a full batch answers.
pub(crate) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most header fields of an answer.
const HEADERS_MAX: usize = 64;

/// Why bytes are no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// They are not HTTP/1.
    #[error("the answer is no HTTP/1.1: {0}")]
    Head(httparse::Error),
    /// The length is no number, or given twice.
    #[error("the answer's content-length {0:?} is no length")]
    Length(String),
    /// The body is encoded in a way that is not asked for.
    #[error("the answer's transfer-encoding {0:?} is not known")]
    Encoding(String),
    /// A chunk's size is no number.
    #[error("a chunk of the answer has no size")]
    Chunk,
    /// It is longer than is read.
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// The connection ended in its middle.
    #[error("the connection ended after {0} bytes of the answer")]
    CutOff(usize),
}

/// A whole answer at the start of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) body: Body,
    /// Bytes that it takes, head and framing included.
    pub(crate) bytes: usize,
    /// Whether the connection is of no further use.
    pub(crate) closes: bool,
}

/// Where an answer's body is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// A part of what was read.
    There(Range<usize>),
    /// Put together from chunks.
    Joined(Vec<u8>),
}

impl Answer {
    /// The body; `read` is what the answer was found in.
    pub(crate) fn body<'a>(&'a self, read: &'a [u8]) -> &'a [u8] {
        match &self.body {
            Body::There(range) => &read[range.clone()],
            Body::Joined(body) => body,
        }
    }
}

/// Finds the first whole answer in `read`; `None` while there is more to come. `ended` says that nothing more will.
pub(crate) fn find_answer(read: &[u8], ended: bool) -> Result<Option<Answer>, WireError> {
    let mut from = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let status = head.parse(&read[from..]).map_err(WireError::Head)?;
        let httparse::Status::Complete(length) = status else { return unfinished(read, ended) };
        let body_from = from + length;
        let code = head.code.unwrap_or(0);
        if (100..200).contains(&code) {
            // An interim answer; the real one follows.
            from = body_from;
            continue;
        }
        let framing = framing(code, head.headers)?;
        let closes = says_close(head.version, head.headers);
        let (body, end, closes) = match framing {
            Framing::Length(length) => {
                let end = body_from.checked_add(length).filter(|end| *end <= ANSWER_BYTES_MAX).ok_or(WireError::TooLong)?;
                if read.len() < end {
                    return unfinished(read, ended);
                }
                (Body::There(body_from..end), end, closes)
            }
            Framing::Chunks => match join_chunks(read, body_from)? {
                Some((body, end)) => (Body::Joined(body), end, closes),
                None => return unfinished(read, ended),
            },
            Framing::ToTheEnd if ended => (Body::There(body_from..read.len()), read.len(), true),
            Framing::ToTheEnd => return unfinished(read, ended),
        };
        return Ok(Some(Answer { status: code, body, bytes: end, closes }));
    }
}

fn unfinished(read: &[u8], ended: bool) -> Result<Option<Answer>, WireError> {
    if ended {
        return Err(WireError::CutOff(read.len()));
    }
    if read.len() >= ANSWER_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    Ok(None)
}

enum Framing {
    Length(usize),
    Chunks,
    ToTheEnd,
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Result<Framing, WireError> {
    if status == 204 || status == 304 {
        return Ok(Framing::Length(0));
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    let named = |name: &'static str| headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    if let Some(header) = named("transfer-encoding").next() {
        return if header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            Ok(Framing::Chunks)
        } else {
            Err(WireError::Encoding(text(header.value)))
        };
    }
    let mut lengths = named("content-length");
    let Some(header) = lengths.next() else { return Ok(Framing::ToTheEnd) };
    let length = std::str::from_utf8(header.value.trim_ascii()).ok().and_then(|digits| digits.parse().ok());
    match (length, lengths.next()) {
        (Some(length), None) => Ok(Framing::Length(length)),
        _ => Err(WireError::Length(text(header.value))),
    }
}

fn says_close(version: Option<u8>, headers: &[httparse::Header<'_>]) -> bool {
    let connection = headers.iter().find(|header| header.name.eq_ignore_ascii_case("connection"));
    match connection.map(|header| header.value.trim_ascii()) {
        Some(value) if value.eq_ignore_ascii_case(b"close") => true,
        Some(value) if value.eq_ignore_ascii_case(b"keep-alive") => false,
        _ => version == Some(0),
    }
}

/// The chunks from `from` on as one body, and where they end; `None` while some are missing.
fn join_chunks(read: &[u8], mut from: usize) -> Result<Option<(Vec<u8>, usize)>, WireError> {
    let mut body = Vec::new();
    loop {
        let (head, size) = match httparse::parse_chunk_size(&read[from..]).map_err(|_| WireError::Chunk)? {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => return Ok(None),
        };
        let size = usize::try_from(size).ok().filter(|size| *size <= ANSWER_BYTES_MAX).ok_or(WireError::TooLong)?;
        from += head;
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            return match httparse::parse_headers(&read[from..], &mut trailers).map_err(WireError::Head)? {
                httparse::Status::Complete((length, _)) => Ok(Some((body, from + length))),
                httparse::Status::Partial => Ok(None),
            };
        }
        let Some(chunk) = read.get(from..from + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        // The line end behind the data.
        from += size + 2;
        if from > read.len() {
            return Ok(None);
        }
    }
}

/// What is alike in every request to one target.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    /// Host and key, each line with its end.
    common: String,
}

impl Heading {
    /// For `target`.
    pub(crate) fn of(target: &Target) -> Self {
        Self::new(&target.name, target.key.as_deref())
    }

    /// For a target of this name, with an API key if it wants one. Both are free of line ends.
    pub(crate) fn new(host: &str, key: Option<&str>) -> Self {
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        Self { common: format!("host: {host}\r\n{key}") }
    }

    /// Writes a whole request over what `into` holds. A body is JSON; an empty one is none.
    pub(crate) fn write(&self, into: &mut Vec<u8>, method: &str, path: &Path<'_>, idempotency_key: Option<&str>, body: &[u8]) {
        into.clear();
        let common = &self.common;
        let written = match *path {
            Path::Whole(path) => write!(into, "{method} {path} HTTP/1.1\r\n{common}"),
            Path::Around(before, name, after) => write!(into, "{method} {before}{name}{after} HTTP/1.1\r\n{common}"),
        };
        let written = written.and_then(|()| match idempotency_key {
            Some(key) => write!(into, "idempotency-key: {key}\r\n"),
            None => Ok(()),
        });
        let written = written.and_then(|()| {
            if body.is_empty() {
                // A POST without a length makes some proxies wait for one.
                return if method == "GET" { write!(into, "\r\n") } else { write!(into, "content-length: 0\r\n\r\n") };
            }
            write!(into, "content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len())
        });
        written.expect("writing to memory does not fail");
        into.extend_from_slice(body);
    }
}

/// A path, in one piece or around a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    /// All of it.
    Whole(&'a str),
    /// What is before the name, the name, and what is behind it.
    Around(&'a str, &'a str, &'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], expect: (u16, &[u8], bool)) {
        for end in 0..text.len() {
            assert_eq!(find_answer(&text[..end], false), Ok(None), "at {end}");
            let cut = find_answer(&text[..end], true);
            assert_eq!(cut, Err(WireError::CutOff(end)), "cut at {end}");
        }
        let answer = find_answer(text, false).unwrap().unwrap();
        assert_eq!((answer.status, answer.body(text), answer.closes), expect);
        assert_eq!(answer.bytes, text.len());
    }

    #[test]
    fn an_answer_is_taken_once_it_is_whole() {
        check(b"HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\nx: y\r\n\r\nhello", (409, b"hello", false));
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: close\r\n\r\n", (200, b"", true));
        check(b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", false));
        check(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", (200, b"x", true));
        check(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: Keep-Alive\r\n\r\nx", (200, b"x", false));
    }

    #[test]
    fn chunks_are_joined() {
        let text =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nwiki\r\nA;note=x\r\n0123456789\r\n0\r\ntrailer: t\r\n\r\n";
        check(text, (200, b"wiki0123456789", false));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        check(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}", (201, b"{}", false));
    }

    #[test]
    fn an_answer_without_a_length_goes_to_the_end_of_the_connection() {
        let text = b"HTTP/1.1 502 Bad Gateway\r\n\r\nsorry";
        assert_eq!(find_answer(text, false), Ok(None));
        let answer = find_answer(text, true).unwrap().unwrap();
        assert_eq!((answer.status, answer.body(text), answer.closes), (502, b"sorry".as_slice(), true));
    }

    #[test]
    fn what_follows_an_answer_is_not_its_own() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200";
        assert_eq!(find_answer(text, false).unwrap().unwrap().bytes, text.len() - 12);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(matches!(find_answer(b"SSH-2.0-OpenSSH\r\n", false), Err(WireError::Head(_))));
        let length = |value: &str| find_answer(format!("HTTP/1.1 200 OK\r\ncontent-length: {value}\r\n\r\n").as_bytes(), false);
        assert_eq!(length("x"), Err(WireError::Length("x".to_owned())));
        assert_eq!(length("-1"), Err(WireError::Length("-1".to_owned())));
        assert_eq!(length("1\r\ncontent-length: 2"), Err(WireError::Length("1".to_owned())));
        assert_eq!(length("33554433"), Err(WireError::TooLong));
        let encoded = find_answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", false);
        assert_eq!(encoded, Err(WireError::Encoding("gzip".to_owned())));
        let chunk = find_answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", false);
        assert_eq!(chunk, Err(WireError::Chunk));
    }

    #[test]
    fn a_request_carries_its_head_and_its_length() {
        let mut bytes = b"something older".to_vec();
        let heading = Heading::new("shop:8700", Some("secret"));
        heading.write(&mut bytes, "POST", &Path::Around("/v1/stocks/", "lamp", "/reservations"), Some("k-1"), b"{\"user\":\"u\"}");
        let expect = "POST /v1/stocks/lamp/reservations HTTP/1.1\r\nhost: shop:8700\r\nauthorization: Bearer secret\r\nidempotency-key: k-1\r\n\
                      content-type: application/json\r\ncontent-length: 12\r\n\r\n{\"user\":\"u\"}";
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expect);
        Heading::new("shop", None).write(&mut bytes, "GET", &Path::Whole("/readyz"), None, b"");
        assert_eq!(bytes, b"GET /readyz HTTP/1.1\r\nhost: shop\r\n\r\n");
        Heading::new("shop", None).write(&mut bytes, "POST", &Path::Whole("/v1/x"), None, b"");
        assert_eq!(bytes, b"POST /v1/x HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n");
    }
}
