//! The shard's loop: it parks and wakes, lapses on time, leaves its mailbox room, and takes the process down when it panics.

mod support;

use std::process::Command as Process;
use std::sync::Arc;

use support::{PATIENCE, START, answer, create, held, instant, read, reservation, reserve, sku};
use tidegate_engine::{EngineOptions, SystemClock, abort_on_panic};
use tidegate_persistence::GroupSequence;
use tidegate_stock::{Event, Timestamp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_shard_wakes_for_every_command() {
    let bench = instant(EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 1_000_000, 600)).unwrap()).await.unwrap();
    // Each round waits for its answer, so the shard finds nothing and parks between most of them. Nothing is held, so no lapse wakes it: a
    // lost wake-up ends the test.
    let rounds = (0..4).map(|_| {
        let engine = bench.engine.clone();
        tokio::spawn(async move {
            for _ in 0..5_000 {
                assert!(!answer(engine.try_submit(create("lamp", 1_000_000, 600)).unwrap()).await.unwrap().created);
            }
        })
    });
    for caller in rounds.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    bench.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mailbox_is_served_while_commands_flood_the_ring() {
    let bench = instant(EngineOptions { ring_slots: 1_024, batch_commands_max: 64, ..EngineOptions::default() });
    answer(bench.engine.try_submit(create("lamp", 1_000_000_000, 600)).unwrap()).await.unwrap();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = {
        let (engine, is_over) = (bench.engine.clone(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut admitted = 0_u64;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                // Refusals are the point: the ring is never empty while the reports below are asked for.
                admitted += u64::from(engine.try_submit(reserve("lamp", "flooder")).is_ok());
            }
            admitted
        })
    };
    let mut reservations = 0;
    for _ in 0..50 {
        let reports = tokio::time::timeout(PATIENCE, bench.engine.inspect()).await.expect("the mailbox is served");
        assert!(reports[0].reservations >= reservations);
        reservations = reports[0].reservations;
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    let admitted = flood.join().unwrap();
    bench.engine.stop().await;
    assert_eq!(bench.engine.stock(&sku("lamp")).unwrap().view.reserved, admitted);
}

#[tokio::test]
async fn unpaid_units_come_back_within_a_second_without_any_traffic() {
    let bench = support::bench_on(Arc::new(SystemClock), EngineOptions::default());
    answer(bench.engine.try_submit(create("lamp", 5, 1)).unwrap()).await.unwrap();
    let held = reservation(answer(bench.engine.try_submit(reserve("lamp", "ann")).unwrap()).await);
    assert_eq!(bench.engine.stock(&sku("lamp")).unwrap().view.available, 4);
    let lapsed = bench.log.clone();
    tokio::task::spawn_blocking(move || lapsed.wait_proposed(3)).await.unwrap();
    let group = bench.log.groups().pop().unwrap();
    let late = group.time.unix_ms() - held.expires_at.unix_ms();
    assert!(late < 1_000, "the units came back {late} ms after the hold's end");
    let entry = group.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.event, Event::Expired { reservations: vec![held.id] });
    bench.engine.stop().await;
}

#[tokio::test]
async fn a_mass_lapse_goes_in_events_of_a_thousand_with_a_batch_of_commands_between() {
    const HOLDS: usize = 5_000;
    let bench = held(EngineOptions { groups_in_flight_max: 1, group_events_max: 1, ..EngineOptions::default() });
    let commits = bench.progress.clone();
    // Commits everything that has been proposed so far; with one group in flight that is one group.
    let commit_all = |bench: &support::Bench| commits.commit(GroupSequence(bench.log.len() as u64));
    let mut pending = vec![bench.engine.try_submit(create("lamp", 10_000, 10)).unwrap()];
    for user in 0..HOLDS {
        pending.push(bench.engine.try_submit(reserve("lamp", &format!("u{user}"))).unwrap());
    }
    while bench.log.groups().iter().map(|group| group.events as usize).sum::<usize>() < HOLDS + 1 {
        bench.log.wait_proposed(bench.log.len().max(1));
        commit_all(&bench);
        tokio::task::yield_now().await;
    }
    commit_all(&bench);
    let first = reservation(answer(pending.swap_remove(1)).await);
    let before = bench.log.len();

    bench.clock.set(Timestamp::from_unix_ms(START.unix_ms() + 60_000));
    let mut look = bench.engine.try_submit(read(first.id)).unwrap();
    bench.log.wait_proposed(before + 1);
    // The first lapse event is proposed and uncommitted; a command that arrives now is in the batch after at most one further lapse.
    let newcomer = bench.engine.try_submit(reserve("lamp", "newcomer")).unwrap();
    let mut answered_after = None;
    let mut newcomer = Some(newcomer);
    let mut events = Vec::new();
    for group in before.. {
        bench.log.wait_proposed(group + 1);
        events.extend(bench.log.groups()[group].entries().unwrap().map(|entry| entry.unwrap().event));
        let lapsed: usize = events
            .iter()
            .map(|event| match event {
                Event::Expired { reservations } => reservations.len(),
                _ => 0,
            })
            .sum();
        if events.iter().any(|event| matches!(event, Event::Reserved { .. })) && answered_after.is_none() {
            answered_after = Some(lapsed);
        }
        commits.commit(GroupSequence(group as u64 + 1));
        if lapsed == HOLDS {
            break;
        }
    }
    let largest = events.iter().map(|event| if let Event::Expired { reservations } = event { reservations.len() } else { 0 }).max();
    assert_eq!(largest, Some(1_000));
    let answered_after = answered_after.expect("the newcomer was decided among the lapses");
    assert!(answered_after < HOLDS, "the newcomer waited for all {HOLDS} lapses");
    answer(newcomer.take().unwrap()).await.unwrap();
    assert!(support::is_ready(&mut look) || answer(look).await.is_ok());
    bench.engine.stop().await;
}

#[test]
fn a_panic_on_any_thread_ends_the_process() {
    const CHILD: &str = "TIDEGATE_PANIC_CHILD";
    if std::env::var_os(CHILD).is_some() {
        abort_on_panic(|| false, || ());
        let _ = std::thread::spawn(|| panic!("a made-up broken invariant")).join();
        // Reached only if the panic was swallowed.
        std::process::exit(0);
    }
    let status = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_panic_on_any_thread_ends_the_process", "--nocapture"])
        .env(CHILD, "1")
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "the child ended with {status}");
}
