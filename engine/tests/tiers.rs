//! What leaves memory is found again: reservations that went to the history, repeats of their commands, lists over both tiers, and
//! copies of the whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::Arc;
use std::time::Instant;

use support::{
    Bench, PATIENCE, RULES, START, answer, confirm, create, give_back, keyed, read, reservation, reserve, reserve_units, sku,
    tiered,
};
use tempfile::TempDir;
use tidegate_engine::{Answer, Engine, EngineOptions, Failure, Fault, ListReservations, Refusal, Submission, snapshot_items};
use tidegate_persistence::{History, HistoryOptions, StreamId};
use tidegate_stock::{
    Command, GrantSequence, Ledger, Loader, Rejection, ReservationId, ReservationState, ReservationView, Timestamp, UserId,
};

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
async fn a_batch_keeps_its_order_where_a_command_waits_for_the_history() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 1, 600)).await.unwrap();
    let id = sold_and_gone(&bench, "ann", 1).await;
    // Each takes what the one before gave back; more commands than go through the ring together.
    let mut batch = vec![reserve("lamp", "early"), give_back(id, None), reserve("lamp", "bob")];
    batch.extend((0..200).map(|number| reserve("lamp", &format!("late{number}"))));
    let outcomes = tokio::time::timeout(PATIENCE, bench.engine.submit_batch(batch).outcomes()).await.unwrap();
    let sold_out = Err(Failure::Rejection(Rejection::SoldOut { available: 0, asked: 1 }));
    assert_eq!(outcomes[0], sold_out);
    assert_eq!(reservation(outcomes[1].clone()).state, ReservationState::Returned);
    assert_eq!(reservation(outcomes[2].clone()).user.as_str(), "bob");
    assert_eq!(outcomes[3..].iter().filter(|outcome| **outcome == sold_out).count(), 200);
    assert_eq!(stock(&bench), (1, 0, 1, 0));
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
async fn a_copy_made_under_load_and_the_log_behind_it_give_the_same_ledger() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions { batch_commands_max: 64, ..EngineOptions::default() }, history(&folder));
    call(&bench, create("lamp", 1_000_000, 600)).await.unwrap();
    let mut last = Vec::new();
    for round in 0..20 {
        let batch = (0..1_000).map(|number| keyed(reserve("lamp", &format!("user{}", number % 700)), &format!("{round}-{number}")));
        last = bench.engine.submit_batch(batch).outcomes().await;
    }
    let mut copy = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    let load = tokio::spawn({
        let engine = bench.engine.clone();
        let ids: Vec<_> = last.into_iter().map(|outcome| reservation(outcome).id).collect();
        async move {
            for (number, id) in ids.into_iter().enumerate() {
                answer(engine.try_submit(confirm(id)).unwrap()).await.unwrap();
                answer(engine.try_submit(reserve("lamp", &format!("new{number}"))).unwrap()).await.unwrap();
            }
        }
    });
    let at = copy.at();
    assert!(copy.is_committed());
    let (mut ledger, items) = tokio::task::spawn_blocking(move || {
        let (mut loader, mut items) = (Loader::new(RULES, 99), 0);
        while let Some(block) = copy.next_block().unwrap() {
            items += block.items;
            snapshot_items(&block.bytes).for_each(|item| loader.add(item.unwrap()).unwrap());
        }
        (loader.finish().unwrap(), items)
    })
    .await
    .unwrap();
    load.await.unwrap();
    assert!(items > 40_000, "{items} items of 20,000 reservations with a key each, and their users");
    bench.engine.stop().await;

    let groups = bench.log.groups();
    let mut whole = Ledger::new(RULES, 1);
    for group in &groups {
        for entry in group.entries().unwrap() {
            let entry = entry.unwrap();
            drop(whole.apply(&entry.event, entry.at));
            if group.sequence > at {
                drop(ledger.apply(&entry.event, entry.at));
            }
        }
    }
    assert!(groups.iter().any(|group| group.sequence > at), "the load went on behind the copy");
    assert_eq!(ledger.stocks().collect::<Vec<_>>(), whole.stocks().collect::<Vec<_>>());
    assert_eq!(ledger.reservations().collect::<Vec<_>>(), whole.reservations().collect::<Vec<_>>());
    assert_eq!((ledger.key_count(), ledger.open_holds()), (whole.key_count(), whole.open_holds()));
    assert_eq!(ledger.next_lapse(), whole.next_lapse());
}

#[tokio::test]
async fn a_copy_is_given_up_when_another_is_asked_for_or_the_engine_stops() {
    let folder = TempDir::new().unwrap();
    let bench = tiered(EngineOptions::default(), history(&folder));
    call(&bench, create("lamp", 1_000_000, 600)).await.unwrap();
    // So much that it does not fit between the shard and whoever takes the copy.
    for round in 0..40 {
        let batch = (0..1_000).map(|number| Submission {
            command: Command::Reserve {
                sku: sku("lamp"),
                user: UserId::new(&format!("{round}-{number}-{}", "x".repeat(100))).unwrap(),
                quantity: tidegate_stock::Quantity::ONE,
                hold_seconds: None,
                reference: None,
            },
            key: None,
            actor: support::actor(),
        });
        assert!(bench.engine.submit_batch(batch).outcomes().await.iter().all(Result::is_ok));
    }
    let mut first = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    let mut second = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    bench.engine.stop().await;
    for copy in [&mut first, &mut second] {
        let end = loop {
            match copy.next_block() {
                Ok(Some(_)) => {}
                end => break end.map(|block| block.is_some()),
            }
        };
        assert!(end.is_err(), "a copy that was given up has no end");
    }
    assert!(bench.engine.copy_ledger(StreamId::log(0)).await.is_err());
    assert!(bench.engine.copy_ledger(StreamId::log(7)).await.is_err());
}
