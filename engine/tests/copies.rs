//! Copies of a shard's ledger, made while it works; and marks in its log.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::Arc;
use std::time::Instant;

use support::{
    Bench, HeldLog, PATIENCE, RULES, START, answer, confirm, create, held, instant, keyed, loaded, release, reservation, reserve,
    sku, tiered,
};
use tempfile::TempDir;
use tidegate_engine::{Answer, EngineOptions, Failure, LedgerCopy, Submission, copy_whole, snapshot_items};
use tidegate_persistence::{GroupSequence, History, HistoryOptions, SNAPSHOT_BLOCK_BYTES_MAX, StreamId};
use tidegate_stock::{Command, Ledger, Loader, UserId};

fn history(folder: &TempDir) -> Arc<History> {
    Arc::new(History::open(folder.path(), &HistoryOptions::default()).unwrap())
}

async fn call(bench: &Bench, submission: Submission) -> Result<Answer, Failure> {
    answer(bench.engine.try_submit(submission).unwrap()).await
}

/// Whether a copy comes to its end.
async fn has_end(mut copy: LedgerCopy) -> bool {
    let read = move || {
        loop {
            match copy.next_block() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Whether `ledger`, a copy that stands at `at`, and the log behind it are what the whole log is.
fn check_with_log(mut ledger: Ledger, at: GroupSequence, log: &HeldLog) {
    let groups = log.groups();
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

/// Grants `count` units of the lamp, each to a user of a name as long as one in a shop may be.
async fn rush(bench: &Bench, count: usize) {
    for round in 0..count / 1_000 {
        let batch = (0..1_000).map(|number| reserve("lamp", &format!("{round:06}-{number:06}-{}", "x".repeat(22))));
        assert!(bench.engine.submit_batch(batch).outcomes().await.iter().all(Result::is_ok));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_nobody_takes_while_all_holds_lapse_is_whole_and_comes_in_blocks_that_fit() {
    const HOLDS: usize = 30_000;
    let bench = instant(EngineOptions::default());
    call(&bench, create("lamp", 1_000_000, 600)).await.unwrap();
    rush(&bench, HOLDS).await;
    let copy = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    let at = copy.at();
    bench.clock.set(START.plus_seconds(601));
    let began = Instant::now();
    while bench.engine.stock(&sku("lamp")).unwrap().view.reserved > 0 {
        assert!(began.elapsed() < PATIENCE, "the holds do not lapse");
        tokio::task::yield_now().await;
    }
    let (ledger, items) = loaded(copy).await;
    assert_eq!(ledger.open_holds(), HOLDS as u64, "the copy is of the moment before");
    assert_eq!(items as usize, 1 + 1 + 2 * HOLDS + 1, "its begin, the stock, users with a reservation each, its end");
    bench.engine.stop().await;
    check_with_log(ledger, at, &bench.log);
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
    let copy = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
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
    assert_eq!(copy.is_committed(), Ok(true));
    let (ledger, items) = loaded(copy).await;
    load.await.unwrap();
    assert!(items > 40_000, "{items} items of 20,000 reservations with a key each, and their users");
    bench.engine.stop().await;
    check_with_log(ledger, at, &bench.log);
}

#[tokio::test]
async fn a_copy_counts_only_once_its_last_group_is_committed() {
    let bench = held(EngineOptions::default());
    let created = bench.engine.try_submit(create("lamp", 10, 600)).unwrap();
    bench.log.wait_proposed(1);
    let copy = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    assert_eq!(copy.at(), GroupSequence(1));
    assert_eq!(copy.is_committed(), Ok(false), "what it holds may never have happened");
    bench.progress.commit(GroupSequence(1));
    answer(created).await.unwrap();
    assert_eq!(copy.is_committed(), Ok(true));
    drop(copy);
    bench.engine.stop().await;
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
    let first = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    let second = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    assert!(!has_end(first).await, "another one was asked for");
    bench.engine.stop().await;
    assert!(!has_end(second).await, "the engine has stopped");
    assert!(bench.engine.copy_ledger(StreamId::log(0)).await.is_err());
    assert!(bench.engine.copy_ledger(StreamId::log(7)).await.is_err());
}

#[tokio::test]
async fn a_mark_is_a_group_of_nothing_and_the_views_hold_as_of_it() {
    let bench = instant(EngineOptions::default());
    let as_of = |name: &str| bench.engine.stock(&sku(name)).unwrap().as_of.group;
    call(&bench, create("lamp", 10, 600)).await.unwrap();
    call(&bench, create("cup", 10, 600)).await.unwrap();
    assert_eq!((as_of("lamp"), as_of("cup")), (GroupSequence(2), GroupSequence(2)), "a quiet stock is as new as its stream");
    let id = reservation(call(&bench, reserve("cup", "ann")).await).id;
    call(&bench, release(id)).await.unwrap();
    assert_eq!((as_of("lamp"), as_of("cup")), (GroupSequence(4), GroupSequence(4)));
    bench.engine.mark_log(StreamId::log(0)).await.unwrap();
    bench.log.wait_proposed(5);
    let copy = bench.engine.copy_ledger(StreamId::log(0)).await.unwrap();
    assert_eq!(copy.at(), GroupSequence(5), "a copy that is asked for afterwards stands behind it");
    let groups = bench.log.groups();
    let mark = &groups[4];
    assert_eq!((mark.sequence, mark.time, mark.events, mark.entries().unwrap().count()), (GroupSequence(5), START, 0, 0));
    let began = Instant::now();
    while as_of("lamp") < GroupSequence(5) {
        assert!(began.elapsed() < PATIENCE, "the mark is not shown");
        tokio::task::yield_now().await;
    }
    bench.engine.stop().await;
    assert!(bench.engine.mark_log(StreamId::log(0)).await.is_err());
    assert!(bench.engine.mark_log(StreamId::log(7)).await.is_err());
    assert_eq!(bench.log.len(), 5);
}

#[tokio::test]
async fn a_ledger_that_no_shard_has_is_copied_whole_as_often_as_one_likes() {
    let bench = instant(EngineOptions::default());
    call(&bench, create("lamp", 1_000_000, 600)).await.unwrap();
    call(&bench, keyed(reserve("lamp", "ann"), "a")).await.unwrap();
    rush(&bench, 20_000).await;
    let (mut ledger, items) = loaded(bench.engine.copy_ledger(StreamId::log(0)).await.unwrap()).await;
    bench.engine.stop().await;
    // Whoever takes it may give up in between.
    let mut blocks = 0;
    let given_up = copy_whole(&mut ledger, |_| {
        blocks += 1;
        if blocks == 2 { Err("no room") } else { Ok(()) }
    });
    assert_eq!((given_up, blocks), (Err("no room"), 2));
    let (mut loader, mut copied) = (Loader::new(RULES, 98), 0);
    copy_whole(&mut ledger, |block| {
        assert!((1..=SNAPSHOT_BLOCK_BYTES_MAX).contains(&block.bytes.len()), "a block of {} bytes", block.bytes.len());
        copied += block.items;
        snapshot_items(&block.bytes).try_for_each(|item| loader.add(item.unwrap()))
    })
    .unwrap();
    let again = loader.finish().unwrap();
    assert_eq!(copied, items);
    assert_eq!(again.stocks().collect::<Vec<_>>(), ledger.stocks().collect::<Vec<_>>());
    assert_eq!(again.reservations().collect::<Vec<_>>(), ledger.reservations().collect::<Vec<_>>());
    assert_eq!(again.key_count(), ledger.key_count());
}
