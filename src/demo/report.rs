//! What the demo shows at its end: figures for a program, and a table and verdicts for people. Pure.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::books::{Books, Tally};
use super::checks::{Check, Evidence};
use super::plan::Plan;
use super::rush::{Kill, Measured};
use crate::client::ReservationState;

/// The last that a hold lapses after its end, in milliseconds, as long as somebody decides: what was due less long before a kill may have been
/// left to whoever decides next.
const LAPSE_TAKES_MS_MAX: u64 = 200;

/// The figures of a demo.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether every check held.
    pub(crate) passed: bool,
    sale: Sale,
    products: Vec<ProductLine>,
    grants: Grants,
    paid: Kind,
    cancelled: Kind,
    lapsed: Kind,
    /// Units granted beyond the first time that each was.
    resold_units: u64,
    answers: Tally,
    latency_ms: LatencyLines,
    arrivals_per_second: f64,
    calls_per_second: f64,
    /// The longest that lapsed units were away after the end of their hold while the node was up.
    latest_return_ms: Option<u64>,
    kills: Vec<KillLine>,
    /// From the opening to the end of the last visit.
    rush_seconds: f64,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Sale {
    nodes: usize,
    buyers: u32,
    units: u32,
    products: u16,
    hold_seconds: u32,
    rate: u32,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct ProductLine {
    sku: String,
    per_user_limit: u32,
    allotted: u64,
    grants: u64,
    granted_units: u64,
    sold: u64,
    available: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Grants {
    total: u64,
    /// By the node's life in which the answer came: before the first kill, after it, and so on.
    by_life: Vec<u64>,
    /// Grants whose own answer was lost, known by asking again.
    learned_by_asking_again: u64,
}

#[derive(Debug, Default, Serialize)]
struct Kind {
    reservations: u64,
    units: u64,
}

#[derive(Debug, Serialize)]
struct LatencyLines {
    without_outage: LatencyLine,
    with_outage: LatencyLine,
}

#[derive(Debug, Serialize)]
struct LatencyLine {
    count: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct KillLine {
    /// The number of the node.
    node: usize,
    grants_just_before: u32,
    /// From the last grant before it to the first grant after it, as buyers were told.
    pause_ms: Option<f64>,
    /// Grants that were asked for after it, and before the next kill.
    grants_after: u64,
    /// Unknown answers from it on, and before the next kill: each was asked again with the same key.
    unknown_after: u64,
    /// From executing the new process to `/readyz` 200.
    ready_ms: Option<f64>,
    /// From executing the new process to its first grant: the recovery time. In a cluster others grant before.
    first_grant_ms: Option<f64>,
    /// From the kill to the first grant by another process.
    without_grants_ms: Option<f64>,
    /// From the kill until every buyer who met it had an answer.
    caught_up_ms: Option<f64>,
}

impl Report {
    /// The figures of a sale that has been run and checked.
    pub(crate) fn new(plan: &Plan, books: &Books, measured: &Measured, evidence: &Evidence, checks: Vec<Check>) -> Self {
        let shape = plan.shape;
        let products = product_lines(plan, books, evidence);
        let count = |chosen: &dyn Fn(Option<u8>) -> bool| books.grants().iter().filter(|grant| chosen(grant.life)).count() as u64;
        Self {
            passed: checks.iter().all(|check| check.kept),
            sale: Sale {
                nodes: evidence.stopped.len(),
                buyers: shape.buyers,
                units: shape.units,
                products: shape.products,
                hold_seconds: plan.hold_seconds,
                rate: shape.rate,
                seed: shape.seed,
            },
            grants: Grants {
                total: books.grants().len() as u64,
                by_life: (0..=shape.kills).map(|life| count(&|of| of == Some(life))).collect(),
                learned_by_asking_again: count(&|of| of.is_none()),
            },
            paid: kind(books, &[ReservationState::Confirmed]),
            cancelled: kind(books, &[ReservationState::Released]),
            lapsed: kind(books, &[ReservationState::Reserved, ReservationState::Expired]),
            resold_units: products.iter().map(|product| product.granted_units.saturating_sub(product.allotted)).sum(),
            products,
            answers: *books.tally(),
            latency_ms: LatencyLines {
                without_outage: latency_line(&measured.latencies.calm),
                with_outage: latency_line(&measured.latencies.all),
            },
            arrivals_per_second: f64::from(shape.buyers) / measured.arrivals_took.as_secs_f64(),
            calls_per_second: per_second(measured.calls_meanwhile, measured.arrivals_took),
            latest_return_ms: latest_return_ms(books, evidence, &measured.kills),
            kills: kill_lines(books, &measured.kills),
            rush_seconds: measured.visits_took.as_secs_f64(),
            checks,
        }
    }
}

fn product_lines(plan: &Plan, books: &Books, evidence: &Evidence) -> Vec<ProductLine> {
    let line = |index: u16| {
        let product = &plan.products[usize::from(index)];
        let grants = || books.grants().iter().filter(move |grant| grant.ask.product == index);
        let units = |told: Option<ReservationState>| -> u64 {
            grants().filter(|grant| told.is_none_or(|told| grant.told == told)).map(|grant| u64::from(grant.ask.units)).sum()
        };
        ProductLine {
            sku: product.sku.clone(),
            per_user_limit: product.per_user_limit,
            allotted: product.units,
            grants: grants().count() as u64,
            granted_units: units(None),
            sold: units(Some(ReservationState::Confirmed)),
            available: evidence.stocks.get(usize::from(index)).and_then(|stock| Some(stock.as_ref().ok()?.available)),
        }
    };
    (0..plan.shape.products).map(line).collect()
}

fn kind(books: &Books, told: &[ReservationState]) -> Kind {
    let mut kind = Kind::default();
    for grant in books.grants().iter().filter(|grant| told.contains(&grant.told)) {
        kind.reservations += 1;
        kind.units += u64::from(grant.ask.units);
    }
    kind
}

/// Lapses whose hold ended between the last grant before a kill and the first after it are left out: nobody was there to see to them.
fn latest_return_ms(books: &Books, evidence: &Evidence, kills: &[Kill]) -> Option<u64> {
    let times = || books.grants().iter().map(|grant| grant.reserved_at_ms);
    let outage = |kill: &Kill| {
        let gone_at_ms = kill.gone_at_ms?;
        let last = times().filter(|at| *at <= gone_at_ms).max().unwrap_or(gone_at_ms);
        Some(last.saturating_sub(LAPSE_TAKES_MS_MAX)..=times().filter(|at| *at > gone_at_ms).min()?)
    };
    let outages: Vec<_> = kills.iter().filter_map(outage).collect();
    evidence
        .read_back
        .iter()
        .flatten()
        .filter(|shown| shown.state == ReservationState::Expired)
        .filter(|shown| !outages.iter().any(|outage| outage.contains(&shown.expires_at_ms)))
        .filter_map(|shown| shown.resolved_at_ms?.checked_sub(shown.expires_at_ms))
        .max()
}

fn kill_lines(books: &Books, kills: &[Kill]) -> Vec<KillLine> {
    (1..)
        .zip(kills)
        .map(|(life, kill)| {
            let unknown = kills.get(usize::from(life)).map_or(books.tally().unknown_answers(), |next| next.unknown_before);
            KillLine {
                grants_after: books.grants().iter().filter(|grant| grant.life == Some(life)).count() as u64,
                unknown_after: unknown.saturating_sub(kill.unknown_before),
                ..kill_line(kill)
            }
        })
        .collect()
}

/// What is known of a kill by itself.
fn kill_line(kill: &Kill) -> KillLine {
    let between = |from: Option<Instant>, to: Option<Instant>| Some(milliseconds(to?.checked_duration_since(from?)?));
    let killed_at = Some(kill.killed_at);
    KillLine {
        node: kill.node,
        grants_just_before: kill.grants_just_before,
        pause_ms: kill.pause().map(milliseconds),
        grants_after: 0,
        unknown_after: 0,
        ready_ms: between(kill.executed_at, kill.ready_at),
        first_grant_ms: between(kill.executed_at, kill.first_grant_at),
        without_grants_ms: between(killed_at, kill.first_grant_at),
        caught_up_ms: between(killed_at, kill.caught_up_at),
    }
}

fn latency_line(histogram: &Histogram<u64>) -> LatencyLine {
    let ms = |us: u64| milliseconds(Duration::from_micros(us));
    LatencyLine {
        count: histogram.len(),
        p50: ms(histogram.value_at_quantile(0.5)),
        p99: ms(histogram.value_at_quantile(0.99)),
        p999: ms(histogram.value_at_quantile(0.999)),
        max: ms(histogram.max()),
    }
}

/// In milliseconds, to the hundredth.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(count: u64, duration: Duration) -> f64 {
    count as f64 / duration.as_secs_f64()
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sale { nodes, buyers, units, products, hold_seconds, rate, seed } = self.sale;
        if nodes > 1 {
            write!(formatter, "{nodes} nodes, ")?;
        }
        writeln!(
            formatter,
            "{} buyers, {} units of {products} products, {} arrivals a second, holds of {hold_seconds} s, seed {seed}\n",
            grouped(buyers.into()),
            grouped(units.into()),
            grouped(rate.into())
        )?;
        self.write_products(formatter)?;
        self.write_figures(formatter)?;
        self.write_latencies(formatter)?;
        self.write_kills(formatter)?;
        self.write_checks(formatter)
    }
}

impl Report {
    fn write_products(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["product", "limit", "allotted", "grants", "units granted", "sold", "available"];
        let [sku, limit, allotted, grants, granted, sold, available] = header;
        writeln!(formatter, "{sku:<12} {limit:>5} {allotted:>9} {grants:>9} {granted:>13} {sold:>9} {available:>9}")?;
        for line in &self.products {
            writeln!(
                formatter,
                "{:<12} {:>5} {:>9} {:>9} {:>13} {:>9} {:>9}",
                line.sku,
                line.per_user_limit,
                grouped(line.allotted),
                grouped(line.grants),
                grouped(line.granted_units),
                grouped(line.sold),
                line.available.map_or_else(|| "?".to_owned(), grouped)
            )?;
        }
        writeln!(formatter)
    }

    fn write_figures(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut figure = |name: &str, value: u64, words: String| writeln!(formatter, "{name:<26} {:>9}  {words}", grouped(value));
        let lives = || self.grants.by_life.iter().zip(0_u32..);
        let by_life: Vec<String> = lives()
            .map(|(count, life)| match life {
                0 => format!("{} before the first kill", grouped(*count)),
                life => format!("{} after kill {life}", grouped(*count)),
            })
            .collect();
        let learned = grouped(self.grants.learned_by_asking_again);
        figure("grants", self.grants.total, format!("{}, {learned} learned only by asking again", by_life.join(", ")))?;
        for (name, kind) in [("  paid", &self.paid), ("  cancelled", &self.cancelled), ("  lapsed", &self.lapsed)] {
            figure(name, kind.reservations, format!("{} units", grouped(kind.units)))?;
        }
        figure("units sold again", self.resold_units, "granted after they had come back".into())?;
        let answers = &self.answers;
        let back =
            format!("{} buyers came back later, {} got something", grouped(answers.came_back), grouped(answers.came_back_and_got));
        figure("sold out", answers.sold_out, back)?;
        figure("duplicates refused", answers.limit_reached, "limit_reached".into())?;
        figure("repeats answered alike", answers.repeats_alike, "same key, same reservation".into())?;
        figure("unknown answers", answers.unknown_answers(), format!("{} unresolved", answers.unresolved()))?;
        for (name, calls) in [("  reserve", &answers.reserve), ("  confirm", &answers.confirm), ("  release", &answers.release)] {
            let words = format!(
                "asked again: {} had happened, {} happened then, {} were rejected then",
                grouped(calls.had_happened),
                grouped(calls.happened_then),
                grouped(calls.rejected_then)
            );
            figure(name, calls.unknown_answers, words)?;
        }
        figure("not admitted", answers.refused, "refused or unreachable, mostly while a node was away; tried again".into())?;
        writeln!(formatter)
    }

    fn write_latencies(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [count, p50, p99, p999, max] = ["buyers", "p50 ms", "p99 ms", "p99.9 ms", "max ms"];
        writeln!(formatter, "{:<26} {count:>9} {p50:>9} {p99:>9} {p999:>9} {max:>9}", "reserve, from arrival")?;
        let lines =
            [("  outside the outages", &self.latency_ms.without_outage), ("  outages included", &self.latency_ms.with_outage)];
        for (name, LatencyLine { count, p50, p99, p999, max }) in lines {
            writeln!(formatter, "{name:<26} {:>9} {p50:>9.2} {p99:>9.2} {p999:>9.2} {max:>9.2}", grouped(*count))?;
        }
        writeln!(
            formatter,
            "rate                       {:.0} arrivals/s and {:.0} calls/s while buyers arrived; the last left after {:.1} s",
            self.arrivals_per_second, self.calls_per_second, self.rush_seconds
        )?;
        let latest = self.latest_return_ms.map_or_else(|| "none lapsed".to_owned(), |ms| format!("{ms} ms after the hold's end"));
        writeln!(formatter, "latest lapse, node up      {latest}")
    }

    /// The kills of a cluster, one in a line.
    fn write_kills_of_cluster(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kill, pause, ready, answered, grants, unknown] =
            ["kill", "pause", "back and ready", "all answered", "grants after", "unknown answers after"];
        writeln!(formatter, "\n{kill:<18} {pause:>9} {ready:>15} {answered:>13} {grants:>13} {unknown:>22}")?;
        let ms = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
        for (number, kill) in (1..).zip(&self.kills) {
            writeln!(
                formatter,
                "{:<18} {:>9} {:>15} {:>13} {:>13} {:>22}",
                format!("{number} of node {}", kill.node),
                ms(kill.pause_ms),
                ms(kill.ready_ms),
                ms(kill.caught_up_ms),
                grouped(kill.grants_after),
                grouped(kill.unknown_after)
            )?;
        }
        writeln!(
            formatter,
            "pause: from the last grant before the kill to the first after it, on any node; back and ready: from the start of the killed node;\n\
             all answered: from the kill until every buyer who met it had an answer\n"
        )
    }

    fn write_kills(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sale.nodes > 1 && !self.kills.is_empty() {
            return self.write_kills_of_cluster(formatter);
        }
        let ms = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
        for (number, kill) in (1..).zip(&self.kills) {
            writeln!(
                formatter,
                "kill {number}: recovery            {} from start to first grant ({} to ready); {} without grants; {} until all had answers",
                ms(kill.first_grant_ms),
                ms(kill.ready_ms),
                ms(kill.without_grants_ms),
                ms(kill.caught_up_ms)
            )?;
        }
        writeln!(formatter)
    }

    fn write_checks(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(formatter, "{:<6} {} ({})", if check.kept { "kept" } else { "BROKEN" }, check.promise, check.looked_at)?;
            for finding in &check.findings.first {
                writeln!(formatter, "         {finding}")?;
            }
            if check.findings.count > check.findings.first.len() as u64 {
                writeln!(formatter, "         ... {} findings in all", check.findings.count)?;
            }
        }
        let broken = self.checks.iter().filter(|check| !check.kept).count();
        match broken {
            0 => write!(formatter, "\nNothing was oversold, lost or invented: all {} promises were kept.", self.checks.len()),
            broken => write!(formatter, "\n{broken} of {} promises were broken.", self.checks.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_kept_apart() {
        let texts = [0, 999, 1_000, 200_000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "200,000", "1,234,567"]);
    }

    #[test]
    fn a_time_is_shown_in_milliseconds_to_the_hundredth() {
        assert!((milliseconds(Duration::from_micros(1_234_567)) - 1_234.57).abs() < 1e-9);
    }
}
