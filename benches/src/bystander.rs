//! Who stands beside a measurement and does nothing: what keeps a bystander from running keeps the node from running too, and is not its fault.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a bystander rests between two looks at the clock.
const REST: Duration = Duration::from_millis(2);

/// Bystanders, one on each processor that this process may use.
pub struct Bystanders {
    threads: Vec<(Sender<()>, JoinHandle<Duration>)>,
    time: ProcessorTime,
}

/// What they saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// The longest for which one of them was kept from running.
    pub held_up: Duration,
    /// The share of all processors' time that the machine beneath gave to others; of a machine of its own, 0.
    pub stolen: f64,
}

impl Bystanders {
    /// Begins to watch.
    pub fn begin() -> Self {
        let processors = sched_getaffinity(None).unwrap_or_default();
        let threads = (0..CpuSet::MAX_CPU).filter(|processor| processors.is_set(*processor)).map(|processor| {
            let (stop, stopped) = mpsc::channel();
            let stand = move || {
                let mut only = CpuSet::new();
                only.set(processor);
                // One that may not choose its processor still sees something.
                let _ = sched_setaffinity(None, &only);
                let mut held_up = Duration::ZERO;
                loop {
                    let from = Instant::now();
                    let is_over = stopped.recv_timeout(REST) != Err(RecvTimeoutError::Timeout);
                    held_up = held_up.max(from.elapsed().saturating_sub(REST));
                    if is_over {
                        return held_up;
                    }
                }
            };
            (stop, thread::spawn(stand))
        });
        Self { threads: threads.collect(), time: ProcessorTime::look() }
    }

    /// What was seen since the beginning.
    pub fn end(self) -> Seen {
        let time = ProcessorTime::look();
        let all = time.all.saturating_sub(self.time.all).max(1);
        let stolen = time.stolen.saturating_sub(self.time.stolen);
        let held_up = self.threads.into_iter().map(|(stop, thread)| {
            drop(stop);
            // A bystander has nothing to panic about.
            thread.join().unwrap_or_default()
        });
        #[expect(clippy::cast_precision_loss, reason = "ticks of a span of minutes")]
        Seen { held_up: held_up.max().unwrap_or_default(), stolen: stolen as f64 / all as f64 }
    }
}

/// Time of all processors since the machine's start, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ProcessorTime {
    all: u64,
    stolen: u64,
}

impl ProcessorTime {
    fn look() -> Self {
        Self::of(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// Of the first line: user, nice, system, idle, waiting for disks, interrupts (two), stolen; what follows is in user and nice already.
    fn of(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|ticks| ticks.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stolen_is_part_of_all() {
        let stat = "cpu  100 1 20 300 4 0 5 70 9 9\ncpu0 50 0 10 150 2 0 2 35 0 0\n";
        assert_eq!(ProcessorTime::of(stat), ProcessorTime { all: 500, stolen: 70 });
        assert_eq!(ProcessorTime::of(""), ProcessorTime::default());
        let before = ProcessorTime::look();
        assert!(before.all > 0 && before.stolen < before.all, "{before:?}");
    }

    #[test]
    fn a_bystander_stands_on_each_processor_and_sees_how_long_it_was_held_up() {
        let bystanders = Bystanders::begin();
        assert_eq!(bystanders.threads.len(), thread::available_parallelism().unwrap().get());
        let seen = bystanders.end();
        assert!(seen.held_up < Duration::from_mins(1) && (0.0..=1.0).contains(&seen.stolen), "{seen:?}");
    }
}
