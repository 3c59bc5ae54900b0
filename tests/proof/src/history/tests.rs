//! Histories made up by hand: the good ones pass both judges, and each bad one is caught by its name.

use tidegate_witness::finding::Fault;
use tidegate_witness::record::{Answer, Call, Change, Op, Patch, Reservation, Stock, actor};
use tidegate_witness::rules::{Life, stock_state, tag};
use tidegate_witness::witness;

use super::model::{self, Verdict};

const SKU: &str = "s";
const LAPSED_AT: &str = "2026-01-01T01:00:00.000Z";

/// A history under construction: calls one after the other, each with its change.
#[derive(Clone)]
struct Book {
    limit: u32,
    stock: Stock,
    life: Life,
    revision: u64,
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
            opens_at: None,
            closes_at: None,
            state: String::new(),
            etag: None,
        };
        let (life, calls, changes) = (Life::default(), Vec::new(), Vec::new());
        let mut book = Self { limit, stock, life, revision: 1, grants: 0, calls, changes };
        book.change("stock_created", 0, None);
        book
    }

    fn change(&mut self, kind: &str, client: usize, reservation: Option<Reservation>) {
        let place = self.changes.len() + 1;
        self.stock.state = stock_state(&self.stock, self.life, &at(place)).to_owned();
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
        self.calls.push(Call { client, op, key: key.map(str::to_owned), began, ended: began + 1_000, answer, batch: None });
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

    /// The change of a return.
    fn give_back(&mut self, client: usize, held: &Reservation) -> Reservation {
        let shown = Reservation {
            reserved: 0,
            returned: 1,
            state: "returned".to_owned(),
            resolved_at: Some(at(self.changes.len() + 1)),
            ..held.clone()
        };
        (self.stock.sold, self.stock.available) = (self.stock.sold - 1, self.stock.available + 1);
        self.change("returned", client, Some(shown.clone()));
        shown
    }

    /// A change of a stock's settings or life, with its call.
    fn revise(&mut self, client: usize, op: Op, revise: impl FnOnce(&mut Self)) {
        revise(self);
        self.revision += 1;
        self.change(op.kind().unwrap(), client, None);
        let shown = self.tagged();
        self.call(client, op, None, Answer::Stock { replayed: false, shown });
    }

    fn patch(&mut self, client: usize, patch: &Patch, if_match: Option<String>) {
        self.revise(client, Op::Patch { patch: patch.clone(), if_match }, |book| patch.lay_over(&mut book.stock));
    }

    /// Some calls become one batch.
    fn as_batch(&mut self, calls: std::ops::Range<usize>) {
        let (began, ended) = (self.calls[calls.start].began, self.calls[calls.end - 1].ended);
        for call in &mut self.calls[calls] {
            (call.began, call.ended, call.batch) = (began, ended, Some(1));
        }
    }

    fn tagged(&self) -> Stock {
        Stock { etag: Some(tag(self.revision)), ..self.stock.clone() }
    }

    fn list(&mut self, client: usize, user: Option<&str>, shown: &[&Reservation]) {
        let shown = shown.iter().copied().cloned().collect();
        let op = Op::List { user: user.map(str::to_owned), state: None, limit: 10 };
        self.call(client, op, None, Answer::List { shown, more: false });
    }

    fn look(&mut self, client: usize) {
        let shown = self.tagged();
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
fn whoever_finds_done_what_an_unheard_call_did_leaves_no_key_behind() {
    let mut book = Book::new(1, 1);
    let held = book.reserve(0, "ann", "a");
    book.confirm(0, &held, "pay");
    let mut alone = book.clone();
    for (book, is_unheard) in [(&mut book, true), (&mut alone, false)] {
        let op = Op::Return { id: held.id.clone(), quantity: None };
        if is_unheard {
            // Given up by the client, and still under way.
            book.call(0, op.clone(), Some("back-1"), Answer::Unknown);
        }
        let shown = book.give_back(0, &held);
        book.call(0, op.clone(), Some("back-2"), yes(&shown, false, false));
        book.call(0, op, Some("back-2"), yes(&shown, false, false));
    }
    book.is_good();
    // Then it was the first one's doing, and its key is gone.
    alone.is_bad(Fault::AcknowledgementLost);
    alone.has_no_order();
    // With the mark of a repeat the key was left behind, whoever else was under way.
    let Some(Answer::Reservation { replayed, .. }) = book.calls.last_mut().map(|call| &mut call.answer) else { panic!("a return") };
    *replayed = true;
    book.is_good();
}

#[test]
fn many_calls_that_may_have_happened_or_not_are_searched_through() {
    // Six wishes for two units, all cut off at once: two of them were granted, which ones no one was told.
    let mut book = Book::new(2, 1);
    for (client, user) in ["ann", "bob", "cat", "dan", "eve", "fay"].into_iter().enumerate() {
        book.call(client, wish(user, user), Some(user), Answer::Unknown);
    }
    book.reject(6, wish("gus", "g"), "sold_out");
    let good = book.search();
    assert!(matches!(good, Verdict::Linearizable), "{good:?}");
    // Of seven units at least one is left whatever happened, so nobody can have been told that there is none.
    let bad = model::check(SKU, &book.calls, &[], 7, Some(1));
    assert!(matches!(bad, Verdict::Not(_)), "{bad:?}");
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

/// Settings, life, lists and a batch on three units, two a user at first.
fn good_life() -> Book {
    let mut book = Book::new(3, 2);
    book.look(2);
    let first = book.reserve(0, "ann", "a");
    book.patch(1, &Patch { per_user_limit: Some(1), ..Patch::default() }, Some(tag(1)));
    book.reject(1, Op::Patch { patch: Patch::default(), if_match: Some(tag(1)) }, "precondition_failed");
    book.reject(0, wish("ann", "a2"), "limit_reached");
    book.revise(2, Op::Pause, |book| book.life.is_paused = true);
    book.reject(1, wish("bob", "b0"), "paused");
    book.revise(2, Op::Reopen, |book| book.life.is_paused = false);
    book.reserve(1, "bob", "b");
    let second = book.reserve(1, "cat", "c");
    book.reject(1, wish("dee", "d"), "sold_out");
    let calls = book.calls.len();
    book.as_batch(calls - 3..calls);
    book.list(2, None, &[&second, &latest(&book, "bob"), &first]);
    book.list(2, Some("ann"), &[&first]);
    book.list(2, Some("eve"), &[]);
    book.revise(2, Op::Close, |book| book.life.is_closed = true);
    book.reject(2, Op::Archive, "stock_in_use");
    book.reject(1, wish("eve", "e"), "closed");
    for (client, user) in [(0, "ann"), (1, "bob"), (1, "cat")] {
        book.release(client, &latest(&book, user), user);
    }
    book.revise(2, Op::Archive, |book| book.life.is_archived = true);
    book.reject(2, Op::Reopen, "closed");
    book.look(0);
    book
}

/// The newest reservation that a user was granted.
fn latest(book: &Book, user: &str) -> Reservation {
    let shown = book.changes.iter().rev().filter_map(|change| change.reservation.as_ref());
    shown.filter(|shown| shown.user == user).find(|shown| shown.state == "reserved").cloned().unwrap()
}

#[test]
fn a_good_life_of_a_stock_passes_both() {
    good_life().is_good();
}

#[test]
fn a_batch_that_was_not_decided_in_its_order() {
    let mut book = Book::new(1, 1);
    book.look(2);
    book.reject(0, wish("ann", "a"), "sold_out");
    book.reserve(0, "bob", "b");
    book.as_batch(1..3);
    book.is_bad(Fault::BatchOutOfOrder);
    book.has_no_order();
    // Two requests at the same time may be decided like that.
    (book.calls[1].batch, book.calls[2].batch) = (None, None);
    book.calls[1].client = 1;
    book.is_good();
}

#[test]
fn a_batch_whose_second_command_does_not_see_the_first() {
    let mut book = Book::new(2, 1);
    let held = book.reserve(0, "ann", "a");
    book.release(0, &held, "cancel");
    book.reject(0, pay(&held), "reservation_released");
    book.as_batch(1..3);
    book.is_good();
    book.calls.swap(1, 2);
    assert_ne!(book.faults(), []);
    book.has_no_order();
}

#[test]
fn a_list_that_leaves_one_out_or_is_not_newest_first_or_is_stale() {
    let listed = |shown: fn(&Reservation, &Reservation) -> Vec<Reservation>| {
        let mut book = Book::new(3, 1);
        let first = book.reserve(0, "ann", "a");
        let second = book.reserve(1, "bob", "b");
        book.list(2, None, &shown(&first, &second).iter().collect::<Vec<_>>());
        book
    };
    listed(|first, second| vec![second.clone(), first.clone()]).is_good();
    for (book, fault) in [
        (listed(|_, second| vec![second.clone()]), Fault::NeverSo),
        (listed(|first, second| vec![first.clone(), second.clone()]), Fault::NeverSo),
        (listed(|first, _| vec![first.clone()]), Fault::Stale),
        (listed(|first, second| vec![second.clone(), second.clone(), first.clone()]), Fault::NeverSo),
        (
            listed(|first, second| vec![second.clone(), Reservation { state: "confirmed".to_owned(), ..first.clone() }]),
            Fault::NeverSo,
        ),
    ] {
        book.is_bad(fault);
        book.has_no_order();
    }
}

#[test]
fn a_change_on_condition_of_a_tag_that_the_stock_had_no_more() {
    let mut book = Book::new(3, 2);
    book.patch(0, &Patch { per_user_limit: Some(1), ..Patch::default() }, Some(tag(1)));
    book.patch(1, &Patch { per_user_limit: Some(3), ..Patch::default() }, Some(tag(1)));
    book.is_bad(Fault::PreconditionIgnored);
    book.has_no_order();
}

#[test]
fn a_condition_that_fails_although_the_stock_had_that_tag_all_the_time() {
    let mut book = Book::new(3, 2);
    book.reserve(0, "ann", "a");
    // A sale is no reason.
    let patch = Patch { per_user_limit: Some(1), ..Patch::default() };
    book.reject(1, Op::Patch { patch, if_match: Some(tag(1)) }, "precondition_failed");
    book.is_bad(Fault::RejectedWithoutReason);
    book.has_no_order();
}

#[test]
fn an_entity_tag_that_stays_though_the_settings_changed() {
    let mut book = Book::new(3, 2);
    book.patch(0, &Patch { per_user_limit: Some(1), ..Patch::default() }, None);
    let shown = Stock { etag: Some(tag(1)), ..book.stock.clone() };
    book.call(1, Op::ReadStock, None, Answer::Stock { replayed: false, shown });
    book.is_bad(Fault::NeverSo);
    book.has_no_order();
}

#[test]
fn a_limit_that_was_raised_and_still_rejects() {
    let mut book = Book::new(3, 1);
    book.reserve(0, "ann", "a");
    book.patch(1, &Patch { per_user_limit: Some(2), ..Patch::default() }, None);
    book.reject(0, wish("ann", "a2"), "limit_reached");
    book.is_bad(Fault::RejectedWithoutReason);
    book.has_no_order();
}

#[test]
fn a_grant_while_the_stock_is_paused_or_closed_or_archived() {
    for (op, shut) in [
        (Op::Pause, Life { is_paused: true, ..Life::default() }),
        (Op::Close, Life { is_closed: true, ..Life::default() }),
        (Op::Archive, Life { is_closed: true, is_archived: true, ..Life::default() }),
    ] {
        let mut book = Book::new(3, 1);
        if shut.is_archived {
            book.revise(1, Op::Close, |book| book.life.is_closed = true);
        }
        book.revise(1, op, |book| book.life = shut);
        book.reserve(0, "ann", "a");
        book.is_bad(Fault::GrantedWhileShut);
        book.has_no_order();
    }
}

#[test]
fn a_grant_outside_of_the_window() {
    // Changes come at the second of their place: the window of the second one, the grant as the third.
    for (opens_at, closes_at, is_open) in [(3, 4, true), (2, 3, false), (4, 9, false)] {
        let mut book = Book::new(3, 1);
        let window = Patch { per_user_limit: None, opens_at: Some(Some(at(opens_at))), closes_at: Some(Some(at(closes_at))) };
        book.patch(1, &window, None);
        book.reserve(0, "ann", "a");
        assert_eq!(book.faults().contains(&Fault::GrantedWhileShut), !is_open, "{opens_at} to {closes_at}");
        assert_eq!(book.faults().is_empty(), is_open, "{opens_at} to {closes_at}");
    }
}

#[test]
fn a_rejection_by_a_window_that_was_open_all_the_time() {
    let rejected = |opens_at: usize, code: &str| {
        let mut book = Book::new(3, 1);
        book.patch(1, &Patch { opens_at: Some(Some(at(opens_at))), ..Patch::default() }, None);
        book.reject(0, wish("ann", "a"), code);
        // By the time of this one it is the third second.
        let held = book.granted(0, "bob", "b");
        book.call(0, wish("bob", "b"), Some("b"), yes(&held, true, false));
        book.faults()
    };
    assert_eq!(rejected(3, "not_open"), []);
    assert_eq!(rejected(2, "not_open"), [Fault::RejectedWithoutReason]);
    assert_eq!(rejected(3, "closed"), [Fault::RejectedWithoutReason]);
}

#[test]
fn a_stock_that_is_shown_open_before_its_time() {
    let shown = |state: &str| {
        let mut book = Book::new(3, 1);
        book.patch(1, &Patch { opens_at: Some(Some(at(9))), ..Patch::default() }, None);
        let shown = Stock { state: state.to_owned(), ..book.tagged() };
        book.call(0, Op::ReadStock, None, Answer::Stock { replayed: false, shown });
        // It is the third second when the next call, which begins later, is decided.
        (book.stock.allotted, book.stock.available) = (4, 4);
        book.change("stock_adjusted", 1, None);
        let change = book.changes.last_mut().unwrap();
        (change.delta, change.reason) = (Some(1), Some("found".to_owned()));
        let answer = Answer::Stock { replayed: false, shown: book.tagged() };
        book.call(1, Op::Adjust { delta: 1, reason: "found".to_owned() }, None, answer);
        book.faults()
    };
    assert_eq!(shown("scheduled"), []);
    assert_eq!(shown("open"), [Fault::NeverSo]);
}

#[test]
fn a_stock_archived_with_units_reserved_or_on_sale() {
    for closes in [true, false] {
        let mut book = Book::new(3, 1);
        if closes {
            book.reserve(0, "ann", "a");
            book.revise(1, Op::Close, |book| book.life.is_closed = true);
        }
        book.revise(1, Op::Archive, |book| book.life.is_archived = true);
        book.is_bad(Fault::ArchivedInUse);
        book.has_no_order();
    }
}

#[test]
fn a_stock_that_is_in_use_without_reason() {
    let mut book = Book::new(3, 1);
    book.revise(1, Op::Close, |book| book.life.is_closed = true);
    book.reject(1, Op::Archive, "stock_in_use");
    book.is_bad(Fault::RejectedWithoutReason);
    book.has_no_order();
}

#[test]
fn a_hold_extended_after_its_end() {
    let extended = |second: &str| {
        let mut book = Book::new(2, 1);
        let held = book.reserve(0, "ann", "a");
        let shown = Reservation { expires_at: "2026-01-01T02:00:00.000Z".to_owned(), ..held.clone() };
        book.change("extended", 0, Some(shown.clone()));
        second.clone_into(&mut book.changes.last_mut().unwrap().at);
        book.call(0, Op::Extend { id: held.id, hold_seconds: 9 }, None, yes(&shown, false, false));
        book
    };
    let before = "2026-01-01T00:59:59.999Z";
    extended(before).is_good();
    extended(LAPSED_AT).is_bad(Fault::ConfirmedAfterLapse);
    // Whoever looks afterwards must see the new end.
    let mut book = extended(before);
    let Answer::Reservation { shown, .. } = book.calls[0].answer.clone() else { panic!("the first call is a grant") };
    book.call(1, Op::ReadReservation { id: shown.id.clone() }, None, yes(&shown, false, false));
    book.is_bad(Fault::Stale);
}

#[test]
fn a_return_of_more_than_was_sold_and_one_that_was_done_twice() {
    let returned = |book: &mut Book, paid: &Reservation| {
        let shown = Reservation { confirmed: 0, returned: 1, state: "returned".to_owned(), ..paid.clone() };
        (book.stock.sold, book.stock.available) = (book.stock.sold - 1, book.stock.available + 1);
        book.change("returned", 0, Some(shown.clone()));
        book.call(0, Op::Return { id: paid.id.clone(), quantity: Some(1) }, Some("back"), yes(&shown, false, false));
        shown
    };
    let mut book = Book::new(2, 1);
    let held = book.reserve(0, "ann", "a");
    let paid = book.confirm(0, &held, "pay");
    let back = returned(&mut book, &paid);
    book.call(0, Op::Return { id: paid.id.clone(), quantity: Some(1) }, Some("back"), yes(&back, false, true));
    book.is_good();
    // A repeat that takes them back once more.
    book.calls.pop();
    returned(&mut book, &Reservation { confirmed: 1, ..back });
    book.is_bad(Fault::NotAllowed);
    book.has_no_order();
}

#[test]
fn a_partial_call_that_was_answered_as_a_whole_one() {
    let mut book = Book::new(4, 4);
    let held = book.reserve(0, "ann", "a");
    // One of one unit is all of it; asked for two it is too many.
    book.confirm(0, &held, "pay");
    let Op::Confirm { quantity, .. } = &mut book.calls.last_mut().unwrap().op else { panic!("the last call is a payment") };
    *quantity = Some(2);
    book.is_bad(Fault::NotAllowed);
    book.has_no_order();
}

#[test]
fn an_adjustment_below_nothing_and_one_that_was_done_twice() {
    let adjusted = |units: i64, delta: i64, times: usize| {
        let mut book = Book::new(units, 1);
        for _ in 0..times {
            (book.stock.allotted, book.stock.available) = (book.stock.allotted + delta, book.stock.available + delta);
            book.change("stock_adjusted", 0, None);
            let change = book.changes.last_mut().unwrap();
            (change.delta, change.reason) = (Some(delta), Some("damaged".to_owned()));
        }
        let shown = book.tagged();
        let op = Op::Adjust { delta, reason: "damaged".to_owned() };
        book.call(0, op, Some("once"), Answer::Stock { replayed: false, shown });
        book
    };
    adjusted(3, -3, 1).is_good();
    let book = adjusted(3, -4, 1);
    book.is_bad(Fault::SoldTwice);
    book.has_no_order();
    let book = adjusted(9, -3, 2);
    book.is_bad(Fault::HappenedTwice);
    book.has_no_order();
}
