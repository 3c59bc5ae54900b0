//! The rules alone: decide and apply, on one thread, with no machine, log or clock around them.

use std::time::{Duration, Instant};

use tidegate_stock::{Command, Event, Ledger, Recall, Rejection, Request, decide, decide_lapse};

use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, Run, median, medians, per_second};
use crate::sample::{HOLD_SECONDS, RULES, SEED, START, create, grant_id, request, reserve, sku, stock_id};

/// Commands timed together: reading the clock for each would cost as much as deciding it.
const COMMANDS_TIMED: usize = 64;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct RulesParameters {
    /// Reservations granted, and as many refused, confirmed and lapsed.
    pub reservations: u64,
    /// How often, each time on a new ledger.
    pub runs: usize,
}

impl RulesParameters {
    /// For figures: a million, five times.
    pub const FULL: Self = Self { reservations: 1_000_000, runs: 5 };

    /// For tests: 10,000, once.
    pub const TINY: Self = Self { reservations: 10_000, runs: 1 };
}

/// One run of each kind of command.
struct Round {
    granted: Timed,
    sold_out: Timed,
    confirmed: Timed,
    lapsed: Timed,
}

#[derive(Debug, Clone, Copy)]
struct Timed {
    run: Run,
    /// The longest that some commands timed together took: what others would have waited.
    longest: Duration,
}

/// Measures. Fails unless exactly what was on sale was sold, and all of it confirmed or lapsed.
pub fn run(parameters: RulesParameters) -> Result<Vec<Figure>, BenchError> {
    let rounds = (0..parameters.runs).map(|_| round(parameters.reservations)).collect::<Result<Vec<_>, _>>()?;
    let of = |pick: fn(&Round) -> Timed| rounds.iter().map(pick).collect::<Vec<_>>();
    Ok(vec![
        figure("reserve, granted, hot product", "commands/s", &of(|round| round.granted)),
        figure("reserve, sold out", "commands/s", &of(|round| round.sold_out)),
        figure("confirm", "commands/s", &of(|round| round.confirmed)),
        figure("lapse, up to 1,000 in an event", "reservations/s", &of(|round| round.lapsed)),
    ])
}

fn round(reservations: u64) -> Result<Round, BenchError> {
    let (mut ledger, sku) = (Ledger::new(RULES, SEED), sku());
    act(&mut ledger, &request(create(reservations)))?;
    let buyers = |from: u64| (from..from + reservations).map(|number| request(reserve(&sku, number))).collect::<Vec<_>>();
    let granted = timed(&buyers(0), |request| act(&mut ledger, request))?;
    let sold_out = timed(&buyers(reservations), |request| {
        match decide(&ledger, request, START, Recall::NotTried).expect("everything is in memory").outcome {
            Err(Rejection::SoldOut { .. }) => Ok(()),
            other => Err(BenchError::Wrong(format!("{other:?} where sold out was expected"))),
        }
    })?;
    let reserved = ledger.stock(stock_id()).map_or(0, |stock| stock.reserved);
    expect_equal("reserved units", reserved, reservations)?;

    let lapsed = lapse(&mut ledger)?;
    expect_equal("units available after the lapse", ledger.stock(stock_id()).map_or(0, |stock| stock.available), reservations)?;

    let mut ledger = Ledger::new(RULES, SEED);
    act(&mut ledger, &request(create(reservations)))?;
    for request in buyers(0) {
        act(&mut ledger, &request)?;
    }
    let confirms: Vec<_> = (1..=reservations).map(|sequence| request(confirm(sequence))).collect();
    let confirmed = timed(&confirms, |request| act(&mut ledger, request))?;
    expect_equal("sold units", ledger.stock(stock_id()).map_or(0, |stock| stock.sold), reservations)?;
    Ok(Round { granted, sold_out, confirmed, lapsed })
}

/// Confirms the hot product's grant number `sequence`.
pub(crate) fn confirm(sequence: u64) -> Command {
    Command::Confirm { reservation: grant_id(sequence), quantity: None }
}

/// Decides and applies what must be accepted.
pub(crate) fn act(ledger: &mut Ledger, request: &Request) -> Result<(), BenchError> {
    let decision = decide(ledger, request, START, Recall::NotTried).expect("everything is in memory");
    match (decision.outcome, &decision.event) {
        (Ok(_), Some(event)) => {
            drop(ledger.apply(event, START));
            Ok(())
        }
        (outcome, _) => Err(BenchError::Wrong(format!("{outcome:?} where a change was expected"))),
    }
}

fn timed(requests: &[Request], mut act: impl FnMut(&Request) -> Result<(), BenchError>) -> Result<Timed, BenchError> {
    let (start, mut latencies, mut longest) = (Instant::now(), Latencies::default(), Duration::ZERO);
    for some in requests.chunks(COMMANDS_TIMED) {
        let start = Instant::now();
        some.iter().try_for_each(&mut act)?;
        longest = longest.max(start.elapsed());
        latencies.record(each(start.elapsed(), some.len()));
    }
    let run = Run { rate: per_second(requests.len() as u64, start.elapsed()), latency: latencies.percentiles() };
    Ok(Timed { run, longest })
}

/// Lapses everything that is due an hour later.
fn lapse(ledger: &mut Ledger) -> Result<Timed, BenchError> {
    let now = START.plus_seconds(HOLD_SECONDS + 2);
    let (start, mut latencies, mut longest, mut lapsed) = (Instant::now(), Latencies::default(), Duration::ZERO, 0);
    let mut event_start = start;
    while let Some(event) = decide_lapse(ledger, now) {
        drop(ledger.apply(&event, now));
        let Event::Expired { reservations } = &event else {
            return Err(BenchError::Wrong(format!("{event:?} where a lapse was expected")));
        };
        lapsed += reservations.len() as u64;
        longest = longest.max(event_start.elapsed());
        latencies.record(each(event_start.elapsed(), reservations.len()));
        event_start = Instant::now();
    }
    let run = Run { rate: per_second(lapsed, start.elapsed()), latency: latencies.percentiles() };
    Ok(Timed { run, longest })
}

fn each(elapsed: Duration, count: usize) -> Duration {
    elapsed / u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}

fn figure(what: &str, unit: &'static str, timed: &[Timed]) -> Figure {
    let (rate, spread, latency) = medians(&timed.iter().map(|timed| timed.run).collect::<Vec<_>>());
    let pauses: Vec<f64> = timed.iter().map(|timed| timed.longest.as_secs_f64() * 1e3).collect();
    Figure {
        bench: "rules",
        what: what.to_owned(),
        durability: "-".to_owned(),
        group_events: None,
        unit,
        rate,
        runs: timed.len(),
        spread,
        latency: Some(latency),
        against: None,
        more: vec![Detail { name: "longest_pause_ms", value: median(&pauses) }],
    }
}
