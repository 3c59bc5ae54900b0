//! Rows of return and extend, and of confirm and release where something came back, in every standing of a reservation.

use tidegate_stock::{Rejection, TermsPatch, Timestamp};

use crate::harness::{
    Expect, Step, World, change, check, clock, close, confirm, extend, give_back, grant, pause, quantity, read, release, reserve,
    seconds, stock, take,
};

/// Three units of ten for ann, held for 10 s.
fn held() -> Vec<Step> {
    vec![stock("tea", 10), reserve("tea", "ann", 3)]
}

fn after(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    held().into_iter().chain(steps).collect()
}

const fn over(asked: u32, remaining: u32) -> Rejection {
    Rejection::QuantityOverRemaining { asked, remaining }
}

fn tea() -> [Step; 4] {
    [confirm("tea", 1), release("tea", 1), give_back("tea", 1), extend("tea", 1, 5)]
}

#[test]
fn of_what_is_held() {
    let [_, _, back, longer] = tea();
    check("nothing sold, nothing to return", &held(), &back, Rejection::ReservationNotConfirmed);
    check("nor a part", &held(), &back.clone().units(1), Rejection::ReservationNotConfirmed);
    check("a hold can be extended", &held(), &longer, "tea#1 | 3 0 0 reserved | 7 3 0");
    let late = Expect::LapsesAndSays(Rejection::ReservationNotConfirmed);
    check("a return lapses what is due", &held(), &back.at(10_000), late);
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("at its end a hold cannot be extended", &held(), &longer.clone().at(10_000), late);
    check("just before its end it can", &held(), &longer.at(9_999), "tea#1 | 3 0 0 reserved | 7 3 0");
    check("an id that was never given is unknown", &held(), &give_back("tea", 2), Rejection::UnknownReservation);
    check("for an extension too", &held(), &extend("tea", 2, 5), Rejection::UnknownReservation);
    check("a reservation of an unknown stock is unknown", &held(), &give_back("cup", 1), Rejection::UnknownReservation);
    check("for an extension too", &held(), &extend("cup", 1, 5), Rejection::UnknownReservation);
}

#[test]
fn of_what_is_partly_sold() {
    let given = after([confirm("tea", 1).units(1)]);
    let [_, _, back, longer] = tea();
    check("a return gives back all that is sold", &given, &back, "tea#1 | 2 0 0 1 reserved | 8 2 0");
    check("named, too", &given, &back.clone().units(1), "tea#1 | 2 0 0 1 reserved | 8 2 0");
    check("no more than is sold comes back", &given, &back.clone().units(2), over(2, 1));
    check("what is still held can be extended", &given, &longer, "tea#1 | 2 1 0 reserved | 7 2 1");
    check(
        "what is due lapses, then what is sold comes back",
        &given,
        &back.clone().at(10_000),
        "lapsed, tea#1 | 0 0 2 1 returned | 10 0 0",
    );
    let late = Expect::LapsesAndSays(over(2, 1));
    check("what is due lapses also when too much is named", &given, &back.units(2).at(10_000), late);
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("what was held until now and is late is expired for an extension", &given, &longer.at(10_000), late);
}

#[test]
fn of_what_is_sold() {
    let given = after([confirm("tea", 1)]);
    let [_, _, back, longer] = tea();
    check("a return gives back all that is sold", &given, &back, "tea#1 | 0 0 0 3 returned | 10 0 0");
    check("also long after the hold", &given, &back.clone().at(90_000), "tea#1 | 0 0 0 3 returned | 10 0 0");
    check("a part may be returned", &given, &back.clone().units(1), "tea#1 | 0 2 0 1 confirmed | 8 0 2");
    check("all units may be named", &given, &back.clone().units(3), "tea#1 | 0 0 0 3 returned | 10 0 0");
    check("more than is sold is refused whole", &given, &back.units(4), over(4, 3));
    check("nothing is held that could be extended", &given, &longer.clone(), Rejection::ReservationConfirmed);
    check("nor after the hold", &given, &longer.at(20_000), Rejection::ReservationConfirmed);
}

#[test]
fn of_what_is_partly_returned() {
    let given = after([confirm("tea", 1), give_back("tea", 1).units(1)]);
    let [pay, drop, back, longer] = tea();
    check("with any unit sold a whole confirm is fine", &given, &pay, "tea#1 | 0 2 0 1 confirmed | 8 0 2");
    check("a part of nothing is more than remains", &given, &pay.units(1), over(1, 0));
    check("with any unit sold a release is refused", &given, &drop, Rejection::ReservationConfirmed);
    check("a part too", &given, &drop.units(1), Rejection::ReservationConfirmed);
    check("a part without a key is a change of its own", &given, &back.clone().units(1), "tea#1 | 0 1 0 2 confirmed | 9 0 1");
    check("a whole return gives back the rest", &given, &back, "tea#1 | 0 0 0 3 returned | 10 0 0");
    check("what came back does not remain", &given, &back.units(3), over(3, 2));
    check("nothing is held that could be extended", &given, &longer, Rejection::ReservationConfirmed);
}

#[test]
fn of_what_is_returned() {
    let given = after([confirm("tea", 1), give_back("tea", 1)]);
    let [pay, drop, back, longer] = tea();
    let gone = Rejection::ReservationReturned;
    check("what came back cannot be confirmed", &given, &pay, gone);
    check("nor a part of it", &given, &pay.units(1), gone);
    check("what came back cannot be released", &given, &drop, gone);
    check("nor a part of it", &given, &drop.units(1), gone);
    check("a whole return is fine again", &given, &back, "tea#1 | 0 0 0 3 returned | 10 0 0");
    check("a part of nothing is more than remains", &given, &back.clone().units(1), over(1, 0));
    check("what came back cannot be extended", &given, &longer, gone);
    check("nor after the hold", &given, &longer.at(10_000), gone);
    check("it is shown as returned", &given, &read("tea", 1).at(50_000), "tea#1 | 0 0 0 3 returned | 10 0 0");
    let again = after([confirm("tea", 1), give_back("tea", 1), reserve("tea", "bob", 10)]);
    check("what came back was for sale again", &again, &back, "tea#1 | 0 0 0 3 returned | 0 10 0");
}

#[test]
fn of_what_is_held_and_returned() {
    let given = after([confirm("tea", 1).units(1), give_back("tea", 1)]);
    let [pay, drop, back, longer] = tea();
    check("what is held can be confirmed", &given, &pay, "tea#1 | 0 2 0 1 confirmed | 8 0 2");
    check("what came back is not held", &given, &pay.clone().units(3), over(3, 2));
    check("what is held can be released", &given, &drop, "tea#1 | 0 0 2 1 released | 10 0 0");
    check("a whole return is fine again", &given, &back, "tea#1 | 2 0 0 1 reserved | 8 2 0");
    check("a part of nothing is more than remains", &given, &back.clone().units(1), over(1, 0));
    check("what is held can be extended", &given, &longer, "tea#1 | 2 0 0 1 reserved | 8 2 0");
    let late = |no| Expect::LapsesAndSays(no);
    check("due, a confirm is expired", &given, &pay.at(10_000), late(Rejection::ReservationExpired));
    check("due, a release is returned, for some came back", &given, &drop.at(10_000), late(Rejection::ReservationReturned));
    check("due, a whole return is fine", &given, &back.at(10_000), "lapsed, tea#1 | 0 0 2 1 expired | 10 0 0");
    check("due, an extension is expired", &given, &longer.at(10_000), late(Rejection::ReservationExpired));
}

#[test]
fn of_what_is_released_or_lapsed() {
    let [_, _, back, longer] = tea();
    let released = after([release("tea", 1)]);
    check("what was released was not sold", &released, &back, Rejection::ReservationNotConfirmed);
    check("nor a part of it", &released, &back.clone().units(1), Rejection::ReservationNotConfirmed);
    check("what was released cannot be extended", &released, &longer, Rejection::ReservationReleased);
    let lapsed = after([clock().at(10_099)]);
    let now = |step: &Step| step.clone().at(10_099);
    check("what lapsed was not sold", &lapsed, &now(&back), Rejection::ReservationNotConfirmed);
    check("nor a part of it", &lapsed, &now(&back).units(1), Rejection::ReservationNotConfirmed);
    check("what lapsed cannot be extended", &lapsed, &now(&longer), Rejection::ReservationExpired);
    let both = after([release("tea", 1).units(1), clock().at(10_099)]);
    check("released, then lapsed, is expired", &both, &now(&longer), Rejection::ReservationExpired);
}

#[test]
fn of_what_is_mixed() {
    let [pay, drop, back, longer] = tea();
    let sold = [confirm("tea", 1).units(1), release("tea", 1)];
    let given = after(sold.clone());
    check("what is sold comes back though the rest was released", &given, &back, "tea#1 | 0 0 2 1 returned | 10 0 0");
    check("nothing is held that could be extended", &given, &longer, Rejection::ReservationConfirmed);
    let given = after(sold.into_iter().chain([give_back("tea", 1)]));
    check("released, then returned: a confirm says what happened last", &given, &pay, Rejection::ReservationReturned);
    check("and so does an extension", &given, &longer, Rejection::ReservationReturned);
    check("and a release says that some came back", &given, &drop, Rejection::ReservationReturned);
    check("a whole return is fine again", &given, &back, "tea#1 | 0 0 2 1 returned | 10 0 0");

    let given = after([confirm("tea", 1).units(1), give_back("tea", 1), release("tea", 1)]);
    check("returned, then released: a confirm says what happened last", &given, &pay, Rejection::ReservationReleased);
    check("and so does an extension", &given, &longer, Rejection::ReservationReleased);
    check("but a release says that some came back", &given, &drop, Rejection::ReservationReturned);
    check("a part too", &given, &drop.clone().units(1), Rejection::ReservationReturned);
    check("a whole return is fine again", &given, &back, "tea#1 | 0 0 2 1 released | 10 0 0");

    let now = |step: &Step| step.clone().at(10_099);
    let given = after([confirm("tea", 1).units(1), give_back("tea", 1), clock().at(10_099)]);
    check("returned, then lapsed: a confirm says what happened last", &given, &now(&pay), Rejection::ReservationExpired);
    check("and so does an extension", &given, &now(&longer), Rejection::ReservationExpired);
    check("but a release says that some came back", &given, &now(&drop), Rejection::ReservationReturned);
    check("a whole return is fine again", &given, &now(&back), "tea#1 | 0 0 2 1 expired | 10 0 0");

    let given = after([confirm("tea", 1).units(1), clock().at(10_099)]);
    check("what is sold comes back though the rest lapsed", &given, &now(&back), "tea#1 | 0 0 2 1 returned | 10 0 0");
    check("nothing is held that could be extended", &given, &now(&longer), Rejection::ReservationConfirmed);
    let given = after([confirm("tea", 1).units(2), clock().at(10_099), give_back("tea", 1).units(1).at(10_099)]);
    check("lapsed, then partly returned: a part of nothing is more than remains", &given, &now(&pay).units(1), over(1, 0));
    check("lapsed, then partly returned: a whole confirm is fine", &given, &now(&pay), "tea#1 | 0 1 1 1 confirmed | 9 0 1");
}

#[test]
fn the_limit_after_a_return() {
    let given = [stock("tea", 10).limit(3), reserve("tea", "ann", 3), confirm("tea", 1), give_back("tea", 1).units(2)];
    let full = Rejection::LimitReached { limit: 3, has: 1, asked: 3 };
    check("what is still sold counts", &given, &reserve("tea", "ann", 3), full);
    check("what came back does not", &given, &reserve("tea", "ann", 2), "granted tea#2 | 2 0 0 reserved | 7 2 1");
}

#[test]
fn the_end_of_an_extended_hold() {
    let ends = |given: &[Step], then: Step| {
        let mut world = World::new();
        for step in given {
            take(&mut world, step);
        }
        let shown = take(&mut world, &then);
        assert!(matches!(shown, Expect::Shows(_)), "{shown:?}");
        world.reservation(grant("tea", 1)).expect("it is held").expires_at.unix_ms()
    };
    assert_eq!(ends(&held(), extend("tea", 1, 5).at(2_000)), 7_000, "an extension counts from now, and may shorten a hold");
    assert_eq!(ends(&held(), extend("tea", 1, 11).at(9_000)), 20_000, "the longest hold counts from the grant");
    let over = |asked, max| Rejection::ExtendOverMax { asked: Timestamp::from_unix_ms(asked), max: Timestamp::from_unix_ms(max) };
    check("no hold ends later than that", &held(), &extend("tea", 1, 11).at(9_001), over(20_001, 20_000));
    let twice = after([extend("tea", 1, 15).at(1_000)]);
    assert_eq!(ends(&twice, extend("tea", 1, 8).at(12_000)), 20_000, "a hold may be extended again");
    check("an extended hold is good after its first end", &twice, &confirm("tea", 1).at(15_999), "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("the clock keeps to the new end", &twice, &clock().at(15_999), "0 lapses");
    check("and takes it then", &twice, &clock().at(16_099), "1 lapses");
    let late = Expect::LapsesAndSays(Rejection::ReservationExpired);
    check("at its new end it is over", &twice, &confirm("tea", 1).at(16_000), late);
    let shorter = after([extend("tea", 1, 1).at(1_000)]);
    check("a shortened hold is over earlier", &shorter, &clock().at(2_099), "1 lapses");

    let max = |most| TermsPatch { hold_seconds_max: Some(seconds(most)), ..TermsPatch::default() };
    let lowered = after([change("tea", max(12))]);
    check("the maximum in force counts", &lowered, &extend("tea", 1, 8).at(5_000), over(13_000, 12_000));
    assert_eq!(ends(&lowered, extend("tea", 1, 7).at(5_000)), 12_000);
    let raised = after([change("tea", max(30))]);
    assert_eq!(ends(&raised, extend("tea", 1, 25).at(5_000)), 30_000);
    check("pause does not keep from it", &after([pause("tea")]), &extend("tea", 1, 5), "tea#1 | 3 0 0 reserved | 7 3 0");
    check("nor does close", &after([close("tea")]), &extend("tea", 1, 5), "tea#1 | 3 0 0 reserved | 7 3 0");
}

#[test]
fn keys_of_returns_and_extensions() {
    let sold = after([confirm("tea", 1)]);
    let one = give_back("tea", 1).units(1).key("back");
    let with = |given: &[Step], more: &[Step]| [given, more].concat();
    let given = with(&sold, std::slice::from_ref(&one));
    check("a repeated partial return gives back once", &given, &one, "tea#1 again | 0 2 0 1 confirmed | 8 0 2");
    check("also after the hold", &given, &one.clone().at(50_000), "tea#1 again | 0 2 0 1 confirmed | 8 0 2");
    let more = with(&given, &[give_back("tea", 1)]);
    check("it shows what came back since", &more, &one, "tea#1 again | 0 0 0 3 returned | 10 0 0");
    let reused = Rejection::IdempotencyKeyReused;
    check("another quantity is another call", &given, &give_back("tea", 1).units(2).key("back"), reused);
    check("a whole return is another call", &given, &give_back("tea", 1).key("back"), reused);
    check("another operation is another call", &given, &extend("tea", 1, 5).key("back"), reused);
    check("a reused key goes before more than remains", &given, &give_back("tea", 1).units(9).key("back"), reused);
    check("a reused key goes before nothing held", &given, &extend("tea", 1, 5).key("back"), reused);
    check("at its end a key is forgotten", &given, &one.clone().at(100_000), "tea#1 | 0 1 0 2 confirmed | 9 0 1");
    let all = with(&sold, &[give_back("tea", 1), give_back("tea", 1).key("back")]);
    let free = "a return that changed nothing leaves its key free";
    check(free, &all, &reserve("tea", "ann", 1).key("back"), "granted tea#2 | 1 0 0 reserved | 9 1 0");

    let longer = extend("tea", 1, 5).key("longer");
    let given = after([longer.clone().at(6_000)]);
    check("a repeated extension does not extend again", &given, &longer.clone().at(10_999), "tea#1 again | 3 0 0 reserved | 7 3 0");
    check("it shows what lapsed since", &given, &longer.clone().at(11_000), "lapsed, tea#1 again | 0 0 3 expired | 10 0 0");
    check("another length is another call", &given, &extend("tea", 1, 6).key("longer").at(7_000), reused);
    let paid = with(&given, &[confirm("tea", 1).at(7_000)]);
    check("it shows what was sold since", &paid, &longer.at(7_000), "tea#1 again | 0 3 0 confirmed | 7 0 3");
}

#[test]
fn an_answer_counts_units_as_the_contract_does() {
    let mut world = World::new();
    for step in after([confirm("tea", 1).units(2), give_back("tea", 1).units(1)]) {
        take(&mut world, &step.at(1));
    }
    let one = world.reservation(grant("tea", 1)).expect("it is there");
    assert_eq!((one.quantity, one.reserved, one.confirmed, one.released, one.returned), (quantity(3), 1, 1, 0, 1));
    assert_eq!(one.resolved_at, None, "one is still held");
    take(&mut world, &release("tea", 1).at(5));
    take(&mut world, &give_back("tea", 1).at(9));
    let one = world.reservation(grant("tea", 1)).expect("it is there");
    assert_eq!((one.released, one.returned), (1, 2));
    assert_eq!(one.resolved_at, Some(Timestamp::from_unix_ms(5)), "when the last held unit went, and not when sold ones came back");
}
