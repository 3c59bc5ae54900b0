//! The proof: the buyers' books held against what the node says afterwards, against its log, and against themselves.
//!
//! Pure: what was read, and how the processes ended, arrive as [`Evidence`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::books::{Books, Findings, Grant};
use super::plan::Plan;
use crate::client::{Reservation, ReservationState, Stock};

/// What was seen after the sale. An `Err` says why something was not seen.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    /// The kills, in their order.
    pub(crate) kills: Vec<KillSeen>,
    /// Each grant of the books, in their order, as the node shows it.
    pub(crate) read_back: Vec<Result<Reservation, String>>,
    /// Each product's stock, in the plan's order, as the node shows it.
    pub(crate) stocks: Vec<Result<Stock, String>>,
    /// Of a cluster, the same as each node itself has it. Of a node alone, nothing.
    pub(crate) replicas: Vec<Vec<Result<Stock, String>>>,
    /// Each node's exit code after SIGTERM.
    pub(crate) stopped: Vec<Result<i32, String>>,
    /// What `tidegate verify` found in each node's log.
    pub(crate) verified: Vec<Result<Verified, String>>,
}

/// What was seen of one kill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KillSeen {
    /// Grants that buyers were told of in the moment before it.
    pub(crate) grants_just_before: u32,
    /// Of a cluster, whether something was granted before the killed node was started again.
    pub(crate) went_on: Option<bool>,
}

/// What `tidegate verify --json` reports, as far as the books know it too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Verified {
    /// Its stocks.
    pub(crate) stocks: Vec<VerifiedStock>,
    /// Reservations granted.
    pub(crate) grants: u64,
    /// Units granted.
    pub(crate) granted_units: u64,
    /// Units sold.
    pub(crate) confirmed_units: u64,
    /// Units that callers gave back.
    pub(crate) released_units: u64,
    /// Units that the clock took back.
    pub(crate) expired_units: u64,
}

/// One stock as the log leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct VerifiedStock {
    /// The product.
    pub(crate) sku: String,
    /// All units it was given.
    pub(crate) allotted: u64,
    /// Units that can be granted.
    pub(crate) available: u64,
    /// Units held.
    pub(crate) reserved: u64,
    /// Units paid.
    pub(crate) sold: u64,
    /// Reservations granted.
    pub(crate) grants: u64,
}

/// One promise, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// The promise.
    pub(crate) promise: String,
    /// Whether it was kept.
    pub(crate) kept: bool,
    /// What was looked at.
    pub(crate) looked_at: String,
    /// What breaks it.
    pub(crate) findings: Findings,
}

impl Check {
    fn new(promise: impl Into<String>, looked_at: String, findings: Findings) -> Self {
        Self { promise: promise.into(), kept: findings.count == 0, looked_at, findings }
    }
}

/// Every check, in the order of the story.
pub(crate) fn check_all(plan: &Plan, books: &Books, evidence: &Evidence) -> Vec<Check> {
    let mut checks = vec![scripts_ended(plan, books), unknowns_resolved(books), answers_agree(books)];
    checks.extend(kills_between_grants(books, evidence));
    checks.extend(went_on_without(evidence));
    let granted = || books.grants().iter().zip(&evidence.read_back);
    checks.push(grants_are_there(plan, books, evidence));
    let paid = |grant: &Grant| grant.told == ReservationState::Confirmed;
    checks.push(ended_as("every acknowledged payment is sold", granted(), paid, ReservationState::Confirmed));
    let cancelled = |grant: &Grant| grant.told == ReservationState::Released;
    checks.push(ended_as("every acknowledged cancellation was given back", granted(), cancelled, ReservationState::Released));
    let left = |grant: &Grant| matches!(grant.told, ReservationState::Reserved | ReservationState::Expired);
    checks.push(ended_as("every hold left alone lapsed, and none before its time", granted(), left, ReservationState::Expired));
    checks.push(limits_kept(plan, books, evidence));
    checks.push(never_oversold(plan, books, evidence));
    checks.push(sequences_whole(plan, books));
    checks.push(stocks_agree(plan, books, evidence));
    checks.extend(nodes_agree(plan, evidence));
    checks.push(stopped_in_order(evidence));
    checks.push(log_agrees(plan, books, evidence));
    checks
}

fn scripts_ended(plan: &Plan, books: &Books) -> Check {
    let mut findings = Findings::default();
    let (done, came) = (books.tally().buyers_done, u64::from(plan.shape.buyers));
    if done != came {
        findings.add(format!("{came} buyers came and {done} left"));
    }
    Check::new("every buyer's visit came to its end", format!("{came} buyers"), findings)
}

fn unknowns_resolved(books: &Books) -> Check {
    let mut findings = Findings::default();
    let tally = books.tally();
    if tally.unresolved() != 0 {
        findings.add(format!("{} calls are still unknown", tally.unresolved()));
    }
    Check::new("every unknown answer was resolved by asking again", format!("{} answers", tally.unknown_answers()), findings)
}

fn answers_agree(books: &Books) -> Check {
    let looked_at = format!("{} repeats", books.tally().repeats_alike);
    Check::new("no key has two grants, and no answer contradicts another", looked_at, books.contradictions().clone())
}

fn kills_between_grants(books: &Books, evidence: &Evidence) -> Vec<Check> {
    let in_life = |life: u8| books.grants().iter().filter(|grant| grant.life == Some(life)).count();
    (1..)
        .zip(&evidence.kills)
        .map(|(life, KillSeen { grants_just_before: just_before, .. })| {
            let (before, after) = (in_life(life - 1), in_life(life));
            let mut findings = Findings::default();
            for (count, when) in [(before, "before it"), (*just_before as usize, "in the 100 ms before it"), (after, "after it")] {
                if count == 0 {
                    findings.add(format!("no grant {when}"));
                }
            }
            let looked_at = format!("{before} grants before ({just_before} of them in the last 100 ms), {after} after");
            Check::new(format!("kill {life} fell between grants"), looked_at, findings)
        })
        .collect()
}

/// Of a cluster that lost a node.
fn went_on_without(evidence: &Evidence) -> Option<Check> {
    let went_on: Vec<bool> = evidence.kills.iter().filter_map(|kill| kill.went_on).collect();
    let mut findings = Findings::default();
    for (number, _) in (1..).zip(&went_on).filter(|(_, went_on)| !**went_on) {
        findings.add(format!("after kill {number} nothing was granted until the node was started again"));
    }
    let looked_at = format!("{} kills of whichever led", went_on.len());
    (!went_on.is_empty()).then(|| Check::new("the sale went on without the killed node", looked_at, findings))
}

fn grants_are_there(plan: &Plan, books: &Books, evidence: &Evidence) -> Check {
    let mut findings = Findings::default();
    for (grant, shown) in books.grants().iter().zip(&evidence.read_back) {
        let shown = match shown {
            Ok(shown) => shown,
            Err(why) => {
                findings.add(format!("{} of {} was granted and is not there: {why}", grant.id, grant.ask.user()));
                continue;
            }
        };
        let sku = plan.products[usize::from(grant.ask.product)].sku.as_str();
        let expected =
            (&grant.id, sku, grant.ask.user(), grant.ask.units, grant.sequence, grant.reserved_at_ms, grant.expires_at_ms);
        let found = (
            &shown.id,
            shown.sku.as_str(),
            shown.user.clone(),
            shown.quantity,
            shown.sequence,
            shown.reserved_at_ms,
            shown.expires_at_ms,
        );
        if expected != found {
            findings.add(format!("expected {expected:?}, found {found:?}"));
        }
        if shown.reserved + shown.confirmed + shown.released != shown.quantity {
            findings.add(format!("the units of {} do not add up: {shown:?}", shown.id));
        }
    }
    if evidence.read_back.len() != books.grants().len() {
        findings.add(format!("{} grants and {} of them read", books.grants().len(), evidence.read_back.len()));
    }
    Check::new("every acknowledged grant is there", format!("{} reservations read back", evidence.read_back.len()), findings)
}

/// Grants that `chosen` picks must all have ended in `state`, and if the clock ended them, not before their time.
fn ended_as<'a>(
    promise: &str,
    granted: impl Iterator<Item = (&'a Grant, &'a Result<Reservation, String>)>,
    chosen: impl Fn(&Grant) -> bool,
    state: ReservationState,
) -> Check {
    let mut findings = Findings::default();
    let mut looked_at = 0;
    for (grant, shown) in granted.filter(|(grant, _)| chosen(grant)) {
        looked_at += 1;
        // One that is not there has been found already.
        let Ok(shown) = shown else { continue };
        let units = match state {
            ReservationState::Confirmed => shown.confirmed,
            _ => shown.released,
        };
        if shown.state != state || units != grant.ask.units {
            let (id, told) = (&grant.id, grant.told);
            findings
                .add(format!("{id}: its buyer knows {told:?} and expects {state:?} of {} units, found {shown:?}", grant.ask.units));
        } else if state == ReservationState::Expired && shown.resolved_at_ms.is_none_or(|at| at < shown.expires_at_ms) {
            findings.add(format!("{} lapsed at {:?} and was good until {}", grant.id, shown.resolved_at_ms, shown.expires_at_ms));
        }
    }
    Check::new(promise, format!("{looked_at} reservations"), findings)
}

/// The most units out at any one time. A reservation's units are out from its grant until they came back; sold ones stay out.
/// Within one millisecond what came back is counted before what went out.
fn most_at_once<'a>(shown: impl Iterator<Item = &'a Reservation>) -> u64 {
    let mut moves: Vec<(u64, bool, u32)> = Vec::new();
    for reservation in shown {
        moves.push((reservation.reserved_at_ms, true, reservation.quantity));
        if let (Some(at), true) = (reservation.resolved_at_ms, reservation.released > 0) {
            moves.push((at, false, reservation.released));
        }
    }
    moves.sort_unstable();
    let (mut out, mut most) = (0_u64, 0);
    for (_, goes_out, units) in moves {
        out = if goes_out { out + u64::from(units) } else { out.saturating_sub(u64::from(units)) };
        most = most.max(out);
    }
    most
}

fn limits_kept(plan: &Plan, books: &Books, evidence: &Evidence) -> Check {
    let mut by_buyer: BTreeMap<(u32, u16), Vec<&Reservation>> = BTreeMap::new();
    for (grant, shown) in books.grants().iter().zip(&evidence.read_back) {
        by_buyer.entry((grant.ask.buyer, grant.ask.product)).or_default().extend(shown.as_ref().ok());
    }
    let mut findings = Findings::default();
    for ((buyer, product), shown) in &by_buyer {
        let product = &plan.products[usize::from(*product)];
        let most = most_at_once(shown.iter().copied());
        if most > u64::from(product.per_user_limit) {
            let ids: Vec<&str> = shown.iter().map(|reservation| reservation.id.as_str()).collect();
            findings.add(format!("buyer-{buyer} had {most} of {} at once, limit {}: {ids:?}", product.sku, product.per_user_limit));
        }
    }
    Check::new(
        "no buyer held and owned more than the limit at any time",
        format!("{} buyers with grants", by_buyer.len()),
        findings,
    )
}

fn never_oversold(plan: &Plan, books: &Books, evidence: &Evidence) -> Check {
    let mut findings = Findings::default();
    for (index, product) in (0..).zip(&plan.products) {
        let of_product = books.grants().iter().zip(&evidence.read_back).filter(|(grant, _)| grant.ask.product == index);
        let most = most_at_once(of_product.filter_map(|(_, shown)| shown.as_ref().ok()));
        if most > product.units {
            findings.add(format!("{} units of {} were out at once where {} exist", most, product.sku, product.units));
        }
    }
    Check::new("no unit was ever in two hands", format!("{} products, at every millisecond", plan.products.len()), findings)
}

fn sequences_whole(plan: &Plan, books: &Books) -> Check {
    let mut findings = Findings::default();
    for (index, product) in (0..).zip(&plan.products) {
        let mut grants: Vec<&Grant> = books.grants().iter().filter(|grant| grant.ask.product == index).collect();
        grants.sort_unstable_by_key(|grant| grant.sequence);
        for (expected, grant) in (1..).zip(&grants) {
            if grant.sequence != expected {
                let found = grant.sequence;
                findings.add(format!("{}: grant {expected} is due and {found} comes, which is {}", product.sku, grant.id));
                break;
            }
        }
        for pair in grants.windows(2).filter(|pair| pair[0].reserved_at_ms > pair[1].reserved_at_ms) {
            findings.add(format!("{}: {} was granted before {} and is later by the clock", product.sku, pair[0].id, pair[1].id));
        }
    }
    let looked_at = format!("{} grants of {} products", books.grants().len(), plan.products.len());
    Check::new("grants are numbered 1 to n, without a gap or a double, across every kill", looked_at, findings)
}

/// What the books say of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    grants: u64,
    sold: u64,
}

fn account(books: &Books, product: u16) -> Account {
    let grants = || books.grants().iter().filter(|grant| grant.ask.product == product);
    let sold = grants().filter(|grant| grant.told == ReservationState::Confirmed).map(|grant| u64::from(grant.ask.units)).sum();
    Account { grants: grants().count() as u64, sold }
}

fn stocks_agree(plan: &Plan, books: &Books, evidence: &Evidence) -> Check {
    let mut findings = Findings::default();
    for ((index, product), stock) in (0..).zip(&plan.products).zip(&evidence.stocks) {
        let stock = match stock {
            Ok(stock) => stock,
            Err(why) => {
                findings.add(format!("{} cannot be read: {why}", product.sku));
                continue;
            }
        };
        let sold = account(books, index).sold;
        let expected = (product.sku.as_str(), product.units, i128::from(product.units) - i128::from(sold), 0, sold);
        let found = (stock.sku.as_str(), stock.allotted, i128::from(stock.available), stock.reserved, stock.sold);
        if expected != found {
            findings.add(format!("expected (sku, allotted, available, reserved, sold) {expected:?}, found {found:?}"));
        }
    }
    if evidence.stocks.len() != plan.products.len() {
        findings.add(format!("{} products and {} stocks read", plan.products.len(), evidence.stocks.len()));
    }
    Check::new(
        "every product has sold what buyers paid, and the rest is available",
        format!("{} stocks", evidence.stocks.len()),
        findings,
    )
}

/// Of a cluster: what each node itself has is what whoever decides answered.
fn nodes_agree(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    let mut findings = Findings::default();
    for (number, stocks) in (1..).zip(&evidence.replicas) {
        for (index, product) in plan.products.iter().enumerate() {
            let (here, decided) = (stocks.get(index), evidence.stocks.get(index));
            match (here, decided) {
                (Some(Ok(here)), Some(Ok(decided))) if here == decided => {}
                _ => findings.add(format!("node {number} has {here:?} of {}, and {decided:?} was answered", product.sku)),
            }
        }
    }
    let nodes = evidence.replicas.len();
    let looked_at = format!("{} stocks on each", plan.products.len());
    (nodes > 0).then(|| Check::new(format!("all {nodes} nodes have the same stocks"), looked_at, findings))
}

fn stopped_in_order(evidence: &Evidence) -> Check {
    let mut findings = Findings::default();
    let told = |stopped: &Result<i32, String>| match stopped {
        Ok(code) => format!("exit code {code}"),
        Err(why) => why.clone(),
    };
    for (number, stopped) in (1..).zip(&evidence.stopped).filter(|(_, stopped)| **stopped != Ok(0)) {
        findings.add(format!("expected exit code 0 of node {number}, found {}", told(stopped)));
    }
    let promise =
        if evidence.stopped.len() == 1 { "the node stops in order when asked" } else { "every node stops in order when asked" };
    Check::new(promise, evidence.stopped.iter().map(told).collect::<Vec<_>>().join(", "), findings)
}

fn log_agrees(plan: &Plan, books: &Books, evidence: &Evidence) -> Check {
    let mut findings = Findings::default();
    let mut grants = Vec::new();
    for (number, verified) in (1..).zip(&evidence.verified) {
        match verified {
            Ok(verified) => {
                grants.push(verified.grants.to_string());
                for finding in differences(plan, books, verified) {
                    findings.add(format!("node {number}: {finding}"));
                }
            }
            Err(why) => findings.add(format!("node {number}: {why}")),
        }
    }
    let promise = if evidence.verified.len() == 1 {
        "`tidegate verify` finds the log whole, and in it what buyers know and nothing else"
    } else {
        "`tidegate verify` finds every node's log whole, and in it what buyers know and nothing else"
    };
    let logs = if grants.len() == 1 { "log" } else { "logs" };
    Check::new(promise, format!("{} grants in the {logs}", grants.join(", ")), findings)
}

/// Where a log differs from what buyers know.
fn differences(plan: &Plan, books: &Books, verified: &Verified) -> Vec<String> {
    use ReservationState::{Confirmed, Expired, Released, Reserved};
    let units_told = |states: &[ReservationState]| -> u64 {
        books.grants().iter().filter(|grant| states.contains(&grant.told)).map(|grant| u64::from(grant.ask.units)).sum()
    };
    let totals = [
        ("grants", books.grants().len() as u64, verified.grants),
        ("units granted", units_told(&[Reserved, Confirmed, Released, Expired]), verified.granted_units),
        ("units sold", units_told(&[Confirmed]), verified.confirmed_units),
        ("units released", units_told(&[Released]), verified.released_units),
        ("units expired", units_told(&[Reserved, Expired]), verified.expired_units),
        ("stocks", plan.products.len() as u64, verified.stocks.len() as u64),
    ];
    let of_totals = totals
        .into_iter()
        .filter(|(_, expected, found)| expected != found)
        .map(|(what, expected, found)| format!("{what}: the buyers know {expected}, the log holds {found}"));
    let of_products = (0..).zip(&plan.products).filter_map(|(index, product)| {
        let Account { grants, sold } = account(books, index);
        let expected = VerifiedStock {
            sku: product.sku.clone(),
            allotted: product.units,
            available: product.units.saturating_sub(sold),
            reserved: 0,
            sold,
            grants,
        };
        let found = verified.stocks.iter().find(|stock| stock.sku == product.sku);
        (found != Some(&expected)).then(|| format!("expected {expected:?}, found {found:?}"))
    });
    of_totals.chain(of_products).collect()
}

#[cfg(test)]
mod tests {
    use super::super::books::tests::{accepted, plan, reservation};
    use super::super::books::{Ask, GrantNumber, Reserved};
    use super::*;
    use crate::client::{Outcome, Persisted, UnknownCause};

    /// A small sale that went well: four grants of two products, one of them after the kill, and all that follows from them.
    struct Sale {
        plan: Plan,
        books: Books,
        evidence: Evidence,
    }

    const PAID: usize = 0;
    const CANCELLED: usize = 1;
    const LAPSED: usize = 2;
    const PAID_AFTER_KILL: usize = 3;

    fn sale() -> Sale {
        let mut plan = plan();
        (plan.products[0].units, plan.products[1].units) = (3, 7);
        let mut books = Books::new(&plan);
        let asks = [(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 1, 2)];
        let asks = asks.map(|(buyer, product, units)| Ask { buyer, attempt: 1, product, units });
        let mut read_back: Vec<Reservation> =
            asks.iter().zip([1, 2, 3, 1]).map(|(ask, sequence)| reservation(ask, sequence)).collect();
        let numbers: Vec<GrantNumber> = asks
            .iter()
            .zip(&read_back)
            .enumerate()
            .map(|(index, (ask, body))| {
                let life = u8::from(index == PAID_AFTER_KILL);
                match books.reserved(ask, &accepted(body.clone(), false, 0), life) {
                    Reserved::Granted(number) => number,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        let ends = [
            (PAID, ReservationState::Confirmed, 1_500),
            (CANCELLED, ReservationState::Released, 1_500),
            (LAPSED, ReservationState::Expired, 2_003),
            (PAID_AFTER_KILL, ReservationState::Confirmed, 1_600),
        ];
        for (index, state, resolved_at_ms) in ends {
            let shown = &mut read_back[index];
            let units = std::mem::take(&mut shown.reserved);
            if state == ReservationState::Confirmed {
                shown.confirmed = units;
            } else {
                shown.released = units;
            }
            (shown.state, shown.resolved_at_ms) = (state, Some(resolved_at_ms));
            let answer = accepted(shown.clone(), false, 0);
            match state {
                ReservationState::Confirmed => books.confirmed(numbers[index], &answer),
                ReservationState::Released => books.released(numbers[index], &answer),
                _ => {}
            }
        }
        (0..plan.shape.buyers).for_each(|_| books.buyer_done());
        let stock = |sku: &str, allotted, sold| Stock { sku: sku.into(), allotted, available: allotted - sold, reserved: 0, sold };
        let verified = |sku: &str, allotted, sold, grants| VerifiedStock {
            sku: sku.into(),
            allotted,
            available: allotted - sold,
            reserved: 0,
            sold,
            grants,
        };
        let stocks = vec![Ok(stock("flash-1", 3, 1)), Ok(stock("flash-2", 7, 2))];
        let verified = Verified {
            stocks: vec![verified("flash-1", 3, 1, 3), verified("flash-2", 7, 2, 1)],
            grants: 4,
            granted_units: 5,
            confirmed_units: 3,
            released_units: 1,
            expired_units: 1,
        };
        let evidence = Evidence {
            kills: vec![KillSeen { grants_just_before: 2, went_on: Some(true) }],
            read_back: read_back.into_iter().map(Ok).collect(),
            replicas: vec![stocks.clone(), stocks.clone()],
            stocks,
            stopped: vec![Ok(0), Ok(0)],
            verified: vec![Ok(verified.clone()), Ok(verified)],
        };
        Sale { plan, books, evidence }
    }

    impl Sale {
        /// The promises that were not kept.
        fn broken(&self) -> Vec<String> {
            let checks = check_all(&self.plan, &self.books, &self.evidence);
            assert!(checks.iter().all(|check| check.kept == check.findings.first.is_empty()));
            checks.into_iter().filter(|check| !check.kept).map(|check| check.promise).collect()
        }

        /// Spoils all that shows the first product alike.
        fn restock(&mut self, allotted: u64, available: u64) {
            let Evidence { stocks, replicas, verified, .. } = &mut self.evidence;
            for stocks in replicas.iter_mut().chain([stocks]) {
                let stock = stocks[0].as_mut().unwrap();
                (stock.allotted, stock.available) = (allotted, available);
            }
            for verified in verified {
                let stock = &mut verified.as_mut().unwrap().stocks[0];
                (stock.allotted, stock.available) = (allotted, available);
            }
        }

        /// One more grant of one unit, of the product of this place, that has lapsed.
        fn lapsed_in_logs(&mut self, product: usize) {
            for verified in &mut self.evidence.verified {
                let verified = verified.as_mut().unwrap();
                (verified.grants, verified.granted_units, verified.expired_units) = (5, 6, 2);
                verified.stocks[product].grants += 1;
            }
        }

        /// The log of the second node.
        fn log(&mut self) -> &mut Result<Verified, String> {
            &mut self.evidence.verified[1]
        }

        /// What the second node itself has.
        fn replica(&mut self) -> &mut Vec<Result<Stock, String>> {
            &mut self.evidence.replicas[1]
        }

        fn shown(&mut self, index: usize) -> &mut Reservation {
            self.evidence.read_back[index].as_mut().unwrap()
        }
    }

    /// Spoils a good sale and expects that exactly the promises with these words are found broken.
    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Sale), expected: &[&str]) {
        let mut sale = sale();
        spoil(&mut sale);
        let broken = sale.broken();
        let found_all =
            broken.len() == expected.len() && broken.iter().zip(expected).all(|(promise, words)| promise.contains(words));
        assert!(found_all, "expected {expected:?}, found {broken:?}");
    }

    #[test]
    fn a_sale_that_went_well_breaks_no_promise() {
        check(|_| {}, &[]);
    }

    #[test]
    fn a_buyer_who_never_left_is_found() {
        check(|sale| sale.plan.shape.buyers += 1, &["came to its end"]);
    }

    #[test]
    fn an_unknown_answer_without_a_resolution_is_found() {
        let lost = Persisted { outcome: Outcome::Unknown(UnknownCause::TimedOut), unknown: 1, refused: 0 };
        let ask = Ask { buyer: 9, attempt: 1, product: 0, units: 1 };
        let spoil = |sale: &mut Sale| assert_eq!(sale.books.reserved(&ask, &lost, 1), Reserved::Failed);
        check(spoil, &["unknown answer", "contradicts"]);
    }

    #[test]
    fn a_kill_without_grants_on_either_side_is_found() {
        check(|sale| sale.evidence.kills[0].grants_just_before = 0, &["kill 1"]);
        check(|sale| sale.evidence.kills.push(KillSeen { grants_just_before: 5, went_on: None }), &["kill 2"]);
    }

    #[test]
    fn a_cluster_that_waited_for_the_killed_node_is_found() {
        check(|sale| sale.evidence.kills[0].went_on = Some(false), &["went on without"]);
    }

    #[test]
    fn a_lost_grant_is_found() {
        check(|sale| sale.evidence.read_back[LAPSED] = Err("404 unknown_reservation".into()), &["grant is there"]);
        check(
            |sale| {
                sale.evidence.read_back.pop();
            },
            &["grant is there"],
        );
    }

    #[test]
    fn a_grant_that_became_another_is_found() {
        check(|sale| sale.shown(PAID).user = "buyer-7".into(), &["grant is there"]);
        check(|sale| sale.shown(PAID).expires_at_ms += 1, &["grant is there"]);
        check(|sale| sale.shown(PAID).reserved = 1, &["grant is there"]);
    }

    #[test]
    fn a_lost_payment_is_found() {
        check(
            |sale| {
                let shown = sale.shown(PAID);
                (shown.confirmed, shown.released, shown.state) = (0, 1, ReservationState::Expired);
            },
            &["payment is sold"],
        );
    }

    #[test]
    fn a_cancellation_that_did_not_give_back_is_found() {
        check(
            |sale| {
                let shown = sale.shown(CANCELLED);
                (shown.reserved, shown.released, shown.state) = (1, 0, ReservationState::Reserved);
            },
            &["cancellation"],
        );
    }

    #[test]
    fn a_hold_that_lapsed_early_or_never_is_found() {
        check(|sale| sale.shown(LAPSED).resolved_at_ms = Some(2_002), &["left alone lapsed"]);
        check(
            |sale| {
                let shown = sale.shown(LAPSED);
                (shown.reserved, shown.released, shown.state) = (1, 0, ReservationState::Reserved);
            },
            &["left alone lapsed"],
        );
    }

    #[test]
    fn a_buyer_over_the_limit_is_found_and_one_who_buys_again_after_giving_back_is_not() {
        // The units of the second attempt were granted while the first still held, or after it gave back.
        for (granted_at_ms, expected) in [(1_400, &["limit"][..]), (1_500, &[])] {
            check(
                |sale| {
                    sale.plan.products[0].units += 1;
                    let ask = Ask { buyer: 2, attempt: 2, product: 0, units: 1 };
                    let mut body = Reservation { reserved_at_ms: granted_at_ms, expires_at_ms: 3_000, ..reservation(&ask, 4) };
                    let _ = sale.books.reserved(&ask, &accepted(body.clone(), false, 0), 1);
                    (body.reserved, body.released, body.state) = (0, 1, ReservationState::Expired);
                    body.resolved_at_ms = Some(3_000);
                    sale.evidence.read_back.push(Ok(body));
                    sale.restock(4, 3);
                    sale.lapsed_in_logs(0);
                },
                expected,
            );
        }
    }

    #[test]
    fn a_unit_in_two_hands_is_found() {
        // Three units were held at once, and here there are only two.
        check(
            |sale| {
                sale.plan.products[0].units = 2;
                sale.restock(2, 1);
            },
            &["two hands"],
        );
    }

    #[test]
    fn a_gap_and_a_double_in_the_sequence_are_found() {
        for sequence in [1, 5] {
            check(
                |sale| {
                    let ask = Ask { buyer: 5, attempt: 1, product: 1, units: 1 };
                    let mut body = Reservation { id: "other".into(), ..reservation(&ask, sequence) };
                    let _ = sale.books.reserved(&ask, &accepted(body.clone(), false, 0), 1);
                    (body.reserved, body.released, body.state) = (0, 1, ReservationState::Expired);
                    body.resolved_at_ms = Some(9_000);
                    sale.evidence.read_back.push(Ok(body));
                    sale.lapsed_in_logs(1);
                },
                &["without a gap"],
            );
        }
    }

    #[test]
    fn stocks_that_differ_from_the_books_are_found() {
        let both = ["has sold what buyers paid", "nodes have the same"];
        check(|sale| sale.evidence.stocks[0].as_mut().unwrap().sold = 2, &both);
        check(|sale| sale.evidence.stocks[1].as_mut().unwrap().reserved = 1, &both);
        check(|sale| sale.evidence.stocks[1] = Err("timed out".into()), &both);
        check(|sale| drop(sale.evidence.stocks.pop()), &both);
    }

    #[test]
    fn a_node_that_has_something_else_than_was_answered_is_found() {
        check(|sale| sale.replica()[0].as_mut().unwrap().sold = 2, &["nodes have the same"]);
        check(|sale| sale.replica()[1] = Err("timed out".into()), &["nodes have the same"]);
        check(|sale| drop(sale.replica().pop()), &["nodes have the same"]);
    }

    #[test]
    fn a_disorderly_stop_is_found() {
        check(|sale| sale.evidence.stopped[1] = Ok(1), &["stops in order"]);
        check(|sale| sale.evidence.stopped[0] = Err("signal 6".into()), &["stops in order"]);
    }

    #[test]
    fn a_log_that_holds_more_or_less_than_buyers_know_is_found() {
        check(|sale| *sale.log() = Err("exit code 1: a finding".into()), &["tidegate verify"]);
        check(|sale| sale.log().as_mut().unwrap().grants += 1, &["tidegate verify"]);
        check(|sale| sale.log().as_mut().unwrap().confirmed_units -= 1, &["tidegate verify"]);
        check(|sale| sale.log().as_mut().unwrap().stocks[1].grants += 1, &["tidegate verify"]);
        check(|sale| drop(sale.log().as_mut().unwrap().stocks.pop()), &["tidegate verify"]);
    }

    #[test]
    fn a_node_alone_is_asked_for_nothing_of_a_cluster() {
        let mut sale = sale();
        sale.evidence.replicas.clear();
        sale.evidence.kills[0].went_on = None;
        sale.evidence.stopped.pop();
        sale.evidence.verified.pop();
        let promises: Vec<String> =
            check_all(&sale.plan, &sale.books, &sale.evidence).into_iter().map(|check| check.promise).collect();
        assert!(promises.iter().all(|promise| !promise.contains("nodes have") && !promise.contains("went on")), "{promises:?}");
        assert!(promises.iter().any(|promise| promise.contains("finds the log whole")), "{promises:?}");
    }
}
