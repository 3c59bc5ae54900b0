//! Explores a check: all its schedules within a bound, counted; and the same with one ordering of the code under test weakened.
//!
//! Each exploration has a process of its own, which is this test program once more and ends with the first failure. Within one process
//! a failure would leave half a schedule behind: unwinding runs destructors that take part in the model and fail in their turn, and a
//! thread that rests in the panic hook instead keeps the program from ending.

use std::collections::BTreeSet;
use std::io::{Read, Write, stdout};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, panic, thread};

use super::atomics::{self, Site};

/// Steps of one schedule at most; more means that it makes no progress.
const STEPS_MAX: usize = 20_000;

/// Room for the stack of a model's thread.
const STACK_BYTES: usize = 1 << 20;

/// Longest that one exploration may take, where nobody asked for another number of preemptions.
const PATIENCE: Duration = Duration::from_mins(15);

/// loom's own variable for the number of preemptions.
const PREEMPTIONS: &str = "LOOM_MAX_PREEMPTIONS";

/// The check that a process was started for, by its name.
const CHECK: &str = "TIDEGATE_SCHEDULES_OF";

/// The ordering that is weakened in it.
const WEAKENED: &str = "TIDEGATE_SCHEDULES_WEAKENED";

/// What the tests have in their names that explore checks.
const TESTS: &str = "schedules";

/// How a process that explored ends: none of the codes that a test program has of itself.
const HELD: i32 = 40;
const FAILED: i32 = 41;

/// What stands before the parts of a report.
const REPORT: &str = "\nschedules explored: ";
const FAILURE: &str = "failure: ";

/// Threads that do something with each other, and what must hold whatever their schedule.
pub(crate) struct Check {
    /// What holds, as a sentence; no other check has it.
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

/// Starts a thread of the model.
pub(crate) fn spawn(body: impl FnOnce() + Send + 'static) {
    let spawned = loom::thread::Builder::new().stack_size(STACK_BYTES).spawn(body);
    drop(spawned.expect("the model has room for a thread"));
}

impl Check {
    /// Explores the check, which must hold, and says how many schedules that were.
    pub(crate) fn holds(&self) {
        let Some(explored) = self.explore(None) else { return };
        self.tell(&explored);
        if let Some(failure) = explored.failure {
            panic!("{}: fails in schedule {}: {failure}", self.name, explored.schedules);
        }
    }

    /// Explores the check, which is of something wrong and must fail with `message`.
    pub(crate) fn fails_with(&self, message: &str) {
        let Some(explored) = self.explore(None) else { return };
        self.tell(&explored);
        let failure = explored.failure.unwrap_or_else(|| panic!("{}: holds in all {} schedules", self.name, explored.schedules));
        assert!(failure.contains(message), "{}: fails by another message: {failure}", self.name);
    }

    /// Weakens each ordering that any of `checks` meets outside the model, one at a time, until one of the checks fails for it. Nothing
    /// in a process that was started for another check.
    pub(crate) fn weaken_each(checks: &[&Self]) -> Option<Vec<Weakened>> {
        let sites: Vec<BTreeSet<Site>> =
            checks.iter().map(|check| check.explore(None).map(|explored| explored.sites)).collect::<Option<_>>()?;
        let all: BTreeSet<Site> = sites.iter().flatten().copied().collect();
        let weakened = all.into_iter().map(|site| {
            let caught = checks.iter().zip(&sites).filter(|(_, sites)| sites.contains(&site)).find_map(|(check, _)| {
                let explored = check.explore(Some(site))?;
                explored.failure.map(|_| (check.name, explored.schedules))
            });
            Weakened { site, caught }
        });
        Some(weakened.collect())
    }

    /// Explores the check in a process of its own. That process comes here too, and ends here; it has nothing to do with other checks.
    fn explore(&self, weakened: Option<Site>) -> Option<Explored> {
        match env::var(CHECK) {
            Err(_) => Some(self.explore_apart(weakened)),
            Ok(name) if name == self.name => self.explore_here(),
            Ok(_) => None,
        }
    }

    fn explore_apart(&self, weakened: Option<Site>) -> Explored {
        let began = Instant::now();
        let program = env::current_exe().expect("a test knows its program");
        let mut command = Command::new(program);
        command.args([TESTS, "--test-threads=1", "--nocapture"]).env(CHECK, self.name).stdout(Stdio::piped());
        if let Some(site) = weakened {
            command.env(WEAKENED, site.to_string());
        }
        let mut child = command.spawn().expect("a test can start its program");
        let mut output = child.stdout.take().expect("its output is piped");
        let (read, reads) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            let result = output.read_to_string(&mut text).map(|_| text);
            // Whoever lost patience does not listen any more.
            let _ = read.send(result);
        });
        // Its output ends with the process.
        let text = if env::var_os(PREEMPTIONS).is_some() { reads.recv().ok() } else { reads.recv_timeout(PATIENCE).ok() };
        if text.is_none() {
            child.kill().expect("a child can be killed");
        }
        let status = child.wait().expect("a child can be waited for");
        let text = text.unwrap_or_else(|| panic!("{}: not explored within {} s", self.name, PATIENCE.as_secs()));
        let text = text.expect("the output of a child can be read");
        let (schedules, sites, failure) =
            reported(&text).unwrap_or_else(|| panic!("{}: ends with {status} and no report:\n{text}", self.name));
        let expected = if failure.is_some() { FAILED } else { HELD };
        assert_eq!(status.code(), Some(expected), "{}: ends with {status}:\n{text}", self.name);
        Explored { schedules, failure, sites, took: began.elapsed() }
    }

    /// Explores the check, says on the output what came of it, and ends the process.
    fn explore_here(&self) -> ! {
        let schedules = Arc::new(AtomicUsize::new(0));
        let (reports, reported) = mpsc::channel();
        let failed = reports.clone();
        panic::set_hook(Box::new(move |info| {
            let failure = info.payload_as_str().unwrap_or("a panic without words").to_owned();
            // The first failure is the report; the process ends, wherever this thread is.
            let _ = failed.send((Some(failure), atomics::sites_met()));
            loop {
                thread::park();
            }
        }));
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(self.preemptions));
        builder.max_branches = STEPS_MAX;
        let body = self.body;
        {
            let schedules = Arc::clone(&schedules);
            thread::spawn(move || {
                atomics::weaken(env::var(WEAKENED).ok().map(|site| site.parse().expect("whoever explores apart names a site")));
                builder.check(move || {
                    schedules.fetch_add(1, Ordering::Relaxed);
                    body();
                });
                reports.send((None, atomics::sites_met())).expect("the report is waited for");
            });
        }
        let (failure, sites) = reported.recv().expect("a model ends with a report");
        let mut text = format!("{REPORT}{}\n", schedules.load(Ordering::Relaxed));
        for site in sites {
            text += &site.to_string();
            text += "\n";
        }
        if let Some(failure) = &failure {
            text += FAILURE;
            text += failure;
        }
        let told = stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush());
        process::exit(match (told, failure) {
            // Whoever explores apart has gone.
            (Err(_), _) => 1,
            (Ok(()), Some(_)) => FAILED,
            (Ok(()), None) => HELD,
        });
    }

    /// Past the capture of the tests' output: how much was explored belongs to the result.
    fn tell(&self, explored: &Explored) {
        let how = if explored.failure.is_some() { "fails in schedule" } else { "schedules" };
        let line = format!("{:>9} {how:<17} {:>6.1} s  {}", explored.schedules, explored.took.as_secs_f64(), self.name);
        writeln!(stdout(), "{line}").expect("the output takes a line");
    }
}

/// The report at the end of the output of a process that explored: how many schedules, which sites it met, and its failure.
fn reported(output: &str) -> Option<(usize, BTreeSet<Site>, Option<String>)> {
    let (_, report) = output.split_once(REPORT)?;
    let (found, failure) = match report.split_once(&format!("\n{FAILURE}")) {
        Some((found, failure)) => (found, Some(failure.to_owned())),
        None => (report, None),
    };
    let mut lines = found.lines();
    let schedules = lines.next()?.parse().ok()?;
    let sites = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
    Some((schedules, sites, failure))
}
