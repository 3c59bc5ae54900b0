//! The load generator: a lean HTTP/1.1 keep-alive client, closed loop, one request in flight per connection. The door of mio.
//!
//! Each request differs from the last in the user's number only, so it is patched in place; of an answer it reads the status and the
//! length. What the answers mean is for whoever asked.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::error::BenchError;
use crate::figure::Latencies;
use crate::machine::thread_cpu;

/// Largest answer that is read, head included.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Longest wait for any answer at all.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Statuses are below this.
const STATUS_END: usize = 600;

/// Decimal digits of a user's number in a request.
const USER_DIGITS: usize = 10;

/// A request whose user is a number.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    bytes: Vec<u8>,
    digits: Range<usize>,
}

impl RequestTemplate {
    /// Reserves one unit of `sku` for user `u` with [`USER_DIGITS`] digits.
    pub fn reserve(sku: &str) -> Self {
        let body = format!(r#"{{"user":"u{:0>USER_DIGITS$}","quantity":1}}"#, 0);
        let head = format!(
            "POST /v1/stocks/{sku}/reservations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let start = head.len() + r#"{"user":"u"#.len();
        Self { bytes: [head, body].concat().into_bytes(), digits: start..start + USER_DIGITS }
    }

    /// The request as it stands: for user 0 until a load sends it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes it the request for user number `user`.
    pub(crate) fn set_user(&mut self, mut user: u64) {
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + u8::try_from(user % 10).unwrap_or(0);
            user /= 10;
        }
    }
}

/// How to load a server.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// Threads that they are dealt to.
    pub threads: usize,
    /// Time at the start that does not count into rate and latency.
    pub warm_up: Duration,
    /// Time that counts.
    pub measured: Duration,
    /// Requests after which no further one is sent, whatever the time.
    pub requests_max: u64,
}

/// What a load saw.
#[derive(Debug)]
pub struct Load {
    /// Answers in the measured time.
    pub answers: u64,
    /// The measured time; less than planned when the requests ran out.
    pub measured: Duration,
    /// Latencies in the measured time.
    pub latencies: Latencies,
    /// All answers by status, those of the warm-up too.
    statuses: Vec<u64>,
    /// The body of the first answer of each status.
    pub samples: Vec<(u16, Vec<u8>)>,
    /// Processor time that the generator used, from the first request to the last answer.
    pub generator_cpu: Duration,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Load {
    /// All answers with `status`, those of the warm-up too.
    pub fn with_status(&self, status: u16) -> u64 {
        self.statuses.get(usize::from(status)).copied().unwrap_or(0)
    }

    /// All answers, those of the warm-up too.
    pub fn total(&self) -> u64 {
        self.statuses.iter().sum()
    }

    fn empty() -> Self {
        Self {
            answers: 0,
            measured: Duration::ZERO,
            latencies: Latencies::default(),
            statuses: vec![0; STATUS_END],
            samples: Vec::new(),
            generator_cpu: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.measured = self.measured.max(other.measured);
        self.latencies.add(&other.latencies);
        self.statuses.iter_mut().zip(&other.statuses).for_each(|(sum, count)| *sum += count);
        self.samples.extend(other.samples);
        self.generator_cpu += other.generator_cpu;
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// Loads a server as planned, with users numbered from 1, each used once. Every request sent has its answer at return.
pub fn load(plan: &LoadPlan, template: &RequestTemplate) -> Result<Load, BenchError> {
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let barrier = Arc::new(Barrier::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let share = Share {
                connections: plan.connections / threads + usize::from(number < plan.connections % threads),
                next_user: number as u64 + 1,
                user_step: threads as u64,
            };
            let (plan, template, barrier) = (*plan, template.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                let connected = Worker::connect(&plan, share, &template);
                // Whoever could not connect must not let the others wait for ever.
                barrier.wait();
                connected?.run(&plan)
            })
        })
        .collect();
    let mut sum = Load::empty();
    for worker in workers {
        sum.add(worker.join().map_err(|_| BenchError::wrong("a thread of the load generator panicked"))??);
    }
    Ok(sum)
}

/// What one thread does of a plan.
#[derive(Debug, Clone, Copy)]
struct Share {
    connections: usize,
    next_user: u64,
    user_step: u64,
}

struct Worker {
    poll: Poll,
    connections: Vec<Connection>,
    share: Share,
}

struct Connection {
    stream: TcpStream,
    request: RequestTemplate,
    sent_at: Instant,
    answer: Vec<u8>,
    received: usize,
}

impl Worker {
    fn connect(plan: &LoadPlan, share: Share, template: &RequestTemplate) -> Result<Self, BenchError> {
        let poll = Poll::new().map_err(BenchError::io("poll"))?;
        let mut connections = Vec::with_capacity(share.connections);
        for number in 0..share.connections {
            let open = || {
                let stream = std::net::TcpStream::connect(plan.address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
                Ok(stream)
            };
            let stream = open().map_err(BenchError::io(format!("connection to {}", plan.address)))?;
            let (request, answer) = (template.clone(), vec![0; ANSWER_BYTES_MAX]);
            connections.push(Connection { stream, request, sent_at: Instant::now(), answer, received: 0 });
        }
        Ok(Self { poll, connections, share })
    }

    fn run(mut self, plan: &LoadPlan) -> Result<Load, BenchError> {
        let mut events = Events::with_capacity(self.connections.len().max(1));
        let mut load = Load::empty();
        let cpu_before = thread_cpu();
        let start = Instant::now();
        let measure_from = start + plan.warm_up;
        let measure_to = measure_from + plan.measured;
        let mut last_answer = start;
        let mut in_flight = 0_usize;
        for number in 0..self.connections.len() {
            in_flight += usize::from(self.send_next(number, plan, start)?);
        }
        while in_flight > 0 {
            match self.poll.poll(&mut events, Some(ANSWER_WAIT_MAX)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(BenchError::io("poll"))?,
            }
            if events.is_empty() {
                return Err(BenchError::Wrong(format!(
                    "{in_flight} requests had no answer within {} s",
                    ANSWER_WAIT_MAX.as_secs()
                )));
            }
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                let Some(answer) = connection.receive()? else { continue };
                let now = Instant::now();
                let count = &mut load.statuses[usize::from(answer.status).min(STATUS_END - 1)];
                *count += 1;
                if *count == 1 {
                    load.samples.push((answer.status, connection.answer[answer.body].to_vec()));
                }
                if now >= measure_from && now < measure_to {
                    load.answers += 1;
                    load.latencies.record(now - connection.sent_at);
                }
                last_answer = now;
                in_flight -= 1;
                if now < measure_to {
                    in_flight += usize::from(self.send_next(event.token().0, plan, now)?);
                }
            }
        }
        load.generator_cpu = thread_cpu().saturating_sub(cpu_before);
        load.elapsed = last_answer - start;
        load.measured = last_answer.min(measure_to).saturating_duration_since(measure_from);
        Ok(load)
    }

    /// Sends the next request on a connection; false when there is none left.
    fn send_next(&mut self, number: usize, plan: &LoadPlan, now: Instant) -> Result<bool, BenchError> {
        let user = self.share.next_user;
        if user > plan.requests_max {
            return Ok(false);
        }
        self.share.next_user += self.share.user_step;
        self.connections[number].send(user, now).map(|()| true)
    }
}

/// Where an answer's body is.
pub(crate) struct AnswerHead {
    pub(crate) status: u16,
    body: Range<usize>,
}

impl Connection {
    fn send(&mut self, user: u64, now: Instant) -> Result<(), BenchError> {
        self.request.set_user(user);
        self.sent_at = now;
        self.received = 0;
        // One small request at a time always fits an idle socket's buffer.
        let written = self.stream.write(&self.request.bytes).map_err(BenchError::io("send"))?;
        if written < self.request.bytes.len() {
            return Err(BenchError::Wrong(format!("the socket took {written} of {} bytes", self.request.bytes.len())));
        }
        Ok(())
    }

    /// Reads what is there; gives the answer once it is whole.
    fn receive(&mut self) -> Result<Option<AnswerHead>, BenchError> {
        loop {
            match self.stream.read(&mut self.answer[self.received..]) {
                Ok(0) => {
                    let what = format!("the server closed a connection after {} bytes of an answer", self.received);
                    return Err(BenchError::Wrong(what));
                }
                Ok(read) => self.received += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(BenchError::io("receive")(error)),
            }
            // A whole answer is all there is to read, so asking once more would only cost a call.
            if let Some(head) = parse_answer(&self.answer[..self.received])? {
                return Ok(Some(head));
            }
        }
    }
}

/// Finds status and body in `bytes`; `None` while the answer is not whole.
pub(crate) fn parse_answer(bytes: &[u8]) -> Result<Option<AnswerHead>, BenchError> {
    let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let wrong = |what: &str| BenchError::Wrong(format!("{what}: {}", String::from_utf8_lossy(&bytes[..head_end])));
    let status = bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| wrong("an answer without a status"))?;
    let length = bytes[..head_end].split(|byte| *byte == b'\n').find_map(content_length);
    let length = length.ok_or_else(|| wrong("an answer without a length"))?;
    let body = head_end + 4..head_end + 4 + length;
    if body.end > ANSWER_BYTES_MAX || bytes.len() > body.end {
        return Err(wrong("an answer of the wrong length"));
    }
    Ok((bytes.len() == body.end).then_some(AnswerHead { status, body }))
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    if !name.eq_ignore_ascii_case(NAME) {
        return None;
    }
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_its_user_and_its_own_length() {
        let mut template = RequestTemplate::reserve("lamp");
        template.set_user(4_711);
        let text = String::from_utf8(template.bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"user":"u0000004711","quantity":1}"#);
        assert!(head.starts_with("POST /v1/stocks/lamp/reservations HTTP/1.1\r\n"), "{head}");
        assert!(head.ends_with("content-length: 35"), "{head}");
    }

    #[test]
    fn an_answer_is_taken_once_it_is_whole() {
        let text = b"HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for end in 0..text.len() {
            assert!(parse_answer(&text[..end]).unwrap().is_none(), "at {end}");
        }
        let head = parse_answer(text).unwrap().unwrap();
        assert_eq!((head.status, &text[head.body]), (409, b"hello".as_slice()));
    }

    #[test]
    fn an_answer_that_is_not_understood_is_an_error() {
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab").is_err());
        assert!(parse_answer(b"nonsense\r\n\r\n").is_err());
    }
}
