//! Nothing leaves before it is committed; groups, bounds and order on the way to the log.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use support::{
    InstantLog, PATIENCE, RULES, START, answer, bench, confirm, create, held, instant, is_ready, keyed, read, reservation, reserve,
    sku,
};
use tidegate_engine::{EngineOptions, Failure, Fault, Refusal};
use tidegate_persistence::GroupSequence;
use tidegate_stock::{Command, Event, Rejection, Rules, StockState, Timestamp};

#[tokio::test]
async fn an_answer_and_its_view_appear_only_when_the_group_is_committed() {
    let bench = held(EngineOptions::default());
    let mut pending = bench.engine.try_submit(create("lamp", 5, 600)).unwrap();
    bench.log.wait_proposed(1);
    // It reports between two turns: by then it has sent whatever it would.
    bench.engine.inspect().await;
    assert!(!is_ready(&mut pending), "the answer left before the commit");
    assert_eq!(bench.engine.stock(&sku("lamp")), None, "the view shows what is not committed");

    bench.progress.commit(GroupSequence(1));
    assert!(answer(pending).await.unwrap().created);
    let stock = bench.engine.stock(&sku("lamp")).expect("the view was published before the answer left");
    assert_eq!((stock.view.available, stock.state), (5, StockState::Open));
    assert_eq!(stock.as_of.group, GroupSequence(1));
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_rejection_waits_for_the_head_that_it_observed() {
    let bench = held(EngineOptions::default());
    let create = bench.engine.try_submit(create("lamp", 1, 600)).unwrap();
    bench.log.wait_proposed(1);
    let grant = bench.engine.try_submit(reserve("lamp", "ann")).unwrap();
    bench.log.wait_proposed(2);
    let mut sold_out = bench.engine.try_submit(reserve("lamp", "bob")).unwrap();
    // Once it has left the ring, it is decided before the mailbox has its turn.
    while bench.engine.inspect().await[0].ring_waiting > 0 {}

    bench.progress.commit(GroupSequence(1));
    answer(create).await.unwrap();
    // Only the second group takes the last unit; until it is committed, nobody may be told that the stock is sold out.
    assert!(!is_ready(&mut sold_out));
    bench.progress.commit(GroupSequence(2));
    answer(grant).await.unwrap();
    assert_eq!(answer(sold_out).await, Err(Failure::Rejection(Rejection::SoldOut { available: 0, asked: 1 })));
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_repeat_of_a_command_in_flight_waits_for_the_first_answer() {
    let bench = held(EngineOptions::default());
    let create = bench.engine.try_submit(create("lamp", 5, 600)).unwrap();
    bench.log.wait_proposed(1);
    bench.progress.commit(GroupSequence(1));
    answer(create).await.unwrap();

    let first = bench.engine.try_submit(keyed(reserve("lamp", "ann"), "click")).unwrap();
    bench.log.wait_proposed(2);
    let mut second = bench.engine.try_submit(keyed(reserve("lamp", "ann"), "click")).unwrap();
    assert!(!is_ready(&mut second));
    bench.progress.commit(GroupSequence(2));
    let (first, second) = (answer(first).await.unwrap(), answer(second).await.unwrap());
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.content, second.content);
    assert_eq!(bench.log.len(), 2, "a repeat writes nothing");
    bench.engine.stop().await;
}

#[tokio::test]
async fn commands_gather_in_one_group_while_the_allowed_groups_are_in_flight() {
    let bench = held(EngineOptions { groups_in_flight_max: 1, ..EngineOptions::default() });
    let mut answers = vec![bench.engine.try_submit(create("lamp", 500, 600)).unwrap()];
    bench.log.wait_proposed(1);
    for user in 0..200 {
        answers.push(bench.engine.try_submit(reserve("lamp", &format!("u{user}"))).unwrap());
    }
    bench.progress.commit(GroupSequence(1));
    bench.log.wait_proposed(2);
    assert_eq!(bench.log.groups()[1].sequence, GroupSequence(2));
    let mut committed = 2;
    bench.progress.commit(GroupSequence(committed));
    // The shard may have proposed before it had seen all 200; what was late is in the next groups, one at a time.
    while bench.log.groups().iter().map(|group| group.events).sum::<u32>() < 201 {
        committed += 1;
        bench.log.wait_proposed(usize::try_from(committed).unwrap());
        bench.progress.commit(GroupSequence(committed));
    }
    let granted = answers.len();
    for (place, pending) in answers.into_iter().enumerate().skip(1) {
        let view = reservation(answer(pending).await);
        assert_eq!(view.id.sequence.0, place as u64, "grants are numbered in the order of submission");
    }
    assert_eq!(granted, 201);
    bench.engine.stop().await;
}

/// The least of everything: one group in flight, one event in the open group, and a short ring in front of them.
fn one_at_a_time() -> EngineOptions {
    EngineOptions {
        ring_slots: 64,
        batch_commands_max: 1,
        group_events_max: 1,
        groups_in_flight_max: 1,
        ..EngineOptions::default()
    }
}

#[tokio::test]
async fn a_full_ring_refuses_at_once_and_loses_nothing_that_was_admitted() {
    let bench = held(one_at_a_time());
    let mut admitted = vec![bench.engine.try_submit(create("lamp", 10_000, 600)).unwrap()];
    bench.log.wait_proposed(1);
    // One group in flight, one event in the open group: from here on the ring only fills.
    let refusal = (0..1_000).find_map(|user| match bench.engine.try_submit(reserve("lamp", &format!("u{user}"))) {
        Ok(pending) => {
            admitted.push(pending);
            None
        }
        Err(refusal) => Some(refusal),
    });
    assert_eq!(refusal, Some(Refusal::RingFull { slots: 64 }));
    let count = admitted.len();
    assert!((65..=67).contains(&count), "{count} were admitted by a ring of 64 slots, one group in flight and one open");
    for sequence in 1..=count {
        bench.log.wait_proposed(sequence);
        bench.progress.commit(GroupSequence(sequence as u64));
    }
    for pending in admitted {
        answer(pending).await.unwrap();
    }
    assert_eq!(bench.engine.stock(&sku("lamp")).unwrap().view.reserved, count as u64 - 1);
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_batch_that_finds_the_ring_full_counts_each_of_its_commands_as_refused() {
    const COMMANDS: u64 = 150;
    let bench = held(one_at_a_time());
    let mut admitted = vec![bench.engine.try_submit(create("lamp", 10_000, 600)).unwrap()];
    bench.log.wait_proposed(1);
    while let Ok(pending) = bench.engine.try_submit(reserve("lamp", &format!("u{}", admitted.len()))) {
        admitted.push(pending);
    }
    assert_eq!(bench.refused("ring_full"), 1);
    let pending = bench.engine.submit_batch((0..COMMANDS).map(|user| reserve("lamp", &format!("v{user}"))));
    let counted = bench.refused("ring_full") - 1;
    // The shard may have taken one or two pieces of work since the ring was full, but not the batch's third.
    assert!((COMMANDS - 128..=COMMANDS).contains(&counted), "{counted} of a batch were refused");
    for sequence in 1..=admitted.len() as u64 + COMMANDS - counted {
        bench.log.wait_proposed(usize::try_from(sequence).unwrap());
        bench.progress.commit(GroupSequence(sequence));
    }
    let outcomes = pending.outcomes().await;
    let refused = outcomes.iter().filter(|outcome| **outcome == Err(Failure::Refusal(Refusal::RingFull { slots: 64 })));
    assert_eq!((outcomes.len() as u64, refused.count() as u64), (COMMANDS, counted));
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_failed_log_makes_outcomes_unknown_and_refuses_what_follows() {
    let bench = held(EngineOptions::default());
    let pending = bench.engine.try_submit(create("lamp", 5, 600)).unwrap();
    bench.log.wait_proposed(1);
    bench.progress.fail();
    assert_eq!(answer(pending).await, Err(Failure::Fault(Fault::OutcomeUnknown)));
    assert_eq!(bench.engine.try_submit(reserve("lamp", "ann")).unwrap_err(), Refusal::Stopping);
    bench.engine.stop().await;
}

#[tokio::test]
async fn stopping_answers_what_was_admitted_and_refuses_what_comes_after() {
    let bench = instant(EngineOptions::default());
    let mut admitted = vec![bench.engine.try_submit(create("lamp", 1_000, 600)).unwrap()];
    for user in 0..500 {
        admitted.push(bench.engine.try_submit(reserve("lamp", &format!("u{user}"))).unwrap());
    }
    bench.engine.stop().await;
    for pending in admitted {
        answer(pending).await.unwrap();
    }
    assert_eq!(bench.engine.try_submit(reserve("lamp", "late")).unwrap_err(), Refusal::Stopping);
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_the_commit_of_what_was_admitted() {
    let bench = held(EngineOptions::default());
    let mut create = bench.engine.try_submit(create("lamp", 1, 600)).unwrap();
    bench.log.wait_proposed(1);
    let mut stop = std::pin::pin!(bench.engine.stop());
    assert!(stop.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // It is in the mailbox by now, and the shard has turns between these.
    for _ in 0..100 {
        assert_eq!(bench.engine.inspect().await.len(), 1, "the shard ended before what it had admitted was committed");
        assert!(!is_ready(&mut create));
    }
    bench.progress.commit(GroupSequence(1));
    answer(create).await.unwrap();
    stop.await;
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_take_its_command_back() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 5, 600)).unwrap()).await.unwrap();
    drop(bench.engine.try_submit(reserve("lamp", "ann")).unwrap());
    let second = reservation(answer(bench.engine.try_submit(reserve("lamp", "bob")).unwrap()).await);
    assert_eq!(second.id.sequence.0, 2);
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_low_disk_refuses_commands_and_still_answers_reads() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 5, 600)).unwrap()).await.unwrap();
    let id = reservation(answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await).id;
    bench.disk_low.store(true, Ordering::Release);
    assert_eq!(bench.engine.try_submit(reserve("lamp", "bob")).unwrap_err(), Refusal::DiskLow);
    assert_eq!(bench.engine.try_submit(confirm(id)).unwrap_err(), Refusal::DiskLow);
    assert_eq!(reservation(answer(bench.engine.try_submit(read(id)).unwrap()).await).reserved, 1);
    bench.disk_low.store(false, Ordering::Release);
    assert_eq!(reservation(answer(bench.engine.try_submit(confirm(id)).unwrap()).await).confirmed, 1);
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_full_key_table_refuses_new_keys_and_still_knows_the_old_ones() {
    let rules = Rules { idempotency_keys_max: 2, ..RULES };
    let bench = bench(EngineOptions::default(), rules, |progress, log| Box::new(InstantLog(progress.clone(), log.clone())));
    answer(bench.engine.try_submit(create("lamp", 50, 600)).unwrap()).await.unwrap();
    for key in ["k1", "k2"] {
        assert!(answer(bench.engine.try_submit(keyed(reserve("lamp", key), key)).unwrap()).await.is_ok());
    }
    let third = answer(bench.engine.try_submit(keyed(reserve("lamp", "k3"), "k3")).unwrap()).await;
    assert_eq!(third, Err(Failure::Refusal(Refusal::KeysFull { keys_max: 2 })));
    assert!(answer(bench.engine.try_submit(keyed(reserve("lamp", "k1"), "k1")).unwrap()).await.unwrap().replayed);
    assert!(answer(bench.engine.try_submit(reserve("lamp", "k3")).unwrap()).await.is_ok(), "work without a key goes on");
    // A day later the old keys are over and make room, also when nothing without a key ever moves the log's time.
    bench.clock.set(Timestamp::from_unix_ms(START.unix_ms() + 86_400_000));
    for key in ["k3", "k4"] {
        assert!(answer(bench.engine.try_submit(keyed(reserve("lamp", key), key)).unwrap()).await.is_ok(), "{key}");
    }
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_full_key_table_opens_for_keyed_work_alone() {
    let rules = Rules { idempotency_keys_max: 2, ..RULES };
    let bench = bench(EngineOptions::default(), rules, |progress, log| Box::new(InstantLog(progress.clone(), log.clone())));
    answer(bench.engine.try_submit(create("lamp", 50, 600)).unwrap()).await.unwrap();
    for day in 0..4 {
        bench.clock.set(Timestamp::from_unix_ms(START.unix_ms() + day * 86_400_000));
        for key in ["a", "b"] {
            let key = format!("{key}{day}");
            assert!(answer(bench.engine.try_submit(keyed(reserve("lamp", &key), &key)).unwrap()).await.is_ok(), "{key}");
        }
        let third = answer(bench.engine.try_submit(keyed(reserve("lamp", "x"), "x")).unwrap()).await;
        assert_eq!(third, Err(Failure::Refusal(Refusal::KeysFull { keys_max: 2 })), "day {day}");
    }
    bench.engine.stop().await;
}

#[tokio::test]
async fn rejections_that_wait_fill_the_ring_and_nothing_else() {
    let options = EngineOptions { ring_slots: 64, batch_commands_max: 1, groups_in_flight_max: 1, ..EngineOptions::default() };
    let bench = held(options);
    let created = bench.engine.try_submit(create("lamp", 0, 600)).unwrap();
    bench.log.wait_proposed(1);
    // Nothing is committed, so every rejection has to wait for the stock's creation, whose answer waits too: 63 with it, and 64 in the ring.
    let mut admitted = Vec::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    while admitted.len() < 127 {
        match bench.engine.try_submit(reserve("lamp", "ann")) {
            Ok(pending) => admitted.push(pending),
            Err(refusal) => assert_eq!(refusal, Refusal::RingFull { slots: 64 }),
        }
        assert!(std::time::Instant::now() < deadline, "{} commands were admitted where 127 have room", admitted.len());
    }
    for _ in 0..10 {
        // The mailbox answers after at least one more look of the shard at its ring.
        bench.engine.inspect().await;
        assert_eq!(bench.engine.try_submit(reserve("lamp", "ann")).unwrap_err(), Refusal::RingFull { slots: 64 });
    }
    bench.progress.commit(GroupSequence(1));
    answer(created).await.unwrap();
    for pending in admitted {
        assert_eq!(answer(pending).await, Err(Failure::Rejection(Rejection::SoldOut { available: 0, asked: 1 })));
    }
    bench.engine.stop().await;
}

#[tokio::test]
async fn time_in_the_log_never_runs_backwards() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 5, 600)).unwrap()).await.unwrap();
    bench.clock.set(Timestamp::from_unix_ms(START.unix_ms() - 5_000));
    answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await.unwrap();
    let times: Vec<u64> = bench.log.groups().iter().map(|group| group.time.unix_ms()).collect();
    assert_eq!(times, [START.unix_ms(); 2]);
    bench.engine.stop().await;
}

#[tokio::test]
async fn time_does_not_run_backwards_after_an_answer_that_wrote_nothing() {
    let bench = instant(EngineOptions::default());
    let mut closing = create("lamp", 5, 600);
    if let Command::CreateStock { terms, .. } = &mut closing.command {
        terms.closes_at = Some(START.plus_seconds(60));
    }
    answer(bench.engine.try_submit(closing).unwrap()).await.unwrap();
    bench.clock.set(START.plus_seconds(60));
    assert_eq!(answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await, Err(Failure::Rejection(Rejection::Closed)));
    bench.clock.set(START.plus_seconds(58));
    assert_eq!(answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await, Err(Failure::Rejection(Rejection::Closed)));
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_lapse_is_logged_with_the_clock_as_its_actor() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 5, 10)).unwrap()).await.unwrap();
    let id = reservation(answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await).id;
    bench.clock.set(Timestamp::from_unix_ms(START.unix_ms() + 10_000));
    let confirmed = answer(bench.engine.try_submit(confirm(id)).unwrap()).await;
    assert_eq!(confirmed, Err(Failure::Rejection(Rejection::ReservationExpired)));
    let last = bench.log.groups().pop().unwrap();
    let entries: Vec<_> = last.entries().unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].actor, tidegate_persistence::Actor::Clock);
    assert_eq!(entries[0].event, Event::Expired { reservations: vec![id] });
    bench.engine.stop().await;
}

#[tokio::test]
async fn nothing_of_a_batch_overtakes_what_was_refused_before_it() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 1, 600)).unwrap()).await.unwrap();
    // The disk has room again from the second command on.
    let disk_low = Arc::clone(&bench.disk_low);
    disk_low.store(true, Ordering::Release);
    let batch = ["ann", "bob"].into_iter().enumerate().map(|(place, user)| {
        disk_low.store(place == 0, Ordering::Release);
        reserve("lamp", user)
    });
    let outcomes = bench.engine.submit_batch(batch).outcomes().await;
    let low = || Err(Failure::Refusal(Refusal::DiskLow));
    assert_eq!(outcomes, [low(), low()], "bob does not get what ann asked for first");
    assert!(answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await.is_ok());
    bench.engine.stop().await;
}
