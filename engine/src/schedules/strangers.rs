//! Nobody is told from a view that something is sold out whom the shard would tell something else: who has just bought, who repeats what is on
//! its way, whom a new filter leaves out, and anybody while units are held that have fallen due.

use std::sync::Arc;

use tidegate_persistence::{GroupSequence, StreamId};
use tidegate_stock::{
    Allotment, Command, Fingerprint, HoldSeconds, Idempotency, Ledger, Partition, Quantity, Request, ReservationId, Sku, StockId,
    StockNumber, StockTerms, StockView, Timestamp, UserId,
};

use crate::known::{KNOWN_BYTES_MIN, KnownKeeper};
use crate::model::{Check, spawn};
use crate::published::Published;
use crate::schedules::{decide_and_apply, empty_ledger};
use crate::strangers::Strangers;
use crate::under_way::UnderWay;

const STREAM: StreamId = StreamId(0);
const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
const LAMP: StockId = StockId { partition: Partition(0), number: StockNumber(1) };
const MISLED: &str = "somebody is told that it is sold out";

pub(super) const BUYER: Check = Check {
    name: "who just bought is known before the view counts them",
    preemptions: 2,
    body: || buy_and_ask_again(as_the_shard_does),
};

pub(super) const REPEAT: Check = Check {
    name: "who repeats what is on its way waits for it",
    preemptions: 2,
    body: || {
        repeat_while_it_is_decided(|shard, entered| {
            shard.grant();
            drop(entered);
            shard.show();
        })
    },
};

pub(super) const NEW_FILTER: Check =
    Check { name: "whom the view counts is in the filter", preemptions: 2, body: || forget_a_buyer(shown_first) };

pub(super) const HELD: Check = Check {
    name: "units that are held are known with when they fall due",
    preemptions: 2,
    body: || ask_while_a_unit_is_held(Shard::show_with_lapse),
};

pub(super) const LAPSED: Check = Check {
    name: "nothing is due once the units are back",
    preemptions: 2,
    body: || ask_while_a_hold_lapses(Shard::show_with_lapse),
};

/// The shard's side of one stock, which has one unit.
struct Shard {
    ledger: Ledger,
    keeper: KnownKeeper,
    published: Arc<Published>,
    group: u64,
}

/// A shard on a stock of one unit, and the other side of it.
fn shard(per_user_limit: Option<u32>) -> (Shard, Arc<Published>, Arc<Strangers>) {
    let strangers = Arc::new(Strangers::default());
    let published = Arc::new(Published::new(1));
    let mut ledger = empty_ledger();
    let hold_seconds = HoldSeconds::new(60).expect("a legal hold");
    let terms = StockTerms {
        per_user_limit: per_user_limit.map(|units| Quantity::new(u64::from(units)).expect("a legal limit")),
        hold_seconds,
        hold_seconds_max: hold_seconds.default_max(),
        opens_at: None,
        closes_at: None,
    };
    let quantity = Allotment::new(1).expect("a legal quantity");
    let create = Command::CreateStock { partition: Partition(0), sku: lamp(), quantity, terms };
    let event = decide_and_apply(&mut ledger, &Request { command: create, idempotency: None }, NOW);
    let mut keeper = KnownKeeper::new(Arc::clone(strangers.known()), KNOWN_BYTES_MIN, &empty_ledger(), GroupSequence(0));
    keeper.note(&event);
    let mut shard = Shard { ledger, keeper, published: Arc::clone(&published), group: 0 };
    shard.show();
    (shard, published, strangers)
}

fn lamp() -> Sku {
    Sku::new("lamp").expect("a legal name")
}

fn reserve(user: &str, key: Option<u128>) -> Request {
    let idempotency = key.map(|key| Idempotency { key: Fingerprint(key), request: Fingerprint(1) });
    let command = Command::Reserve {
        sku: lamp(),
        user: UserId::new(user).expect("a legal name"),
        quantity: Quantity::new(1).expect("a legal quantity"),
        hold_seconds: None,
        reference: None,
    };
    Request { command, idempotency }
}

impl Shard {
    fn apply(&mut self, request: &Request) -> tidegate_stock::Event {
        decide_and_apply(&mut self.ledger, request, NOW)
    }

    fn release(&mut self, sequence: u64) {
        let reservation = ReservationId { stock: LAMP, sequence: tidegate_stock::GrantSequence(sequence) };
        self.apply(&Request { command: Command::Release { reservation, quantity: None }, idempotency: None });
    }

    fn view(&self) -> StockView {
        self.ledger.stock(LAMP).expect("it was created")
    }

    fn show(&mut self) {
        self.group += 1;
        self.published.publish([self.view()], STREAM, GroupSequence(self.group));
    }

    fn grant(&mut self) {
        let event = self.apply(&reserve("ann", Some(1)));
        self.keeper.note(&event);
    }

    /// A group in which `available` units are left and the others are held until now.
    fn show_with_lapse(&self, available: u64) {
        let due = self.due(available);
        self.published.expect_lapse(STREAM, due);
        self.show_units(available);
        self.published.show_lapse(STREAM, due);
    }

    fn due(&self, available: u64) -> Option<Timestamp> {
        (available < self.view().allotted).then_some(NOW)
    }

    fn show_units(&self, available: u64) {
        let view = self.view();
        self.published.publish(
            [StockView { available, reserved: view.allotted - available, ..view }],
            STREAM,
            GroupSequence(self.group),
        );
    }
}

/// What the shard does with a grant.
type Grant = fn(&mut Shard, &Request);

fn as_the_shard_does(shard: &mut Shard, request: &Request) {
    let event = shard.apply(request);
    shard.keeper.note(&event);
    shard.show();
}

fn shown_before_it_is_known(shard: &mut Shard, request: &Request) {
    let event = shard.apply(request);
    shard.show();
    shard.keeper.note(&event);
}

/// Who buys the last unit asks once more, and is at their limit.
fn buy_and_ask_again(grant: Grant) {
    let (mut shard, published, strangers) = shard(Some(1));
    spawn(move || grant(&mut shard, &reserve("ann", None)));
    spawn(move || {
        assert_eq!(strangers.sold_out(&published, &reserve("ann", None), NOW), None, "{MISLED}");
    });
}

/// The last unit is taken, and a keyed reservation on its way; then the unit comes back, and that reservation gets it.
fn repeat_while_it_is_decided(decide: fn(&mut Shard, Option<UnderWay>)) {
    let (mut shard, published, strangers) = shard(None);
    as_the_shard_does(&mut shard, &reserve("bob", None));
    let entered = strangers.enter(&reserve("ann", Some(1)));
    spawn(move || {
        shard.release(1);
        decide(&mut shard, entered);
    });
    spawn(move || {
        assert_eq!(strangers.sold_out(&published, &reserve("ann", Some(1)), NOW), None, "{MISLED}");
    });
}

/// What the shard does once all that a new filter was made of is committed.
type Settle = fn(&mut Shard);

fn shown_first(shard: &mut Shard) {
    shard.show();
    shard.keeper.settle(GroupSequence(shard.group));
}

fn in_use_first(shard: &mut Shard) {
    shard.keeper.settle(GroupSequence(shard.group + 1));
    shard.show();
}

/// A buyer gives the last unit back and is forgotten; a new filter leaves them out.
fn forget_a_buyer(settle: Settle) {
    let (mut shard, published, strangers) = shard(Some(1));
    as_the_shard_does(&mut shard, &reserve("ann", None));
    spawn(move || {
        shard.release(1);
        // What the ledger forgets of its own accord takes days: here it forgets everybody.
        shard.keeper.make_anew(&empty_ledger());
        shard.keeper.go_on(&empty_ledger(), GroupSequence(shard.group + 1));
        settle(&mut shard);
    });
    spawn(move || {
        assert_eq!(strangers.sold_out(&published, &reserve("ann", None), NOW), None, "{MISLED}");
    });
}

/// How the shard shows a group in which so many units are left.
type Show = fn(&Shard, u64);

/// The unit is held, until now.
fn ask_while_a_unit_is_held(show: Show) {
    let (shard, published, strangers) = shard(None);
    spawn(move || show(&shard, 0));
    spawn(move || {
        assert_eq!(strangers.sold_out(&published, &reserve("ann", None), NOW), None, "{MISLED}");
    });
}

/// The unit was held until now, and lapses.
fn ask_while_a_hold_lapses(show: Show) {
    let (shard, published, strangers) = shard(None);
    shard.show_with_lapse(0);
    spawn(move || show(&shard, 1));
    spawn(move || {
        assert_eq!(strangers.sold_out(&published, &reserve("ann", None), NOW), None, "{MISLED}");
    });
}

#[test]
fn who_just_bought_is_known_before_the_view_counts_them() {
    BUYER.holds();
}

#[test]
fn who_repeats_what_is_on_its_way_waits_for_it() {
    REPEAT.holds();
}

#[test]
fn whom_the_view_counts_is_in_the_filter() {
    NEW_FILTER.holds();
}

#[test]
fn units_that_are_held_are_known_with_when_they_fall_due() {
    HELD.holds();
}

#[test]
fn nothing_is_due_once_the_units_are_back() {
    LAPSED.holds();
}

#[test]
fn a_view_shown_before_its_buyer_is_known_is_found_out() {
    let body = || buy_and_ask_again(shown_before_it_is_known);
    Check { name: "wrong: a view before its buyer is known", preemptions: 2, body }.fails_with(MISLED);
}

#[test]
fn a_repeat_that_is_not_held_back_until_its_key_is_known_is_found_out() {
    let body = || {
        repeat_while_it_is_decided(|shard, entered| {
            drop(entered);
            shard.grant();
            shard.show();
        });
    };
    Check { name: "wrong: not on its way any more and not yet known", preemptions: 2, body }.fails_with(MISLED);
}

#[test]
fn a_filter_in_use_before_its_views_is_found_out() {
    let body = || forget_a_buyer(in_use_first);
    Check { name: "wrong: a filter before the views that need the old one are gone", preemptions: 2, body }.fails_with(MISLED);
}

#[test]
fn holds_that_are_counted_before_it_is_known_when_they_fall_due_are_found_out() {
    let body = || {
        let counted_first = |shard: &Shard, available| {
            shard.show_units(available);
            shard.published.show_lapse(STREAM, shard.due(available));
        };
        ask_while_a_unit_is_held(counted_first);
    };
    Check { name: "wrong: held before it is known until when", preemptions: 2, body }.fails_with(MISLED);
}

#[test]
fn a_lapse_that_is_over_before_its_units_are_back_is_found_out() {
    let body = || {
        let over_first = |shard: &Shard, available| {
            shard.published.show_lapse(STREAM, shard.due(available));
            shard.show_units(available);
        };
        ask_while_a_hold_lapses(over_first);
    };
    Check { name: "wrong: nothing is due and the units are not back", preemptions: 2, body }.fails_with(MISLED);
}
