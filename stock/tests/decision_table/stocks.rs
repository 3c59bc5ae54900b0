//! Rows of a stock's settings, of its adjustments and of its life.

use tidegate_stock::{OutOfBounds, Rejection, Revision, StockState, StockTerms, TermsError, TermsPatch, Timestamp, UserId};

use crate::harness::{
    Expect, Step, World, adjust, archive, change, check, clock, close, confirm, extend, give_back, grant, pause, quantity, read,
    release, reopen, reserve, seconds, stock, take,
};

const NOTHING: TermsPatch =
    TermsPatch { per_user_limit: None, hold_seconds: None, hold_seconds_max: None, opens_at: None, closes_at: None };

fn limit(units: Option<u64>) -> TermsPatch {
    TermsPatch { per_user_limit: Some(units.map(quantity)), ..NOTHING }
}

fn hold(own: u64) -> TermsPatch {
    TermsPatch { hold_seconds: Some(seconds(own)), ..NOTHING }
}

fn hold_max(max: u64) -> TermsPatch {
    TermsPatch { hold_seconds_max: Some(seconds(max)), ..NOTHING }
}

fn opens(at: Option<u64>) -> TermsPatch {
    TermsPatch { opens_at: Some(at.map(Timestamp::from_unix_ms)), ..NOTHING }
}

fn closes(at: Option<u64>) -> TermsPatch {
    TermsPatch { closes_at: Some(at.map(Timestamp::from_unix_ms)), ..NOTHING }
}

fn world(given: &[Step]) -> World {
    let mut world = World::new();
    for step in given {
        let found = take(&mut world, step);
        assert!(matches!(found, Expect::Shows(_)), "{found:?}");
    }
    world
}

fn terms(given: &[Step]) -> StockTerms {
    world(given).stocks().next().expect("there is one stock").terms
}

fn revision(given: &[Step]) -> Revision {
    world(given).stocks().next().expect("there is one stock").revision
}

#[test]
fn changing_each_setting() {
    let full = || stock("tea", 10).limit(3).opens(1_000).closes(9_000);
    let after = |patch| terms(&[full(), change("tea", patch)]);
    let before = terms(&[full()]);
    let at = Timestamp::from_unix_ms;
    let one = |number| Some(quantity(number));
    assert_eq!(after(limit(Some(5))), StockTerms { per_user_limit: one(5), ..before.clone() });
    assert_eq!(after(limit(None)), StockTerms { per_user_limit: None, ..before.clone() });
    assert_eq!(after(hold(7)), StockTerms { hold_seconds: seconds(7), ..before.clone() });
    assert_eq!(after(hold_max(70)), StockTerms { hold_seconds_max: seconds(70), ..before.clone() });
    assert_eq!(after(opens(Some(2_000))), StockTerms { opens_at: Some(at(2_000)), ..before.clone() });
    assert_eq!(after(opens(None)), StockTerms { opens_at: None, ..before.clone() });
    assert_eq!(after(closes(Some(8_000))), StockTerms { closes_at: Some(at(8_000)), ..before.clone() });
    assert_eq!(after(closes(None)), StockTerms { closes_at: None, ..before.clone() });
    assert_eq!(after(NOTHING), before);
    let all = TermsPatch {
        per_user_limit: Some(one(9)),
        hold_seconds: Some(seconds(30)),
        hold_seconds_max: Some(seconds(40)),
        opens_at: Some(None),
        closes_at: Some(Some(at(5))),
    };
    let expected = StockTerms {
        per_user_limit: one(9),
        hold_seconds: seconds(30),
        hold_seconds_max: seconds(40),
        opens_at: None,
        closes_at: Some(at(5)),
    };
    assert_eq!(after(all), expected);
}

#[test]
fn changing_settings() {
    let given = [stock("tea", 10)];
    check("a change shows the stock", &given, &change("tea", limit(Some(1))), "changed tea | 10 0 0");
    check("a change of nothing changes nothing", &given, &change("tea", NOTHING), "found tea | 10 0 0");
    check("nor does a change to what is", &given, &change("tea", hold(10)), "found tea | 10 0 0");
    check("nor taking away what is not there", &given, &change("tea", limit(None)), "found tea | 10 0 0");
    check("a product that is not there has no settings", &given, &change("cup", NOTHING), Rejection::UnknownSku);
    let given = [stock("tea", 10), change("tea", limit(Some(1)))];
    check("what was created is not the same any more", &given, &stock("tea", 10), Rejection::StockExists);
    check("what it is now is", &given, &stock("tea", 10).limit(1), "found tea | 10 0 0");

    let held = [stock("tea", 10), reserve("tea", "ann", 3)];
    let with = |patch| [held.clone().to_vec(), vec![change("tea", patch)]].concat();
    let full = Rejection::LimitReached { limit: 2, has: 3, asked: 1 };
    check("a limit may be set below what a user has", &with(limit(Some(2))), &reserve("tea", "ann", 1), full);
    let open = "granted tea#2 | 2 0 0 reserved | 5 5 0";
    check("it counts for others too", &with(limit(Some(2))), &reserve("tea", "bob", 2), open);
    check("what a user has can be paid all the same", &with(limit(Some(2))), &confirm("tea", 1), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let lifted = [stock("tea", 10).limit(3), reserve("tea", "ann", 3), change("tea", limit(None))];
    check("a limit may be lifted", &lifted, &reserve("tea", "ann", 7), "granted tea#2 | 7 0 0 reserved | 0 10 0");
    check("a hold that was given stays", &with(hold(1)), &confirm("tea", 1).at(9_999), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let shorter = [with(hold(1)), vec![reserve("tea", "bob", 1)]].concat();
    check("the next has the new one", &shorter, &read("tea", 2).at(1_000), "lapsed, tea#2 | 0 0 1 expired | 7 3 0");
    let over = Rejection::HoldOverMax { asked: 11, max: 10 };
    check("a lower maximum counts at once", &with(hold_max(10)), &reserve("tea", "bob", 1).hold(11), over);
    let early = Rejection::NotOpen { opens_at: Timestamp::from_unix_ms(500) };
    check("a sale may be put off", &with(opens(Some(500))), &reserve("tea", "bob", 1), early);
    check("a sale may be ended early", &with(closes(Some(500))), &reserve("tea", "bob", 1).at(500), Rejection::Closed);
    let on = [stock("tea", 10).closes(500), change("tea", closes(None)).at(600)];
    check("a sale that has ended may go on", &on, &reserve("tea", "bob", 1).at(600), "granted tea#1 | 1 0 0 reserved | 9 1 0");
}

#[test]
fn settings_that_contradict_each_other() {
    let at = Timestamp::from_unix_ms;
    let given = [stock("tea", 10)];
    let hold_over = |given, max| Rejection::TermsContradict(TermsError::HoldOverMax(OutOfBounds { given, min: 1, max }));
    check("a hold over the maximum", &given, &change("tea", hold(21)), hold_over(21, 20));
    check("a maximum below the hold", &given, &change("tea", hold_max(9)), hold_over(10, 9));
    check("the hold may be the maximum", &given, &change("tea", hold(20)), "changed tea | 10 0 0");
    let both = TermsPatch { hold_seconds_max: Some(seconds(40)), ..hold(30) };
    check("both may be raised together", &given, &change("tea", both), "changed tea | 10 0 0");
    let empty = |opens_at, closes_at| {
        Rejection::TermsContradict(TermsError::EmptyWindow { opens_at: at(opens_at), closes_at: at(closes_at) })
    };
    let given = [stock("tea", 10).opens(100).closes(200)];
    check("an end at the start", &given, &change("tea", closes(Some(100))), empty(100, 100));
    check("a start at the end", &given, &change("tea", opens(Some(200))), empty(200, 200));
    check("a start after the end", &given, &change("tea", opens(Some(201))), empty(201, 200));
    check("a start just before the end", &given, &change("tea", opens(Some(199))), "changed tea | 10 0 0");
    let moved = TermsPatch { closes_at: Some(Some(at(900))), ..opens(Some(800)) };
    check("both may be moved together", &given, &change("tea", moved), "changed tea | 10 0 0");
}

#[test]
fn the_revision() {
    let tea = || stock("tea", 10);
    assert_eq!(revision(&[tea()]), Revision(1), "it begins with 1");
    assert_eq!(revision(&[tea(), change("tea", hold(5)), change("tea", hold(6))]), Revision(3), "each change counts");
    assert_eq!(revision(&[tea(), change("tea", NOTHING)]), Revision(1), "a change of nothing does not");
    let sales = [tea(), reserve("tea", "ann", 2), confirm("tea", 1).units(1), release("tea", 1), give_back("tea", 1)];
    assert_eq!(revision(&sales), Revision(1), "nor do sales");
    assert_eq!(revision(&[tea(), adjust("tea", 5)]), Revision(1), "nor do adjustments");
    let life = [tea(), pause("tea"), pause("tea"), close("tea"), reopen("tea"), close("tea"), archive("tea"), archive("tea")];
    assert_eq!(revision(&life), Revision(6), "each step of life does that is one");

    let given = [tea(), change("tea", hold(5))];
    let other = || change("tea", hold(6));
    check("a change of what the caller saw", &given, &other().only_if(&[2]), "changed tea | 10 0 0");
    check("any of those named will do", &given, &other().only_if(&[7, 2]), "changed tea | 10 0 0");
    check("a change of what the caller did not see", &given, &other().only_if(&[1]), Rejection::PreconditionFailed);
    check("none named is none seen", &given, &other().only_if(&[]), Rejection::PreconditionFailed);
    check("also when nothing would change", &given, &change("tea", NOTHING).only_if(&[1]), Rejection::PreconditionFailed);
    check("it goes before a contradiction", &given, &change("tea", hold(21)).only_if(&[1]), Rejection::PreconditionFailed);
    check("an unknown product goes before it", &given, &change("cup", hold(6)).only_if(&[1]), Rejection::UnknownSku);
    let archived = [tea(), close("tea"), archive("tea")];
    check("it goes before archived", &archived, &other().only_if(&[1]), Rejection::PreconditionFailed);
    check("archived goes before a contradiction", &archived, &change("tea", hold(21)).only_if(&[3]), Rejection::Closed);
}

#[test]
fn adjusting() {
    let given = [stock("tea", 10), reserve("tea", "ann", 4), confirm("tea", 1).units(1)];
    check("units may be added", &given, &adjust("tea", 5), "changed tea | 11 3 1");
    check("units may be taken away", &given, &adjust("tea", -5), "changed tea | 1 3 1");
    check("all that are available may be", &given, &adjust("tea", -6), "changed tea | 0 3 1");
    let short = Rejection::InsufficientStock { available: 6, delta: -7 };
    check("no more than that", &given, &adjust("tea", -7), short);
    check("a product that is not there cannot be adjusted", &given, &adjust("cup", 1), Rejection::UnknownSku);
    let emptied = [stock("tea", 10), adjust("tea", -10)];
    check("what was taken away is not sold", &emptied, &reserve("tea", "ann", 1), Rejection::SoldOut { available: 0, asked: 1 });
    let filled = [stock("tea", 0), adjust("tea", 3)];
    check("what was added is sold", &filled, &reserve("tea", "ann", 3), "granted tea#1 | 3 0 0 reserved | 0 3 0");
    check("the first quantity stays what it was", &filled, &stock("tea", 0), "found tea | 3 0 0");
    let most = [stock("tea", 999_000_000_001)];
    check("a stock may have a million million", &most, &adjust("tea", 999_999_999), "changed tea | 1000000000000 0 0");
    let over = Rejection::AllottedOverMax { allotted: 999_000_000_001, delta: 1_000_000_000 };
    check("and no more", &most, &adjust("tea", 1_000_000_000), over);
    let sold = [stock("tea", 1_000_000_000_000), reserve("tea", "ann", 1_000_000_000)];
    let over = Rejection::AllottedOverMax { allotted: 1_000_000_000_000, delta: 1 };
    check("what is held counts as had", &sold, &adjust("tea", 1), over);

    check("a pause does not keep from it", &[stock("tea", 1), pause("tea")], &adjust("tea", 1), "changed tea paused | 2 0 0");
    check("nor a close", &[stock("tea", 1), close("tea")], &adjust("tea", 1), "changed tea closed | 2 0 0");
    let early = [stock("tea", 1).opens(500)];
    check("nor a sale that has not begun", &early, &adjust("tea", -1), "changed tea | 0 0 0");
}

#[test]
fn keys_of_adjustments() {
    let once = adjust("tea", -2).key("k");
    let given = [stock("tea", 10), once.clone()];
    check("a repeat adjusts once", &given, &once, "found tea again | 8 0 0");
    let more = [stock("tea", 10), once.clone(), adjust("tea", -8)];
    check("it shows the stock as it is now", &more, &once, "found tea again | 0 0 0");
    let reused = Rejection::IdempotencyKeyReused;
    check("another delta is another call", &given, &adjust("tea", -3).key("k"), reused);
    check("a reserve with an adjustment's key is another call", &given, &reserve("tea", "ann", 1).key("k"), reused);
    let bought = [stock("tea", 10), reserve("tea", "ann", 1).key("k")];
    check("an adjustment with a reserve's key is another call", &bought, &once, reused);
    check("a reused key goes before too little", &given, &adjust("tea", -9).key("k"), reused);
    check("an unknown product goes before a reused key", &given, &adjust("cup", -2).key("k"), Rejection::UnknownSku);
    check("at its end a key is forgotten", &given, &once.clone().at(100_000), "changed tea | 6 0 0");
    let short = Rejection::InsufficientStock { available: 10, delta: -11 };
    check("too little is said so", &[stock("tea", 10)], &adjust("tea", -11).key("k"), short);
    let mut world = world(&[stock("tea", 10)]);
    assert_eq!(take(&mut world, &adjust("tea", -11).key("k")), short.into());
    assert_eq!(take(&mut world, &once), "changed tea | 8 0 0".into(), "a rejected adjustment leaves its key free");
}

#[test]
fn pausing_and_reopening() {
    let tea = || stock("tea", 10);
    let one = reserve("tea", "ann", 1);
    let granted = "granted tea#1 | 1 0 0 reserved | 9 1 0";
    check("a stock may be paused", &[tea()], &pause("tea"), "changed tea paused | 10 0 0");
    let paused = [tea(), pause("tea")];
    check("a paused stock grants nothing", &paused, &one, Rejection::Paused);
    check("a pause of what is paused changes nothing", &paused, &pause("tea"), "found tea paused | 10 0 0");
    check("a paused stock is reopened", &paused, &reopen("tea"), "changed tea | 10 0 0");
    check("and grants again", &[tea(), pause("tea"), reopen("tea")], &one, granted);
    check("what is open is not reopened", &[tea()], &reopen("tea"), "found tea | 10 0 0");
    for step in [pause("cup"), reopen("cup"), close("cup"), archive("cup")] {
        check("a product that is not there has no life", &[tea()], &step, Rejection::UnknownSku);
    }

    let held = [tea(), reserve("tea", "ann", 3), confirm("tea", 1).units(1), pause("tea")];
    check("what is held can be paid during a pause", &held, &confirm("tea", 1), "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("released", &held, &release("tea", 1), "tea#1 | 0 1 2 confirmed | 9 0 1");
    check("returned", &held, &give_back("tea", 1), "tea#1 | 2 0 0 1 reserved | 8 2 0");
    check("extended", &held, &extend("tea", 1, 5), "tea#1 | 2 1 0 reserved | 7 2 1");
    check("and lapses", &held, &clock().at(10_099), "1 lapses");

    check("a stock may be closed", &[tea()], &close("tea"), "changed tea closed | 10 0 0");
    let closed = [tea(), close("tea")];
    check("a closed stock grants nothing", &closed, &one, Rejection::Closed);
    check("a close of what is closed changes nothing", &closed, &close("tea"), "found tea closed | 10 0 0");
    check("a closed stock is reopened", &closed, &reopen("tea"), "changed tea | 10 0 0");
    check("and grants again", &[tea(), close("tea"), reopen("tea")], &one, granted);
    check("a closed stock may be paused", &closed, &pause("tea"), "changed tea paused closed | 10 0 0");
    check("a paused stock may be closed", &paused, &close("tea"), "changed tea paused closed | 10 0 0");
    let both = [tea(), pause("tea"), close("tea")];
    check("reopen undoes both", &both, &reopen("tea"), "changed tea | 10 0 0");
    let held = [tea(), reserve("tea", "ann", 3), confirm("tea", 1).units(1), close("tea")];
    check("what is held can be paid after the close", &held, &confirm("tea", 1), "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("released", &held, &release("tea", 1), "tea#1 | 0 1 2 confirmed | 9 0 1");
    check("returned", &held, &give_back("tea", 1), "tea#1 | 2 0 0 1 reserved | 8 2 0");
    check("and lapses", &held, &clock().at(10_099), "1 lapses");

    let ended = [tea().closes(500)];
    check("the end of the sale is not undone by reopen", &ended, &reopen("tea").at(500), "found tea | 10 0 0");
    let reopened = [tea().closes(500), close("tea").at(400), reopen("tea").at(500)];
    check("a sale that has ended stays so", &reopened, &one.clone().at(500), Rejection::Closed);
    check("a sale that has ended can be closed by hand", &ended, &close("tea").at(500), "changed tea closed | 10 0 0");
    let early = [tea().opens(500), close("tea"), reopen("tea")];
    let not_open = Rejection::NotOpen { opens_at: Timestamp::from_unix_ms(500) };
    check("a sale that has not begun waits for its time", &early, &one, not_open);
}

#[test]
fn archiving() {
    let tea = || stock("tea", 10);
    let open = Rejection::StockInUse { reserved: 0 };
    check("what is open cannot be archived", &[tea()], &archive("tea"), open);
    check("nor what is paused", &[tea(), pause("tea")], &archive("tea"), open);
    check("nor what has not begun", &[tea().opens(500)], &archive("tea"), open);
    let held = [tea(), reserve("tea", "ann", 3), close("tea")];
    let in_use = Rejection::StockInUse { reserved: 3 };
    check("nor what is closed and reserved", &held, &archive("tea"), in_use);
    check("nor what is due and not yet taken by the clock", &held, &archive("tea").at(10_050), in_use);
    check("open goes before reserved", &held[..2], &archive("tea"), open);
    check("what is closed can be archived", &[tea(), close("tea")], &archive("tea"), "changed tea closed archived | 10 0 0");
    let ended = [tea().closes(500)];
    check("so can what has ended", &ended, &archive("tea").at(500), "changed tea archived | 10 0 0");
    check("but not a moment before", &ended, &archive("tea").at(499), open);
    let sold = [tea(), reserve("tea", "ann", 3), confirm("tea", 1), close("tea")];
    check("sold units do not keep from it", &sold, &archive("tea"), "changed tea closed archived | 7 0 3");

    let archived = [sold.to_vec(), vec![archive("tea")]].concat();
    check("an archived stock grants nothing", &archived, &reserve("tea", "bob", 1), Rejection::Closed);
    check("archived is for ever", &archived, &archive("tea"), "found tea closed archived | 7 0 3");
    check("it is closed already", &archived, &close("tea"), "found tea closed archived | 7 0 3");
    check("it is not reopened", &archived, &reopen("tea"), Rejection::Closed);
    check("nor paused", &archived, &pause("tea"), Rejection::Closed);
    check("nor changed", &archived, &change("tea", hold(5)), Rejection::Closed);
    check("not even to what is", &archived, &change("tea", NOTHING), Rejection::Closed);
    check("it is there when it is created again", &archived, &stock("tea", 10), "found tea closed archived | 7 0 3");
    check("another one is not", &archived, &stock("tea", 11), Rejection::StockExists);
    check("a repeated confirm is fine", &archived, &confirm("tea", 1), "tea#1 | 0 3 0 confirmed | 7 0 3");
    check("what is sold comes back", &archived, &give_back("tea", 1).units(2), "tea#1 | 0 1 0 2 confirmed | 9 0 1");
    check("what is found out after the sale is written down", &archived, &adjust("tea", -7), "changed tea closed archived | 0 0 3");
    let short = Rejection::InsufficientStock { available: 7, delta: -8 };
    check("within what there is", &archived, &adjust("tea", -8), short);
    check("what is sold cannot be released", &archived, &release("tea", 1), Rejection::ReservationConfirmed);
    check("nor extended", &archived, &extend("tea", 1, 5), Rejection::ReservationConfirmed);
    check("what is sold can be read", &archived, &read("tea", 1), "tea#1 | 0 3 0 confirmed | 7 0 3");
    let back = [archived, vec![give_back("tea", 1)]].concat();
    check("what came back stays there", &back, &reserve("tea", "bob", 1), Rejection::Closed);
    check("a whole return is fine again", &back, &give_back("tea", 1), "tea#1 | 0 0 0 3 returned | 10 0 0");
}

#[test]
fn what_is_forgotten_when_a_stock_is_archived() {
    let more = adjust("tea", 1).key("k");
    let pay = confirm("tea", 1).key("pay");
    let archived = [stock("tea", 10), reserve("tea", "ann", 3), pay.clone(), more.clone(), close("tea"), archive("tea")];
    check("its keys are not", &archived, &more, "found tea again closed archived | 8 0 3");
    check("and are for no other values", &archived, &adjust("tea", 2).key("k"), Rejection::IdempotencyKeyReused);
    check("a repeated confirm is a replay", &archived, &pay, "tea#1 again | 0 3 0 confirmed | 8 0 3");
    let back = give_back("tea", 1).units(1).key("back");
    let once = [archived.to_vec(), vec![back.clone()]].concat();
    check("what comes back comes back once", &once, &back, "tea#1 again | 0 2 0 1 confirmed | 9 0 2");

    let mut world = world(&archived);
    let ann = UserId::new("ann").expect("a user");
    let tea = grant("tea", 1).stock;
    assert_eq!(world.user_units(tea, &ann), 0, "its users' counts are");
    world.evict();
    world.tidy(Timestamp::from_unix_ms(0), 100);
    assert_eq!((world.user_count(), world.key_count()), (1, 2), "nothing leaves memory that may still be undone");
    assert!(!world.tidy(Timestamp::from_unix_ms(1), 1), "there is no other user to look at");
    assert_eq!((world.user_count(), world.key_count()), (0, 2), "they leave memory");
    let shown = take(&mut world, &give_back("tea", 1).units(1).at(5));
    assert_eq!(shown, "tea#1 | 0 2 0 1 confirmed | 9 0 2".into(), "what is sold comes back all the same");
    world.evict();
    assert_eq!((world.user_count(), world.reservation_count()), (0, 0), "and leaves again, with its user");
}

#[test]
fn the_state_of_a_stock_by_hand() {
    let state =
        |given: &[Step], at: u64| world(given).stocks().next().expect("there is one stock").state(Timestamp::from_unix_ms(at));
    let tea = || stock("tea", 1).opens(1_000).closes(2_000);
    assert_eq!(state(&[tea(), pause("tea")], 0), StockState::Paused, "paused goes before scheduled");
    assert_eq!(state(&[tea(), pause("tea")], 2_000), StockState::Closed, "closed goes before paused");
    assert_eq!(state(&[tea(), pause("tea"), close("tea")], 0), StockState::Closed, "also by hand");
    assert_eq!(state(&[stock("tea", 0), pause("tea")], 0), StockState::Paused, "paused goes before sold out");
    assert_eq!(state(&[stock("tea", 0), close("tea")], 0), StockState::Closed, "closed goes before sold out");
    assert_eq!(state(&[tea(), close("tea"), archive("tea")], 0), StockState::Archived, "archived goes before all");
    assert_eq!(state(&[tea(), pause("tea"), reopen("tea")], 0), StockState::Scheduled);
    assert_eq!(state(&[stock("tea", 0), adjust("tea", 1)], 0), StockState::Open);
    assert_eq!(state(&[stock("tea", 1), adjust("tea", -1)], 0), StockState::SoldOut);
}

#[test]
fn pairs_of_precedence_with_life() {
    let two = reserve("tea", "ann", 2);
    let tea = |units| stock("tea", units);
    let over = Rejection::HoldOverMax { asked: 21, max: 20 };
    let long = || reserve("tea", "ann", 1).hold(21);
    check("the hold's bound goes before paused", &[tea(5), pause("tea")], &long(), over);
    check("the hold's bound goes before closed by hand", &[tea(5), close("tea")], &long(), over);
    check("the hold's bound goes before archived", &[tea(5), close("tea"), archive("tea")], &long(), over);
    check("closed by hand goes before paused", &[tea(5), pause("tea"), close("tea")], &two, Rejection::Closed);
    check("the end of the sale goes before paused", &[tea(5).closes(50), pause("tea")], &two.clone().at(50), Rejection::Closed);
    check("archived goes before paused", &[tea(5), pause("tea"), close("tea"), archive("tea")], &two, Rejection::Closed);
    check("closed by hand goes before not open", &[tea(5).opens(100), close("tea")], &two, Rejection::Closed);
    check("paused goes before not open", &[tea(5).opens(100), pause("tea")], &two, Rejection::Paused);
    check("paused goes before the limit", &[tea(5).limit(1), pause("tea")], &two, Rejection::Paused);
    check("paused goes before sold out", &[tea(0), pause("tea")], &two, Rejection::Paused);
    check("closed by hand goes before the limit", &[tea(5).limit(1), close("tea")], &two, Rejection::Closed);
    check("closed by hand goes before sold out", &[tea(0), close("tea")], &two, Rejection::Closed);
    let buy = reserve("tea", "ann", 2).key("k");
    for (step, sentence) in [(pause("tea"), "paused"), (close("tea"), "closed by hand")] {
        let given = [tea(5), buy.clone(), step];
        check(&format!("a replay goes before {sentence}"), &given, &buy, "granted tea#1 again | 2 0 0 reserved | 3 2 0");
        let other = reserve("tea", "bob", 1).key("k");
        check(&format!("a reused key goes before {sentence}"), &given, &other, Rejection::IdempotencyKeyReused);
    }
    let gone = [tea(5), buy.clone(), release("tea", 1), close("tea"), archive("tea")];
    check("a replay goes before archived", &gone, &buy, "granted tea#1 again | 0 0 2 released | 5 0 0");
    let changed = [tea(5), buy.clone(), change("tea", TermsPatch { hold_seconds_max: Some(seconds(10)), ..NOTHING })];
    check("a replay goes before a maximum lowered since", &changed, &buy, "granted tea#1 again | 2 0 0 reserved | 3 2 0");
}
