//! What a load found: figures for a program, and a table and a verdict for people. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::conserve::{Counters, Mismatch, check};
use super::plan::Plan;
use super::schedule::Spacing;
use super::tally::{COMMANDS, CommandKind, Percentiles, REQUESTS, Tally};

/// Products that do not add up and are shown in the table.
const MISMATCHES_SHOWN: usize = 10;

/// A run of an open loop kept its rate when all but one in a hundred requests were sent within this share of the measured time: to
/// fall short of the rate by this share is to be so far behind at the end.
const BEHIND_SHARE_MAX: f64 = 0.01;

/// What being behind is not held against a short run, in milliseconds.
const BEHIND_MS_MIN: f64 = 10.0;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// Its time was over.
    Duration,
    /// Its requests were made.
    Requests,
    /// The target could not be reached any more.
    Unreachable,
    /// A signal asked for it.
    Interrupted,
}

/// What the run left for the report.
pub(crate) struct Evidence {
    pub(crate) tally: Tally,
    pub(crate) ended: Ended,
    /// From the end of the warm-up to the end, or to the last answer of a run that ended early.
    pub(crate) measured: Duration,
    /// From the beginning to the last counter read.
    pub(crate) since_start: Duration,
    /// The stocks at the end, or why they could not be read.
    pub(crate) counters: Result<Vec<Counters>, String>,
    /// What became of the stocks.
    pub(crate) closing: Closing,
}

/// What became of the stocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Closing {
    /// Closed.
    Closed,
    /// Left open, as asked.
    Kept,
    /// Left open, for this reason.
    Failed(String),
}

/// The figures of a load.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether nothing speaks against the run.
    pub(crate) ok: bool,
    /// What does.
    pub(crate) failures: Vec<String>,
    /// What the reader should know besides.
    pub(crate) warnings: Vec<String>,
    target: String,
    seed: u32,
    prefix: String,
    #[serde(rename = "loop")]
    kind: &'static str,
    connections: u32,
    threads: u32,
    warmup_seconds: f64,
    duration_seconds: f64,
    measured_seconds: f64,
    ended: Ended,
    requests: Requests,
    commands: Commands,
    /// By kind of command: how often each outcome was met, warm-up included.
    outcomes: BTreeMap<&'static str, BTreeMap<String, u64>>,
    errors: u64,
    errors_max: u64,
    sold_out: SoldOut,
    /// Of the measured time, in milliseconds.
    latency_ms: BTreeMap<&'static str, Percentiles>,
    /// Of an open loop only.
    schedule: Option<Schedule>,
    bytes: Bytes,
    stocks: Stocks,
}

#[derive(Debug, Serialize)]
struct Requests {
    sent: u64,
    answered: u64,
    answered_measured: u64,
    answered_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Commands {
    reserve: u64,
    confirm: u64,
    release: u64,
    answered_measured: u64,
    answered_per_second: f64,
}

#[derive(Debug, Serialize)]
struct SoldOut {
    wanted: f64,
    /// Of all reservations that were asked for; none when there were none.
    found: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Schedule {
    arrivals: Spacing,
    offered_per_second: u32,
    due: u64,
    sent: u64,
    /// Due, and not sent at all.
    unsent: u64,
    /// Due when no connection was free.
    waited_for_connection: u64,
    /// How long after their time requests were sent.
    behind_ms: Percentiles,
    kept: bool,
}

#[derive(Debug, Serialize)]
struct Bytes {
    sent: u64,
    received: u64,
}

#[derive(Debug, Serialize)]
struct Stocks {
    products: usize,
    quantity: u32,
    hold_seconds: u32,
    closing: Closing,
    /// Whether all were read at the end.
    checked: bool,
    allotted: u64,
    available: u64,
    reserved: u64,
    sold: u64,
    /// As answers told, in units.
    told: Told,
    mismatches: Vec<Mismatch>,
}

#[derive(Debug, Default, Serialize)]
struct Told {
    granted: u64,
    confirmed: u64,
    released: u64,
    expired: u64,
    granted_unknown: u64,
    confirmed_unknown: u64,
    released_unknown: u64,
}

impl Report {
    /// Judges a run.
    pub(crate) fn new(plan: &Plan, target: &str, evidence: &Evidence) -> Self {
        let options = &plan.options;
        let tally = &evidence.tally;
        let measured_seconds = evidence.measured.as_secs_f64();
        let (mut failures, mut warnings) = (Vec::new(), Vec::new());
        match evidence.ended {
            Ended::Unreachable => failures.push("the target could not be reached any more, so the run was ended early".to_owned()),
            Ended::Interrupted => failures.push("a signal ended the run early".to_owned()),
            Ended::Duration | Ended::Requests => {}
        }
        let errors = tally.errors();
        if errors > options.errors_max {
            failures.push(format!("{errors} errors, where --errors-max allows {}", options.errors_max));
        }
        if tally.answers_measured == 0 {
            failures.push("no request was answered in the measured time".to_owned());
        }
        let stocks = stocks(plan, evidence, &mut failures);
        if let Closing::Failed(reason) = &evidence.closing {
            warnings.push(format!("the stocks were not closed: {reason}"));
        }
        let schedule = options.rate.map(|rate| schedule(rate, options.arrivals, tally, measured_seconds));
        if let Some(schedule) = schedule.as_ref().filter(|schedule| !schedule.kept) {
            warnings.push(format!(
                "the rate was not kept: of 100 requests one was sent {} ms after its time or later, {} never; {} of {} found no free \
                 connection. The latencies count from the time that was due, so they hold; what was offered was less than {rate}/s",
                decimals(schedule.behind_ms.p99),
                schedule.unsent,
                schedule.waited_for_connection,
                schedule.due,
                rate = schedule.offered_per_second,
            ));
        }
        let reserves = tally.commands(CommandKind::Reserve);
        let outcomes: BTreeMap<_, _> = COMMANDS.iter().map(|(kind, name)| (*name, tally.outcomes(*kind))).collect();
        let sold_out = outcomes["reserve"].get("sold_out").copied().unwrap_or(0);
        let all = std::iter::once(("all", tally.percentiles_of_all()));
        let each = REQUESTS.iter().map(|(kind, name)| (*name, tally.percentiles(*kind)));
        Self {
            ok: failures.is_empty(),
            failures,
            warnings,
            target: target.to_owned(),
            seed: plan.seed,
            prefix: plan.prefix.clone(),
            kind: if options.rate.is_some() { "open" } else { "closed" },
            connections: plan.connections,
            threads: options.threads,
            warmup_seconds: options.warmup.as_secs_f64(),
            duration_seconds: options.duration.as_secs_f64(),
            measured_seconds,
            ended: evidence.ended,
            requests: Requests {
                sent: tally.requests,
                answered: tally.answers,
                answered_measured: tally.answers_measured,
                answered_per_second: per_second(tally.answers_measured, measured_seconds),
            },
            commands: Commands {
                reserve: reserves,
                confirm: tally.commands(CommandKind::Confirm),
                release: tally.commands(CommandKind::Release),
                answered_measured: tally.commands_measured,
                answered_per_second: per_second(tally.commands_measured, measured_seconds),
            },
            outcomes,
            errors,
            errors_max: options.errors_max,
            sold_out: SoldOut { wanted: options.sold_out, found: (reserves > 0).then(|| ratio(sold_out, reserves)) },
            latency_ms: all.chain(each.filter(|(_, latencies)| latencies.count > 0)).collect(),
            schedule,
            bytes: Bytes { sent: tally.bytes_sent, received: tally.bytes_received },
            stocks,
        }
    }
}

fn schedule(rate: u32, arrivals: Spacing, tally: &Tally, measured_seconds: f64) -> Schedule {
    let behind_ms = tally.behind.percentiles();
    let allowed = (measured_seconds * 1_000.0 * BEHIND_SHARE_MAX).max(BEHIND_MS_MIN);
    Schedule {
        arrivals,
        offered_per_second: rate,
        due: tally.due,
        sent: tally.due - tally.unsent,
        unsent: tally.unsent,
        waited_for_connection: tally.waited,
        behind_ms,
        kept: tally.unsent == 0 && behind_ms.p99 <= allowed,
    }
}

/// Holds every stock against the books.
fn stocks(plan: &Plan, evidence: &Evidence, failures: &mut Vec<String>) -> Stocks {
    let books = evidence.tally.books();
    let mut told = Told::default();
    for book in books {
        told.granted += book.granted;
        told.confirmed += book.confirmed;
        told.released += book.released;
        told.expired += book.expired;
        told.granted_unknown += book.granted_unknown;
        told.confirmed_unknown += book.confirmed_unknown;
        told.released_unknown += book.released_unknown;
    }
    let mut stocks = Stocks {
        products: plan.skus.len(),
        quantity: plan.options.quantity,
        hold_seconds: plan.options.hold_seconds,
        closing: evidence.closing.clone(),
        checked: evidence.counters.is_ok(),
        allotted: 0,
        available: 0,
        reserved: 0,
        sold: 0,
        told,
        mismatches: Vec::new(),
    };
    let counters = match &evidence.counters {
        Ok(counters) => counters,
        Err(reason) => {
            failures.push(format!("the stocks could not be checked: {reason}"));
            return stocks;
        }
    };
    let may_lapse = evidence.since_start >= Duration::from_secs(plan.options.hold_seconds.into());
    for (number, shown) in counters.iter().enumerate() {
        stocks.allotted += shown.allotted;
        stocks.available += shown.available;
        stocks.reserved += shown.reserved;
        stocks.sold += shown.sold;
        if let Err(what) = check(plan.units[number], shown, &books[number], may_lapse) {
            stocks.mismatches.push(Mismatch { sku: plan.skus[number].clone(), what });
        }
    }
    if let Some(first) = stocks.mismatches.first() {
        failures.push(format!("{} products do not add up; {}: {}", stocks.mismatches.len(), first.sku, first.what));
    }
    stocks
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// As many decimals as are worth reading.
fn decimals(number: f64) -> String {
    let decimals = match number {
        number if number >= 100.0 => 0,
        number if number >= 10.0 => 1,
        number if number >= 1.0 => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// A count with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and below 2^52")]
fn rate(number: f64) -> String {
    if number >= 100.0 { grouped(number.round() as u64) } else { decimals(number) }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "target      {}", self.target)?;
        let pace = match &self.schedule {
            Some(schedule) => {
                format!("open loop, {}/s, {} arrivals", grouped(schedule.offered_per_second.into()), spacing(schedule.arrivals))
            }
            None => "closed loop".to_owned(),
        };
        writeln!(out, "pace        {pace}; {} connections, {} threads, seed {}", self.connections, self.threads, self.seed)?;
        let warmup = decimals(self.warmup_seconds);
        writeln!(out, "measured    {} s after a warm-up of {warmup} s", decimals(self.measured_seconds))?;
        let requests = &self.requests;
        writeln!(out, "requests    {} sent, {} answered", grouped(requests.sent), grouped(requests.answered))?;
        writeln!(
            out,
            "throughput  {} requests/s, {} commands/s",
            rate(requests.answered_per_second),
            rate(self.commands.answered_per_second)
        )?;
        writeln!(out, "bytes       {} sent, {} received", grouped(self.bytes.sent), grouped(self.bytes.received))?;

        writeln!(
            out,
            "\nlatency, ms {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, latency) in &self.latency_ms {
            line(out, name, latency)?;
        }
        if let Some(schedule) = &self.schedule {
            line(out, "sent late", &schedule.behind_ms)?;
        }

        writeln!(out, "\noutcomes")?;
        for (kind, outcomes) in &self.outcomes {
            let all: u64 = outcomes.values().sum();
            for (name, count) in outcomes {
                writeln!(out, "  {kind:<8}  {name:<24} {:>13} {:>7.2} %", grouped(*count), 100.0 * ratio(*count, all))?;
            }
        }
        if self.sold_out.wanted > 0.0 {
            let found = self.sold_out.found.map_or_else(|| "-".to_owned(), |found| format!("{:.2} %", 100.0 * found));
            writeln!(out, "  sold out  {found} where {:.2} % was asked for", 100.0 * self.sold_out.wanted)?;
        }

        let stocks = &self.stocks;
        writeln!(out, "\nstocks      {} as {}-*, {}", grouped(stocks.products as u64), self.prefix, closing(&stocks.closing))?;
        let told = &stocks.told;
        let mut units = format!(
            "{} granted, {} confirmed, {} released",
            grouped(told.granted),
            grouped(told.confirmed),
            grouped(told.released)
        );
        let unknown = told.granted_unknown + told.confirmed_unknown + told.released_unknown;
        if unknown > 0 {
            write!(units, ", {} unknown", grouped(unknown))?;
        }
        writeln!(out, "units told  {units}")?;
        if stocks.checked {
            let Stocks { allotted, available, reserved, sold, .. } = stocks;
            let sums = [available, reserved, sold, allotted].map(|units| grouped(*units));
            writeln!(out, "units shown {} available + {} reserved + {} sold, {} allotted", sums[0], sums[1], sums[2], sums[3])?;
            let good = stocks.products - stocks.mismatches.len();
            writeln!(
                out,
                "conserved   {} of {} products add up as they were answered",
                grouped(good as u64),
                grouped(stocks.products as u64)
            )?;
        }
        for mismatch in stocks.mismatches.iter().take(MISMATCHES_SHOWN) {
            writeln!(out, "  {}: {}", mismatch.sku, mismatch.what)?;
        }
        if let Some(more) = stocks.mismatches.len().checked_sub(MISMATCHES_SHOWN).filter(|more| *more > 0) {
            writeln!(out, "  and {more} more (--json lists every one)")?;
        }

        writeln!(out)?;
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        for failure in &self.failures {
            writeln!(out, "failure: {failure}")?;
        }
        write!(out, "{}", if self.ok { "load: ok" } else { "load: FAILED" })
    }
}

fn line(out: &mut fmt::Formatter<'_>, name: &str, latency: &Percentiles) -> fmt::Result {
    write!(out, "  {name:<9} {:>10}", grouped(latency.count))?;
    for value in [latency.p50, latency.p90, latency.p99, latency.p999, latency.p9999, latency.max] {
        write!(out, " {:>9}", decimals(value))?;
    }
    writeln!(out)
}

const fn spacing(spacing: Spacing) -> &'static str {
    match spacing {
        Spacing::Poisson => "poisson",
        Spacing::Constant => "constant",
    }
}

const fn closing(closing: &Closing) -> &'static str {
    match closing {
        Closing::Closed => "closed",
        Closing::Kept => "left open",
        Closing::Failed(_) => "left open against the plan",
    }
}
