//! Every rule and every pair of precedence as one row: what was there, what is asked for and when, what follows.
//!
//! Each row carries its rule as a sentence, which a failure prints. The moments are milliseconds, and the rows of one stock read
//! like this: `"granted tea#1 | 2 0 0 reserved | 8 2 0"` is a grant, then the reservation's reserved, confirmed and released units and
//! its state, then the stock's available, reserved and sold units. `again` marks a replay, `lapsed, ` a lapse on the way. Where anything
//! of the reservation came back after it was sold, that is a fourth number. A row about a stock says `created`, `changed`, or `found` where
//! nothing changed, and what was done to its life by hand. Rows of what comes after a sale are in `after_sale.rs`, those of a stock's
//! settings and life in `stocks.rs`, those of what has left memory in `tiers.rs`.

use tidegate_stock::{Event, GrantSequence, NoRoom, Rejection, Rules, StockState, Timestamp, UserId, decide_lapse};

#[path = "decision_table/after_sale.rs"]
mod after_sale;
#[path = "decision_table/harness.rs"]
mod harness;
#[path = "decision_table/stocks.rs"]
mod stocks;
#[path = "decision_table/tiers.rs"]
mod tiers;

use harness::{Expect, RULES, Step, World, check, clock, confirm, grant, quantity, read, release, reserve, stock, take};

#[test]
fn creating_a_stock() {
    let tea = stock("tea", 10);
    check("a new stock is created with all its units available", &[], &tea, "created tea | 10 0 0");
    check("a stock may start with nothing", &[], &stock("tea", 0), "created tea | 0 0 0");
    let given = [tea.clone()];
    check("the same stock again is found", &given, &tea, "found tea | 10 0 0");
    check("another product is a stock of its own", &given, &stock("cup", 3), "created cup | 3 0 0");
    check("another quantity is another stock", &given, &stock("tea", 11), Rejection::StockExists);
    check("another limit is another stock", &given, &stock("tea", 10).limit(5), Rejection::StockExists);
    check("another hold is another stock", &given, &stock("tea", 10).holds(9, 20), Rejection::StockExists);
    check("another longest hold is another stock", &given, &stock("tea", 10).holds(10, 21), Rejection::StockExists);
    check("another start is another stock", &given, &stock("tea", 10).opens(5), Rejection::StockExists);
    check("another end is another stock", &given, &stock("tea", 10).closes(5), Rejection::StockExists);
    let given = [tea.clone(), reserve("tea", "ann", 2), reserve("tea", "bob", 3), confirm("tea", 1)];
    check("the first quantity counts, not what is left of it", &given, &tea, "found tea | 5 3 2");
    let given = [stock("tea", 10).closes(5)];
    check("a closed stock is found too", &given, &stock("tea", 10).closes(5).at(9), "found tea | 10 0 0");
}

#[test]
fn reserving() {
    let tea = stock("tea", 10);
    let given = [tea.clone()];
    check(
        "a grant takes its units from what is available",
        &given,
        &reserve("tea", "ann", 2),
        "granted tea#1 | 2 0 0 reserved | 8 2 0",
    );
    check("the last unit is granted", &given, &reserve("tea", "ann", 10), "granted tea#1 | 10 0 0 reserved | 0 10 0");
    let too_many = Rejection::SoldOut { available: 10, asked: 11 };
    check("nothing is granted in part", &given, &reserve("tea", "ann", 11), too_many);
    check("a product that is not there has no stock", &given, &reserve("cup", "ann", 1), Rejection::UnknownSku);
    let given = [tea.clone(), reserve("tea", "ann", 2)];
    check("grants are numbered as they are decided", &given, &reserve("tea", "bob", 1), "granted tea#2 | 1 0 0 reserved | 7 3 0");
    check("without a key every call is a new one", &given, &reserve("tea", "ann", 2), "granted tea#2 | 2 0 0 reserved | 6 4 0");
    let given = [tea.clone(), stock("cup", 5), reserve("tea", "ann", 2), reserve("tea", "ann", 2)];
    check("each product numbers its own grants", &given, &reserve("cup", "ann", 1), "granted cup#1 | 1 0 0 reserved | 4 1 0");
    let given = [tea.clone(), reserve("tea", "ann", 10)];
    check("nothing available is sold out", &given, &reserve("tea", "bob", 1), Rejection::SoldOut { available: 0, asked: 1 });
    let given = [tea.clone(), reserve("tea", "ann", 10), confirm("tea", 1)];
    check("sold units are gone", &given, &reserve("tea", "bob", 1), Rejection::SoldOut { available: 0, asked: 1 });
    let given = [tea.clone(), reserve("tea", "ann", 10), release("tea", 1)];
    check("sold out ends with a release", &given, &reserve("tea", "bob", 1), "granted tea#2 | 1 0 0 reserved | 9 1 0");
    let given = [tea.clone(), reserve("tea", "ann", 10), clock().at(10_099)];
    check("sold out ends with a lapse", &given, &reserve("tea", "bob", 1).at(10_099), "granted tea#2 | 1 0 0 reserved | 9 1 0");
    let given = [tea, reserve("tea", "ann", 10), release("tea", 1).units(4)];
    check("released parts can be granted", &given, &reserve("tea", "bob", 4), "granted tea#2 | 4 0 0 reserved | 0 10 0");
    let given = [stock("tea", 0)];
    check("a stock of nothing is sold out", &given, &reserve("tea", "ann", 1), Rejection::SoldOut { available: 0, asked: 1 });
}

#[test]
fn the_hold() {
    let given = [stock("tea", 10)];
    let over = Rejection::HoldOverMax { asked: 21, max: 20 };
    check("a hold longer than the stock allows is refused", &given, &reserve("tea", "ann", 1).hold(21), over);
    check("the longest hold is allowed", &given, &reserve("tea", "ann", 1).hold(20), "granted tea#1 | 1 0 0 reserved | 9 1 0");
    let ends = |hold: Option<u64>| {
        let mut ledger = World::new();
        take(&mut ledger, &stock("tea", 10));
        let asked = reserve("tea", "ann", 1).at(500);
        take(&mut ledger, &hold.map_or(asked.clone(), |hold| asked.hold(hold)));
        ledger.reservation(grant("tea", 1)).expect("it was granted").expires_at.unix_ms()
    };
    assert_eq!(ends(None), 10_500, "a reservation that names no hold gets the stock's");
    assert_eq!(ends(Some(1)), 1_500, "a shorter hold than the stock's is given");
    assert_eq!(ends(Some(20)), 20_500, "the longest hold is given");
}

#[test]
fn the_window() {
    let given = [stock("tea", 10).opens(1_000).closes(2_000)];
    let one = reserve("tea", "ann", 1);
    let early = Rejection::NotOpen { opens_at: Timestamp::from_unix_ms(1_000) };
    let granted = "granted tea#1 | 1 0 0 reserved | 9 1 0";
    check("nothing is granted long before the start", &given, &one.clone().at(0), early);
    check("nothing is granted just before the start", &given, &one.clone().at(999), early);
    check("the first moment is the start itself", &given, &one.clone().at(1_000), granted);
    check("the last moment is just before the end", &given, &one.clone().at(1_999), granted);
    check("nothing is granted at the end", &given, &one.clone().at(2_000), Rejection::Closed);
    check("nothing is granted after the end", &given, &one.clone().at(9_000), Rejection::Closed);
    let given = [stock("tea", 10).closes(2_000), one.clone().at(1_999)];
    check("a hold outlives the end of the sale", &given, &confirm("tea", 1).at(11_998), "tea#1 | 0 1 0 confirmed | 9 0 1");
    check("a closed stock takes units back", &given, &release("tea", 1).at(3_000), "tea#1 | 0 0 1 released | 10 0 0");
    check("holds of a closed stock lapse", &given, &read("tea", 1).at(11_999), "lapsed, tea#1 | 0 0 1 expired | 10 0 0");
    check("units that come back to a closed stock stay there", &given, &one.at(11_999), Rejection::Closed);
}

#[test]
fn the_state_of_a_stock() {
    let state = |stock: Step, given: &[Step], at: u64| {
        let mut ledger = World::new();
        take(&mut ledger, &stock);
        for step in given {
            take(&mut ledger, step);
        }
        ledger.stocks().next().expect("there is one stock").state(Timestamp::from_unix_ms(at))
    };
    let window = || stock("tea", 1).opens(1_000).closes(2_000);
    assert_eq!(state(window(), &[], 999), StockState::Scheduled);
    assert_eq!(state(window(), &[], 1_000), StockState::Open);
    assert_eq!(state(window(), &[], 1_999), StockState::Open);
    assert_eq!(state(window(), &[], 2_000), StockState::Closed);
    assert_eq!(state(stock("tea", 1), &[], 0), StockState::Open);
    assert_eq!(state(stock("tea", 0), &[], 0), StockState::SoldOut);
    let grant = [reserve("tea", "ann", 1).at(1_000)];
    assert_eq!(state(window(), &grant, 1_000), StockState::SoldOut);
    assert_eq!(state(window(), &grant, 2_000), StockState::Closed, "closed goes before sold out");
    assert_eq!(state(stock("tea", 0).opens(5), &[], 0), StockState::Scheduled, "scheduled goes before sold out");
    let back = [reserve("tea", "ann", 1), release("tea", 1)];
    assert_eq!(state(stock("tea", 1), &back, 0), StockState::Open, "sold out is no flag of its own");
}

#[test]
fn the_limit() {
    let tea = stock("tea", 10).limit(3);
    let one = reserve("tea", "ann", 1);
    let full = Rejection::LimitReached { limit: 3, has: 3, asked: 1 };
    let given = [tea.clone()];
    check("a user may take the whole limit at once", &given, &reserve("tea", "ann", 3), "granted tea#1 | 3 0 0 reserved | 7 3 0");
    let over = Rejection::LimitReached { limit: 3, has: 0, asked: 4 };
    check("one call over the limit is refused whole", &given, &reserve("tea", "ann", 4), over);
    let given = [tea.clone(), reserve("tea", "ann", 2)];
    check("a user may fill up to the limit", &given, &one, "granted tea#2 | 1 0 0 reserved | 7 3 0");
    let over = Rejection::LimitReached { limit: 3, has: 2, asked: 2 };
    check("reserved units count", &given, &reserve("tea", "ann", 2), over);
    check("another user's units do not count", &given, &reserve("tea", "bob", 3), "granted tea#2 | 3 0 0 reserved | 5 5 0");
    let given = [tea.clone(), reserve("tea", "ann", 3), confirm("tea", 1)];
    check("sold units count", &given, &one, full);
    check("sold units count after the hold's end", &given, &one.clone().at(99_000), full);
    let given = [tea.clone(), reserve("tea", "ann", 3), confirm("tea", 1).units(1)];
    check("reserved and sold units count together", &given, &one, full);
    let given = [tea.clone(), reserve("tea", "ann", 3), release("tea", 1)];
    check("released units give the limit back", &given, &reserve("tea", "ann", 3), "granted tea#2 | 3 0 0 reserved | 7 3 0");
    let given = [tea.clone(), reserve("tea", "ann", 3), release("tea", 1).units(1)];
    check("a released part gives its part back", &given, &one, "granted tea#2 | 1 0 0 reserved | 7 3 0");
    let over = Rejection::LimitReached { limit: 3, has: 2, asked: 2 };
    check("a released part gives no more than its part back", &given, &reserve("tea", "ann", 2), over);
    let given = [tea.clone(), reserve("tea", "ann", 3), clock().at(10_099)];
    check(
        "lapsed units give the limit back",
        &given,
        &reserve("tea", "ann", 3).at(10_099),
        "granted tea#2 | 3 0 0 reserved | 7 3 0",
    );
    let given = [tea.clone(), stock("cup", 5), reserve("tea", "ann", 3)];
    check("the limit is each product's own", &given, &reserve("cup", "ann", 5), "granted cup#1 | 5 0 0 reserved | 0 5 0");
}

#[test]
fn confirming() {
    let given = [stock("tea", 10), reserve("tea", "ann", 3)];
    let all = confirm("tea", 1);
    check("a confirm sells all that is held", &given, &all, "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("a part may be confirmed", &given, &all.clone().units(1), "tea#1 | 2 1 0 reserved | 7 2 1");
    check("all units may be named", &given, &all.clone().units(3), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let over = Rejection::QuantityOverRemaining { asked: 4, remaining: 3 };
    check("more than is held is refused whole", &given, &all.clone().units(4), over);
    check("just before its end a hold is good", &given, &all.clone().at(9_999), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("at its end a hold is over", &given, &all.clone().at(10_000), late);
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("after its end a hold is over", &given, &all.clone().at(50_000), late);
    check("an id that was never given is unknown", &given, &confirm("tea", 2), Rejection::UnknownReservation);
    check("grant 0 is unknown", &given, &confirm("tea", 0), Rejection::UnknownReservation);
    check("a reservation of an unknown stock is unknown", &given, &confirm("cup", 1), Rejection::UnknownReservation);

    let given = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1)];
    check("a whole confirm sells the rest", &given, &all, "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("a part without a key is a change of its own", &given, &all.clone().units(1), "tea#1 | 1 2 0 reserved | 7 1 2");
    let over = Rejection::QuantityOverRemaining { asked: 3, remaining: 2 };
    check("what is sold does not remain", &given, &all.clone().units(3), over);
    let given = [stock("tea", 10), reserve("tea", "ann", 3), release("tea", 1).units(2)];
    check("a confirm after a partial release sells what is held", &given, &all, "tea#1 | 0 1 2 confirmed | 9 0 1");

    let sold = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1)];
    check("a whole confirm of what is sold is fine again", &sold, &all, "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("it is fine after the hold's end too", &sold, &all.clone().at(10_000), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let over = Rejection::QuantityOverRemaining { asked: 1, remaining: 0 };
    check("a part of nothing is more than remains", &sold, &all.clone().units(1), over);

    let released = [stock("tea", 10), reserve("tea", "ann", 3), release("tea", 1)];
    check("what was released cannot be confirmed", &released, &all, Rejection::ReservationReleased);
    check("nor a part of it", &released, &all.clone().units(1), Rejection::ReservationReleased);
    check("it stays released after the hold's end", &released, &all.clone().at(10_000), Rejection::ReservationReleased);
    let lapsed = [stock("tea", 10), reserve("tea", "ann", 3), clock().at(10_099)];
    check("what lapsed cannot be confirmed", &lapsed, &all.clone().at(10_099), Rejection::ReservationExpired);
    check("nor a part of what lapsed", &lapsed, &all.clone().units(1).at(10_099), Rejection::ReservationExpired);
    let both = [stock("tea", 10), reserve("tea", "ann", 3), release("tea", 1).units(1), clock().at(10_099)];
    check("released, then lapsed, is expired", &both, &all.clone().at(10_099), Rejection::ReservationExpired);
    let mixed = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1), release("tea", 1)];
    check("with any unit sold and nothing held a whole confirm is fine", &mixed, &all, "tea#1 | 0 1 2 confirmed | 9 0 1");
    let mixed = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1), clock().at(10_099)];
    check("also when the rest lapsed before", &mixed, &all.clone().at(10_099), "tea#1 | 0 1 2 confirmed | 9 0 1");
    let held = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1)];
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("but not when the rest was held until this very confirm", &held, &all.clone().at(10_000), late);
    let late = Rejection::ReservationExpired;
    check("a part of what lapsed is expired although some was sold", &mixed, &all.clone().units(1).at(10_099), late);
}

#[test]
fn releasing() {
    let given = [stock("tea", 10), reserve("tea", "ann", 3)];
    let all = release("tea", 1);
    check("a release gives back all that is held", &given, &all, "tea#1 | 0 0 3 released | 10 0 0");
    check("a part may be released", &given, &all.clone().units(1), "tea#1 | 2 0 1 reserved | 8 2 0");
    check("all units may be named", &given, &all.clone().units(3), "tea#1 | 0 0 3 released | 10 0 0");
    let over = Rejection::QuantityOverRemaining { asked: 4, remaining: 3 };
    check("more than is held is refused whole", &given, &all.clone().units(4), over);
    check("just before its end a hold is released", &given, &all.clone().at(9_999), "tea#1 | 0 0 3 released | 10 0 0");
    check("at its end it has lapsed", &given, &all.clone().at(10_000), "lapsed, tea#1 | 0 0 3 expired | 10 0 0");
    let over = Rejection::QuantityOverRemaining { asked: 1, remaining: 0 };
    check("no part of it is left to release then", &given, &all.clone().units(1).at(10_000), Expect::LapsesAndSays(over));
    check("an id that was never given is unknown", &given, &release("tea", 2), Rejection::UnknownReservation);

    let released = [stock("tea", 10), reserve("tea", "ann", 3), release("tea", 1)];
    check("a whole release is fine again", &released, &all, "tea#1 | 0 0 3 released | 10 0 0");
    check("a part of nothing is more than remains", &released, &all.clone().units(1), over);
    let lapsed = [stock("tea", 10), reserve("tea", "ann", 3), clock().at(10_099)];
    check("a whole release of what lapsed is fine", &lapsed, &all.clone().at(10_099), "tea#1 | 0 0 3 expired | 10 0 0");
    let sold = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1)];
    check("what is sold cannot be released", &sold, &all, Rejection::ReservationConfirmed);
    check("nor a part of it", &sold, &all.clone().units(1), Rejection::ReservationConfirmed);
    let mixed = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1)];
    check("what is not sold yet can be released", &mixed, &all, "tea#1 | 0 1 2 confirmed | 9 0 1");
    let mixed = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1), release("tea", 1)];
    check("with any unit sold a second whole release is refused", &mixed, &all, Rejection::ReservationConfirmed);
    let mixed = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1)];
    let late = Expect::LapsesAndSays(Rejection::ReservationConfirmed);
    check("also when the rest lapses on the way", &mixed, &all.clone().at(10_000), late);
}

#[test]
fn reading() {
    let given = [stock("tea", 10), reserve("tea", "ann", 3)];
    check("a read shows the reservation", &given, &read("tea", 1), "tea#1 | 3 0 0 reserved | 7 3 0");
    check("just before its end it is held", &given, &read("tea", 1).at(9_999), "tea#1 | 3 0 0 reserved | 7 3 0");
    check("at its end it has lapsed", &given, &read("tea", 1).at(10_000), "lapsed, tea#1 | 0 0 3 expired | 10 0 0");
    check("an id that was never given is unknown", &given, &read("tea", 2), Rejection::UnknownReservation);
    let sold = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1)];
    check("what is sold never lapses", &sold, &read("tea", 1).at(99_000), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let part = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).units(1)];
    check("only what is held lapses", &part, &read("tea", 1).at(10_000), "lapsed, tea#1 | 0 1 2 confirmed | 9 0 1");
}

#[test]
fn the_clock() {
    let given = [stock("tea", 10), reserve("tea", "ann", 3)];
    check("the clock takes nothing before its time", &given, &clock().at(9_999), "0 lapses");
    let late = [stock("tea", 10), reserve("tea", "ann", 3).at(40)];
    check("nor before a time within a tenth of a second", &late, &clock().at(10_039), "0 lapses");
    check("within a tenth of a second of its end a hold is taken", &given, &clock().at(10_099), "1 lapses");
    let given = [stock("tea", 10), reserve("tea", "ann", 3), reserve("tea", "bob", 1).at(40), clock().at(10_099)];
    check("one lapse takes all that is due", &given, &read("tea", 2).at(10_099), "tea#2 | 0 0 1 expired | 10 0 0");
    let given = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1)];
    check("the clock leaves what is sold", &given, &clock().at(99_000), "0 lapses");
    let given = [stock("tea", 10), reserve("tea", "ann", 3), release("tea", 1)];
    check("the clock leaves what was released", &given, &clock().at(99_000), "0 lapses");
    let given = [stock("tea", 10), reserve("tea", "ann", 3), read("tea", 1).at(10_000)];
    check("the clock leaves what a command has lapsed", &given, &clock().at(99_000), "0 lapses");
}

#[test]
fn one_lapse_carries_at_most_a_thousand_reservations_and_together_they_carry_all() {
    let mut ledger = World::new();
    take(&mut ledger, &stock("tea", 2_500));
    for _ in 0..2_500 {
        take(&mut ledger, &reserve("tea", "ann", 1));
    }
    let now = Timestamp::from_unix_ms(10_099);
    let mut sizes = Vec::new();
    while let Some(event) = decide_lapse(&ledger, now) {
        let Event::Expired { reservations } = &event else { panic!("the clock decided {event:?}") };
        sizes.push(reservations.len());
        drop(ledger.apply(&event, now));
    }
    assert_eq!(sizes, [1_000, 1_000, 500]);
    assert_eq!((ledger.open_holds(), ledger.next_lapse()), (0, None));
    assert_eq!(ledger.stocks().next().unwrap().available, 2_500);
}

#[test]
fn keys() {
    let tea = stock("tea", 10);
    let buy = reserve("tea", "ann", 2).key("k");
    let given = [tea.clone(), buy.clone()];
    check("a repeat answers the same grant", &given, &buy, "granted tea#1 again | 2 0 0 reserved | 8 2 0");
    let again = [tea.clone(), buy.clone(), buy.clone(), buy.clone()];
    check("any number of repeats do", &again, &buy, "granted tea#1 again | 2 0 0 reserved | 8 2 0");
    check("another key is another call", &given, &reserve("tea", "ann", 2).key("l"), "granted tea#2 | 2 0 0 reserved | 6 4 0");
    let reused = Rejection::IdempotencyKeyReused;
    check("another quantity is another call", &given, &reserve("tea", "ann", 3).key("k"), reused);
    check("another user is another call", &given, &reserve("tea", "bob", 2).key("k"), reused);
    check("another hold is another call", &given, &buy.clone().hold(5), reused);
    check("another reference is another call", &given, &buy.clone().label("o-7"), reused);
    check("a confirm with a reserve's key is another call", &given, &confirm("tea", 1).key("k"), reused);
    check("a release with a reserve's key is another call", &given, &release("tea", 1).key("k"), reused);
    let paid = [tea.clone(), buy.clone(), confirm("tea", 1).key("pay")];
    check("a reserve with a confirm's key is another call", &paid, &reserve("tea", "ann", 2).key("pay"), reused);
    check("a release with a confirm's key is another call", &paid, &release("tea", 1).key("pay"), reused);
    check("a confirm's key with a quantity is another call", &paid, &confirm("tea", 1).units(2).key("pay"), reused);
    let two = [tea.clone(), buy.clone(), reserve("tea", "bob", 1), confirm("tea", 1).key("pay")];
    check("a confirm of another reservation is another call", &two, &confirm("tea", 2).key("pay"), reused);

    let cups = [tea.clone(), stock("cup", 5), buy.clone()];
    check("each product has its own keys", &cups, &reserve("cup", "ann", 2).key("k"), "granted cup#1 | 2 0 0 reserved | 3 2 0");
    let cups = [tea.clone(), stock("cup", 5), reserve("cup", "bob", 1), buy.clone()];
    check("reservations of another product too", &cups, &confirm("cup", 1).key("k"), "cup#1 | 0 1 0 confirmed | 4 0 1");
}

#[test]
fn a_replay_shows_what_is_now() {
    let tea = stock("tea", 10);
    let buy = reserve("tea", "ann", 3).key("k");
    let paid = [tea.clone(), buy.clone(), confirm("tea", 1)];
    check("a repeated reserve shows that it is paid", &paid, &buy, "granted tea#1 again | 0 3 0 confirmed | 7 0 3");
    let given_up = [tea.clone(), buy.clone(), release("tea", 1)];
    check("a repeated reserve shows that it is released", &given_up, &buy, "granted tea#1 again | 0 0 3 released | 10 0 0");
    let given = [tea.clone(), buy.clone()];
    let lapsed = "lapsed, granted tea#1 again | 0 0 3 expired | 10 0 0";
    check("a repeated reserve lapses a hold that is over", &given, &buy.clone().at(10_000), lapsed);
    let lapsed = [tea.clone(), buy.clone(), clock().at(10_099)];
    check(
        "a repeated reserve shows that it lapsed",
        &lapsed,
        &buy.clone().at(10_099),
        "granted tea#1 again | 0 0 3 expired | 10 0 0",
    );

    let one = confirm("tea", 1).units(1).key("pay");
    let given = [tea.clone(), buy.clone(), one.clone()];
    check("a repeated partial confirm sells once", &given, &one, "tea#1 again | 2 1 0 reserved | 7 2 1");
    let more = [tea.clone(), buy.clone(), one.clone(), confirm("tea", 1).units(1).key("pay2")];
    check("it shows what was sold since", &more, &one, "tea#1 again | 1 2 0 reserved | 7 1 2");
    let rest = "lapsed, tea#1 again | 0 1 2 confirmed | 9 0 1";
    check("it lapses the rest when that is over", &given, &one.clone().at(10_000), rest);
    let all = confirm("tea", 1).key("pay");
    let given = [tea.clone(), buy.clone(), all.clone()];
    check(
        "a repeated confirm is fine after the hold's end",
        &given,
        &all.clone().at(50_000),
        "tea#1 again | 0 3 0 confirmed | 7 0 3",
    );

    let one = release("tea", 1).units(1).key("drop");
    let given = [tea.clone(), buy.clone(), one.clone()];
    check("a repeated partial release gives back once", &given, &one, "tea#1 again | 2 0 1 reserved | 8 2 0");
    let sold = [tea.clone(), buy, one.clone(), confirm("tea", 1)];
    check("it shows what was sold since", &sold, &one, "tea#1 again | 0 2 1 confirmed | 8 0 2");
}

#[test]
fn a_replay_goes_before_every_other_rule() {
    let buy = reserve("tea", "ann", 2).key("k");
    let answer = "granted tea#1 again | 2 0 0 reserved | 0 2 0";
    let given = [stock("tea", 2), buy.clone()];
    check("a repeat is answered although all is sold out", &given, &buy, answer);
    let given = [stock("tea", 2).limit(2), buy.clone()];
    check("a repeat is answered although the limit is reached", &given, &buy, answer);
    let given = [stock("tea", 2).closes(50), buy.clone()];
    check("a repeat is answered although the stock is closed", &given, &buy.clone().at(50), answer);

    // A key cannot be known before the start, and a hold that was granted was within its bound.
    let reused = Rejection::IdempotencyKeyReused;
    let given = [stock("tea", 2), buy.clone()];
    check("a reused key goes before sold out", &given, &reserve("tea", "bob", 1).key("k"), reused);
    check("a reused key goes before the hold's bound", &given, &reserve("tea", "ann", 2).hold(21).key("k"), reused);
    let given = [stock("tea", 2).limit(2), buy.clone()];
    check("a reused key goes before the limit", &given, &reserve("tea", "ann", 1).key("k"), reused);
    let given = [stock("tea", 2).closes(50), buy.clone()];
    check("a reused key goes before closed", &given, &reserve("tea", "ann", 1).key("k").at(50), reused);
    let given = [stock("tea", 2), buy.clone()];
    check("an unknown product goes before a key", &given, &reserve("cup", "ann", 2).key("k"), Rejection::UnknownSku);
    check("an unknown reservation goes before a reused key", &given, &confirm("tea", 9).key("k"), Rejection::UnknownReservation);
    check("a reused key goes before more than remains", &given, &confirm("tea", 1).units(3).key("k"), reused);
    check("a reused key goes before expired", &given, &confirm("tea", 1).key("k").at(10_000), reused);
    let given = [stock("tea", 2), buy.clone(), release("tea", 1)];
    check("a reused key goes before released", &given, &confirm("tea", 1).key("k"), reused);
    let given = [stock("tea", 2), buy, confirm("tea", 1)];
    check("a reused key goes before confirmed", &given, &release("tea", 1).key("k"), reused);
    check("a reused key goes before a fine repeat", &given, &confirm("tea", 1).key("k"), reused);
}

#[test]
fn only_what_changed_something_is_remembered() {
    let tea = || stock("tea", 3);
    let buy = reserve("tea", "ann", 3).key("k");
    let given = [tea(), reserve("tea", "bob", 1).hold(1)];
    let mut ledger = World::new();
    for step in &given {
        take(&mut ledger, step);
    }
    assert_eq!(take(&mut ledger, &buy), Rejection::SoldOut { available: 2, asked: 3 }.into());
    assert_eq!(take(&mut ledger, &clock().at(1_099)), "1 lapses".into());
    let granted = "granted tea#2 | 3 0 0 reserved | 0 3 0";
    assert_eq!(take(&mut ledger, &buy.clone().at(1_099)), granted.into(), "a rejected call may be tried again with its key");

    let mut ledger = World::new();
    take(&mut ledger, &tea());
    assert_eq!(take(&mut ledger, &reserve("tea", "ann", 4).key("k")), Rejection::SoldOut { available: 3, asked: 4 }.into());
    let granted = "granted tea#1 | 3 0 0 reserved | 0 3 0";
    assert_eq!(take(&mut ledger, &buy), granted.into(), "a rejected call's key is free for other values");

    let given = [tea(), reserve("tea", "ann", 3), confirm("tea", 1), confirm("tea", 1).key("pay")];
    let over = Rejection::ReservationConfirmed;
    check("a confirm that changed nothing leaves its key free", &given, &release("tea", 1).key("pay"), over);
    let given = [tea(), reserve("tea", "ann", 3), release("tea", 1), release("tea", 1).key("drop")];
    let granted = "granted tea#2 | 1 0 0 reserved | 2 1 0";
    check("a release that changed nothing leaves its key free", &given, &reserve("tea", "ann", 1).key("drop"), granted);
    let given = [tea(), reserve("tea", "ann", 3), release("tea", 1).key("drop").at(10_000)];
    let granted = "granted tea#2 | 1 0 0 reserved | 2 1 0";
    let lapsed = "a release that found a lapse leaves its key free";
    check(lapsed, &given, &reserve("tea", "ann", 1).key("drop").at(10_000), granted);
}

#[test]
fn a_key_is_forgotten_when_its_time_is_over() {
    let tea = stock("tea", 10);
    let buy = reserve("tea", "ann", 2).key("k");
    let given = [tea.clone(), buy.clone().at(500), confirm("tea", 1).at(600)];
    let known = "granted tea#1 again | 0 2 0 confirmed | 8 0 2";
    let fresh = "granted tea#2 | 2 0 0 reserved | 6 2 2";
    check("just before its end a key is known", &given, &buy.clone().at(100_499), known);
    check("at its end a key is forgotten", &given, &buy.clone().at(100_500), fresh);
    check("after its end a key is forgotten", &given, &buy.clone().at(900_000), fresh);
    let other = reserve("tea", "bob", 1).key("k");
    check("just before its end a key is taken", &given, &other.clone().at(100_499), Rejection::IdempotencyKeyReused);
    check(
        "at its end a key is free for other values",
        &given,
        &other.clone().at(100_500),
        "granted tea#2 | 1 0 0 reserved | 7 1 2",
    );
    let given = [tea.clone(), buy.clone().at(500), confirm("tea", 1).at(600), buy.clone().at(50_000)];
    check("a repeat does not lengthen a key's time", &given, &buy.clone().at(100_500), fresh);
    let given = [tea, buy.clone().at(500), confirm("tea", 1).at(600), buy.clone().at(100_500), confirm("tea", 2).at(100_600)];
    let known = "granted tea#2 again | 0 2 0 confirmed | 6 0 4";
    check("a key that is used anew is known for its time again", &given, &buy.clone().at(200_499), known);
    check("and forgotten again", &given, &buy.at(200_500), "granted tea#3 | 2 0 0 reserved | 4 2 4");
}

#[test]
fn forgetting_keys_changes_no_decision() {
    let buy = reserve("tea", "ann", 1).key("k");
    let mut ledger = World::new();
    take(&mut ledger, &stock("tea", 10));
    take(&mut ledger, &buy.clone().at(500));
    ledger.tidy(Timestamp::from_unix_ms(100_499), 9);
    assert_eq!(ledger.key_count(), 1, "a key is kept while it is known");
    ledger.tidy(Timestamp::from_unix_ms(100_500), 0);
    assert_eq!(ledger.key_count(), 1, "no more keys are dropped than allowed");
    assert_eq!(take(&mut ledger, &buy.clone().at(100_500)), "granted tea#2 | 1 0 0 reserved | 8 2 0".into());
    ledger.tidy(Timestamp::from_unix_ms(100_500), 9);
    assert_eq!(ledger.key_count(), 1, "the newer use of a key stays");
    assert_eq!(take(&mut ledger, &buy.at(100_501)), "granted tea#2 again | 1 0 0 reserved | 8 2 0".into());
}

#[test]
fn a_full_key_table_refuses_new_keys_and_knows_the_old() {
    let mut ledger = World::with(Rules { idempotency_keys_max: 2, ..RULES });
    take(&mut ledger, &stock("tea", 10));
    take(&mut ledger, &stock("cup", 10));
    let lacks = |ledger: &World, step: Step| match ledger
        .lacks_room(&step.request().expect("a request"), Timestamp::from_unix_ms(step.at))
    {
        None => false,
        Some(NoRoom::Keys) => true,
        Some(no_room) => panic!("there is room otherwise: {no_room:?}"),
    };
    let buy = |key: &'static str| reserve("tea", "ann", 1).key(key);
    take(&mut ledger, &buy("a"));
    assert!(!lacks(&ledger, buy("b")), "there is room for a second key");
    take(&mut ledger, &buy("b"));
    assert!(lacks(&ledger, buy("c")), "there is no room for a third key");
    assert!(lacks(&ledger, confirm("tea", 1).key("c")), "nor for a confirm's");
    assert!(lacks(&ledger, release("tea", 1).key("c")), "nor for a release's");
    assert!(lacks(&ledger, reserve("cup", "ann", 1).key("a")), "another product's key of the same name is new");
    assert!(!lacks(&ledger, buy("a")), "a known key needs no room");
    assert!(!lacks(&ledger, confirm("tea", 1).key("a")), "nor does a reused one");
    assert!(!lacks(&ledger, reserve("tea", "ann", 1)), "nor does a call without a key");
    assert!(!lacks(&ledger, reserve("pot", "ann", 1).key("c")), "an unknown product is rejected, not refused");
    assert!(lacks(&ledger, buy("c").at(99_999)), "just before its time is over a key takes its room");
    assert!(!lacks(&ledger, buy("c").at(100_000)), "a key whose time is over makes room before it is dropped");
    ledger.tidy(Timestamp::from_unix_ms(100_000), 1);
    assert!(!lacks(&ledger, buy("c").at(100_000)), "a forgotten key makes room");
}

#[test]
fn pairs_of_precedence_of_a_reserve() {
    // Closed and not open exclude each other: a window starts before it ends.
    let long = |user: &str, units: u64| reserve("tea", user, units).hold(21);
    let over = Rejection::HoldOverMax { asked: 21, max: 20 };
    let early = Rejection::NotOpen { opens_at: Timestamp::from_unix_ms(100) };
    let limit = Rejection::LimitReached { limit: 1, has: 0, asked: 2 };
    let two = reserve("tea", "ann", 2);
    check("the hold's bound goes before closed", &[stock("tea", 5).closes(50)], &long("ann", 1).at(50), over);
    check("the hold's bound goes before not open", &[stock("tea", 5).opens(100)], &long("ann", 1), over);
    check("the hold's bound goes before the limit", &[stock("tea", 5).limit(1)], &long("ann", 2), over);
    check("the hold's bound goes before sold out", &[stock("tea", 0)], &long("ann", 1), over);
    check("closed goes before the limit", &[stock("tea", 5).closes(50).limit(1)], &two.clone().at(50), Rejection::Closed);
    check("closed goes before sold out", &[stock("tea", 0).closes(50)], &two.clone().at(50), Rejection::Closed);
    check("not open goes before the limit", &[stock("tea", 5).opens(100).limit(1)], &two, early);
    check("not open goes before sold out", &[stock("tea", 0).opens(100)], &two, early);
    check("the limit goes before sold out", &[stock("tea", 0).limit(1)], &two, limit);
    check("an unknown product goes before the hold's bound", &[], &long("ann", 1), Rejection::UnknownSku);
}

#[test]
fn pairs_of_precedence_of_a_confirm_and_a_release() {
    let given = [stock("tea", 5), reserve("tea", "ann", 2)];
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("expired goes before more than remains", &given, &confirm("tea", 1).units(3).at(10_000), late);
    let given = [stock("tea", 5), reserve("tea", "ann", 2), release("tea", 1)];
    check("released goes before more than remains", &given, &confirm("tea", 1).units(3), Rejection::ReservationReleased);
    let given = [stock("tea", 5), reserve("tea", "ann", 2), confirm("tea", 1)];
    check("confirmed goes before more than remains", &given, &release("tea", 1).units(3), Rejection::ReservationConfirmed);
    let given = [stock("tea", 5), reserve("tea", "ann", 2), confirm("tea", 1).units(1)];
    let late = Expect::LapsesAndSays(Rejection::ReservationConfirmed);
    check("confirmed goes before lapsed for a release", &given, &release("tea", 1).at(10_000), late);
}

#[test]
#[should_panic(expected = "oversold tea: 3 units granted where 2 are available")]
fn an_event_that_oversells_stops_the_node() {
    apply_to_two_teas(&granted(1, 3), 0);
}

#[test]
#[should_panic(expected = "a grant is out of order for tea")]
fn an_event_that_skips_a_grant_stops_the_node() {
    apply_to_two_teas(&granted(2, 1), 0);
}

#[test]
#[should_panic(expected = "time went backwards in the log")]
fn an_event_from_the_past_stops_the_node() {
    let mut ledger = World::new();
    take(&mut ledger, &stock("tea", 2).at(5));
    drop(ledger.apply(&granted(1, 1), Timestamp::from_unix_ms(4)));
}

#[test]
#[should_panic(expected = "an event names a reservation that is not in the ledger")]
fn an_event_of_an_unknown_reservation_stops_the_node() {
    apply_to_two_teas(&Event::Expired { reservations: vec![grant("tea", 1)] }, 0);
}

#[test]
#[should_panic(expected = "an event names a stock that is not in the ledger")]
fn an_event_of_an_unknown_stock_stops_the_node() {
    drop(World::new().apply(&granted(1, 1), Timestamp::from_unix_ms(0)));
}

fn granted(sequence: u64, units: u64) -> Event {
    Event::Reserved {
        stock: grant("tea", 1).stock,
        sequence: GrantSequence(sequence),
        user: UserId::new("ann").expect("a user"),
        quantity: quantity(units),
        expires_at: Timestamp::from_unix_ms(10_000),
        reference: None,
        idempotency: None,
    }
}

fn apply_to_two_teas(event: &Event, at: u64) {
    let mut ledger = World::new();
    take(&mut ledger, &stock("tea", 2));
    drop(ledger.apply(event, Timestamp::from_unix_ms(at)));
}
