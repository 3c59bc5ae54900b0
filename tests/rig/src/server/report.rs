//! Counts of crashes, and the table at the end of a campaign.

use std::time::Duration;

use super::plan::Moment;
use super::{Outcome, UnderWay};

/// Crashes, summed up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(super) crashes: u64,
    /// Crashes that hit what they were aimed at.
    pub(super) aimed: u64,
    /// Crashes that left a snapshot unfinished.
    pub(super) unfinished: u64,
    /// Crashes while a segment was being deleted.
    pub(super) removing: u64,
    /// Snapshots begun under load, and segments given back.
    pub(super) snapshots: u64,
    pub(super) given_back: u64,
    /// Changes that were acknowledged.
    pub(super) acknowledged: u64,
    /// Changes that the feed told of under load.
    pub(super) changes: u64,
    /// Changes asked for whose answer nobody heard.
    pub(super) unknown: u64,
    /// Those that were asked again until they were answered, and how many of them had happened.
    pub(super) resolved: u64,
    pub(super) had_happened: u64,
    pub(super) refused: u64,
    pub(super) start_max: Duration,
    /// Changes that were acknowledged, or shown by the feed, and are gone.
    pub(crate) lost: u64,
    pub(super) findings: u64,
}

impl Tally {
    /// Notes what the node was doing when it was crashed.
    pub(super) fn note(&mut self, under_way: &UnderWay) {
        self.unfinished += u64::from(under_way.unfinished > 0);
        self.removing += u64::from(under_way.removed > 0);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.aimed += other.aimed;
        self.unfinished += other.unfinished;
        self.removing += other.removing;
        self.snapshots += other.snapshots;
        self.given_back += other.given_back;
        self.acknowledged += other.acknowledged;
        self.changes += other.changes;
        self.unknown += other.unknown;
        self.resolved += other.resolved;
        self.had_happened += other.had_happened;
        self.refused += other.refused;
        self.start_max = self.start_max.max(other.start_max);
        self.lost += other.lost;
        self.findings += other.findings;
    }

    /// One crash in a line.
    pub(super) fn line(&self) -> String {
        format!(
            "{} acknowledged, {} unknown, {} resolved; {} snapshots begun, {} segments given back{}{}; next start {} ms",
            self.acknowledged,
            self.unknown,
            self.resolved,
            self.snapshots,
            self.given_back,
            if self.unfinished > 0 { "; a snapshot unfinished" } else { "" },
            if self.removing > 0 { "; a segment half removed" } else { "" },
            self.start_max.as_millis(),
        )
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<18}{:>8}{:>7}{:>11}{:>9}{:>10}{:>11}{:>13}{:>9}{:>8}{:>9}{:>9}{:>8}{:>9}{:>6}{:>9}",
            self.crashes,
            self.aimed,
            self.unfinished,
            self.removing,
            self.snapshots,
            self.given_back,
            self.acknowledged,
            self.changes,
            self.unknown,
            self.resolved,
            self.had_happened,
            self.refused,
            self.start_max.as_millis(),
            self.lost,
            self.findings,
        );
    }
}

/// Prints what a campaign came to.
pub(crate) fn print(title: &str, seed: u64, outcome: &Outcome, took: Duration) {
    println!(
        "\n{title}, seed {seed}: {} directories, of which {} were verified in the end, in {:.0} s",
        outcome.directories,
        outcome.verified,
        took.as_secs_f64()
    );
    println!(
        "{:<18}{:>8}{:>7}{:>11}{:>9}{:>10}{:>11}{:>13}{:>9}{:>8}{:>9}{:>9}{:>8}{:>9}{:>6}{:>9}",
        "crashed while",
        "crashes",
        "aimed",
        "unfinished",
        "removing",
        "snapshots",
        "given back",
        "acknowledged",
        "changes",
        "unknown",
        "resolved",
        "happened",
        "refused",
        "start ms",
        "lost",
        "findings"
    );
    let mut total = Tally::default();
    for moment in Moment::ALL {
        if let Some(tally) = outcome.moments.get(&moment) {
            tally.print(moment.name());
            total.add(tally);
        }
    }
    for (cut, tally) in &outcome.cuts {
        tally.print(&format!("lost {}", cut.name()));
    }
    total.print("all");
}
