//! The table at the end of a campaign.

use std::time::Duration;

use crate::campaign::{Crash, Outcome};
use crate::plan::Moment;

/// Crashes of one moment, summed up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    crashes: u64,
    /// Crashes before the directory was ever open.
    before_open: u64,
    acknowledged: u64,
    /// Groups that were there although nobody had been told.
    unacknowledged: u64,
    events: u64,
    tail_parts: u64,
    examination_max: Duration,
    /// Groups that were acknowledged and gone.
    pub(crate) lost_groups: u64,
    /// Crashes with any finding.
    findings: u64,
}

impl Tally {
    /// Adds one crash.
    pub(crate) fn add(&mut self, crash: &Crash) {
        self.crashes += 1;
        self.before_open += u64::from(!crash.was_open);
        self.acknowledged += crash.acknowledged_now;
        self.unacknowledged += crash.found.saturating_sub(crash.acknowledged);
        self.events += crash.events;
        self.tail_parts += crash.tail_parts;
        self.examination_max = self.examination_max.max(crash.examination);
        self.lost_groups += crash.lost_groups;
        self.findings += u64::from(!crash.findings.is_empty());
    }

    fn sum(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.before_open += other.before_open;
        self.acknowledged += other.acknowledged;
        self.unacknowledged += other.unacknowledged;
        self.events += other.events;
        self.tail_parts += other.tail_parts;
        self.examination_max = self.examination_max.max(other.examination_max);
        self.lost_groups += other.lost_groups;
        self.findings += other.findings;
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<18}{:>8}{:>12}{:>14}{:>12}{:>14}{:>12}{:>12.0}{:>8}{:>10}",
            self.crashes,
            self.before_open,
            self.acknowledged,
            self.events,
            self.unacknowledged,
            self.tail_parts,
            self.examination_max.as_secs_f64() * 1_000.0,
            self.lost_groups,
            self.findings,
        );
    }
}

/// Prints what a campaign came to.
pub(crate) fn print(title: &str, seed: u64, outcome: &Outcome, took: Duration) {
    println!("\n{title}, seed {seed}: {} directories in {:.0} s", outcome.directories, took.as_secs_f64());
    println!(
        "{:<18}{:>8}{:>12}{:>14}{:>12}{:>14}{:>12}{:>12}{:>8}{:>10}",
        "crashed while",
        "crashes",
        "never open",
        "acknowledged",
        "events",
        "unacked kept",
        "tail parts",
        "examine ms",
        "lost",
        "findings"
    );
    let mut total = Tally::default();
    for moment in Moment::ALL {
        if let Some(tally) = outcome.moments.get(&moment) {
            tally.print(moment.name());
            total.sum(tally);
        }
    }
    for (cut, tally) in &outcome.cuts {
        tally.print(&format!("lost {}", cut.name()));
    }
    total.print("all");
}
