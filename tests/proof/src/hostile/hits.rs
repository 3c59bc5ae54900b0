//! Short visits that are no good: each connects, sends what it has, and reads, leaves or resets. A few at once, at a steady pace, each
//! held against the answer that the contract names.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use socket2::SockRef;

use super::crowd::{Done, Source, connect};
use crate::machine::wait_until;

/// Longest wait for an answer, or for the end of a connection.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// Most of an answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// What a visitor does behind what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Reads to the end of the connection, whose first answer must have this status.
    Answered(u16),
    /// The same with its own side closed first.
    HalfClosed(u16),
    /// Reads so many answers of 200, then leaves.
    AllAnswered(usize),
    /// Leaves at once.
    Leaves,
    /// Leaves at once, with a reset.
    Resets,
}

/// What a visitor sends.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    /// Always the same.
    Text(Vec<u8>),
    /// Reserves a unit of the stock for another user each time; so many bytes more are announced than are sent.
    Reserves { sku: &'static str, missing: usize },
    /// Random bytes with the end of a header behind them.
    Garbage,
}

/// Visitors, each at a time from `visitors` threads.
pub(crate) struct Hits<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) source: Source,
    pub(crate) visitors: usize,
    /// From one visit of a visitor to its next.
    pub(crate) every: Duration,
    pub(crate) sent: &'a Sent,
    pub(crate) end: End,
    pub(crate) seed: u64,
}

impl Hits<'_> {
    /// Visits until `ends`; what was not as it should be is told in words, each thread's first.
    pub(crate) fn run(&self, ends: &AtomicBool) -> io::Result<(Done, Vec<String>)> {
        thread::scope(|scope| {
            let visitors: Vec<_> = (0..self.visitors).map(|number| scope.spawn(move || self.visit(number, ends))).collect();
            let (mut done, mut wrong) = (Done::default(), Vec::new());
            for visitor in visitors {
                let (own, own_wrong) = visitor.join().expect("a visitor does not panic")?;
                done.made += own.made;
                done.ended += own.ended;
                wrong.extend(own_wrong);
            }
            Ok((done, wrong))
        })
    }

    fn visit(&self, number: usize, ends: &AtomicBool) -> io::Result<(Done, Option<String>)> {
        let mut rng = SmallRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let (mut done, mut wrong) = (Done::default(), None);
        let mut due = Instant::now() + self.every * u32::try_from(number).unwrap_or(0) / u32::try_from(self.visitors).unwrap_or(1);
        while !ends.load(Ordering::Relaxed) {
            wait_until(due);
            due += self.every;
            let name = format!("{}-{number}-{}", self.seed, done.made);
            let text = match &self.sent {
                Sent::Text(text) => text.clone(),
                Sent::Reserves { sku, missing } => {
                    let body = format!(r#"{{"user":"{name}"}}"#);
                    let head = body_begun(&format!("/v1/stocks/{sku}/reservations"), body.len() + missing);
                    [head, body.into_bytes()].concat()
                }
                Sent::Garbage => garbage(&mut rng),
            };
            done.made += 1;
            match self.once(&text) {
                Ok(None) => {}
                Ok(Some(what)) => wrong = wrong.or(Some(what)),
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Err(error),
                Err(error) => wrong = wrong.or_else(|| Some(format!("visit {name}: {error}"))),
            }
            done.ended += u64::from(matches!(self.end, End::Answered(_) | End::HalfClosed(_)));
        }
        Ok((done, wrong))
    }

    /// One visit; what is wrong with its answer, if anything.
    fn once(&self, text: &[u8]) -> io::Result<Option<String>> {
        let mut stream = connect(self.address, self.source, false)?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
        stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
        let sent = stream.write_all(text);
        match self.end {
            End::Leaves => return sent.map(|()| None),
            End::Resets => {
                sent?;
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(None);
            }
            // Who is refused before it has sent all can take its answer all the same.
            End::Answered(_) => {}
            End::HalfClosed(_) => stream.shutdown(Shutdown::Write)?,
            End::AllAnswered(_) => sent?,
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 16 * 1_024];
        let wanted = if let End::AllAnswered(count) = self.end { count } else { usize::MAX };
        while count_answers(&answer) < wanted && answer.len() < ANSWER_BYTES_MAX {
            match stream.read(&mut buffer)? {
                0 => break,
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
        let status = if let End::Answered(status) | End::HalfClosed(status) = self.end { status } else { 200 };
        let is_right = answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes());
        let is_whole = wanted == usize::MAX || count_answers(&answer) == wanted;
        let shown = || String::from_utf8_lossy(&answer[..answer.len().min(120)]).into_owned();
        Ok((!is_right || !is_whole).then(|| format!("answered {:?} where {status} was due", shown())))
    }
}

/// The header of a request with a body of `length` bytes.
pub(crate) fn body_begun(path: &str, length: usize) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

fn count_answers(bytes: &[u8]) -> usize {
    bytes.windows(13).filter(|window| *window == b"HTTP/1.1 200 ").count()
}

/// No header begins like this, whatever follows.
fn garbage(rng: &mut SmallRng) -> Vec<u8> {
    let length = rng.random_range(1..2_000);
    let mut bytes = vec![0];
    bytes.extend((0..length).map(|_| rng.random::<u8>()));
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}
