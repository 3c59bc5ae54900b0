//! What leaves memory is found again: reservations that went to the history, repeats of their commands, and lists over both tiers.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::Arc;
use std::time::Instant;

use support::{
    Bench, PATIENCE, RULES, START, answer, confirm, create, give_back, instant, keyed, read, release, reservation, reserve,
    reserve_units, sku, tiered, tiered_held,
};
use tempfile::TempDir;
use tidegate_engine::{Answer, Engine, EngineOptions, Failure, Fault, ListReservations, Refusal, Submission};
use tidegate_persistence::{GroupSequence, History, HistoryKey, HistoryOptions};
use tidegate_stock::{GrantSequence, Ledger, Rejection, ReservationId, ReservationState, ReservationView, Timestamp, UserId};

fn history(folder: &TempDir) -> Arc<History> {
    Arc::new(History::open(folder.path(), &HistoryOptions::default()).unwrap())
}

async fn call(bench: &Bench, submission: Submission) -> Result<Answer, Failure> {
    answer(bench.engine.try_submit(submission).unwrap()).await
}

/// Waits until no more than `count` reservations are in memory. Time moves on, so that what is resolved counts as committed.
async fn wait_in_memory(engine: &Engine, count: usize) {
    let began = Instant::now();
    loop {
        let in_memory = engine.inspect().await[0].reservations;
        if in_memory <= count {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{in_memory} reservations are in memory where {count} were expected");
        tokio::task::yield_now().await;
    }
}

/// Sells `units` of a lamp to `user` and waits until the reservation has left memory.
async fn sold_and_gone(bench: &Bench, user: &str, units: u64) -> ReservationId {
    let granted = reservation(call(bench, reserve_units("lamp", user, units)).await);
    reservation(call(bench, keyed(confirm(granted.id), &format!("pay-{user}"))).await);
    wait_in_memory(&bench.engine, 0).await;
    granted.id
}

fn stock(bench: &Bench) -> (u64, u64, u64, u64) {
    let view = bench.engine.stock(&sku("lamp")).unwrap().view;
    assert_eq!(view.available + view.reserved + view.sold, view.allotted);
    (view.allotted, view.available, view.reserved, view.sold)
}

#[tokio::test]
async fn a_reservation_that_left_memory_can_be_read_confirmed_again_and_returned() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 10, 600)).await.unwrap();
    let id = sold_and_gone(&bench, "ann", 3).await;

    let shown = reservation(call(&bench, read(id)).await);
    assert_eq!((shown.confirmed, shown.state, shown.user.as_str()), (3, ReservationState::Confirmed, "ann"));
    assert_eq!(reservation(call(&bench, confirm(id)).await), shown, "a whole confirm of what is sold is a yes");
    let groups = bench.log.len();
    let replayed = call(&bench, keyed(confirm(id), "pay-ann")).await.unwrap();
    assert!(replayed.replayed);
    assert_eq!(bench.log.len(), groups, "nothing of this changed anything");

    let returned = reservation(call(&bench, give_back(id, Some(1))).await);
    assert_eq!((returned.confirmed, returned.returned, returned.state), (2, 1, ReservationState::Confirmed));
    assert_eq!(stock(&bench), (10, 8, 0, 2));
    wait_in_memory(&bench.engine, 0).await;
    let returned = reservation(call(&bench, give_back(id, None)).await);
    assert_eq!((returned.confirmed, returned.returned, returned.state), (0, 3, ReservationState::Returned));
    wait_in_memory(&bench.engine, 0).await;
    assert_eq!(reservation(call(&bench, read(id)).await), returned);
    assert_eq!(stock(&bench), (10, 10, 0, 0));
    bench.engine.stop().await;
}

#[tokio::test]
async fn the_log_gives_the_ledger_again_wherever_a_reservation_was_meanwhile() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 10, 600)).await.unwrap();
    let id = sold_and_gone(&bench, "ann", 3).await;
    let returned = reservation(call(&bench, give_back(id, Some(1))).await);
    bench.engine.stop().await;
    // A node that lets go of nothing, and one that lets go of everything at once.
    for lets_go in [false, true] {
        let mut ledger = Ledger::new(RULES, 1);
        let mut last = None;
        for group in bench.log.groups() {
            for entry in group.entries().unwrap() {
                let entry = entry.unwrap();
                drop(ledger.apply(&entry.event, entry.at));
            }
            last = ledger.reservation(id);
            let leaving = if lets_go { ledger.take_leaving(Timestamp::from_unix_ms(u64::MAX), 10) } else { Vec::new() };
            for record in &leaving {
                ledger.has_left(record.id);
            }
        }
        assert_eq!(last.as_ref(), Some(&returned), "lets go: {lets_go}");
    }
}

#[tokio::test]
async fn a_reservation_that_is_nowhere_is_unknown() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 10, 600)).await.unwrap();
    let id = sold_and_gone(&bench, "ann", 1).await;
    // Past its retention, though the history still has it.
    let retention_ms = u64::from(RULES.retention_seconds) * 1_000;
    bench.clock.set(Timestamp::from_unix_ms(START.unix_ms() + retention_ms));
    assert_eq!(call(&bench, read(id)).await, Err(Failure::Rejection(Rejection::UnknownReservation)));
    assert_eq!(call(&bench, give_back(id, None)).await, Err(Failure::Rejection(Rejection::UnknownReservation)));
    let beyond = ReservationId { sequence: GrantSequence(2), ..id };
    assert_eq!(call(&bench, read(beyond)).await, Err(Failure::Rejection(Rejection::UnknownReservation)));
    bench.engine.stop().await;
}

#[tokio::test]
async fn nothing_goes_to_the_history_before_what_was_done_to_it_is_committed() {
    let folder = TempDir::new().unwrap();
    let history = history(&folder);
    let bench = tiered_held(EngineOptions::default(), Arc::clone(&history));
    let created = bench.engine.try_submit(create("lamp", 10, 600)).unwrap();
    bench.log.wait_proposed(1);
    bench.progress.commit(GroupSequence(1));
    answer(created).await.unwrap();
    let granted = bench.engine.try_submit(reserve("lamp", "ann")).unwrap();
    bench.log.wait_proposed(2);
    bench.progress.commit(GroupSequence(2));
    let id = reservation(answer(granted).await).id;

    bench.clock.set(START.plus_seconds(1));
    let paid = bench.engine.try_submit(confirm(id)).unwrap();
    bench.log.wait_proposed(3);
    let key = HistoryKey { stock: id.stock, sequence: id.sequence };
    // The shard has many turns meanwhile, each of which could let it go.
    for turn in 0..1_000 {
        assert_eq!(bench.engine.inspect().await[0].reservations, 1, "turn {turn}");
        assert_eq!(history.get(key).unwrap(), None, "turn {turn}");
    }
    bench.progress.commit(GroupSequence(3));
    assert_eq!(reservation(answer(paid).await).state, ReservationState::Confirmed);
    wait_in_memory(&bench.engine, 0).await;
    assert!(history.get(key).unwrap().is_some());
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_batch_keeps_its_order_where_a_command_waits_for_the_history() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 2, 600)).await.unwrap();
    let id = sold_and_gone(&bench, "ann", 2).await;
    // Each takes what the one before gave back; more commands than go through the ring together.
    let mut batch = vec![reserve("lamp", "early"), give_back(id, None), reserve("lamp", "bob")];
    batch.extend((0..200).map(|number| reserve_units("lamp", &format!("greedy{number}"), 2)));
    batch.push(reserve("lamp", "last"));
    // What is asked of the history before keeps it busy until all of the batch is in the ring.
    let before: Vec<_> = (0..500).map(|_| bench.engine.try_submit(read(id)).unwrap()).collect();
    let outcomes = tokio::time::timeout(PATIENCE, bench.engine.submit_batch(batch).outcomes()).await.unwrap();
    for read in before {
        answer(read).await.unwrap();
    }
    let sold_out = |available, asked| Err(Failure::Rejection(Rejection::SoldOut { available, asked }));
    assert_eq!(outcomes[0], sold_out(0, 1));
    assert_eq!(reservation(outcomes[1].clone()).state, ReservationState::Returned);
    assert_eq!(reservation(outcomes[2].clone()).user.as_str(), "bob");
    assert_eq!(outcomes[3..203].iter().filter(|outcome| **outcome == sold_out(1, 2)).count(), 200);
    assert_eq!(reservation(outcomes[203].clone()).user.as_str(), "last");
    assert_eq!(stock(&bench), (2, 0, 2, 0));
    bench.engine.stop().await;
}

#[tokio::test]
async fn too_many_commands_that_wait_for_the_history_are_refused_and_change_nothing() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions { recalls_in_flight_max: 1, ..EngineOptions::default() }, history(&folder));
    call(&bench, create("lamp", 500, 600)).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..100 {
        ids.push(sold_and_gone(&bench, &format!("user{number}"), 1).await);
    }
    let outcomes = bench.engine.submit_batch(ids.iter().map(|id| give_back(*id, None))).outcomes().await;
    // One batch is one piece of work at a time, so it never waits for more than one.
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    wait_in_memory(&bench.engine, 0).await;
    let pending: Vec<_> = ids.iter().map(|id| bench.engine.try_submit(read(*id)).unwrap()).collect();
    for pending in pending {
        match answer(pending).await {
            Ok(_) | Err(Failure::Refusal(Refusal::RecallsFull { recalls_max: 1 })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stock(&bench), (500, 500, 0, 0));
    bench.engine.stop().await;
}

async fn list(engine: &Engine, user: Option<&str>, state: Option<ReservationState>, limit: usize) -> Vec<ReservationView> {
    let mut query =
        ListReservations { sku: sku("lamp"), user: user.map(|user| UserId::new(user).unwrap()), state, before: None, limit };
    let mut all = Vec::new();
    for _ in 0..10_000 {
        let page = engine.list(&query).await.unwrap();
        assert!(page.reservations.len() <= limit);
        all.extend(page.reservations);
        match page.next {
            Some(next) => query.before = Some(next),
            None => return all,
        }
    }
    panic!("the list has no end");
}

#[tokio::test]
async fn a_list_shows_every_reservation_once_newest_first_wherever_it_is() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 5_000, 600)).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..1_700_u32 {
        let granted = reservation(call(&bench, reserve("lamp", &format!("user{}", number % 3))).await);
        if number % 2 == 0 {
            call(&bench, confirm(granted.id)).await.unwrap();
        }
        ids.push(granted.id);
    }
    wait_in_memory(&bench.engine, 850).await;
    // One that is back from the history, changed.
    call(&bench, give_back(ids[100], None)).await.unwrap();

    let newest_first: Vec<_> = ids.iter().rev().copied().collect();
    for limit in [1_000, 7, 1] {
        let shown = list(&bench.engine, None, None, limit).await;
        assert_eq!(shown.iter().map(|view| view.id).collect::<Vec<_>>(), newest_first, "pages of {limit}");
        assert_eq!(shown[1_599].state, ReservationState::Returned);
    }
    let of_user: Vec<_> = newest_first.iter().filter(|id| (id.sequence.0 - 1) % 3 == 1).copied().collect();
    let shown = list(&bench.engine, Some("user1"), None, 10).await;
    assert_eq!(shown.iter().map(|view| view.id).collect::<Vec<_>>(), of_user);
    assert!(shown.iter().all(|view| view.user.as_str() == "user1"));
    let confirmed = list(&bench.engine, None, Some(ReservationState::Confirmed), 100).await;
    assert_eq!(confirmed.len(), 849);
    assert_eq!(list(&bench.engine, None, Some(ReservationState::Returned), 100).await.len(), 1);
    assert_eq!(list(&bench.engine, Some("nobody"), None, 100).await, []);
    let unknown = ListReservations { sku: sku("vase"), user: None, state: None, before: None, limit: 1 };
    assert_eq!(bench.engine.list(&unknown).await, Err(Failure::Rejection(Rejection::UnknownSku)));
    bench.engine.stop().await;
    let stopped = ListReservations { sku: sku("lamp"), ..unknown };
    assert!(matches!(
        bench.engine.list(&stopped).await,
        Err(Failure::Refusal(Refusal::Stopping) | Failure::Fault(Fault::OutcomeUnknown))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_commands_of_a_batch_than_the_ring_has_slots_wait_for_the_history_and_are_all_answered() {
    const UNITS: u64 = 1_920;
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions { ring_slots: 64, batch_commands_max: 64, ..EngineOptions::default() }, history(&folder));
    call(&bench, create("lamp", UNITS, 600)).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..UNITS {
        ids.push(reservation(call(&bench, reserve("lamp", &format!("user{number}"))).await).id);
        call(&bench, confirm(ids[ids.len() - 1])).await.unwrap();
    }
    wait_in_memory(&bench.engine, 0).await;
    let outcomes = bench.engine.submit_batch(ids.into_iter().map(|id| give_back(id, None))).outcomes().await;
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
    assert_eq!(stock(&bench), (UNITS, UNITS, 0, 0));
    bench.engine.stop().await;
}

#[tokio::test]
async fn what_is_no_longer_readable_is_in_no_list() {
    let folder = TempDir::new().unwrap();
    for bench in [instant(EngineOptions::default()), tiered(EngineOptions::default(), history(&folder))] {
        call(&bench, create("lamp", 10, 600)).await.unwrap();
        let id = reservation(call(&bench, reserve("lamp", "ann")).await).id;
        call(&bench, release(id)).await.unwrap();
        let query = ListReservations { sku: sku("lamp"), user: None, state: None, before: None, limit: 10 };
        bench.clock.set(Timestamp::from_unix_ms(START.plus_seconds(RULES.retention_seconds).unix_ms() - 1));
        assert_eq!(bench.engine.list(&query).await.unwrap().reservations.len(), 1);
        bench.clock.set(START.plus_seconds(RULES.retention_seconds));
        assert_eq!(bench.engine.list(&query).await.unwrap().reservations, []);
        assert_eq!(call(&bench, read(id)).await, Err(Failure::Rejection(Rejection::UnknownReservation)));
        bench.engine.stop().await;
    }
}
