//! `tidegate load`: asks a running stock authority for what a sale would ask, measures its answers, and checks that no unit went astray.
//!
//! It owns the course of a load: stocks, threads, the end, the check. The arithmetic of it ([`schedule`], [`zipf`], [`sizing`],
//! [`tally`], [`conserve`], [`report`]) knows no socket; connections ([`link`], [`crate::target`]) know no reservation. It sees what any
//! client sees.

mod conserve;
mod link;
mod pacer;
mod plan;
mod progress;
mod report;
mod schedule;
mod sizing;
mod stocks;
mod tally;
mod wire;
mod words;
mod worker;
mod zipf;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

pub(crate) use self::plan::LoadOptions;
use self::plan::{Plan, PlanError};
use self::progress::Progress;
use self::report::{Closing, Ended, Evidence, Report};
use self::stocks::{Closed, StockError};
use self::tally::Tally;
use self::wire::Heading;
use self::worker::{Course, Driven, Live, drive};
use crate::child::interrupted;
use crate::target::{Target, TargetError};

/// How long nothing may be answered while connections cannot be made, before the run is ended.
const UNREACHABLE_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks at how the run stands.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Descriptors that are needed besides the connections'.
const DESCRIPTORS_BESIDES: u64 = 64;

/// What `--help` says above the options. Examples and exit codes are in the manual's page.
pub(crate) const ABOUT: &str = "\
Opens stocks at a running authority, sends reservations for them as a sale would, measures how long the answers take, and then reads \
the stocks and holds them against what was answered. Nothing else on the target is touched, but its log keeps what was done: point it \
at the machines of a sale before the sale, not during it.

How fast:
  Closed loop (the default): each of --connections asks again as soon as it is answered. It finds how much the target can do. Its \
latencies are what those few callers waited; a slow target is asked less.
  Open loop (--rate): requests are due at their times whatever becomes of those before them, as buyers are who do not know each \
other. It finds what buyers would wait at that rate.

How latency is measured:
  From the time that a request was due, not from when it could be sent, to its last byte: a request that had to wait for a free \
connection, because those before it were slow, has waited as a buyer would have (no coordinated omission). In a closed loop a request \
is due when it is sent. A request without an answer counts with the time until it was given up, one that never was sent with the \
time until the end. Percentiles are exact to three digits (HdrHistogram), in milliseconds, of the requests that were due after the \
warm-up; counts of outcomes include the warm-up. `sent late` is how long after its time a request was sent; when the rate was not \
kept, a warning says so.

What is an error:
  A success and the domain's no (409: sold_out, limit_reached and the like) are answers. Everything else is an error: another \
code by its name, connect_error, connection_lost, no_answer_in_time, unreadable_answer. Nothing is asked again. A run whose target \
cannot be connected to for 5 s ends early.

What is checked at the end:
  Of every product, that available + reserved + sold is allotted, and that sold and reserved units are those that were granted, \
confirmed and released. A command without an answer may have happened, so it makes the check a band by its units; holds that may \
have expired do too.";

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The options are no load.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A stock could not be opened.
    #[error(transparent)]
    Stock(#[from] StockError),
    /// The operating system failed.
    #[error("the load could not {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// More connections than this process may have.
    #[error("--connections is {connections} where this process may open {descriptors} files: raise the limit (ulimit -n)")]
    Descriptors {
        /// Connections asked for.
        connections: u32,
        /// The limit of open files.
        descriptors: u64,
    },
    /// A signal asked to end before there was anything to tell, or twice.
    #[error("interrupted; stocks that were opened as {0}-* stay open")]
    Interrupted(String),
}

impl LoadError {
    /// Whether what was asked for is wrong, and not what came of it.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::Plan(_) => true,
            Self::Target(error) => error.is_usage(),
            Self::Stock(_) | Self::System { .. } | Self::Descriptors { .. } | Self::Interrupted(_) => false,
        }
    }
}

/// Runs a load and prints what it found. Success only if nothing speaks against the run. Makes a runtime and threads of its own, so
/// it must not be called in one.
///
/// # Errors
/// When there is nothing to print. Stocks that were opened by then stay open.
pub(crate) fn run(options: LoadOptions) -> Result<ExitCode, LoadError> {
    let any_seed = getrandom::u32().map_err(|error| LoadError::System { what: "draw a seed", source: io::Error::other(error) })?;
    let plan = Arc::new(Plan::new(options, any_seed)?);
    let options = &plan.options;
    let target = Target::find(&options.target, options.key_file.as_deref(), options.ca_file.as_deref())?;
    raise_descriptors(&plan)?;
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(512).build();
    let runtime = runtime.map_err(|source| LoadError::System { what: "set up its runtime", source })?;
    let report = runtime.block_on(hold(&plan, &target));
    // After a second signal some threads may still wait for answers.
    runtime.shutdown_background();
    let report = report?;
    print(&report, plan.options.json).map_err(|source| LoadError::System { what: "print its result", source })?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn raise_descriptors(plan: &Plan) -> Result<(), LoadError> {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, it is as it was, and judged below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let limit = getrlimit(Resource::Nofile).current;
    match limit.filter(|limit| *limit < u64::from(plan.connections) + DESCRIPTORS_BESIDES) {
        Some(descriptors) => Err(LoadError::Descriptors { connections: plan.connections, descriptors }),
        None => Ok(()),
    }
}

async fn hold(plan: &Arc<Plan>, target: &Target) -> Result<Report, LoadError> {
    let given_up = || LoadError::Interrupted(plan.prefix.clone());
    let progress = Progress::new(plan.whole());
    progress.phase("opening", format!("{} stocks", plan.skus.len()));
    tokio::select! {
        opened = stocks::open(plan, target) => opened?,
        signal = interrupted() => return Err(signal_error(signal, given_up())),
    }
    let start = Instant::now();
    let (driven, ended) = drive_all(plan, target, start, &progress).await?;
    let finish = finish(plan, target, start, driven, ended, &progress);
    tokio::select! {
        report = finish => {
            progress.finish();
            Ok(report)
        }
        signal = interrupted() => Err(signal_error(signal, given_up())),
    }
}

fn signal_error(signal: io::Result<()>, interrupted: LoadError) -> LoadError {
    match signal {
        Ok(()) => interrupted,
        Err(source) => LoadError::System { what: "wait for signals", source },
    }
}

/// Runs every thread to its end, and ends them early when the target is gone or a signal asks for it.
async fn drive_all(
    plan: &Arc<Plan>,
    target: &Target,
    start: Instant,
    progress: &Progress,
) -> Result<(Vec<Driven>, Ended), LoadError> {
    let live = Arc::new(Live::default());
    let (stop, heeded) = watch::channel(false);
    let mut threads = JoinSet::new();
    for thread in 0..plan.options.threads {
        let course = Course {
            plan: Arc::clone(plan),
            target: target.clone(),
            heading: Heading::of(target),
            live: Arc::clone(&live),
            start,
            stop: heeded.clone(),
        };
        threads.spawn_blocking(move || drive(&course, thread));
    }
    progress.phase("running", String::new());
    let mut driven = Vec::new();
    let mut ended = None;
    let mut look = interval(LOOK_EVERY);
    let mut reach = Reach::default();
    let mut seen = (start, 0);
    let mut signal = Box::pin(interrupted());
    loop {
        tokio::select! {
            joined = threads.join_next() => match joined {
                None => break,
                Some(Ok(result)) => driven.push(result.map_err(|source| LoadError::System { what: "run a thread", source })?),
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            },
            asked = &mut signal => {
                if asked.is_err() || ended == Some(Ended::Interrupted) {
                    return Err(signal_error(asked, LoadError::Interrupted(plan.prefix.clone())));
                }
                ended = Some(Ended::Interrupted);
                stop.send_replace(true);
                signal = Box::pin(interrupted());
            }
            _ = look.tick() => {
                let now = Instant::now();
                let answers = live.answers.load(Ordering::Relaxed);
                let errors = live.errors.load(Ordering::Relaxed);
                progress.run(now - start, per_second(answers - seen.1, now - seen.0), answers, errors);
                seen = (now, answers);
                if ended.is_none() && reach.is_lost(answers, live.unconnected.load(Ordering::Relaxed), now) {
                    ended = Some(Ended::Unreachable);
                    stop.send_replace(true);
                }
            }
        }
    }
    let is_early = || start.elapsed() < plan.whole();
    Ok((driven, ended.unwrap_or_else(|| if is_early() { Ended::Requests } else { Ended::Duration })))
}

/// Whether the target is still there.
#[derive(Default)]
struct Reach {
    answers: u64,
    unconnected: u64,
    /// When connections began to fail, if nothing was answered since.
    failing_since: Option<Instant>,
}

impl Reach {
    /// Whether connections fail, and nothing was answered for [`UNREACHABLE_MAX`]. Both counts only grow.
    fn is_lost(&mut self, answers: u64, unconnected: u64, now: Instant) -> bool {
        if answers != self.answers {
            self.failing_since = None;
        } else if unconnected != self.unconnected {
            self.failing_since.get_or_insert(now);
        }
        (self.answers, self.unconnected) = (answers, unconnected);
        self.failing_since.is_some_and(|since| now.saturating_duration_since(since) >= UNREACHABLE_MAX)
    }
}

fn per_second(count: u64, time: Duration) -> u64 {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000) / milliseconds
}

/// Reads and closes the stocks, and judges the run.
async fn finish(
    plan: &Arc<Plan>,
    target: &Target,
    start: Instant,
    driven: Vec<Driven>,
    ended: Ended,
    progress: &Progress,
) -> Report {
    progress.phase("checking", format!("{} stocks", plan.skus.len()));
    let counters = stocks::read(plan, target).await.map_err(|error| with_source(&error));
    let since_start = start.elapsed();
    let closing = if plan.options.keep {
        Closing::Kept
    } else {
        match stocks::close(plan, target).await {
            Ok(Closed::All) => Closing::Closed,
            Ok(Closed::NotOffered(status)) => Closing::Failed(format!("the target answers {status} to it, as older ones do")),
            Err(error) => Closing::Failed(with_source(&error)),
        }
    };
    let measure_from = start + plan.options.warmup;
    let end = start + plan.whole();
    let last_answer = driven.iter().filter_map(|driven| driven.last_answer).max().unwrap_or(measure_from);
    let measured_to = if ended == Ended::Duration { end } else { last_answer.min(end) };
    let mut tally = Tally::new(plan.skus.len());
    for driven in &driven {
        tally.add(&driven.tally);
    }
    let measured = measured_to.saturating_duration_since(measure_from);
    Report::new(plan, &target.url, &Evidence { tally, ended, measured, since_start, counters, closing })
}

fn with_source(error: &StockError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn print(report: &Report, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
        // Whoever reads the object has it there; whoever watches should not need to.
        for line in report.warnings.iter().map(|text| ("warning", text)).chain(report.failures.iter().map(|text| ("failure", text)))
        {
            // Nobody watches a closed standard error.
            let _ = writeln!(io::stderr(), "{}: {}", line.0, line.1);
        }
    } else {
        writeln!(out, "{report}")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_lost_when_connections_fail_and_nothing_is_answered_for_long() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reach = Reach::default();
        // Slow, but connected.
        assert!(!reach.is_lost(0, 0, at(4)) && !reach.is_lost(0, 0, at(20)));
        // Connections fail, while others still answer.
        assert!(!reach.is_lost(10, 1, at(21)) && !reach.is_lost(20, 2, at(27)));
        // Now none does: 5 s later it is lost, and not before.
        assert!(!reach.is_lost(20, 3, at(28)) && !reach.is_lost(20, 3, at(29)) && !reach.is_lost(20, 4, at(32)));
        assert!(reach.is_lost(20, 4, at(33)));
        // One answer, and it is back.
        assert!(!reach.is_lost(21, 9, at(34)) && !reach.is_lost(21, 9, at(60)));
    }

    #[test]
    fn rates_are_counted_in_milliseconds() {
        assert_eq!(per_second(50, Duration::from_millis(200)), 250);
        assert_eq!(per_second(0, Duration::ZERO), 0);
    }
}
