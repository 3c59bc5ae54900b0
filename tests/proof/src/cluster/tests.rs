//! The judges of a cluster, held against made-up histories, feeds and pauses: the good ones pass, and each bad one is named.

use std::collections::BTreeMap;
use std::time::Duration;

use super::feeds::{Changes, Feeds, differences};
use super::harm::says_damage;
use super::judge::{PAUSES_JUDGED_MIN, Pause, Sale, in_order, judge, pauses};
use tidegate_witness::finding::Fault;
use tidegate_witness::record::{Answer, Call, Change, Op, Reservation, Stock, actor};

const SKU: &str = "s";
const UNITS: i64 = 2;
const SETTLED: u64 = 1_000_000;

fn at(place: u64) -> String {
    format!("2026-01-01T00:00:{place:02}.000Z")
}

/// The stock when so many units are held.
fn stock(reserved: i64) -> Stock {
    Stock {
        allotted: UNITS,
        available: UNITS - reserved,
        reserved,
        sold: 0,
        per_user_limit: Some(1),
        opens_at: None,
        closes_at: None,
        state: if reserved == UNITS { "sold_out" } else { "open" }.to_owned(),
        etag: None,
    }
}

fn change(number: u64, kind: &str, reservation: Option<Reservation>) -> Change {
    Change {
        id: number.to_string(),
        kind: kind.to_owned(),
        sku: SKU.to_owned(),
        sku_sequence: number,
        at: at(number),
        actor: actor(0),
        delta: None,
        reason: None,
        stock: reservation.is_none().then(|| stock(0)),
        reservation,
    }
}

/// The grant with number `sequence`, to somebody of its own.
fn held(sequence: u64) -> Reservation {
    Reservation {
        id: format!("r{sequence}"),
        user: format!("user-{sequence}"),
        quantity: 1,
        reserved: 1,
        confirmed: 0,
        released: 0,
        returned: 0,
        state: "reserved".to_owned(),
        sequence,
        reference: Some(format!("order-{sequence}")),
        reserved_at: at(sequence + 1),
        expires_at: "2026-01-01T01:00:00.000Z".to_owned(),
        resolved_at: None,
    }
}

fn call(op: Op, key: Option<&str>, (began, ended): (u64, u64), answer: Answer) -> Call {
    Call { client: 0, op, key: key.map(str::to_owned), began, ended, answer, batch: None }
}

fn wish(sequence: u64) -> Op {
    let Reservation { user, reference, .. } = held(sequence);
    Op::Reserve { user, quantity: 1, hold_seconds: 3_600, reference: reference.unwrap() }
}

fn granted(sequence: u64, replayed: bool) -> Answer {
    Answer::Reservation { created: true, replayed, shown: held(sequence) }
}

fn reserved(sequence: u64, when: (u64, u64)) -> Call {
    call(wish(sequence), Some(&format!("key-{sequence}")), when, granted(sequence, false))
}

fn read(units: i64, when: (u64, u64)) -> Call {
    call(Op::ReadStock, None, when, Answer::Stock { replayed: false, shown: stock(units) })
}

/// Two grants, the second one's answer lost with its node and had by asking again, and looks in between.
fn good() -> (Vec<Call>, Vec<Change>) {
    let lost = call(wish(2), Some("key-2"), (30, 40), Answer::Unknown);
    let again = call(wish(2), Some("key-2"), (50, 60), granted(2, true));
    let calls = vec![reserved(1, (0, 10)), read(1, (12, 20)), lost, again, read(2, (70, 80))];
    let changes =
        vec![change(1, "stock_created", None), change(2, "reserved", Some(held(1))), change(3, "reserved", Some(held(2)))];
    (calls, changes)
}

fn faults(calls: Vec<Call>, changes: &[Change]) -> Vec<Fault> {
    let judged = judge(Sale { sku: SKU, searched: Some((UNITS, 1)), settled: SETTLED }, calls, changes);
    assert!(!judged.is_undecided);
    judged.findings.into_iter().map(|finding| finding.fault).collect()
}

#[track_caller]
fn is_bad(calls: Vec<Call>, changes: &[Change], due: &[Fault]) {
    let found = faults(calls, changes);
    assert!(due.iter().all(|fault| found.contains(fault)), "{found:?} where {due:?} were due");
}

#[test]
fn a_good_history_has_no_fault() {
    let (calls, changes) = good();
    assert_eq!(faults(calls, &changes), []);
}

#[test]
fn an_acknowledgement_that_a_failover_lost_is_found() {
    let (_, mut changes) = good();
    changes.pop();
    is_bad(vec![reserved(1, (0, 10)), reserved(2, (20, 30))], &changes, &[Fault::AcknowledgementLost]);
}

#[test]
fn a_deposed_leader_that_answers_with_what_was_is_found() {
    let (mut calls, changes) = good();
    calls.push(read(1, (90, 100)));
    is_bad(calls, &changes, &[Fault::Stale, Fault::NotLinearizable]);
}

#[test]
fn a_key_that_two_leaders_answered_is_found() {
    let (mut calls, changes) = good();
    calls.push(call(wish(2), Some("key-2"), (90, 100), granted(1, true)));
    is_bad(calls, &changes, &[Fault::KeyAnsweredTwice, Fault::NotLinearizable]);
}

/// A confirmation that was asked for once and answered as a repeat, and its change.
fn confirmed_by_a_second_attempt(when: (u64, u64)) -> (Call, Change) {
    let paid = Reservation { reserved: 0, confirmed: 1, state: "confirmed".to_owned(), ..held(2) };
    let op = Op::Confirm { id: paid.id.clone(), quantity: None };
    let shown = Answer::Reservation { created: false, replayed: true, shown: paid.clone() };
    (call(op, Some("key-3"), when, shown), change(4, "confirmed", Some(paid)))
}

#[test]
fn a_node_may_ask_twice_for_a_call_that_was_made_once() {
    let (mut calls, mut changes) = good();
    // Both grants as well: whoever decided first has granted them and not said so.
    calls.remove(2);
    let (confirmed, change) = confirmed_by_a_second_attempt((85, 100));
    calls.push(confirmed);
    changes.push(change);
    assert_eq!(faults(calls, &changes), []);
}

#[test]
fn a_repeat_of_what_was_never_done_is_found() {
    let (mut calls, mut changes) = good();
    let (confirmed, change) = confirmed_by_a_second_attempt((85, 100));
    calls.push(confirmed.clone());
    is_bad(calls.clone(), &changes, &[Fault::KeyAnsweredTwice, Fault::NotLinearizable]);
    // And of what others saw done before it was asked for.
    changes.push(change);
    let Answer::Reservation { shown, .. } = confirmed.answer else { unreachable!() };
    let looked = Answer::Reservation { created: false, replayed: false, shown: shown.clone() };
    calls.insert(4, call(Op::ReadReservation { id: shown.id }, None, (62, 66), looked));
    calls.remove(5);
    assert!(!faults(calls, &changes).is_empty());
}

#[test]
fn units_that_two_leaders_sold_are_found() {
    let (mut calls, mut changes) = good();
    calls.push(reserved(3, (90, 100)));
    changes.push(change(4, "reserved", Some(held(3))));
    is_bad(calls, &changes, &[Fault::SoldTwice, Fault::NotLinearizable]);
}

#[test]
fn what_nobody_heard_may_come_about_later_but_not_twice() {
    let (mut calls, changes) = good();
    // Its answer never came, and it was never asked again: the change alone shows it.
    calls.remove(3);
    assert_eq!(faults(calls.clone(), &changes), []);
    let mut twice = changes;
    twice[2].reservation.as_mut().unwrap().user = "user-2".to_owned();
    let mut second = held(2);
    (second.id, second.sequence) = ("r3".to_owned(), 3);
    twice.push(change(4, "reserved", Some(second)));
    calls.truncate(3);
    is_bad(calls, &twice, &[Fault::HappenedTwice]);
}

fn told(changes: &[Change]) -> Changes {
    let mut told = Changes::new();
    for change in changes {
        told.entry(change.sku.clone()).or_default().insert(change.sku_sequence, change.clone());
    }
    told
}

#[test]
fn nodes_that_tell_different_changes_are_found() {
    let (_, changes) = good();
    let mut other = changes.clone();
    // One that began with a snapshot tells the end alone, and one that lags the beginning.
    assert_eq!(differences((1, &told(&changes)), (2, &told(&other[1..]))), Vec::<String>::new());
    assert_eq!(differences((1, &told(&changes[..2])), (2, &told(&other[1..]))), Vec::<String>::new());
    other[2].at = at(9);
    let found = differences((1, &told(&changes)), (2, &told(&other)));
    assert!(found.len() == 1 && found[0].contains("node 1") && found[0].contains("node 2"), "{found:?}");
}

/// Feeds of two nodes with these changes.
fn feeds(nodes: [&[Change]; 2]) -> Feeds {
    let mut feeds = Feeds::new(2);
    for (feed, changes) in feeds.nodes.iter_mut().zip(nodes) {
        feed.changes = told(changes);
    }
    feeds
}

#[test]
fn what_was_judged_must_stay() {
    let (_, changes) = good();
    let judged = |nodes: [&[Change]; 2]| {
        let mut judged = feeds([&changes[1..], &changes]);
        judged.close(SKU, &judged.whole(SKU).unwrap());
        for (feed, changes) in judged.nodes.iter_mut().zip(nodes) {
            feed.changes = told(changes);
        }
        judged
    };
    // More may follow, and a node may have the end alone where some took a snapshot.
    let mut later = changes.clone();
    later.push(change(4, "stock_closed", None));
    assert_eq!(judged([&later, &changes]).hold_past(true), Vec::<String>::new());
    assert_eq!(judged([&later[2..], &changes[2..]]).hold_past(false), Vec::<String>::new());
    let lost = judged([&changes[..2], &changes]).hold_past(true);
    assert!(lost.len() == 1 && lost[0].contains("place 0 lacks 1 of 3"), "{lost:?}");
    later[2].at = at(9);
    for is_whole in [false, true] {
        let other = judged([&changes, &later]).hold_past(is_whole);
        assert!(other.len() == 1 && other[0].contains("place 1 tells another change 3"), "{other:?}");
    }
}

#[test]
fn what_a_directory_has_in_the_end_must_be_what_was_judged() {
    let (_, mut changes) = good();
    let paid = Reservation { reserved: 0, confirmed: 1, state: "confirmed".to_owned(), ..held(1) };
    changes.push(change(4, "confirmed", Some(paid)));
    let mut feeds = feeds([&changes, &changes]);
    feeds.close(SKU, &changes);
    let directory = |sku: &str, grants: u64, sold: u64| serde_json::json!([{ "sku": sku, "grants": grants, "sold": sold }]);
    assert_eq!(feeds.hold_stocks(&directory(SKU, 2, 1)), Vec::<String>::new());
    for wrong in
        [directory(SKU, 1, 1), directory(SKU, 3, 1), directory(SKU, 2, 0), directory("other", 2, 1), serde_json::json!(null)]
    {
        let found = feeds.hold_stocks(&wrong);
        assert!(found.len() == 1 && found[0].contains("2 grants and 1 units sold were judged"), "{wrong}: {found:?}");
    }
}

#[test]
fn what_no_node_has_is_not_taken_for_whole() {
    let (_, changes) = good();
    assert_eq!(feeds([&changes[1..], &changes[..2]]).whole(SKU), Some(changes.clone()));
    assert!(feeds([&changes[2..], &changes[..1]]).whole(SKU).is_none());
    assert!(feeds([&changes[1..], &[]]).whole(SKU).is_none());
    assert!(feeds([&[], &[]]).whole(SKU).is_none());
}

#[test]
fn one_number_that_names_two_changes_is_found() {
    let (_, changes) = good();
    let mut feeds = feeds([&changes, &changes]);
    let mut broken = Vec::new();
    feeds.nodes[0].add(changes[1].clone(), 1, &mut broken);
    assert_eq!(broken, Vec::<String>::new());
    feeds.nodes[0].add(Change { at: at(9), ..changes[1].clone() }, 1, &mut broken);
    assert!(broken.len() == 1 && broken[0].contains("two changes under one number"), "{broken:?}");
}

#[test]
fn a_rolling_restart_may_be_heard_as_documented_only() {
    let heard = |kinds: &[&str]| kinds.iter().map(|kind| ((*kind).to_owned(), 1)).collect::<BTreeMap<_, _>>();
    assert_eq!(
        in_order("rolling restart", &heard(&["201", "outcome_unknown", "stopping", "connection refused"]), 0),
        Vec::<String>::new()
    );
    for kind in ["connection broken", "timeout", "internal", "sold_out", "status 502"] {
        let found = in_order("rolling restart", &heard(&["201", kind]), 0);
        assert!(found.len() == 1 && found[0].contains(kind), "{found:?}");
    }
    assert!(in_order("rolling restart", &heard(&["201", "stopping"]), 1)[0].contains("do not say when"));
}

#[test]
fn one_pause_of_a_hundred_may_be_long_and_two_may_not() {
    let of = |ms| Pause { stands: None, decides: None, grants: Duration::from_millis(ms) };
    let all = |long: usize| -> Vec<Pause> { (0..100).map(|place| of(if place < long { 2_100 } else { 1_900 })).collect() };
    assert_eq!(pauses(&all(1)), Vec::<String>::new());
    assert!(pauses(&all(2))[0].contains("p99 of 100 pauses is 2100 ms"), "{:?}", pauses(&all(2)));
    // Of a few nothing is known.
    assert!(!pauses(&all(0)[..PAUSES_JUDGED_MIN - 1]).is_empty() && pauses(&all(0)[..PAUSES_JUDGED_MIN]).is_empty());
}

#[test]
fn a_node_must_name_the_damage_that_it_ends_of() {
    assert!(says_damage("ERROR the log is damaged: stream 0, index 7"));
    assert!(!says_damage("ERROR the address is in use"));
}
