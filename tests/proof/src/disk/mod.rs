//! The log over a disk that fails in every way that it can be told to.
//!
//! The real log's thread writes seeded groups of several streams to a model disk behind the store's trait, with the real sidecar beside
//! it. Every call of a run is a point. At each point everything ends, with every loss that the trait allows, and the real recovery reads
//! what is left; the log then goes on and everything ends once more, at each of its points, and behind calls that fail. The sidecar, which nobody syncs, lags, is torn, cut or zeroed. At each point the next call also fails, the
//! disk is full, bits of what lies on it flip, its tail goes, and reading fails. Nothing here waits by the clock: a call that takes long
//! is one during which more is handed over.

mod check;
mod session;
mod store;
mod trial;
pub(crate) mod workload;
#[cfg(test)]
mod wrong;

use std::io;
use std::process::ExitCode;

use clap::Args;

use self::trial::{Effort, Tally, Trial};
use self::workload::Size;

/// Findings that are shown; the others are counted.
const FINDINGS_SHOWN: usize = 20;

/// Seeds of the small part, and of the whole.
const SEEDS_SHORT: u64 = 16;
const SEEDS_LONG: u64 = 500;

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// Where the randomness begins; a finding names its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this point of this seed, as a finding names it
    #[arg(long)]
    point: Option<usize>,
}

impl Options {
    fn seeds(&self) -> std::ops::Range<u64> {
        let count = match (self.point, self.short) {
            (Some(_), _) => 1,
            (None, true) => SEEDS_SHORT,
            (None, false) => SEEDS_LONG,
        };
        self.seed..self.seed.saturating_add(count)
    }
}

/// How much is tried of a seed. Every tenth has groups of thousands of events. The same whether the run is short or long, so that a
/// seed and a point are enough to see a finding again.
const fn effort(seed: u64) -> Effort {
    let is_large = seed % 10 == 5;
    Effort {
        size: if is_large { Size { groups: 6, events_max: 3_000 } } else { Size { groups: 12, events_max: 120 } },
        going_on_max: if is_large { 1 } else { 4 },
        flips: if is_large { 4 } else { 20 },
        tails: if is_large { 2 } else { 6 },
        cuts: 1,
        faults: 1,
    }
}

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    match attempt(options) {
        Ok(tally) => {
            print(&tally, options);
            if tally.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the proof itself failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(options: &Options) -> io::Result<Tally> {
    let folder = tempfile::tempdir()?;
    let mut tally = Tally::default();
    for seed in options.seeds() {
        Trial::new(|disk| Box::new(disk), seed, effort(seed), folder.path())?.run(options.point, &mut tally)?;
    }
    Ok(tally)
}

fn print(tally: &Tally, options: &Options) {
    let seeds = options.seeds();
    println!("disk: the log over a failing disk, seeds {} to {}", seeds.start, seeds.end - 1);
    for (what, count) in [
        ("runs", tally.seeds),
        ("crash points", tally.points),
        ("  behind a write", tally.writes),
        ("  behind a sync or flush", tally.syncs),
        ("disks after a crash", tally.losses),
        ("  with a torn write", tally.torn),
        ("  after going on and a second crash", tally.second),
        ("sidecars worn by a crash", tally.sidecars),
        ("calls that failed", tally.errors),
        ("  after a first crash", tally.errors_after),
        ("disks that ran full", tally.full),
        ("bits flipped", tally.flips),
        ("  named as damage", tally.flips_named),
        ("tails lost", tally.tails),
        ("  named as damage", tally.tails_named),
        ("reads that failed", tally.unread),
        ("ledgers compared", tally.ledgers),
        ("findings", tally.findings.len() as u64),
    ] {
        println!("  {what:<38} {count:>10}");
    }
    for finding in tally.findings.iter().take(FINDINGS_SHOWN) {
        println!("finding: {}\n  again: tidegate-proof disk --seed {} --point {}", finding.what, finding.seed, finding.point);
    }
    if tally.findings.len() > FINDINGS_SHOWN {
        println!("and {} findings more", tally.findings.len() - FINDINGS_SHOWN);
    }
}
