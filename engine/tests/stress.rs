//! Many threads at a real engine, its real ring and its real actors, with a log on a thread of its own: no wake-up is lost, no answer is lost,
//! early, or a stranger's, and whoever has an answer finds its effect in the views.
//!
//! What loom checks over all schedules on a small model (`src/schedules.rs`), this tries on the machine and with the foreign crates.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::{PATIENCE, RULES, START, create, reserve, sku};
use tidegate_engine::{
    CommitLog, CommitProgress, Content, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, Fault, ManualClock, Pending,
    Refusal, Router, Sealing, ShardStart, partition_of,
};
use tidegate_persistence::{Group, GroupSequence, Term};
use tidegate_stock::Ledger;
use tokio::runtime;

/// Of the pauses and places of the commands.
const SEED: u64 = 1;
const SHARDS: u16 = 2;
const THREADS: u64 = 6;
/// Of each thread.
const COMMANDS: usize = 4_000;
/// Answers that one thread waits for at once at most.
const WINDOW: usize = 8;
/// Engines that end while threads submit.
const ENDS: u64 = 60;

/// A log whose thread makes groups durable and commits them. How many events are durable is ordered by nothing but the engine.
struct OtherThreadsLog(mpsc::Sender<Group>);

impl CommitLog for OtherThreadsLog {
    fn propose(&mut self, _: Term, group: Group) {
        // The thread has ended where the log was made to fail.
        drop(self.0.send(group));
    }
}

struct Machine {
    engine: Engine,
    /// For each shard.
    progress: Vec<Arc<CommitProgress>>,
    durable_events: Vec<Arc<AtomicU64>>,
    /// The name of a stock on each.
    skus: Vec<String>,
}

/// An engine whose shards have one stock each. The log of each fails behind `fails_behind` groups, if that is given.
fn machine(fails_behind: Option<u64>) -> Machine {
    let router = Router::new(SHARDS);
    let sealing = Sealing::new(&[7; 32]);
    let (mut shards, mut progress, mut durable_events) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SHARDS {
        let (groups, proposed) = mpsc::channel::<Group>();
        let (watermark, durable) = (CommitProgress::new(GroupSequence(0)), Arc::new(AtomicU64::new(0)));
        progress.push(Arc::clone(&watermark));
        durable_events.push(Arc::clone(&durable));
        shards.push(ShardStart {
            ledger: Ledger::new(RULES, sealing.table_seed()),
            log: Box::new(OtherThreadsLog(groups)),
            progress: Arc::clone(&watermark),
            quorum: None,
        });
        thread::spawn(move || {
            while let Ok(group) = proposed.recv() {
                // One sync for all that has gathered, as the log does it.
                let newest = proposed.try_iter().fold(group, |before, group| {
                    durable.fetch_add(u64::from(before.events), Ordering::Relaxed);
                    group
                });
                durable.fetch_add(u64::from(newest.events), Ordering::Relaxed);
                watermark.commit(newest.sequence);
                if fails_behind.is_some_and(|last| newest.sequence.0 >= last) {
                    watermark.fail();
                    return;
                }
            }
        });
    }
    let engine = Engine::start(EngineParts {
        options: EngineOptions { ring_slots: 64, ..EngineOptions::default() },
        sealing,
        clock: Arc::new(ManualClock::new(START)),
        metrics: Arc::new(EngineMetrics::default()),
        disk_low: Arc::new(AtomicBool::new(false)),
        history: None,
        shards,
    })
    .expect("the engine starts");
    let skus = (0..SHARDS)
        .map(|shard| {
            let names = (0..1_000).map(|number| format!("stock-{number}"));
            let mut on_shard = names.filter(|name| router.shard_of(partition_of(&sku(name))).is_some_and(|of| of.0 == shard));
            on_shard.next().expect("every shard has a stock among a thousand")
        })
        .collect();
    Machine { engine, progress, durable_events, skus }
}

fn executor() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be made")
}

async fn heard(pending: Pending) -> Result<tidegate_engine::Answer, Failure> {
    tokio::time::timeout(PATIENCE, pending).await.expect("a wake-up or an answer is lost")
}

/// Reserves one unit after the other, at times none for a while, and looks at each answer.
fn buy(machine: &Machine, thread: u64, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed + thread);
    let executor = executor();
    let mut waiting: Vec<(usize, String, Pending)> = Vec::new();
    for number in 0..COMMANDS {
        let (shard, user) = (random.random_range(0..machine.skus.len()), format!("u{thread}-{number}"));
        match machine.engine.try_submit(reserve(&machine.skus[shard], &user)) {
            Ok(pending) => waiting.push((shard, user, pending)),
            Err(refusal) => assert!(matches!(refusal, Refusal::RingFull { .. }), "{refusal}"),
        }
        // Mostly short enough that the shard does not even look, now and then long enough that it parks.
        for _ in 0..1 << random.random_range(0..14) {
            std::hint::spin_loop();
        }
        if waiting.len() == WINDOW || random.random_bool(0.4) {
            for (shard, user, pending) in waiting.drain(..) {
                check(machine, shard, &user, executor.block_on(heard(pending)));
            }
        }
    }
    for (shard, user, pending) in waiting {
        check(machine, shard, &user, executor.block_on(heard(pending)));
    }
}

fn check(machine: &Machine, shard: usize, user: &str, outcome: Result<tidegate_engine::Answer, Failure>) {
    let durable = machine.durable_events[shard].load(Ordering::Relaxed);
    let Content::Reservation(view) = outcome.expect("a read is answered").content else { panic!("a stranger's answer") };
    assert_eq!((view.user.as_str(), view.sku.as_str()), (user, machine.skus[shard].as_str()), "a stranger's answer");
    // The first event created the stock, each other one is a grant.
    assert!(durable > view.id.sequence.0, "an early answer: grant {} where {durable} events are durable", view.id.sequence.0);
    let seen = machine.engine.stock(&view.sku).expect("an answer whose effect is not in the views").view;
    assert!(seen.reserved >= view.id.sequence.0, "an answer whose effect is not in the views");
}

#[test]
fn many_threads_lose_no_wake_up_and_get_no_early_answer() {
    let seed = SEED;
    println!("seed {seed}");
    let machine = machine(None);
    let executor = executor();
    for name in &machine.skus {
        executor.block_on(heard(machine.engine.try_submit(create(name, 1_000_000, 600)).unwrap())).unwrap();
    }
    let is_over = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut looks, mut last) = (0_u64, 0);
            while !is_over.load(Ordering::Relaxed) {
                let view = machine.engine.stock(&sku(&machine.skus[0])).unwrap().view;
                assert_eq!(view.available + view.reserved + view.sold, view.allotted, "a torn view");
                assert!(view.reserved >= last, "a view runs backwards");
                (looks, last) = (looks + 1, view.reserved);
            }
            looks
        });
        let machine = &machine;
        let buyers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || buy(machine, thread, seed))).collect();
        let ended: Vec<_> = buyers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        for buyer in ended {
            buyer.expect("a buyer's promise was broken");
        }
        reader.join().expect("the reader's promise was broken")
    });
    assert!(looks > 0);
    executor.block_on(machine.engine.stop());
    // Every event of the log is the creation of a stock, or a grant that the views show.
    for (name, durable) in machine.skus.iter().zip(&machine.durable_events) {
        assert_eq!(machine.engine.stock(&sku(name)).unwrap().view.reserved + 1, durable.load(Ordering::Relaxed));
    }
}

/// Threads submit until they are refused because the engine ends; each of their commands must come to an end while the engine is still
/// held.
fn submit_to_the_end(machine: &Machine, thread: u64) {
    let executor = executor();
    for number in 0.. {
        let shard = usize::from(number % 2 == thread % 2);
        let outcome = match machine.engine.try_submit(reserve(&machine.skus[shard], &format!("u{thread}-{number}"))) {
            Ok(pending) => executor.block_on(heard(pending)),
            Err(Refusal::RingFull { .. }) => continue,
            Err(refusal) => Err(refusal.into()),
        };
        match outcome {
            Ok(_) | Err(Failure::Fault(Fault::OutcomeUnknown)) => {}
            Err(Failure::Refusal(Refusal::Stopping)) => return,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn whoever_submits_while_the_engine_ends_is_not_left_waiting() {
    for end in 0..ENDS {
        // The log fails sooner or later, or the engine is stopped.
        let is_failing = end % 2 == 0;
        let machine = machine(is_failing.then_some(2 + end));
        let executor = executor();
        for name in &machine.skus {
            executor.block_on(heard(machine.engine.try_submit(create(name, 1_000_000, 600)).unwrap())).unwrap();
        }
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let machine = &machine;
                scope.spawn(move || submit_to_the_end(machine, thread));
            }
            if !is_failing {
                while machine.progress.iter().any(|progress| progress.committed() < GroupSequence(2 + end)) {
                    thread::yield_now();
                }
            }
            if !is_failing {
                executor.block_on(machine.engine.stop());
            }
        });
        executor.block_on(machine.engine.stop());
    }
}
