//! The load: reservations over many connections from one thread, closed loop or open loop. The door of mio.
//!
//! In an open loop requests are due at times from a seed, whatever became of those before them, and their latency counts from then (no
//! coordinated omission). It says of itself how late it sent, so that a run in which it could not keep up is seen to be none. It reads
//! status, length and `retry-after` of an answer, and nothing of what they mean.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Largest answer that is read, header included.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Longest wait for answers after the last request.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// Answers looked at together.
const EVENTS_MAX: usize = 1_024;

/// When requests are due.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrivals {
    /// Each connection asks again once it is answered.
    Closed,
    /// So many a second on average, at random times.
    Open { per_second: f64 },
}

/// What to offer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) sku: &'a str,
    /// Connections, each with one request under way at most.
    pub(crate) connections: usize,
    pub(crate) arrivals: Arrivals,
    pub(crate) duration: Duration,
    /// Where users' names and the times begin; no two loads of a node share one.
    pub(crate) seed: u64,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 201.
    Admitted,
    /// 429 or 503 with `retry-after`.
    Refused,
    /// Another status, or one of those without `retry-after`.
    Other(u16),
}

/// One answered request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    /// When it was due, since the beginning of the load.
    pub(crate) due: Duration,
    /// From then to the last byte of the answer.
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
}

/// What a load saw.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) answered: Vec<Answered>,
    /// Requests that were due; those that are not among the answered ones were never answered whole, or never sent.
    pub(crate) due: u64,
    /// Requests that found no connection free when they were due.
    pub(crate) waited: u64,
    /// How long after its time each was sent.
    pub(crate) lateness: Vec<Duration>,
    /// From the first to the last that was due.
    pub(crate) elapsed: Duration,
}

/// Offers what `plan` says; returns when all is answered, or nothing is for long.
pub(crate) fn offer(plan: Plan<'_>) -> io::Result<Load> {
    Generator::connect(plan)?.run()
}

struct Connection {
    stream: TcpStream,
    due: Instant,
    answer: Vec<u8>,
    received: usize,
}

struct Generator<'a> {
    plan: Plan<'a>,
    poll: Poll,
    connections: Vec<Connection>,
    free: Vec<usize>,
    head: String,
    sent: u64,
    load: Load,
}

impl<'a> Generator<'a> {
    fn connect(plan: Plan<'a>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let now = Instant::now();
        let mut connections = Vec::with_capacity(plan.connections);
        for number in 0..plan.connections {
            let stream = std::net::TcpStream::connect(plan.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
            connections.push(Connection { stream, due: now, answer: vec![0; ANSWER_BYTES_MAX], received: 0 });
        }
        let head = format!(
            "POST /v1/stocks/{}/reservations HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\ncontent-length: ",
            plan.sku
        );
        let load = Load { answered: Vec::new(), due: 0, waited: 0, lateness: Vec::new(), elapsed: plan.duration };
        let free = (0..plan.connections).rev().collect();
        Ok(Self { plan, poll, connections, free, head, sent: 0, load })
    }

    fn run(mut self) -> io::Result<Load> {
        let mut rng = SmallRng::seed_from_u64(self.plan.seed);
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut waiting: VecDeque<Instant> = VecDeque::new();
        let began = Instant::now();
        let end = began + self.plan.duration;
        let mut next = began;
        let mut last_answer = began;
        loop {
            let now = Instant::now();
            match self.plan.arrivals {
                Arrivals::Closed if now < end => {
                    self.load.due += self.free.len() as u64;
                    waiting.extend(self.free.iter().map(|_| now));
                }
                Arrivals::Closed => {}
                Arrivals::Open { per_second } => {
                    while next <= now && next < end {
                        self.load.due += 1;
                        self.load.waited += u64::from(waiting.len() >= self.free.len());
                        waiting.push_back(next);
                        // The gaps of a Poisson process.
                        next += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / per_second);
                    }
                }
            }
            while let (Some(due), Some(number)) = (waiting.front().copied(), self.free.last().copied()) {
                waiting.pop_front();
                self.free.pop();
                self.send(number, due)?;
            }
            let under_way = self.connections.len() - self.free.len();
            if now >= end && waiting.is_empty() && under_way == 0 {
                break;
            }
            if now.saturating_duration_since(end.max(last_answer)) > ANSWER_WAIT_MAX {
                break;
            }
            // Whole milliseconds, of which a request may be late by one: who looks at the clock all the time takes it from the node.
            let wait = match self.plan.arrivals {
                Arrivals::Open { .. } if now < end => next.saturating_duration_since(now).max(Duration::from_millis(1)),
                _ => Duration::from_millis(100),
            };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                if self.receive(event.token().0, began)? {
                    last_answer = Instant::now();
                }
            }
        }
        Ok(self.load)
    }

    fn send(&mut self, number: usize, due: Instant) -> io::Result<()> {
        let body = format!(r#"{{"user":"o{}-{}"}}"#, self.plan.seed, self.sent);
        self.sent += 1;
        let text = format!("{}{}\r\n\r\n{body}", self.head, body.len());
        let connection = &mut self.connections[number];
        connection.due = due;
        connection.received = 0;
        self.load.lateness.push(due.elapsed());
        // One small request at a time always fits an idle socket's buffer.
        let written = connection.stream.write(text.as_bytes())?;
        if written == text.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Reads what is there; whether an answer is whole.
    fn receive(&mut self, number: usize, began: Instant) -> io::Result<bool> {
        let connection = &mut self.connections[number];
        loop {
            match connection.stream.read(&mut connection.answer[connection.received..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => connection.received += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            // A whole answer is all there is to read, so asking once more would only cost a call.
            if let Some(outcome) = parse(&connection.answer[..connection.received])? {
                let due = connection.due;
                self.load.answered.push(Answered { due: due - began, latency: due.elapsed(), outcome });
                self.free.push(number);
                return Ok(true);
            }
        }
    }
}

/// What a whole answer is; `None` while it is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<Outcome>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let unreadable = || io::Error::from(ErrorKind::InvalidData);
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| unreadable())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)).and_then(|digits| digits.parse().ok()).ok_or_else(unreadable)?;
    let (mut length, mut may_retry) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        }
        may_retry |= name.eq_ignore_ascii_case("retry-after") && value.trim().parse::<u32>().is_ok();
    }
    let whole = end + 4 + length.filter(|length| *length < ANSWER_BYTES_MAX).ok_or_else(unreadable)?;
    if bytes.len() < whole {
        return Ok(None);
    }
    Ok(Some(match status {
        201 => Outcome::Admitted,
        429 | 503 if may_retry => Outcome::Refused,
        other => Outcome::Other(other),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_it_is_whole() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]).unwrap(), None, "at {end}");
        }
        assert_eq!(parse(text).unwrap(), Some(Outcome::Admitted));
    }

    #[test]
    fn a_refusal_says_when_to_come_again() {
        let with = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n";
        let without = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(parse(with).unwrap(), Some(Outcome::Refused));
        assert_eq!(parse(without).unwrap(), Some(Outcome::Other(503)));
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
