//! Nodes that grow, and are measured while they do. Everything that makes them grow is measured, so that nothing can hide between two
//! stages.

use std::thread;
use std::time::{Duration, Instant};

use super::sweep::Said;
use super::{Counters, ONCE_MAX, PictureParameters, Sample, Subject, Sweep, check_books, resident_mib, sell};
use crate::error::BenchError;
use crate::exchange::Crowd;
use crate::figure::{mean, number, per_second};
use crate::http::{SKU, UNITS_MAX};
use crate::server::{Server, stock_terms};
use crate::signals;
use crate::wire::{Request, take_batch};

/// How long a reservation is held that is to be over soon: the shortest that there is.
pub(crate) const SHORT_HOLD_SECONDS: u32 = 1;

/// Reservations leave memory only when so many can together.
const LEAVING_TOGETHER: u64 = 1_024;

/// Longest wait for a stage's reservations to be over and leave memory.
const LEAVE_WAIT_MAX: Duration = Duration::from_mins(5);

/// Time between two looks at whether they have.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Reservations that stay open.
pub(super) fn open(parameters: &PictureParameters, said: &mut Said<'_>) -> Result<Sweep, BenchError> {
    let crowd = Crowd { buyers_max: parameters.open.reservations, ..batches(parameters) };
    let request = Request::batch(SKU, crowd.commands);
    let grow = |grown: &mut dyn FnMut(Sample)| -> Result<(), BenchError> {
        let server = Server::node(&parameters.tidegate, parameters.directory.as_ref())?;
        server.open_stock(SKU, UNITS_MAX)?;
        let mut held = 0;
        for _ in 0..parameters.open.stages {
            let crowd = Crowd { first_buyer: held + 1, ..crowd };
            // The middle of the stage stands for the whole.
            let sample = sell(&server, &request, take_batch, &crowd, UNITS_MAX, held + crowd.buyers_max / 2)?;
            held += sample.granted;
            check_books(&server, SKU, UNITS_MAX, held)?;
            grown(sample);
        }
        Ok(())
    };
    let points = in_rounds(parameters.rounds, said, grow)?;
    let load = format!(
        "batches of {} from {} connections, one hot product, a user of its own each; all stay open",
        crowd.commands, crowd.connections
    );
    Ok(Sweep::new(Subject::Open, load, 0, points))
}

/// Reservations that are over as soon as they can be, and go to the history.
pub(super) fn history(parameters: &PictureParameters, said: &mut Said<'_>) -> Result<Sweep, BenchError> {
    let crowd = Crowd { buyers_max: parameters.history.reservations, ..batches(parameters) };
    let request = Request::batch(SKU, crowd.commands).of_users(parameters.history_users);
    let settings = [format!("engine.resolved_in_memory_max={}", parameters.kept)];
    let grow = |grown: &mut dyn FnMut(Sample)| -> Result<(), BenchError> {
        let server = Server::node_with(&parameters.tidegate, parameters.directory.as_ref(), &settings)?;
        server.open_stock_on(SKU, &stock_terms(UNITS_MAX, None, SHORT_HOLD_SECONDS))?;
        let mut over = 0;
        for _ in 0..parameters.history.stages {
            let (before, start) = (Counters::look(&server)?, Instant::now());
            let crowd = Crowd { first_buyer: over + 1, ..crowd };
            let mut sample = sell(&server, &request, take_batch, &crowd, UNITS_MAX, 0)?;
            over += sample.granted;
            let after = wait_left(&server, SKU, over, parameters.kept)?;
            check_books(&server, SKU, UNITS_MAX, 0)?;
            sample.at = Server::metric(&before.metrics, "history_records_total");
            sample.moved_rate = Some(per_second(sample.granted, start.elapsed()));
            // What a reservation costs in all: to be made, to be over and to leave.
            sample.server_cpu_us = mean(before.cpu_until(&after).as_secs_f64() * 1e6, sample.granted);
            sample.resident_mib = resident_mib(&server);
            grown(sample);
        }
        Ok(())
    };
    let points = in_rounds(parameters.rounds, said, grow)?;
    let load = format!(
        "batches of {} from {} connections, one hot product, {} users that come again, holds of {SHORT_HOLD_SECONDS} s that lapse and leave \
         memory before the next stage",
        crowd.commands, crowd.connections, parameters.history_users
    );
    Ok(Sweep::new(Subject::History, load, 0, points))
}

/// The batches of a stage, which ends by their number alone.
fn batches(parameters: &PictureParameters) -> Crowd {
    Crowd { warm_up: Duration::ZERO, measured: ONCE_MAX, ..parameters.batches() }
}

/// One growth after the other. What comes back is by stage, then by round.
fn in_rounds(
    rounds: usize,
    said: &mut Said<'_>,
    grow: impl Fn(&mut dyn FnMut(Sample)) -> Result<(), BenchError>,
) -> Result<Vec<Vec<Sample>>, BenchError> {
    let mut points: Vec<Vec<Sample>> = Vec::new();
    for round in 0..rounds {
        let mut stage = 0;
        grow(&mut |sample| {
            said(&format!("{:.0}, round {} of {rounds}", sample.at, round + 1), &sample);
            if stage == points.len() {
                points.push(Vec::with_capacity(rounds));
            }
            points[stage].push(sample);
            stage += 1;
        })
        .map_err(|error| BenchError::Wrong(format!("round {} of {rounds}, stage {}: {error}", round + 1, stage + 1)))?;
    }
    Ok(points)
}

/// Waits until all of `over` reservations have lapsed and have left memory, but for those that stay; the last of them were of `sku`. Fails when
/// more or fewer lapse.
pub(crate) fn wait_left(server: &Server, sku: &str, over: u64, kept: u64) -> Result<Counters, BenchError> {
    let start = Instant::now();
    let least = number(over.saturating_sub(kept + LEAVING_TOGETHER));
    loop {
        signals::check()?;
        let now = Counters::look(server)?;
        let (lapsed, left) =
            (Server::metric(&now.metrics, "lapsed_reservations_total"), Server::metric(&now.metrics, "history_records_total"));
        if lapsed > number(over) || left > number(over) {
            return Err(BenchError::Wrong(format!("{lapsed:.0} of {over} reservations lapsed and {left:.0} left memory")));
        }
        // A lapse counts when it is decided, and shows when it is durable.
        if lapsed >= number(over) && left >= least && server.stock_counter(sku, "reserved")? == 0 {
            return Ok(now);
        }
        if start.elapsed() > LEAVE_WAIT_MAX {
            let seconds = LEAVE_WAIT_MAX.as_secs();
            return Err(BenchError::Wrong(format!(
                "after {seconds} s {lapsed:.0} of {over} have lapsed and {left:.0} left memory"
            )));
        }
        thread::park_timeout(LOOK_INTERVAL);
    }
}
