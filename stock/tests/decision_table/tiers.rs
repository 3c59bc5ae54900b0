//! Rows of what has left memory: what is asked of the history, what is done with its answer, and for how long anything is retained.

use tidegate_stock::{
    Event, GrantSequence, NeedsRecord, NoRoom, Recall, Rejection, Request, ReservationId, Rules, Subject, Timestamp, UserId, decide,
};

use crate::harness::{
    Expect, RULES, Step, World, check, clock, confirm, extend, give_back, grant, read, release, reserve, stock, take,
};

fn request(step: &Step) -> Request {
    step.request().expect("a request")
}

/// A sold reservation of three units that has left memory, and whose hold would have ended at 10 s.
fn gone() -> World {
    let mut world = World::new();
    for step in [stock("tea", 10), reserve("tea", "ann", 3).key("buy"), confirm("tea", 1).at(500)] {
        take(&mut world, &step);
    }
    world.evict();
    world
}

fn one() -> ReservationId {
    grant("tea", 1)
}

#[test]
fn what_has_left_memory_is_asked_for() {
    let world = gone();
    let now = Timestamp::from_unix_ms(600);
    let asks = [
        confirm("tea", 1),
        release("tea", 1),
        give_back("tea", 1),
        extend("tea", 1, 5),
        read("tea", 1),
        reserve("tea", "ann", 3).key("buy"),
    ];
    for step in asks {
        assert_eq!(decide(&world, &request(&step), now, Recall::NotTried), Err(NeedsRecord(one())), "{:?}", request(&step));
        let other = Recall::Missing(grant("tea", 2));
        assert_eq!(decide(&world, &request(&step), now, other), Err(NeedsRecord(one())), "another one's absence is no answer");
        let missing = decide(&world, &request(&step), now, Recall::Missing(one())).expect("it is decided");
        assert_eq!((missing.before, missing.event, missing.outcome), (None, None, Err(Rejection::UnknownReservation)));
    }
    // What cannot be there, and what needs no reservation, is not asked for.
    for (step, no) in [
        (confirm("tea", 2), Rejection::UnknownReservation),
        (confirm("tea", 0), Rejection::UnknownReservation),
        (confirm("cup", 1), Rejection::UnknownReservation),
        (confirm("tea", 1).key("buy"), Rejection::IdempotencyKeyReused),
        (reserve("tea", "ann", 8), Rejection::SoldOut { available: 7, asked: 8 }),
    ] {
        let decision = decide(&world, &request(&step), now, Recall::NotTried).expect("it needs no record");
        assert_eq!(decision.outcome, Err(no));
    }
}

#[test]
fn what_was_found_is_taken_back_only_to_be_changed() {
    let world = gone();
    let now = Timestamp::from_unix_ms(600);
    let record = world.history[&one()].clone();
    for step in [confirm("tea", 1), read("tea", 1), reserve("tea", "ann", 3).key("buy")] {
        let decision = decide(&world, &request(&step), now, Recall::Found(&record)).expect("it is decided");
        assert_eq!((decision.before, decision.event), (None, None));
        assert_eq!(decision.outcome.expect("it is fine").subject, Subject::Reservation(one()));
    }
    for step in [release("tea", 1), extend("tea", 1, 5), give_back("tea", 1).units(4)] {
        let decision = decide(&world, &request(&step), now, Recall::Found(&record)).expect("it is decided");
        assert_eq!((decision.before, decision.event), (None, None), "a rejection takes nothing back");
        assert!(decision.outcome.is_err());
    }
    let decision = decide(&world, &request(&give_back("tea", 1)), now, Recall::Found(&record)).expect("it is decided");
    assert_eq!(decision.before, Some(Event::Recalled { record: Box::new(record) }));
    assert!(matches!(decision.event, Some(Event::Returned { .. })));
}

#[test]
fn what_the_history_said_counts_for_nothing_once_it_is_in_memory() {
    let mut world = gone();
    let now = Timestamp::from_unix_ms(600);
    let old = world.history[&one()].clone();
    take(&mut world, &give_back("tea", 1).at(600));
    let decision = decide(&world, &request(&give_back("tea", 1).units(1)), now, Recall::Found(&old)).expect("it is decided");
    assert_eq!(decision.outcome, Err(Rejection::QuantityOverRemaining { asked: 1, remaining: 0 }));
    let decision = decide(&world, &request(&read("tea", 1)), now, Recall::Missing(one())).expect("it is decided");
    assert!(decision.outcome.is_ok(), "it is in memory, whatever the history does not have");
}

#[test]
fn what_is_resolved_is_retained_for_its_time() {
    // Sold at 500 ms; 1,000 s later it is gone, wherever it is kept.
    let sold = [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).at(500)];
    let gone = Rejection::UnknownReservation;
    let (last, over) = (1_000_499, 1_000_500);
    check("just before its end it can be read", &sold, &read("tea", 1).at(last), "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("and returned", &sold, &give_back("tea", 1).at(last), "tea#1 | 0 0 0 3 returned | 10 0 0");
    for step in [read("tea", 1), confirm("tea", 1), release("tea", 1), give_back("tea", 1), extend("tea", 1, 5)] {
        check("at its end it is unknown", &sold, &step.at(over), gone);
    }
    let returned = [sold.to_vec(), vec![give_back("tea", 1).units(1).at(900_000)]].concat();
    check("a return does not lengthen it", &returned, &give_back("tea", 1).at(over), gone);
    let back = give_back("tea", 1).units(1).key("back").at(last);
    let late = [sold.to_vec(), vec![back.clone()]].concat();
    check("a repeat of the last return is answered", &late, &back.clone().at(over), "tea#1 again | 0 2 0 1 confirmed | 8 0 2");
    check("while its key is known", &late, &back.clone().at(1_100_498), "tea#1 again | 0 2 0 1 confirmed | 8 0 2");
    check("and no longer", &late, &back.at(1_100_499), gone);
    let lapsed = [stock("tea", 10), reserve("tea", "ann", 3), clock().at(10_099)];
    check("for what lapsed it counts from then", &lapsed, &read("tea", 1).at(1_010_098), "tea#1 | 0 0 3 expired | 10 0 0");
    check("and is over", &lapsed, &read("tea", 1).at(1_010_099), gone);
    let held = [stock("tea", 10), reserve("tea", "ann", 3)];
    check("what is held is not resolved", &held, &read("tea", 1).at(5_000_000), "lapsed, tea#1 | 0 0 3 expired | 10 0 0");
    let full = [stock("tea", 10).limit(3), reserve("tea", "ann", 3), confirm("tea", 1).at(500)];
    let over_limit = Rejection::LimitReached { limit: 3, has: 3, asked: 1 };
    check("what is sold counts for ever", &full, &reserve("tea", "ann", 1).at(over), over_limit);
}

#[test]
fn what_is_changed_on_its_way_out_stays() {
    let mut world = World::new();
    for step in [stock("tea", 10), reserve("tea", "ann", 3), confirm("tea", 1).at(500)] {
        take(&mut world, &step);
    }
    let late = Timestamp::from_unix_ms(9_999);
    assert_eq!(world.take_leaving(Timestamp::from_unix_ms(500), 9), [], "what is not surely committed stays");
    assert_eq!(world.take_leaving(late, 9).len(), 1);
    assert_eq!((world.resolved_count(), world.take_leaving(late, 9).len()), (0, 0), "it is taken once");
    let back = give_back("tea", 1).units(1).at(600);
    assert_eq!(take(&mut world, &back), "tea#1 | 0 2 0 1 confirmed | 8 0 2".into(), "it is in memory until it has left");
    world.has_left(one());
    assert_eq!(take(&mut world, &read("tea", 1).at(600)), "tea#1 | 0 2 0 1 confirmed | 8 0 2".into(), "what was changed stays");
    let again = world.take_leaving(late, 9);
    assert_eq!(again.iter().map(|record| (record.confirmed, record.returned)).collect::<Vec<_>>(), [(2, 1)], "and is taken again");
    world.has_left(one());
    assert_eq!(world.reservation(one()), None);
    world.has_left(one());
    assert_eq!(world.user_units(one().stock, &UserId::new("ann").expect("a user")), 2, "what is sold is counted all the same");
}

#[test]
fn a_full_memory_refuses_new_reservations_only() {
    let mut world = World::with(Rules { reservations_in_memory_max: 2, ..RULES });
    for step in [stock("tea", 10), reserve("tea", "ann", 1).key("a"), reserve("tea", "bob", 1)] {
        take(&mut world, &step);
    }
    let lacks = |world: &World, step: &Step| world.lacks_room(&request(step), Timestamp::from_unix_ms(step.at));
    let full = Some(NoRoom::Reservations);
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1)), full);
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1).key("c")), full);
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1).key("a")), None, "a key that is known needs no room");
    for step in [confirm("tea", 1), release("tea", 1), give_back("tea", 1), extend("tea", 1, 5), read("tea", 1), stock("cup", 1)] {
        assert_eq!(lacks(&world, &step), None);
    }
    assert_eq!(lacks(&world, &reserve("pot", "cy", 1)), None, "an unknown product is rejected, not refused");
    assert_eq!(lacks(&world, &reserve("pot", "cy", 1).key("c")), None, "with a key too");
    take(&mut world, &confirm("tea", 1));
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1)), full, "what is resolved takes its room");
    world.evict();
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1)), None, "until it has left");
    let shown = take(&mut world, &reserve("tea", "cy", 1));
    assert_eq!(shown, Expect::from("granted tea#3 | 1 0 0 reserved | 7 2 1"));
}

#[test]
fn a_look_at_the_reservations_of_one_user_steps_over_a_bounded_number_of_others() {
    let mut world = World::new();
    take(&mut world, &stock("tea", 1_000));
    // Whose the 400 grants are, in order: ann's newest hundred lie before everybody else's in her own list.
    let whose = |number: u64| if (100..300).contains(&number) { "bob" } else { "ann" };
    for number in 0..400 {
        take(&mut world, &reserve("tea", whose(number), 1));
    }
    let ann = UserId::new("ann").unwrap();
    // Grant 250 is bob's, and the ways to ann's older ones are long on both sides.
    let (mut before, mut found, mut looks) = (GrantSequence(250), Vec::new(), 0);
    while before > GrantSequence(1) {
        let look = world.list(one().stock, before, Some(&ann), 2);
        looks += 1;
        assert!(look.records.len() <= 2 && look.down_to < before);
        found.extend(look.records.iter().map(|record| record.id.sequence.0));
        before = look.down_to;
    }
    assert_eq!(found, (1..=100).rev().collect::<Vec<_>>());
    // Sixteen of bob's 149 a look, nine times without reaching ann's; then two of ann's hundred a look.
    assert_eq!(looks, 9 + 50);
    let all = world.list(one().stock, GrantSequence::MAX, Some(&ann), 1_000);
    let expected: Vec<u64> = (301..=400).rev().chain((1..=100).rev()).collect();
    assert_eq!(all.records.iter().map(|record| record.id.sequence.0).collect::<Vec<_>>(), expected);
}

#[test]
fn where_no_further_user_fits_only_reservations_of_new_ones_are_refused() {
    let mut world = World::with(Rules { users_in_memory_max: 2, ..RULES });
    for step in [stock("tea", 10), stock("cup", 10), reserve("tea", "ann", 1).key("a"), reserve("tea", "bob", 1)] {
        take(&mut world, &step);
    }
    let lacks = |world: &World, step: &Step| world.lacks_room(&request(step), Timestamp::from_unix_ms(step.at));
    let full = Some(NoRoom::Users);
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1)), full);
    assert_eq!(lacks(&world, &reserve("cup", "ann", 1)), full, "of another stock it is another one");
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1).key("a")), None, "a key that is known needs no room");
    assert_eq!(lacks(&world, &reserve("pot", "cy", 1)), None, "an unknown product is rejected, not refused");
    for step in [reserve("tea", "ann", 1), confirm("tea", 1), release("tea", 1), extend("tea", 1, 5), read("tea", 1)] {
        assert_eq!(lacks(&world, &step), None);
    }
    for step in [release("tea", 2), confirm("tea", 1)] {
        take(&mut world, &step);
    }
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1)), full, "who has no units stays with what is in memory");
    world.evict();
    assert_eq!(lacks(&world, &reserve("tea", "cy", 1)), None, "bob is gone");
    take(&mut world, &reserve("tea", "cy", 1));
    assert_eq!(lacks(&world, &reserve("tea", "bob", 1)), full, "who has bought stays");
}
