//! Histories made up by hand: the good ones pass both judges, and each bad one is caught by its name.

use super::model::{self, Verdict};
use tidegate_witness::finding::Fault;
use tidegate_witness::record::{Answer, Call, Change, Op, Reservation, Stock, actor};
use tidegate_witness::witness;

const SKU: &str = "s";
const LAPSED_AT: &str = "2026-01-01T01:00:00.000Z";

/// A history under construction: calls one after the other, each with its change.
#[derive(Clone)]
struct Book {
    limit: u32,
    stock: Stock,
    grants: u64,
    calls: Vec<Call>,
    changes: Vec<Change>,
}

fn at(place: usize) -> String {
    format!("2026-01-01T00:00:{place:02}.000Z")
}

impl Book {
    fn new(units: i64, limit: u32) -> Self {
        let stock = Stock {
            allotted: units,
            available: units,
            reserved: 0,
            sold: 0,
            per_user_limit: Some(limit),
            state: "open".to_owned(),
        };
        let mut book = Self { limit, stock, grants: 0, calls: Vec::new(), changes: Vec::new() };
        book.change("stock_created", 0, None);
        book
    }

    fn change(&mut self, kind: &str, client: usize, reservation: Option<Reservation>) {
        self.stock.state = if self.stock.available == 0 { "sold_out" } else { "open" }.to_owned();
        let place = self.changes.len() + 1;
        self.changes.push(Change {
            id: place.to_string(),
            kind: kind.to_owned(),
            sku: SKU.to_owned(),
            sku_sequence: place as u64,
            at: at(place),
            actor: actor(client),
            delta: None,
            reason: None,
            stock: reservation.is_none().then(|| self.stock.clone()),
            reservation,
        });
    }

    /// A call behind all others.
    fn call(&mut self, client: usize, op: Op, key: Option<&str>, answer: Answer) -> &mut Call {
        let began = self.calls.iter().map(|call| call.ended).max().unwrap_or(0) + 1_000;
        self.calls.push(Call { client, op, key: key.map(str::to_owned), began, ended: began + 1_000, answer });
        self.calls.last_mut().unwrap()
    }

    /// The change of a grant.
    fn granted(&mut self, client: usize, user: &str, reference: &str) -> Reservation {
        self.grants += 1;
        (self.stock.available, self.stock.reserved) = (self.stock.available - 1, self.stock.reserved + 1);
        let reservation = Reservation {
            id: format!("r{}", self.grants),
            user: user.to_owned(),
            quantity: 1,
            reserved: 1,
            confirmed: 0,
            released: 0,
            returned: 0,
            state: "reserved".to_owned(),
            sequence: self.grants,
            reference: Some(reference.to_owned()),
            reserved_at: at(self.changes.len() + 1),
            expires_at: LAPSED_AT.to_owned(),
            resolved_at: None,
        };
        self.change("reserved", client, Some(reservation.clone()));
        reservation
    }

    fn reserve(&mut self, client: usize, user: &str, reference: &str) -> Reservation {
        let shown = self.granted(client, user, reference);
        self.call(client, wish(user, reference), Some(reference), yes(&shown, true, false));
        shown
    }

    fn confirm(&mut self, client: usize, held: &Reservation, key: &str) -> Reservation {
        let shown = Reservation {
            reserved: 0,
            confirmed: 1,
            state: "confirmed".to_owned(),
            resolved_at: Some(at(self.changes.len() + 1)),
            ..held.clone()
        };
        (self.stock.reserved, self.stock.sold) = (self.stock.reserved - 1, self.stock.sold + 1);
        self.change("confirmed", client, Some(shown.clone()));
        self.call(client, pay(held), Some(key), yes(&shown, false, false));
        shown
    }

    fn release(&mut self, client: usize, held: &Reservation, key: &str) -> Reservation {
        let shown = Reservation {
            reserved: 0,
            released: 1,
            state: "released".to_owned(),
            resolved_at: Some(at(self.changes.len() + 1)),
            ..held.clone()
        };
        (self.stock.reserved, self.stock.available) = (self.stock.reserved - 1, self.stock.available + 1);
        self.change("released", client, Some(shown.clone()));
        self.call(client, Op::Release { id: held.id.clone(), quantity: None }, Some(key), yes(&shown, false, false));
        shown
    }

    fn look(&mut self, client: usize) {
        let shown = self.stock.clone();
        self.call(client, Op::ReadStock, None, Answer::Stock { replayed: false, shown });
    }

    fn reject(&mut self, client: usize, op: Op, code: &str) {
        self.call(client, op, None, Answer::Rejected { code: code.to_owned() });
    }

    /// The faults that the feed shows.
    fn faults(&self) -> Vec<Fault> {
        witness::check(SKU, &self.calls, self.changes.clone()).into_iter().map(|finding| finding.fault).collect()
    }

    /// What the search says, which does not know the feed.
    fn search(&self) -> Verdict {
        let Some(first) = &self.changes[0].stock else { panic!("a history begins with its stock") };
        model::check(SKU, &self.calls, &[], first.allotted, Some(self.limit))
    }

    #[track_caller]
    fn is_bad(&self, fault: Fault) {
        let faults = self.faults();
        assert!(faults.contains(&fault), "{faults:?}");
    }

    #[track_caller]
    fn has_no_order(&self) {
        let verdict = self.search();
        assert!(matches!(&verdict, Verdict::Not(finding) if finding.fault == Fault::NotLinearizable), "{verdict:?}");
    }

    #[track_caller]
    fn is_good(&self) {
        let found = witness::check(SKU, &self.calls, self.changes.clone());
        assert!(found.is_empty(), "{found:?}");
        let verdict = self.search();
        assert!(matches!(verdict, Verdict::Linearizable), "{verdict:?}");
    }
}

fn wish(user: &str, reference: &str) -> Op {
    Op::Reserve { user: user.to_owned(), quantity: 1, hold_seconds: 60, reference: reference.to_owned() }
}

fn pay(held: &Reservation) -> Op {
    Op::Confirm { id: held.id.clone(), quantity: None }
}

fn yes(shown: &Reservation, created: bool, replayed: bool) -> Answer {
    Answer::Reservation { created, replayed, shown: shown.clone() }
}

/// Two units, one a user: sold out, limits, a payment, a cancellation, repeats and reads.
fn good() -> Book {
    let mut book = Book::new(2, 1);
    let first = book.reserve(0, "ann", "a");
    book.look(1);
    let second = book.reserve(1, "bob", "b");
    book.reject(2, wish("cat", "c"), "sold_out");
    book.reject(0, wish("ann", "a2"), "limit_reached");
    let paid = book.confirm(0, &first, "pay-a");
    book.call(0, pay(&first), Some("pay-a"), yes(&paid, false, true));
    book.call(0, wish("ann", "a"), Some("a"), yes(&paid, true, true));
    book.call(1, Op::ReadReservation { id: paid.id.clone() }, None, yes(&paid, false, false));
    book.release(1, &second, "cancel-b");
    book.reject(2, pay(&second), "reservation_released");
    book.look(2);
    book
}

#[test]
fn a_good_history_passes_both() {
    good().is_good();
}

#[test]
fn calls_at_the_same_time_may_have_any_order_that_explains_them() {
    let mut book = Book::new(1, 1);
    let before = book.stock.clone();
    let held = book.reserve(0, "ann", "a");
    // Both began before the grant was answered; one saw it, one did not, and a third was too late.
    let (began, ended) = (book.calls[0].began, book.calls[0].ended);
    for (client, shown) in [(1, book.stock.clone()), (2, before)] {
        let call = book.call(client, Op::ReadStock, None, Answer::Stock { replayed: false, shown });
        (call.began, call.ended) = (began, ended);
    }
    let call = book.call(3, wish("bob", "b"), None, Answer::Rejected { code: "sold_out".to_owned() });
    (call.began, call.ended) = (began, ended);
    book.call(0, wish("ann", "a"), Some("a"), yes(&held, true, true));
    book.is_good();
}

#[test]
fn an_unknown_call_may_have_happened_or_not() {
    let mut book = Book::new(2, 1);
    book.call(0, wish("ann", "a"), Some("a"), Answer::Unknown);
    book.call(1, wish("bob", "b"), Some("b"), Answer::Unknown);
    let held = book.granted(0, "ann", "a");
    book.look(2);
    book.call(0, wish("ann", "a"), Some("a"), yes(&held, true, true));
    // A payment nobody heard of, found by its repeat.
    book.call(0, pay(&held), Some("pay"), Answer::Unknown);
    let paid = book.confirm(0, &held, "pay");
    book.calls.last_mut().unwrap().answer = yes(&paid, false, true);
    book.is_good();
    // With the feed it is known which.
    let (calls, sure) = model::settle(&book.calls, &book.changes);
    assert!(calls.iter().all(|call| call.op.tag() != Some("b")) && sure == [0, 3], "{calls:?} {sure:?}");
    assert!(matches!(model::check(SKU, &calls, &sure, 2, Some(1)), Verdict::Linearizable));
}

#[test]
fn a_unit_sold_twice() {
    let mut book = Book::new(1, 1);
    book.reserve(0, "ann", "a");
    book.reserve(1, "bob", "b");
    book.is_bad(Fault::SoldTwice);
    book.has_no_order();
}

#[test]
fn a_lost_acknowledgement() {
    let mut book = good();
    // The last change is gone, as if the log had lost its tail; so is all that was seen of it.
    book.changes.pop();
    book.calls.truncate(book.calls.len() - 2);
    book.is_bad(Fault::AcknowledgementLost);

    let mut book = Book::new(2, 1);
    book.look(1);
    book.reserve(0, "ann", "a");
    book.changes.pop();
    book.is_bad(Fault::AcknowledgementLost);
    // To one without the feed it is lost when a later answer shows that it is not there.
    let before = book.calls[0].answer.clone();
    book.call(1, Op::ReadStock, None, before);
    book.has_no_order();
}

#[test]
fn an_answer_that_shows_other_values_than_its_change() {
    let mut book = good();
    let Answer::Reservation { shown, .. } = &mut book.calls[0].answer else { panic!("the first call is a grant") };
    shown.expires_at = at(59);
    book.is_bad(Fault::AcknowledgementLost);
}

#[test]
fn a_stale_read() {
    let mut book = Book::new(2, 1);
    let before = book.stock.clone();
    book.reserve(0, "ann", "a");
    book.call(1, Op::ReadStock, None, Answer::Stock { replayed: false, shown: before });
    book.is_bad(Fault::Stale);
    book.has_no_order();
}

#[test]
fn a_read_that_goes_back_behind_another_read() {
    let mut book = Book::new(2, 1);
    let before = book.stock.clone();
    book.reserve(0, "ann", "a");
    let ended = book.calls[0].ended;
    // Both while the grant is under way, one after the other, the newer state first.
    book.calls[0].ended = ended + 10_000;
    for (since, shown) in [(10, book.stock.clone()), (1_010, before)] {
        let call = book.call(1, Op::ReadStock, None, Answer::Stock { replayed: false, shown });
        (call.began, call.ended) = (ended + since, ended + since + 500);
    }
    book.is_bad(Fault::Stale);
    book.has_no_order();
}

#[test]
fn a_read_of_what_never_was() {
    let mut book = Book::new(2, 1);
    let mut shown = book.stock.clone();
    (shown.available, shown.sold) = (1, 1);
    book.call(1, Op::ReadStock, None, Answer::Stock { replayed: false, shown });
    book.is_bad(Fault::NeverSo);
    book.has_no_order();
}

#[test]
fn a_rejection_although_units_were_free_all_the_time() {
    let mut book = Book::new(2, 1);
    book.reserve(0, "ann", "a");
    book.reject(1, wish("bob", "b"), "sold_out");
    book.is_bad(Fault::RejectedWithoutReason);
    book.has_no_order();
}

#[test]
fn a_grant_out_of_order() {
    let mut book = Book::new(3, 1);
    book.reserve(0, "ann", "a");
    book.reserve(1, "bob", "b");
    for (index, sequence) in [(0, 2), (1, 1)] {
        let Answer::Reservation { shown, .. } = &mut book.calls[index].answer else { panic!("both calls are grants") };
        shown.sequence = sequence;
        book.changes[index + 1].reservation.as_mut().unwrap().sequence = sequence;
    }
    book.is_bad(Fault::GrantOutOfOrder);
    book.has_no_order();
}

#[test]
fn a_change_before_one_that_was_answered_before_its_call() {
    let mut book = Book::new(3, 1);
    book.reserve(0, "ann", "a");
    book.reserve(1, "bob", "b");
    // The feed has them as they are numbered; the clients had them the other way round.
    let (early, late) = (book.calls[0].clone(), book.calls[1].clone());
    (book.calls[0].began, book.calls[0].ended) = (late.began, late.ended);
    (book.calls[1].began, book.calls[1].ended) = (early.began, early.ended);
    book.is_bad(Fault::RealTimeBroken);
    book.has_no_order();
}

#[test]
fn a_key_answered_twice_differently() {
    let mut book = Book::new(3, 2);
    book.reserve(0, "ann", "a");
    let other = book.reserve(0, "ann", "b");
    book.call(0, wish("ann", "a"), Some("a"), yes(&other, true, true));
    book.is_bad(Fault::KeyAnsweredTwice);
    book.has_no_order();
}

#[test]
fn a_key_whose_repeat_is_answered_as_new() {
    let mut book = Book::new(3, 2);
    let held = book.reserve(0, "ann", "a");
    book.call(0, wish("ann", "a"), Some("a"), yes(&held, true, false));
    book.is_bad(Fault::KeyAnsweredTwice);
    book.has_no_order();
}

#[test]
fn a_repeat_of_a_call_that_never_was() {
    let mut book = Book::new(3, 2);
    let held = book.reserve(0, "ann", "a");
    book.call(0, pay(&held), Some("pay"), yes(&held, false, true));
    book.is_bad(Fault::KeyAnsweredTwice);
    book.has_no_order();
}

#[test]
fn a_user_beyond_the_limit() {
    let mut book = Book::new(3, 1);
    book.reserve(0, "ann", "a");
    book.reserve(0, "ann", "b");
    book.is_bad(Fault::OverLimit);
    book.has_no_order();
}

#[test]
fn a_confirm_after_the_lapse() {
    let mut book = Book::new(2, 1);
    let held = book.reserve(0, "ann", "a");
    book.confirm(0, &held, "pay");
    // At the very moment at which the hold is over.
    let moment = LAPSED_AT.to_owned();
    book.changes.last_mut().unwrap().at = moment;
    book.is_bad(Fault::ConfirmedAfterLapse);
}

#[test]
fn a_lapse_before_its_time() {
    let mut book = Book::new(2, 1);
    let held = book.reserve(0, "ann", "a");
    book.release(0, &held, "cancel");
    book.calls.pop();
    let change = book.changes.last_mut().unwrap();
    "expired".clone_into(&mut change.kind);
    "clock".clone_into(&mut change.actor);
    "expired".clone_into(&mut change.reservation.as_mut().unwrap().state);
    book.is_bad(Fault::LapsedEarly);
    book.changes.last_mut().unwrap().at = LAPSED_AT.to_owned();
    assert_eq!(book.faults(), []);
}

#[test]
fn an_invented_change() {
    let mut book = Book::new(3, 1);
    book.granted(0, "ann", "nobody's");
    book.is_bad(Fault::Invented);

    // Also one whose call was rejected.
    let mut book = Book::new(3, 1);
    book.granted(0, "ann", "a");
    book.reject(0, wish("ann", "a"), "paused");
    book.is_bad(Fault::Invented);

    // And one by somebody else than asked.
    let mut book = Book::new(3, 1);
    book.reserve(0, "ann", "a");
    book.changes[1].actor = actor(1);
    book.is_bad(Fault::Invented);
}

#[test]
fn a_duplicate_of_an_unknown_call() {
    let mut book = Book::new(3, 2);
    book.call(0, wish("ann", "a"), Some("a"), Answer::Unknown);
    book.granted(0, "ann", "a");
    book.granted(0, "ann", "a");
    book.look(1);
    book.is_bad(Fault::HappenedTwice);
    book.has_no_order();
}

#[test]
fn an_unknown_call_that_happened_after_its_process_was_gone() {
    let mut book = Book::new(3, 1);
    book.call(0, wish("ann", "a"), Some("a"), Answer::Unknown);
    // By now the call is over, so its change is too, and this read should have seen it.
    book.look(1);
    book.granted(0, "ann", "a");
    book.look(1);
    book.is_bad(Fault::Stale);
    book.has_no_order();
}

#[test]
fn a_gap_and_counts_that_do_not_add_up() {
    let mut book = good();
    book.changes.remove(2);
    book.is_bad(Fault::GapInFeed);

    let mut book = Book::new(3, 1);
    book.reserve(0, "ann", "a");
    book.changes[1].reservation.as_mut().unwrap().reserved = 0;
    book.is_bad(Fault::NotConserved);
}
