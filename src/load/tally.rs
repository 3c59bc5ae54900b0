//! What was asked and answered, counted: outcomes by name, latencies, and for each product the units that answers spoke of. Pure.
//!
//! A thread keeps a tally of its own; they are added up at the end. It must not know how answers come.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in microseconds: one hour. Longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Significant decimal digits of latencies.
const LATENCY_DIGITS: u8 = 3;

/// Kinds of request.
pub(crate) const REQUESTS: [(RequestKind, &str); 4] = [
    (RequestKind::Reserve, "reserve"),
    (RequestKind::Confirm, "confirm"),
    (RequestKind::Release, "release"),
    (RequestKind::Batch, "batch"),
];

/// What one HTTP request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Reserve,
    Confirm,
    Release,
    Batch,
}

/// Kinds of command.
pub(crate) const COMMANDS: [(CommandKind, &str); 3] =
    [(CommandKind::Reserve, "reserve"), (CommandKind::Confirm, "confirm"), (CommandKind::Release, "release")];

/// What one command asks, alone or in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Reserve,
    Confirm,
    Release,
}

/// What an outcome says about the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It happened.
    Done,
    /// The domain said no: nothing changed.
    Rejected,
    /// Something else said no, or nothing was sent: nothing changed. An error of the run.
    NotDone,
    /// It may have happened. An error of the run.
    Unknown,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome<'a> {
    /// Its name: the status of a success, the code of a problem, or a word of our own.
    pub(crate) name: &'a str,
    /// What it means.
    pub(crate) effect: Effect,
}

/// No connection could be made: nothing was sent.
pub(crate) const CONNECT_ERROR: Outcome<'_> = Outcome { name: "connect_error", effect: Effect::NotDone };
/// The connection went away before the whole answer was there.
pub(crate) const CONNECTION_LOST: Outcome<'_> = Outcome { name: "connection_lost", effect: Effect::Unknown };
/// No whole answer came in time.
pub(crate) const NO_ANSWER: Outcome<'_> = Outcome { name: "no_answer_in_time", effect: Effect::Unknown };
/// An answer came that is none of the contract's.
pub(crate) const UNREADABLE: Outcome<'_> = Outcome { name: "unreadable_answer", effect: Effect::Unknown };

/// Reads an answer's status and code as the contract means them. An answer below 500 without a code is `unreadable_answer`, yet
/// nothing happened; one of 500 and above may come from something in between that does not know.
pub(crate) fn outcome_of(status: u16, code: Option<&str>) -> Outcome<'_> {
    match (status, code) {
        (200, _) => Outcome { name: "200", effect: Effect::Done },
        (201, _) => Outcome { name: "201", effect: Effect::Done },
        (409, Some(name)) => Outcome { name, effect: Effect::Rejected },
        (400..500, Some(name)) => Outcome { name, effect: Effect::NotDone },
        (500.., Some(name @ ("overloaded" | "not_leader" | "no_quorum" | "recovering" | "stopping"))) => {
            Outcome { name, effect: Effect::NotDone }
        }
        (500.., Some(name)) => Outcome { name, effect: Effect::Unknown },
        (400..500, None) => Outcome { effect: Effect::NotDone, ..UNREADABLE },
        (_, _) => UNREADABLE,
    }
}

/// Units of one product, as answers spoke of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Book {
    /// Granted.
    pub(crate) granted: u64,
    /// Asked for with an unknown outcome.
    pub(crate) granted_unknown: u64,
    /// Confirmed.
    pub(crate) confirmed: u64,
    /// Granted, and their confirm has an unknown outcome.
    pub(crate) confirmed_unknown: u64,
    /// Released.
    pub(crate) released: u64,
    /// Granted, and their release has an unknown outcome.
    pub(crate) released_unknown: u64,
    /// Granted, and a confirm was told that their hold was over.
    pub(crate) expired: u64,
}

impl Book {
    /// Enters what became of a command about `units`.
    fn enter(&mut self, kind: CommandKind, outcome: Outcome<'_>, units: u64) {
        let entry = match (kind, outcome.effect) {
            (CommandKind::Reserve, Effect::Done) => &mut self.granted,
            (CommandKind::Reserve, Effect::Unknown) => &mut self.granted_unknown,
            (CommandKind::Confirm, Effect::Done) => &mut self.confirmed,
            (CommandKind::Confirm, Effect::Unknown) => &mut self.confirmed_unknown,
            (CommandKind::Confirm, Effect::Rejected) if outcome.name == "reservation_expired" => &mut self.expired,
            (CommandKind::Release, Effect::Done) => &mut self.released,
            (CommandKind::Release, Effect::Unknown) => &mut self.released_unknown,
            (_, Effect::Rejected | Effect::NotDone) => return,
        };
        *entry += units;
    }

    fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.granted_unknown += other.granted_unknown;
        self.confirmed += other.confirmed;
        self.confirmed_unknown += other.confirmed_unknown;
        self.released += other.released;
        self.released_unknown += other.released_unknown;
        self.expired += other.expired;
    }
}

/// Latencies of some requests.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// Percentiles in milliseconds; the largest is exact to three digits like the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p999: f64,
    #[serde(rename = "p99.99")]
    pub(crate) p9999: f64,
    pub(crate) max: f64,
}

impl Latencies {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS).expect("the bounds are in order"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// What most waited at most. All zero when nothing was recorded.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |quantile: f64| milliseconds(self.0.value_at_quantile(quantile));
        Percentiles {
            count: self.0.len(),
            mean: self.0.mean() / 1_000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: milliseconds(self.0.max()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an hour of microseconds is far below 2^52")]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1_000.0
}

/// Everything that one thread, or all of them, saw.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// By [`CommandKind`]: how often each outcome was met; few names, so they are looked through.
    outcomes: [Vec<(String, Effect, u64)>; COMMANDS.len()],
    /// By product.
    books: Vec<Book>,
    /// By [`RequestKind`], in the measured time.
    latencies: [Latencies; REQUESTS.len()],
    /// How long after their time requests were sent, in the measured time.
    pub(crate) behind: Latencies,
    /// Requests sent.
    pub(crate) requests: u64,
    /// Requests answered.
    pub(crate) answers: u64,
    /// Answers that came in the measured time.
    pub(crate) answers_measured: u64,
    /// Commands whose answers came in the measured time.
    pub(crate) commands_measured: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// Arrivals of an open loop that fell due.
    pub(crate) due: u64,
    /// Of them, those whose time came when no connection was free.
    pub(crate) waited: u64,
    /// Of them, those that were never sent because the run had ended.
    pub(crate) unsent: u64,
}

impl Tally {
    /// An empty one for so many products.
    pub(crate) fn new(products: usize) -> Self {
        Self {
            outcomes: Default::default(),
            books: vec![Book::default(); products],
            latencies: std::array::from_fn(|_| Latencies::new()),
            behind: Latencies::new(),
            requests: 0,
            answers: 0,
            answers_measured: 0,
            commands_measured: 0,
            bytes_sent: 0,
            bytes_received: 0,
            due: 0,
            waited: 0,
            unsent: 0,
        }
    }

    /// Counts what became of a command about `units` of a product.
    pub(crate) fn command(&mut self, kind: CommandKind, product: usize, units: u64, outcome: Outcome<'_>) {
        self.books[product].enter(kind, outcome, units);
        let known = &mut self.outcomes[kind as usize];
        match known.iter_mut().find(|(name, effect, _)| name == outcome.name && *effect == outcome.effect) {
            Some((_, _, count)) => *count += 1,
            None => known.push((outcome.name.to_owned(), outcome.effect, 1)),
        }
    }

    /// Notes how long a request of the measured time took.
    pub(crate) fn latency(&mut self, kind: RequestKind, latency: Duration) {
        self.latencies[kind as usize].record(latency);
    }

    /// Takes another thread's in.
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(&other.outcomes) {
            for (name, effect, count) in theirs {
                match mine.iter_mut().find(|(known, meaning, _)| known == name && meaning == effect) {
                    Some((_, _, sum)) => *sum += count,
                    None => mine.push((name.clone(), *effect, *count)),
                }
            }
        }
        self.books.iter_mut().zip(&other.books).for_each(|(mine, theirs)| mine.add(theirs));
        self.latencies.iter_mut().zip(&other.latencies).for_each(|(mine, theirs)| mine.add(theirs));
        self.behind.add(&other.behind);
        self.requests += other.requests;
        self.answers += other.answers;
        self.answers_measured += other.answers_measured;
        self.commands_measured += other.commands_measured;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.due += other.due;
        self.waited += other.waited;
        self.unsent += other.unsent;
    }

    /// By product.
    pub(crate) fn books(&self) -> &[Book] {
        &self.books
    }

    /// How often each outcome of a kind of command was met, by name.
    pub(crate) fn outcomes(&self, kind: CommandKind) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (name, _, count) in &self.outcomes[kind as usize] {
            *counts.entry(name.clone()).or_default() += count;
        }
        counts
    }

    /// Commands of a kind.
    pub(crate) fn commands(&self, kind: CommandKind) -> u64 {
        self.outcomes[kind as usize].iter().map(|(_, _, count)| count).sum()
    }

    /// Commands with an outcome that is neither a success nor the domain's no.
    pub(crate) fn errors(&self) -> u64 {
        let all = self.outcomes.iter().flatten();
        all.filter(|(_, effect, _)| matches!(effect, Effect::NotDone | Effect::Unknown)).map(|(_, _, count)| count).sum()
    }

    /// Latencies of one kind of request.
    pub(crate) fn percentiles(&self, kind: RequestKind) -> Percentiles {
        self.latencies[kind as usize].percentiles()
    }

    /// Latencies of all requests.
    pub(crate) fn percentiles_of_all(&self) -> Percentiles {
        let mut all = Latencies::new();
        self.latencies.iter().for_each(|some| all.add(some));
        all.percentiles()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_mean_what_the_contract_says() {
        let rows = [
            (201, None, "201", Effect::Done),
            (200, None, "200", Effect::Done),
            (409, Some("sold_out"), "sold_out", Effect::Rejected),
            (409, Some("limit_reached"), "limit_reached", Effect::Rejected),
            (404, Some("unknown_sku"), "unknown_sku", Effect::NotDone),
            (401, Some("unauthenticated"), "unauthenticated", Effect::NotDone),
            (429, Some("rate_limited"), "rate_limited", Effect::NotDone),
            (503, Some("overloaded"), "overloaded", Effect::NotDone),
            (503, Some("stopping"), "stopping", Effect::NotDone),
            (503, Some("timeout"), "timeout", Effect::Unknown),
            (503, Some("outcome_unknown"), "outcome_unknown", Effect::Unknown),
            (500, Some("internal"), "internal", Effect::Unknown),
            (502, None, "unreadable_answer", Effect::Unknown),
            (404, None, "unreadable_answer", Effect::NotDone),
            (302, None, "unreadable_answer", Effect::Unknown),
        ];
        for (status, code, name, effect) in rows {
            assert_eq!(outcome_of(status, code), Outcome { name, effect }, "{status} {code:?}");
        }
    }

    #[test]
    fn books_count_units_by_what_is_known_of_them() {
        let mut tally = Tally::new(2);
        let expired = Outcome { name: "reservation_expired", effect: Effect::Rejected };
        let sold_out = Outcome { name: "sold_out", effect: Effect::Rejected };
        for (kind, product, units, outcome) in [
            (CommandKind::Reserve, 0, 2, outcome_of(201, None)),
            (CommandKind::Reserve, 0, 3, outcome_of(201, None)),
            (CommandKind::Reserve, 0, 2, sold_out),
            (CommandKind::Reserve, 1, 4, NO_ANSWER),
            (CommandKind::Reserve, 1, 5, CONNECT_ERROR),
            (CommandKind::Confirm, 0, 2, outcome_of(200, None)),
            (CommandKind::Confirm, 1, 6, CONNECTION_LOST),
            (CommandKind::Confirm, 1, 1, expired),
            (CommandKind::Release, 0, 3, outcome_of(200, None)),
            (CommandKind::Release, 1, 7, UNREADABLE),
        ] {
            tally.command(kind, product, units, outcome);
        }
        let first = Book { granted: 5, confirmed: 2, released: 3, ..Book::default() };
        let second = Book { granted_unknown: 4, confirmed_unknown: 6, expired: 1, released_unknown: 7, ..Book::default() };
        assert_eq!(tally.books(), [first, second]);
        assert_eq!(tally.errors(), 4);
        assert_eq!(tally.commands(CommandKind::Reserve), 5);

        let mut sum = Tally::new(2);
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!(sum.books()[1].granted_unknown, 8);
        assert_eq!(sum.errors(), 8);
        let expect = [("201", 4), ("connect_error", 2), ("no_answer_in_time", 2), ("sold_out", 2)];
        assert_eq!(sum.outcomes(CommandKind::Reserve), expect.map(|(name, count)| (name.to_owned(), count)).into());
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut tally = Tally::new(0);
        // 1 ms to 1,000 ms, one of each: the p-th percentile is 10 p ms, within three digits.
        for milliseconds in 1..=1_000 {
            tally.latency(RequestKind::Reserve, Duration::from_millis(milliseconds));
        }
        let found = tally.percentiles(RequestKind::Reserve);
        for (found, expect) in [
            (found.p50, 500.0),
            (found.p90, 900.0),
            (found.p99, 990.0),
            (found.p999, 999.0),
            (found.p9999, 1_000.0),
            (found.max, 1_000.0),
            (found.mean, 500.5),
        ] {
            assert!((found - expect).abs() <= expect / 1_000.0, "{found} and not {expect}");
        }
        assert_eq!(found.count, 1_000);
        tally.latency(RequestKind::Confirm, Duration::from_secs(2));
        assert_eq!(tally.percentiles_of_all().count, 1_001);
        assert!((tally.percentiles_of_all().max - 2_000.0).abs() < 2.0);
        assert_eq!(tally.percentiles(RequestKind::Batch).count, 0);
    }
}
