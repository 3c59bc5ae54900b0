//! Explores a check: all its schedules within a bound, counted; and the same with one ordering of the code under test weakened.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::atomics::{self, Site};

/// Steps of one schedule at most; more means that it makes no progress.
const STEPS_MAX: usize = 20_000;

/// Room for the stack of a model's thread.
const STACK_BYTES: usize = 1 << 20;

/// Threads that do something with each other, and what must hold whatever their schedule.
pub(crate) struct Check {
    /// What holds, as a sentence.
    pub(crate) name: &'static str,
    /// Most preemptions of a schedule, unless `LOOM_MAX_PREEMPTIONS` gives another number.
    pub(crate) preemptions: usize,
    /// Sets the threads up, for one schedule.
    pub(crate) body: fn(),
}

/// What exploring a check came to.
struct Explored {
    schedules: usize,
    failure: Option<String>,
    sites: BTreeSet<Site>,
    took: Duration,
}

/// One ordering that was weakened.
pub(crate) struct Weakened {
    /// Where.
    pub(crate) site: Site,
    /// The check that failed for it, and in which schedule, if any did.
    pub(crate) caught: Option<(&'static str, usize)>,
}

/// How a thread that explores ends.
struct Report {
    failure: Option<String>,
    sites: BTreeSet<Site>,
}

thread_local! {
    static REPORTS: RefCell<Option<mpsc::Sender<Report>>> = const { RefCell::new(None) };
}

/// From now on a panic on a thread that explores is its report, and the thread rests for ever. Unwinding would run the destructors of
/// half a schedule, which take part in the model and would fail in their turn.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let Some(reports) = REPORTS.take() else { return before(info) };
            let failure = info.payload_as_str().unwrap_or("a panic without words").to_owned();
            if reports.send(Report { failure: Some(failure), sites: atomics::sites_met() }).is_ok() {
                loop {
                    thread::park();
                }
            }
        }));
    });
}

/// Starts a thread of the model.
pub(crate) fn spawn(body: impl FnOnce() + Send + 'static) {
    let spawned = loom::thread::Builder::new().stack_size(STACK_BYTES).spawn(body);
    drop(spawned.expect("the model has room for a thread"));
}

impl Check {
    /// Explores the check, which must hold, and says how many schedules that were.
    pub(crate) fn holds(&self) {
        let explored = self.explore(None);
        self.tell(&explored);
        if let Some(failure) = explored.failure {
            panic!("{}: fails in schedule {}: {failure}", self.name, explored.schedules);
        }
    }

    /// Explores the check, which is of something wrong and must fail with `message`.
    pub(crate) fn fails_with(&self, message: &str) {
        let explored = self.explore(None);
        self.tell(&explored);
        let failure = explored.failure.unwrap_or_else(|| panic!("{}: holds in all {} schedules", self.name, explored.schedules));
        assert!(failure.contains(message), "{}: fails by another message: {failure}", self.name);
    }

    /// Weakens each ordering that any of `checks` meets outside the model, one at a time, until one of the checks fails for it.
    pub(crate) fn weaken_each(checks: &[&Self]) -> Vec<Weakened> {
        let sites: Vec<BTreeSet<Site>> = checks.iter().map(|check| check.explore(None).sites).collect();
        let all: BTreeSet<Site> = sites.iter().flatten().copied().collect();
        all.into_iter()
            .map(|site| {
                let caught = checks.iter().zip(&sites).filter(|(_, sites)| sites.contains(&site)).find_map(|(check, _)| {
                    let explored = check.explore(Some(site));
                    explored.failure.map(|_| (check.name, explored.schedules))
                });
                Weakened { site, caught }
            })
            .collect()
    }

    fn explore(&self, weakened: Option<Site>) -> Explored {
        report_panics();
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(self.preemptions));
        builder.max_branches = STEPS_MAX;
        let schedules = Arc::new(AtomicUsize::new(0));
        let (body, began) = (self.body, Instant::now());
        let (reports, reported) = mpsc::channel();
        {
            let schedules = Arc::clone(&schedules);
            thread::spawn(move || {
                REPORTS.set(Some(reports.clone()));
                atomics::weaken(weakened);
                builder.check(move || {
                    schedules.fetch_add(1, Ordering::Relaxed);
                    body();
                });
                reports.send(Report { failure: None, sites: atomics::sites_met() }).expect("whoever explores waits for the report");
            });
        }
        let Report { failure, sites } = reported.recv().expect("a model ends with a report");
        Explored { schedules: schedules.load(Ordering::Relaxed), failure, sites, took: began.elapsed() }
    }

    /// Past the capture of the tests' output: how much was explored belongs to the result.
    fn tell(&self, explored: &Explored) {
        let how = if explored.failure.is_some() { "fails in schedule" } else { "schedules" };
        let line = format!("{:>9} {how:<17} {:>6.1} s  {}", explored.schedules, explored.took.as_secs_f64(), self.name);
        writeln!(std::io::stdout(), "{line}").expect("the output takes a line");
    }
}
