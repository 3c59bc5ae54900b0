//! One seed from its beginning to its verdict, and many of them on several threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::cluster::live;
use crate::defect::Defect;
use crate::evidence::{Call, Finding, Outcome};
use crate::invariants::judge;
use crate::report::Tally;
use crate::world::World;

/// Time of a run after which it is given up. A run takes a fraction of it.
const RUN_MAX: Duration = Duration::from_mins(10);

/// What one seed came to.
#[derive(Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What is broken.
    pub findings: Vec<Finding>,
    /// How often each fault happened, and what else is counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// The longest time in which no client heard that anything was done, in milliseconds.
    pub pause_ms_max: u64,
    /// A digest of everything that happened: the same seed has the same.
    pub digest: u64,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

thread_local! {
    /// Whether this thread is in a run, and what has panicked in it.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A panic in a run is a finding of that run; the product would have ended its node.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |panic| {
            let is_run = PANICS.with_borrow_mut(|panics| panics.as_mut().map(|panics| panics.push(panic.to_string())));
            if is_run.is_none() {
                previous(panic);
            }
        }));
    });
}

/// Lives through `seed`, with a defect or without, and judges it.
///
/// # Panics
/// When the operating system gives no runtime.
pub fn run_seed(seed: u64, defect: Option<Defect>, is_traced: bool) -> Run {
    watch_panics();
    PANICS.set(Some(Vec::new()));
    tidegate_cluster::seed_thread(seed ^ 0x5eed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime of one thread");
    let world = runtime.block_on(async { World::new(seed, defect, is_traced) });
    let local = LocalSet::new();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let living = live(Arc::clone(&world));
        runtime.block_on(local.run_until(async { timeout(RUN_MAX, living).await }))
    }));
    if let Ok(Err(_)) = lived {
        world.find("the simulation goes on", format!("it has not come to an end within {RUN_MAX:?} of its own time"));
    }
    // What was seen until here; what ends with the runtime is of no interest.
    let panics = PANICS.take().unwrap_or_default();
    drop(local);
    drop(runtime);
    for panic in panics {
        world.evidence.lock().find("the node goes on", format!("a panic: {panic}"));
    }
    let evidence = std::mem::take(&mut *world.evidence.lock());
    let mut counts = evidence.counts.clone();
    count_calls(&evidence.calls, &mut counts);
    counts.insert("groups", evidence.firsts.len() as u64);
    counts.insert("groups applied, by all nodes", evidence.applied.len() as u64);
    counts.insert("ledgers compared", evidence.images.len() as u64);
    counts.insert("views compared", evidence.viewed.len() as u64);
    // What panics while it is judged is told by the verdict.
    PANICS.set(Some(Vec::new()));
    let findings = judge(&evidence);
    PANICS.set(None);
    Run {
        seed,
        findings,
        counts,
        pause_ms_max: pause_ms_max(&evidence.calls),
        digest: world.trace.digest(),
        trace: world.trace.take_lines(),
    }
}

fn count_calls(calls: &[Call], counts: &mut BTreeMap<&'static str, u64>) {
    for call in calls {
        let what = match &call.outcome {
            Outcome::Reservation(_) | Outcome::Stock => "calls acknowledged",
            Outcome::Rejected(_) => "calls rejected",
            Outcome::Refused => "calls refused",
            Outcome::Unknown => "calls unknown",
        };
        *counts.entry(what).or_default() += 1;
    }
}

/// The longest time between two calls that were answered.
fn pause_ms_max(calls: &[Call]) -> u64 {
    let answered = |call: &&Call| !matches!(call.outcome, Outcome::Refused | Outcome::Unknown);
    let ends: Vec<u64> = calls.iter().filter(answered).map(|call| call.ended_ms).collect();
    ends.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0)
}

/// Lives through `count` seeds from `first` on, on `threads` threads, until all are through or `stop_at` of them have findings.
pub fn run_many(first: u64, count: u64, defect: Option<Defect>, threads: usize, stop_at: usize) -> Tally {
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count || tally.lock().failed() >= stop_at {
                        return;
                    }
                    let run = run_seed(first + place, defect, false);
                    tally.lock().take(run);
                }
            });
        }
    });
    tally.into_inner()
}
