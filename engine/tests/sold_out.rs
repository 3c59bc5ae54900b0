//! Sold out is told from the view only to whom the shard would tell the same.

mod support;

use std::sync::Arc;

use support::{
    PATIENCE, RULES, START, actor, answer, create, held, instant, is_ready, keyed, release, reservation, reserve, restarted,
    sealing, sku,
};
use tidegate_engine::{Answer, Engine, EngineOptions, Failure, Submission, partition_of};
use tidegate_persistence::GroupSequence;
use tidegate_stock::{
    Allotment, Command, Delta, Ledger, Quantity, Reason, Recall, Rejection, Request, StockTerms, UserId, decide,
    sold_out_to_a_stranger,
};

const SOLD_OUT: Failure = Failure::Rejection(Rejection::SoldOut { available: 0, asked: 1 });
const LIMIT_REACHED: Failure = Failure::Rejection(Rejection::LimitReached { limit: 1, has: 1, asked: 1 });

/// A stock of which every user may have one unit.
fn one_for_each(name: &str, units: u64) -> Submission {
    let mut submission = create(name, units, 600);
    if let Command::CreateStock { terms, .. } = &mut submission.command {
        terms.per_user_limit = Some(Quantity::ONE);
    }
    submission
}

#[tokio::test]
async fn who_is_known_is_never_taken_for_a_stranger() {
    let bench = held(EngineOptions::default());
    let engine = &bench.engine;
    let created = engine.try_submit(one_for_each("lamp", 1)).unwrap();
    bench.log.wait_proposed(1);
    bench.progress.commit(GroupSequence(1));
    answer(created).await.unwrap();
    let grant = engine.try_submit(keyed(reserve("lamp", "ann"), "click")).unwrap();
    bench.log.wait_proposed(2);
    bench.progress.commit(GroupSequence(2));
    let granted = reservation(answer(grant).await);

    // From here on whatever the shard says waits for a commit that does not come.
    let other = engine.try_submit(create("fan", 1, 600)).unwrap();
    bench.log.wait_proposed(3);
    let stranger = engine.try_submit(reserve("lamp", "bob")).unwrap();
    let keyed_stranger = engine.try_submit(keyed(reserve("lamp", "cat"), "other")).unwrap();
    let mut again = engine.try_submit(reserve("lamp", "ann")).unwrap();
    let mut repeat = engine.try_submit(keyed(reserve("lamp", "ann"), "click")).unwrap();
    let mut taken_key = engine.try_submit(keyed(reserve("lamp", "dan"), "click")).unwrap();
    assert_eq!(answer(stranger).await, Err(SOLD_OUT));
    assert_eq!(answer(keyed_stranger).await, Err(SOLD_OUT));
    assert!(!is_ready(&mut again) && !is_ready(&mut repeat) && !is_ready(&mut taken_key));

    bench.progress.commit(GroupSequence(3));
    answer(other).await.unwrap();
    assert_eq!(answer(again).await, Err(LIMIT_REACHED));
    assert_eq!(reservation(answer(repeat).await).id, granted.id);
    assert_eq!(answer(taken_key).await, Err(Failure::Rejection(Rejection::IdempotencyKeyReused)));
    engine.stop().await;
}

#[tokio::test]
async fn a_repeat_waits_behind_its_first_attempt_that_nobody_has_decided_yet() {
    let bench = held(EngineOptions {
        ring_slots: 64,
        batch_commands_max: 1,
        group_events_max: 1,
        groups_in_flight_max: 1,
        ..EngineOptions::default()
    });
    let engine = &bench.engine;
    let created = engine.try_submit(create("lamp", 1, 600)).unwrap();
    bench.log.wait_proposed(1);
    bench.progress.commit(GroupSequence(1));
    answer(created).await.unwrap();
    let grant = engine.try_submit(reserve("lamp", "ann")).unwrap();
    bench.log.wait_proposed(2);
    // The next event fills the open group, so that everything behind it stays in the ring: there is one group in flight already.
    let other = engine.try_submit(create("fan", 1, 600)).unwrap();
    let delta = Delta::new(1).unwrap();
    let command = Command::AdjustStock { sku: sku("lamp"), delta, reason: Reason::new("found").unwrap() };
    let adjusted = engine.try_submit(Submission { command, key: None, actor: actor() }).unwrap();
    let first = engine.try_submit(keyed(reserve("lamp", "bob"), "click")).unwrap();
    bench.progress.commit(GroupSequence(2));
    answer(grant).await.unwrap();
    bench.log.wait_proposed(3);

    // Sold out is shown, and the unit that the first attempt will get is still to be decided on.
    assert_eq!(ask(engine, keyed(reserve("lamp", "cat"), "other")).await, Err(SOLD_OUT));
    let mut repeat = engine.try_submit(keyed(reserve("lamp", "bob"), "click")).unwrap();
    assert!(!is_ready(&mut repeat));
    for sequence in 3..=5 {
        bench.log.wait_proposed(sequence);
        bench.progress.commit(GroupSequence(sequence as u64));
    }
    answer(other).await.unwrap();
    answer(adjusted).await.unwrap();
    let (first, repeat) = (answer(first).await.unwrap(), answer(repeat).await.unwrap());
    assert_eq!((first.replayed, repeat.replayed), (false, true));
    assert_eq!(first.content, repeat.content);
    engine.stop().await;
}

#[tokio::test]
async fn units_that_came_back_are_granted_to_strangers_at_once() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 1, 600)).unwrap()).await.unwrap();
    for round in 0..100 {
        let granted = reservation(ask(&bench.engine, reserve("lamp", &format!("winner-{round}"))).await);
        assert_eq!(ask(&bench.engine, reserve("lamp", &format!("loser-{round}"))).await, Err(SOLD_OUT));
        ask(&bench.engine, release(granted.id)).await.unwrap();
    }
    bench.engine.stop().await;
}

#[tokio::test]
async fn after_a_restart_who_was_known_is_known() {
    // More than the shard looks at in one turn.
    const USERS: usize = 3_000;
    let sealing = sealing();
    let mut ledger = Ledger::new(RULES, sealing.table_seed());
    let mut apply = |submission: Submission| {
        let idempotency = submission.key.as_ref().map(|key| sealing.fingerprint(key, &submission.command));
        let request = Request { command: submission.command, idempotency };
        let decision = decide(&ledger, &request, START, Recall::NotTried).unwrap();
        drop(ledger.apply(&decision.event.unwrap(), START));
    };
    apply(one_for_each("lamp", USERS as u64));
    for user in 0..USERS {
        apply(keyed(reserve("lamp", &format!("u{user}")), &format!("k{user}")));
    }
    let bench = restarted(EngineOptions::default(), ledger, GroupSequence(1));
    for user in (0..USERS).rev() {
        let (name, key) = (format!("u{user}"), format!("k{user}"));
        assert_eq!(ask(&bench.engine, reserve("lamp", &name)).await, Err(LIMIT_REACHED), "{name}");
        let repeat = ask(&bench.engine, keyed(reserve("lamp", &name), &key)).await.unwrap();
        assert!(repeat.replayed, "{key}");
        assert_eq!(ask(&bench.engine, reserve("lamp", &format!("stranger-{user}"))).await, Err(SOLD_OUT));
    }
    bench.engine.stop().await;
}

/// Callers that ask again as soon as they have been granted something, while the filter is made anew again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_new_filter_forgets_anybody() {
    const CALLERS: usize = 8;
    // Each grant adds a user and a key, and a filter of 4 KiB is made anew after some 4,096.
    const GRANTS: usize = 1_500;
    const ROUNDS_MAX: usize = 1_000_000;
    let bench = Arc::new(instant(EngineOptions { known_filter_bytes_max: 4 * 1024, ..EngineOptions::default() }));
    answer(bench.engine.try_submit(one_for_each("lamp", 3)).unwrap()).await.unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let mut grants = 0;
                for round in 0..ROUNDS_MAX {
                    if grants == GRANTS {
                        break;
                    }
                    let name = format!("u{caller}-{round}");
                    let key = format!("k{caller}-{round}");
                    let granted = match ask(&bench.engine, keyed(reserve("lamp", &name), &key)).await {
                        Ok(answer) => reservation(Ok(answer)),
                        Err(failure) => {
                            assert!(matches!(failure, Failure::Rejection(Rejection::SoldOut { .. })), "{failure}");
                            continue;
                        }
                    };
                    grants += 1;
                    assert_eq!(ask(&bench.engine, reserve("lamp", &name)).await, Err(LIMIT_REACHED), "{name}");
                    assert!(ask(&bench.engine, keyed(reserve("lamp", &name), &key)).await.unwrap().replayed, "{key}");
                    ask(&bench.engine, release(granted.id)).await.unwrap();
                }
                grants
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(tokio::time::timeout(PATIENCE * 3, caller).await.unwrap().unwrap(), GRANTS);
    }
    assert_eq!(bench.engine.stock(&sku("lamp")).unwrap().view.available, 3);
    bench.engine.stop().await;
}

#[test]
fn a_stranger_hears_what_the_rules_say() {
    let mut told = 0;
    let (past, future) = (Some(START.plus_seconds(0)), Some(START.plus_seconds(60)));
    for units in 0..3 {
        for limit in [None, Quantity::new(1).ok(), Quantity::new(2).ok()] {
            for (opens_at, closes_at) in [(None, None), (past, None), (future, None), (None, past), (None, future)] {
                for step in [None, Some(tidegate_stock::LifeStep::Pause), Some(tidegate_stock::LifeStep::Close)] {
                    let mut ledger = Ledger::new(RULES, 1);
                    let terms = StockTerms { per_user_limit: limit, opens_at, closes_at, ..support::terms(600) };
                    let (sku, quantity) = (sku("lamp"), Allotment::new(units).unwrap());
                    let create = Command::CreateStock { partition: partition_of(&sku), sku: sku.clone(), quantity, terms };
                    let steps = step.map(|step| Command::StepStock { sku: sku.clone(), step });
                    for command in [create].into_iter().chain(steps) {
                        let decision = decide(&ledger, &Request { command, idempotency: None }, START, Recall::NotTried).unwrap();
                        drop(ledger.apply(&decision.event.unwrap(), START));
                    }
                    let view = ledger.stocks().next().unwrap();
                    for (asked, hold) in [(1, None), (2, None), (3, None), (1, Some(3_601))] {
                        let (quantity, hold) =
                            (Quantity::new(asked).unwrap(), hold.map(|hold| tidegate_stock::HoldSeconds::new(hold).unwrap()));
                        let user = UserId::new("stranger").unwrap();
                        let command = Command::Reserve { sku: sku.clone(), user, quantity, hold_seconds: hold, reference: None };
                        let decision = decide(&ledger, &Request { command, idempotency: None }, START, Recall::NotTried).unwrap();
                        let expected = decision.outcome.err().filter(|rejection| matches!(rejection, Rejection::SoldOut { .. }));
                        let heard = sold_out_to_a_stranger(&view, view.available, quantity, hold, START);
                        assert_eq!(heard, expected, "{view:?}, {asked} asked");
                        told += usize::from(heard.is_some());
                    }
                }
            }
        }
    }
    assert!(told > 20, "{told}");
}

async fn ask(engine: &Engine, submission: Submission) -> Result<Answer, Failure> {
    answer(engine.try_submit(submission).expect("a ring that is nearly empty takes it")).await
}
