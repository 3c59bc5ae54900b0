//! The buyers' own books: every answer that a buyer was given, written down as it came.
//!
//! It owns what buyers know and the counting of it. It must not ask the node anything: what the node says afterwards is held against
//! these books in [`super::checks`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::plan::Plan;
use crate::client::{Outcome, Persisted, Reservation, ReservationState};

/// Findings that are kept with their words; all are counted.
const FINDINGS_KEPT: usize = 10;

/// A reservation that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Who asks.
    pub(crate) buyer: u32,
    /// Which of the buyer's attempts; each has its own key.
    pub(crate) attempt: u8,
    /// Index of the product.
    pub(crate) product: u16,
    /// Units.
    pub(crate) units: u32,
}

impl Ask {
    /// The name the node knows the buyer by.
    pub(crate) fn user(&self) -> String {
        format!("buyer-{}", self.buyer)
    }

    /// The attempt's idempotency key.
    pub(crate) fn key(&self) -> String {
        format!("buyer-{}-{}", self.buyer, self.attempt)
    }
}

/// A grant in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrantNumber(usize);

impl GrantNumber {
    /// Its place in [`Books::grants`].
    pub(crate) const fn index(self) -> usize {
        self.0
    }
}

/// A grant as its buyer knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// What was asked for.
    pub(crate) ask: Ask,
    /// The reservation's id.
    pub(crate) id: String,
    /// Its place among the grants of its product.
    pub(crate) sequence: u64,
    /// When it was granted, by the node's clock.
    pub(crate) reserved_at_ms: u64,
    /// When its hold ends, by the node's clock.
    pub(crate) expires_at_ms: u64,
    /// The last that its buyer was told about it.
    pub(crate) told: ReservationState,
    /// In which life of the node it was granted, 0 before the first kill. `None` when the first answer that arrived was a repeat:
    /// the answer of the grant itself was lost.
    pub(crate) life: Option<u8>,
}

/// How asking for a reservation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// Granted.
    Granted(GrantNumber),
    /// Nothing left.
    SoldOut,
    /// More than the limit allows.
    LimitReached,
    /// Something that must not happen; the books have it.
    Failed,
}

/// What became of the calls of one kind that got an unknown answer at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Resolutions {
    /// Answers that were unknown.
    pub(crate) unknown_answers: u64,
    /// Calls that turned out to have happened.
    pub(crate) had_happened: u64,
    /// Calls that had not, and did when asked again.
    pub(crate) happened_then: u64,
    /// Calls that had not, and could not any more.
    pub(crate) rejected_then: u64,
    /// Calls still unknown when patience ran out.
    pub(crate) unresolved: u64,
}

impl Resolutions {
    fn count<T>(&mut self, persisted: &Persisted<T>) {
        if persisted.unknown == 0 {
            return;
        }
        self.unknown_answers += u64::from(persisted.unknown);
        *match persisted.outcome {
            Outcome::Accepted { replayed: true, .. } => &mut self.had_happened,
            Outcome::Accepted { .. } => &mut self.happened_then,
            Outcome::Problem { .. } => &mut self.rejected_then,
            Outcome::Unknown(_) | Outcome::Refused(_) => &mut self.unresolved,
        } += 1;
    }
}

/// Answers, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Tally {
    /// Buyers whose script has ended.
    pub(crate) buyers_done: u64,
    /// Answers `sold_out`.
    pub(crate) sold_out: u64,
    /// Answers `limit_reached`.
    pub(crate) limit_reached: u64,
    /// Buyers who came back after finding nothing.
    pub(crate) came_back: u64,
    /// Those of them who were granted something then.
    pub(crate) came_back_and_got: u64,
    /// Answers that repeated an earlier one of the same key, and agreed with it.
    pub(crate) repeats_alike: u64,
    /// Attempts that were not admitted, or not even sent, while the node was away.
    pub(crate) refused: u64,
    /// Calls to reserve with an unknown answer.
    pub(crate) reserve: Resolutions,
    /// Calls to confirm with an unknown answer.
    pub(crate) confirm: Resolutions,
    /// Calls to release with an unknown answer.
    pub(crate) release: Resolutions,
}

impl Tally {
    /// Unknown answers of every kind.
    pub(crate) fn unknown_answers(&self) -> u64 {
        self.reserve.unknown_answers + self.confirm.unknown_answers + self.release.unknown_answers
    }

    /// Calls of every kind that stayed unknown.
    pub(crate) fn unresolved(&self) -> u64 {
        self.reserve.unresolved + self.confirm.unresolved + self.release.unresolved
    }
}

/// What is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Findings {
    /// How many.
    pub(crate) count: u64,
    /// The first of them, in words.
    pub(crate) first: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < FINDINGS_KEPT {
            self.first.push(what);
        }
    }
}

/// The books of all buyers.
#[derive(Debug)]
pub(crate) struct Books {
    skus: Vec<String>,
    grants: Vec<Grant>,
    by_attempt: BTreeMap<(u32, u8), GrantNumber>,
    ids: BTreeSet<String>,
    tally: Tally,
    contradictions: Findings,
}

impl Books {
    /// Empty books for the products of `plan`.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            skus: plan.products.iter().map(|product| product.sku.clone()).collect(),
            grants: Vec::new(),
            by_attempt: BTreeMap::new(),
            ids: BTreeSet::new(),
            tally: Tally::default(),
            contradictions: Findings::default(),
        }
    }

    /// All grants that buyers know of.
    pub(crate) fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// One of them.
    pub(crate) fn grant(&self, number: GrantNumber) -> &Grant {
        &self.grants[number.0]
    }

    /// What was counted.
    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Answers that cannot be true together, or are none of the contract's.
    pub(crate) const fn contradictions(&self) -> &Findings {
        &self.contradictions
    }

    /// A buyer's script has ended.
    pub(crate) const fn buyer_done(&mut self) {
        self.tally.buyers_done += 1;
    }

    /// A buyer came back, with this result.
    pub(crate) const fn came_back(&mut self, result: Reserved) {
        self.tally.came_back += 1;
        if matches!(result, Reserved::Granted(_)) {
            self.tally.came_back_and_got += 1;
        }
    }

    /// Asking for a reservation ended; `life` is the node's life in which the last attempt was sent.
    pub(crate) fn reserved(&mut self, ask: &Ask, persisted: &Persisted<Reservation>, life: u8) -> Reserved {
        self.tally.refused += u64::from(persisted.refused);
        self.tally.reserve.count(persisted);
        match &persisted.outcome {
            Outcome::Accepted { replayed, body, .. } => self.granted(ask, body, *replayed, life),
            Outcome::Problem { code, .. } if code == "sold_out" => {
                self.rejected(ask, code);
                self.tally.sold_out += 1;
                Reserved::SoldOut
            }
            Outcome::Problem { code, .. } if code == "limit_reached" => {
                self.rejected(ask, code);
                self.tally.limit_reached += 1;
                Reserved::LimitReached
            }
            other => {
                self.contradictions.add(format!("reserve {}: {other:?}", ask.key()));
                Reserved::Failed
            }
        }
    }

    /// A rejection leaves its key free, so it must not come after a grant of the same key.
    fn rejected(&mut self, ask: &Ask, code: &str) {
        if let Some(number) = self.by_attempt.get(&(ask.buyer, ask.attempt)) {
            let id = &self.grants[number.0].id;
            self.contradictions.add(format!("reserve {}: granted as {id}, and then answered {code}", ask.key()));
        }
    }

    fn granted(&mut self, ask: &Ask, body: &Reservation, replayed: bool, life: u8) -> Reserved {
        let asked = (self.skus[usize::from(ask.product)].as_str(), ask.user(), ask.units);
        if asked != (body.sku.as_str(), body.user.clone(), body.quantity) {
            self.contradictions.add(format!("reserve {}: asked for {asked:?}, got {body:?}", ask.key()));
            return Reserved::Failed;
        }
        let life = (!replayed).then_some(life);
        if let Some(&number) = self.by_attempt.get(&(ask.buyer, ask.attempt)) {
            return self.granted_again(number, body, life);
        }
        let number = GrantNumber(self.grants.len());
        if !self.ids.insert(body.id.clone()) {
            self.contradictions.add(format!("reserve {}: got {}, which another attempt has", ask.key(), body.id));
        }
        self.by_attempt.insert((ask.buyer, ask.attempt), number);
        self.grants.push(Grant {
            ask: *ask,
            id: body.id.clone(),
            sequence: body.sequence,
            reserved_at_ms: body.reserved_at_ms,
            expires_at_ms: body.expires_at_ms,
            told: body.state,
            life,
        });
        Reserved::Granted(number)
    }

    /// A second answer to one attempt: it must be about the same grant, and only one of the answers is no repeat.
    fn granted_again(&mut self, number: GrantNumber, body: &Reservation, life: Option<u8>) -> Reserved {
        let grant = &mut self.grants[number.0];
        let known = (&grant.id, grant.sequence, grant.reserved_at_ms, grant.expires_at_ms);
        if known != (&body.id, body.sequence, body.reserved_at_ms, body.expires_at_ms) {
            self.contradictions.add(format!("reserve {}: one key, two grants: {grant:?} and {body:?}", grant.ask.key()));
            return Reserved::Failed;
        }
        match (grant.life, life) {
            (Some(_), Some(_)) => {
                self.contradictions.add(format!("reserve {}: granted twice as {}", grant.ask.key(), grant.id));
                return Reserved::Failed;
            }
            (None, Some(_)) => grant.life = life,
            (_, None) => {}
        }
        self.tally.repeats_alike += 1;
        Reserved::Granted(number)
    }

    /// Paying for a grant ended. Only `reservation_expired` is a rejection that a buyer can meet.
    pub(crate) fn confirmed(&mut self, number: GrantNumber, persisted: &Persisted<Reservation>) {
        self.tally.refused += u64::from(persisted.refused);
        self.tally.confirm.count(persisted);
        let state = match &persisted.outcome {
            Outcome::Accepted { body, .. } => self.same(number, body).then_some(body.state),
            Outcome::Problem { code, .. } if code == "reservation_expired" => Some(ReservationState::Expired),
            _ => None,
        };
        match state {
            Some(state @ (ReservationState::Confirmed | ReservationState::Expired)) => self.grants[number.0].told = state,
            _ => self.contradictions.add(format!("confirm {}: {:?}", self.grants[number.0].id, persisted.outcome)),
        }
    }

    /// Cancelling a grant ended. A hold that had lapsed before is told as such.
    pub(crate) fn released(&mut self, number: GrantNumber, persisted: &Persisted<Reservation>) {
        self.tally.refused += u64::from(persisted.refused);
        self.tally.release.count(persisted);
        let state = match &persisted.outcome {
            Outcome::Accepted { body, .. } => self.same(number, body).then_some(body.state),
            _ => None,
        };
        match state {
            Some(state @ (ReservationState::Released | ReservationState::Expired)) => self.grants[number.0].told = state,
            _ => self.contradictions.add(format!("release {}: {:?}", self.grants[number.0].id, persisted.outcome)),
        }
    }

    fn same(&self, number: GrantNumber, body: &Reservation) -> bool {
        let grant = &self.grants[number.0];
        (&grant.id, grant.sequence, grant.ask.units) == (&body.id, body.sequence, body.quantity)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::plan::SaleShape;
    use super::*;
    use crate::client::{Refused, UnknownCause};

    /// A plan with two products, of limits 1 and 2.
    pub(crate) fn plan() -> Plan {
        Plan::new(SaleShape { buyers: 10, units: 100, products: 2, rate: 10, kills: 1, seed: 1 }).unwrap()
    }

    pub(crate) fn ask(buyer: u32, attempt: u8) -> Ask {
        Ask { buyer, attempt, product: 0, units: 1 }
    }

    pub(crate) fn reservation(ask: &Ask, sequence: u64) -> Reservation {
        Reservation {
            id: format!("r{}-{sequence}", ask.product),
            sku: format!("flash-{}", ask.product + 1),
            user: ask.user(),
            quantity: ask.units,
            reserved: ask.units,
            confirmed: 0,
            released: 0,
            returned: 0,
            state: ReservationState::Reserved,
            sequence,
            reserved_at_ms: 1_000 + sequence,
            expires_at_ms: 2_000 + sequence,
            resolved_at_ms: None,
        }
    }

    /// An answer after `unknown` unknown ones.
    pub(crate) fn accepted(body: Reservation, replayed: bool, unknown: u32) -> Persisted<Reservation> {
        Persisted { outcome: Outcome::Accepted { status: 200, replayed, body }, unknown, refused: 0 }
    }

    pub(crate) fn problem(code: &str) -> Persisted<Reservation> {
        let outcome = Outcome::Problem { status: 409, code: code.to_owned(), detail: String::new() };
        Persisted { outcome, unknown: 0, refused: 0 }
    }

    fn with_state(mut body: Reservation, state: ReservationState) -> Reservation {
        body.state = state;
        body
    }

    #[test]
    fn a_double_click_is_one_grant_whichever_answer_comes_first() {
        for replayed_first in [false, true] {
            let mut books = Books::new(&plan());
            let ask = ask(1, 1);
            let first = books.reserved(&ask, &accepted(reservation(&ask, 1), replayed_first, 0), 0);
            let second = books.reserved(&ask, &accepted(reservation(&ask, 1), !replayed_first, 0), 0);
            assert_eq!(first, second);
            assert_eq!((books.grants().len(), books.grants()[0].life, books.tally().repeats_alike), (1, Some(0), 1));
            assert_eq!(books.contradictions().count, 0);
        }
    }

    #[test]
    fn one_key_with_two_grants_is_a_contradiction() {
        let mut books = Books::new(&plan());
        let ask = ask(1, 1);
        books.reserved(&ask, &accepted(reservation(&ask, 1), false, 0), 0);
        assert_eq!(books.reserved(&ask, &accepted(reservation(&ask, 2), true, 0), 0), Reserved::Failed);
        assert_eq!(books.contradictions().count, 1);
        assert!(books.contradictions().first[0].contains("one key, two grants"), "{:?}", books.contradictions());
    }

    #[test]
    fn one_key_granted_twice_without_a_repeat_is_a_contradiction() {
        let mut books = Books::new(&plan());
        let ask = ask(1, 1);
        books.reserved(&ask, &accepted(reservation(&ask, 1), false, 0), 0);
        books.reserved(&ask, &accepted(reservation(&ask, 1), false, 0), 1);
        assert_eq!(books.contradictions().count, 1);
    }

    #[test]
    fn two_attempts_with_one_reservation_are_a_contradiction() {
        let mut books = Books::new(&plan());
        let body = reservation(&ask(1, 1), 1);
        books.reserved(&ask(1, 1), &accepted(body.clone(), false, 0), 0);
        books.reserved(&ask(1, 2), &accepted(body, false, 0), 0);
        assert_eq!(books.contradictions().count, 1);
    }

    #[test]
    fn a_grant_of_something_else_is_a_contradiction() {
        let mut books = Books::new(&plan());
        let other = Reservation { quantity: 2, ..reservation(&ask(1, 1), 1) };
        assert_eq!(books.reserved(&ask(1, 1), &accepted(other, false, 0), 0), Reserved::Failed);
        assert_eq!((books.contradictions().count, books.grants().len()), (1, 0));
    }

    #[test]
    fn a_rejection_after_the_grant_of_the_same_key_is_a_contradiction() {
        let mut books = Books::new(&plan());
        books.reserved(&ask(1, 1), &accepted(reservation(&ask(1, 1), 1), false, 0), 0);
        books.reserved(&ask(1, 1), &problem("limit_reached"), 0);
        assert_eq!(books.contradictions().count, 1);
        // Another key is another attempt.
        assert_eq!(books.reserved(&ask(1, 2), &problem("limit_reached"), 0), Reserved::LimitReached);
        assert_eq!((books.contradictions().count, books.tally().limit_reached), (1, 2));
    }

    #[test]
    fn unknown_answers_are_counted_by_how_they_were_resolved() {
        let mut books = Books::new(&plan());
        let (first, second, third, fourth) = (ask(1, 1), ask(2, 1), ask(3, 1), ask(4, 1));
        books.reserved(&first, &accepted(reservation(&first, 1), true, 1), 1);
        books.reserved(&second, &accepted(reservation(&second, 2), false, 2), 1);
        books.reserved(&third, &Persisted { unknown: 1, ..problem("sold_out") }, 1);
        let lost = Persisted { outcome: Outcome::Unknown(UnknownCause::TimedOut), unknown: 3, refused: 4 };
        assert_eq!(books.reserved(&fourth, &lost, 1), Reserved::Failed);
        let expected = Resolutions { unknown_answers: 7, had_happened: 1, happened_then: 1, rejected_then: 1, unresolved: 1 };
        assert_eq!((books.tally().reserve, books.tally().refused, books.tally().unresolved()), (expected, 4, 1));
        assert_eq!(books.grants().iter().map(|grant| grant.life).collect::<Vec<_>>(), [None, Some(1)]);
    }

    #[test]
    fn a_refused_call_that_is_given_up_is_a_contradiction() {
        let mut books = Books::new(&plan());
        let refused = Persisted { outcome: Outcome::Refused(Refused::Unreachable), unknown: 0, refused: 250 };
        assert_eq!(books.reserved(&ask(1, 1), &refused, 0), Reserved::Failed);
        assert_eq!(books.contradictions().count, 1);
    }

    #[test]
    fn payment_and_cancellation_are_told_as_answered() {
        let mut books = Books::new(&plan());
        let grants: Vec<(Ask, GrantNumber)> = (1..=4)
            .map(|buyer| {
                let ask = ask(buyer, 1);
                match books.reserved(&ask, &accepted(reservation(&ask, u64::from(buyer)), false, 0), 0) {
                    Reserved::Granted(number) => (ask, number),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        let body = |index: usize, state| with_state(reservation(&grants[index].0, index as u64 + 1), state);
        books.confirmed(grants[0].1, &accepted(body(0, ReservationState::Confirmed), false, 0));
        books.confirmed(grants[1].1, &problem("reservation_expired"));
        books.released(grants[2].1, &accepted(body(2, ReservationState::Released), false, 0));
        books.released(grants[3].1, &accepted(body(3, ReservationState::Expired), false, 0));
        let told: Vec<ReservationState> = books.grants().iter().map(|grant| grant.told).collect();
        let expected =
            [ReservationState::Confirmed, ReservationState::Expired, ReservationState::Released, ReservationState::Expired];
        assert_eq!((told.as_slice(), books.contradictions().count), (expected.as_slice(), 0));

        books.confirmed(grants[0].1, &accepted(body(1, ReservationState::Confirmed), false, 0));
        books.confirmed(grants[0].1, &problem("reservation_released"));
        books.confirmed(grants[0].1, &accepted(body(0, ReservationState::Reserved), false, 0));
        books.released(grants[2].1, &problem("reservation_confirmed"));
        books.released(grants[2].1, &accepted(body(2, ReservationState::Confirmed), false, 0));
        assert_eq!(books.contradictions().count, 5);
    }
}
