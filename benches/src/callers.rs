//! Callers of a node in process: in batches, one after the other, or at their own pace. One thread stands for all of them.
//!
//! Callers at their own pace come every so often whatever the node does, and their latency counts from the moment at which they should
//! have come, not from the one at which this thread got round to it: what a pause does to those behind it is counted.

use std::collections::VecDeque;
use std::pin::Pin;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_engine::{Answer, Failure, Refusal};
use tidegate_stock::{Command, IdempotencyKey};

use crate::error::BenchError;
use crate::node::Node;
use crate::wait::{Waiter, block_on};

/// Commands of one batch.
const BATCH_COMMANDS: usize = 1_000;

/// Batches that wait for their answers at once.
const BATCHES_IN_FLIGHT: usize = 16;

/// Longest wait of this thread between two looks at whether to go on.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Commands sent between two looks at the answers.
const SENT_AT_ONCE: usize = 256;

/// A command's end.
pub type Outcome = Result<Answer, Failure>;

/// Sends everything of `commands` in batches; each must be accepted. Returns how many they were.
pub fn fill(node: &Node, commands: impl IntoIterator<Item = (Command, Option<IdempotencyKey>)>) -> Result<u64, BenchError> {
    let mut commands = commands.into_iter();
    let (mut in_flight, mut count) = (VecDeque::with_capacity(BATCHES_IN_FLIGHT), 0);
    loop {
        let batch = commands.by_ref().take(BATCH_COMMANDS).map(|(command, key)| node.submission(command, key));
        let batch: Vec<_> = batch.collect();
        let is_last = batch.is_empty();
        if !is_last {
            count += batch.len() as u64;
            in_flight.push_back(node.engine.submit_batch(batch));
        }
        while in_flight.len() == BATCHES_IN_FLIGHT || is_last {
            let Some(oldest) = in_flight.pop_front() else { return Ok(count) };
            for outcome in block_on(tidegate_engine::PendingBatch::outcomes(oldest)) {
                outcome.map_err(BenchError::wrong)?;
            }
        }
    }
}

/// Keeps `in_flight` commands going until `next` gives no more, and hands every answer with its latency to `answered`. Returns how long
/// it took.
pub fn closed_loop(
    node: &Node,
    in_flight: usize,
    mut next: impl FnMut(Instant) -> Option<Command>,
    mut answered: impl FnMut(Outcome, Duration) -> Result<(), BenchError>,
) -> Result<Duration, BenchError> {
    let waiter = Waiter::default();
    let mut window = VecDeque::with_capacity(in_flight);
    let start = Instant::now();
    let (mut now, mut goes_on) = (start, true);
    loop {
        while goes_on && window.len() < in_flight {
            now = Instant::now();
            match next(now) {
                Some(command) => window.push_back((now, node.try_submit(command).map_err(BenchError::wrong)?)),
                None => goes_on = false,
            }
        }
        let Some((submitted_at, mut pending)) = window.pop_front() else { return Ok(now - start) };
        let outcome = waiter.wait(Pin::new(&mut pending));
        now = Instant::now();
        answered(outcome, now - submitted_at)?;
        // The answers of one group come together, so the next are probably there too.
        while let Some((next_at, next)) = window.front_mut() {
            let Some(outcome) = waiter.poll(Pin::new(next)) else { break };
            let submitted_at = *next_at;
            window.pop_front();
            now = Instant::now();
            answered(outcome, now - submitted_at)?;
        }
    }
}

/// What callers at their own pace saw.
#[derive(Debug, Clone, Copy)]
pub struct Paced {
    /// How many came.
    pub came: u64,
    /// How many of them found the ring full.
    pub refused: u64,
    /// From the first of them until the last answer.
    pub elapsed: Duration,
}

/// Sends a command every `1 / rate` seconds for as long as `goes_on`, which is asked about every millisecond or more often. `answered`
/// gets the number of the command, its answer, and its latency from the moment at which it was due.
pub fn open_loop(
    node: &Node,
    rate: f64,
    mut goes_on: impl FnMut() -> Result<bool, BenchError>,
    mut command: impl FnMut(u64) -> Command,
    mut answered: impl FnMut(u64, Outcome, Duration) -> Result<(), BenchError>,
) -> Result<Paced, BenchError> {
    let waiter = Waiter::default();
    let between = Duration::from_secs_f64(1.0 / rate);
    let mut window = VecDeque::new();
    let start = Instant::now();
    let (mut due, mut came, mut refused, mut ends) = (start, 0, 0, false);
    loop {
        ends = ends || !goes_on()?;
        let now = Instant::now();
        let mut sent = 0;
        while !ends && due <= now && sent < SENT_AT_ONCE {
            match node.try_submit(command(came)) {
                Ok(pending) => window.push_back((came, due, pending)),
                Err(Refusal::RingFull { .. }) => refused += 1,
                Err(refusal) => return Err(BenchError::wrong(refusal)),
            }
            came += 1;
            due += between;
            sent += 1;
        }
        while let Some((number, due_at, pending)) = window.front_mut() {
            let Some(outcome) = waiter.poll(Pin::new(pending)) else { break };
            let latency = due_at.elapsed();
            let number = *number;
            window.pop_front();
            answered(number, outcome, latency)?;
        }
        if ends && window.is_empty() {
            return Ok(Paced { came, refused, elapsed: start.elapsed() });
        }
        let wait = if ends { LOOK_INTERVAL } else { due.saturating_duration_since(Instant::now()).min(LOOK_INTERVAL) };
        if !wait.is_zero() {
            thread::park_timeout(wait);
        }
    }
}
