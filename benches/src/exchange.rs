//! A load of requests that may hold many commands, over one thread and non-blocking sockets, each connection with one request in flight;
//! in a closed loop or at a steady pace. The door of mio.
//!
//! It serves what the generator of [`load`](crate::load) does not do: batches, pipelines, many products, and callers at their own pace.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::error::BenchError;
use crate::figure::Latencies;
use crate::machine::thread_cpu;
use crate::pace::Pace;
use crate::signals;
use crate::wire::{Outcomes, Request, Take};

/// Longest wait for any answer at all.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Room for answers that a connection begins with; it doubles when that is too little.
const ANSWER_BYTES_FIRST: usize = 64 * 1024;

/// Longest answer to one request.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the pace's timer is called.
const TIMER: Token = Token(usize::MAX - 1);

/// How long, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// Commands in a request.
    pub commands: usize,
    /// Requests in a second, or as fast as answers come.
    pub pace: Option<f64>,
    /// Time at the start that does not count into rate and latency.
    pub warm_up: Duration,
    /// Time that counts.
    pub measured: Duration,
    /// The number of the first buyer.
    pub first_buyer: u64,
    /// Buyers after whom nobody comes any more, whatever the time.
    pub buyers_max: u64,
}

/// What a load saw.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What all buyers were told, those of the warm-up too.
    pub outcomes: Outcomes,
    /// Answers in the measured time.
    pub answers: u64,
    /// The measured time; less than planned when the buyers ran out.
    pub measured: Duration,
    /// Latencies of commands: in a closed loop of those answered in the measured time, at a steady pace of those due in it.
    pub latencies: Latencies,
    /// Processor time that the generator used.
    pub generator_cpu: Duration,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// Sends requests for buyers with numbers in a row, each used once. Every request sent has its answer at return. A signal ends it with an error.
pub fn exchange(address: SocketAddr, request: &Request, take: Take, crowd: &Crowd) -> Result<Seen, BenchError> {
    Exchange::connect(address, request, take, crowd)?.run(crowd)
}

struct Exchange<'a> {
    poll: Poll,
    request: &'a Request,
    take: Take,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    next_buyer: u64,
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    written: usize,
    answers: Vec<u8>,
    received: usize,
    taken: usize,
    /// Commands without an answer.
    waiting: u64,
    due: Instant,
}

impl<'a> Exchange<'a> {
    fn connect(address: SocketAddr, request: &'a Request, take: Take, crowd: &Crowd) -> Result<Self, BenchError> {
        let poll = Poll::new().map_err(BenchError::io("poll"))?;
        let open = |number: usize| {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            let (request, answers) = (request.bytes().to_vec(), vec![0; ANSWER_BYTES_FIRST]);
            Ok(Connection { stream, request, written: 0, answers, received: 0, taken: 0, waiting: 0, due: Instant::now() })
        };
        let connections = (0..crowd.connections).map(open).collect::<io::Result<Vec<_>>>();
        let connections = connections.map_err(BenchError::io(format!("connection to {address}")))?;
        let idle = (0..connections.len()).collect();
        Ok(Self { poll, request, take, connections, idle, next_buyer: crowd.first_buyer })
    }

    fn run(mut self, crowd: &Crowd) -> Result<Seen, BenchError> {
        let mut events = Events::with_capacity(self.connections.len() + 1);
        let (mut outcomes, mut latencies, mut answers) = (Outcomes::default(), Latencies::default(), 0);
        let cpu_before = thread_cpu();
        let start = Instant::now();
        let measure_from = start + crowd.warm_up;
        let measure_to = measure_from + crowd.measured;
        let buyers_end = crowd.first_buyer.saturating_add(crowd.buyers_max);
        let mut last_answer = start;
        let pace = Pace::new(start, measure_to, crowd.pace, self.poll.registry(), TIMER);
        let mut pace = pace.map_err(BenchError::io("a timer"))?;
        loop {
            signals::check()?;
            let is_over = self.send_due(&mut pace, buyers_end)?;
            if is_over && self.idle.len() == self.connections.len() {
                break;
            }
            if !is_over && !self.idle.is_empty() {
                pace.arm(Instant::now()).map_err(BenchError::io("a timer"))?;
            }
            match self.poll.poll(&mut events, Some(ANSWER_WAIT_MAX)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(BenchError::io("poll"))?,
            }
            if events.is_empty() {
                let busy = self.connections.len() - self.idle.len();
                let seconds = ANSWER_WAIT_MAX.as_secs();
                return Err(BenchError::Wrong(format!("{busy} requests had no answer within {seconds} s")));
            }
            for event in events.iter().filter(|event| event.token() != TIMER) {
                let number = event.token().0;
                let connection = &mut self.connections[number];
                if connection.waiting == 0 {
                    continue;
                }
                connection.write()?;
                let told = connection.read(self.take)?;
                if told.total() == 0 {
                    continue;
                }
                let now = Instant::now();
                outcomes += told;
                last_answer = now;
                let counts_from = if crowd.pace.is_some() { connection.due } else { now };
                if (measure_from..measure_to).contains(&counts_from) {
                    answers += told.total();
                    (0..told.total()).for_each(|_| latencies.record(now - connection.due));
                }
                if connection.waiting == 0 {
                    self.idle.push(number);
                }
            }
        }
        let measured = last_answer.min(measure_to).saturating_duration_since(measure_from);
        let generator_cpu = thread_cpu().saturating_sub(cpu_before);
        Ok(Seen { outcomes, answers, measured, latencies, generator_cpu, elapsed: last_answer - start })
    }

    /// Sends what is due as far as connections are free; whether nothing more will be.
    fn send_due(&mut self, pace: &mut Pace, buyers_end: u64) -> Result<bool, BenchError> {
        loop {
            let now = Instant::now();
            let is_over = pace.is_over(now) || self.next_buyer + self.request.commands() > buyers_end;
            let Some(number) = self.idle.last().copied().filter(|_| !is_over) else { return Ok(is_over) };
            let Some(due) = pace.next(now) else { return Ok(is_over) };
            self.idle.pop();
            let connection = &mut self.connections[number];
            self.request.put_buyers(&mut connection.request, self.next_buyer);
            self.next_buyer += self.request.commands();
            (connection.written, connection.received, connection.taken) = (0, 0, 0);
            (connection.waiting, connection.due) = (self.request.commands(), due);
            connection.write()?;
        }
    }
}

impl Connection {
    /// Sends on, as much as the socket takes.
    fn write(&mut self) -> Result<(), BenchError> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BenchError::io("send")(error)),
            }
        }
        Ok(())
    }

    /// Reads what is there and counts what is whole. Once nothing is waited for, there is nothing further to read.
    fn read(&mut self, take: Take) -> Result<Outcomes, BenchError> {
        let mut told = Outcomes::default();
        while self.waiting > 0 {
            if self.received == self.answers.len() {
                if self.received >= ANSWER_BYTES_MAX {
                    return Err(BenchError::Wrong(format!("an answer is longer than {ANSWER_BYTES_MAX} bytes")));
                }
                self.answers.resize(self.received * 2, 0);
            }
            match self.stream.read(&mut self.answers[self.received..]) {
                Ok(0) => return Err(BenchError::wrong("the server closed a connection with a request in flight")),
                Ok(read) => self.received += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(BenchError::io("receive")(error)),
            }
            let before = told.total();
            self.taken += take(&self.answers[self.taken..self.received], &mut told)?;
            let answered = told.total() - before;
            self.waiting = self
                .waiting
                .checked_sub(answered)
                .ok_or_else(|| BenchError::Wrong(format!("{answered} commands were answered where {} waited", self.waiting)))?;
        }
        if self.waiting == 0 && self.taken < self.received {
            return Err(BenchError::Wrong(format!("{} bytes follow the last answer", self.received - self.taken)));
        }
        Ok(told)
    }
}
