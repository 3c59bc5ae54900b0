//! A campaign: crash after crash on one directory after the other, each followed by an examination of what is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_persistence::{Durability, disk};

use crate::checker::{Books, Finding, Seen};
use crate::error::RigError;
use crate::plan::{Moment, Plan, Planner};
use crate::protocol::Line;
use crate::report::Tally;
use crate::session::{Heard, Session};
use crate::site::{Cut, Site};

/// Longest silence of a process before it counts as stuck.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// Free bytes of the site below which the next crash gets a new directory.
const FREE_BYTES_MIN: u64 = 400 * 1024 * 1024;

/// Lines of a process' log that are shown with a finding.
const LOG_LINES_SHOWN: usize = 6;

/// What a campaign tries.
#[derive(Debug)]
pub(crate) struct Campaign {
    pub(crate) seed: u64,
    pub(crate) crashes: u32,
    /// The durability of the writers, in turn.
    pub(crate) durabilities: Vec<Durability>,
    /// Whether groups are to be lost: then every crash has acknowledged groups to lose, on a new directory.
    pub(crate) is_lossy: bool,
    /// Where what a finding was found in is copied to.
    pub(crate) evidence: Option<PathBuf>,
}

/// What a campaign saw.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) moments: BTreeMap<Moment, Tally>,
    /// Empty where no power was cut.
    pub(crate) cuts: BTreeMap<Cut, Tally>,
    pub(crate) directories: u64,
    pub(crate) findings: u64,
}

impl Outcome {
    /// Groups that were acknowledged and are gone.
    pub(crate) fn lost_groups(&self) -> u64 {
        self.moments.values().map(|tally| tally.lost_groups).sum()
    }
}

/// The directory of the moment.
#[derive(Debug, Default)]
struct Directory {
    number: u64,
    crashes: u64,
    seed: u64,
    books: Books,
    events: u64,
}

impl Campaign {
    /// Runs it on `site`; logs of its processes go below `work`.
    pub(crate) fn run(&self, mut site: Site, work: &Path) -> Result<Outcome, RigError> {
        let logs = tempfile::Builder::new().prefix("tidegate-rig-").tempdir_in(work).map_err(RigError::io(work))?;
        let mut planner = Planner::new(self.seed);
        let mut outcome = Outcome::default();
        let mut directory = Directory::default();
        let mut is_broken = false;
        for number in 0..self.crashes {
            let plan = if self.is_lossy { planner.next_writing() } else { planner.next(is_broken || is_full(&site)?) };
            if plan.is_fresh() {
                site.renew()?;
                let number = directory.number + 1;
                directory = Directory { number, seed: self.seed.wrapping_add(number << 32), ..Directory::default() };
            }
            directory.crashes += 1;
            let durability = self.durabilities[number as usize % self.durabilities.len()];
            let crash = self.crash(&mut site, &logs, &mut directory, plan, durability, number)?;
            println!(
                "{:>4}  directory {:>2}.{:<2}  {:<12} {:<11} {:>3} groups + {:>6} us, {durability}: {} groups acknowledged, {} there, {:.0} ms",
                number + 1,
                directory.number,
                directory.crashes,
                plan.moment.name(),
                if site.has_power() { plan.cut.name() } else { "kill" },
                plan.groups,
                plan.delay.as_micros(),
                crash.acknowledged,
                crash.found,
                crash.examination.as_secs_f64() * 1_000.0,
            );
            is_broken = !crash.findings.is_empty();
            for finding in &crash.findings {
                println!("      FOUND: {finding}");
            }
            outcome.findings += crash.findings.len() as u64;
            outcome.moments.entry(plan.moment).or_default().add(&crash);
            if site.has_power() {
                outcome.cuts.entry(plan.cut).or_default().add(&crash);
            }
        }
        outcome.directories = directory.number;
        Ok(outcome)
    }

    fn crash(
        &self,
        site: &mut Site,
        logs: &TempDir,
        directory: &mut Directory,
        plan: Plan,
        durability: Durability,
        number: u32,
    ) -> Result<Crash, RigError> {
        let log = logs.path().join("writer.log");
        let acknowledged_before = directory.books.acknowledged();
        let mut findings = write_and_crash(site, &log, directory, plan, durability)?;
        let was_open = directory.books.is_created();
        let name = format!("{}-{}", if site.has_power() { "cut" } else { "kill" }, number + 1);
        let evidence = self.evidence.as_ref().filter(|_| !self.is_lossy).map(|evidence| evidence.join(name));
        site.restore(evidence.as_deref())?;

        let acknowledged = directory.books.acknowledged();
        let began = Instant::now();
        let examination = logs.path().join("examination.log");
        let seen = examine(&site.data(), &examination, directory, &mut findings)?;
        let lost_before = findings.len();
        findings.extend(directory.books.judge(&seen));
        let lost_groups = findings[lost_before..].iter().map(Finding::lost_groups).sum();
        if findings.is_empty() {
            if let Some(evidence) = evidence.filter(|evidence| evidence.exists()) {
                remove(&evidence)?;
            }
        } else if !self.is_lossy {
            show_log(&log);
            show_log(&examination);
        }
        let events = seen.events.saturating_sub(directory.events);
        directory.events = seen.events;
        Ok(Crash {
            was_open,
            acknowledged,
            acknowledged_now: acknowledged - acknowledged_before,
            found: seen.groups.values().sum(),
            events,
            tail_parts: seen.tail_parts,
            examination: began.elapsed(),
            lost_groups,
            findings,
        })
    }
}

/// What one crash came to.
#[derive(Debug)]
pub(crate) struct Crash {
    /// Whether the directory had been open before.
    pub(crate) was_open: bool,
    /// Groups acknowledged in the directory's life, and those of this crash's writer among them.
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_now: u64,
    /// Groups found.
    pub(crate) found: u64,
    /// Events found that no examination had seen before.
    pub(crate) events: u64,
    pub(crate) tail_parts: u64,
    pub(crate) examination: Duration,
    pub(crate) lost_groups: u64,
    pub(crate) findings: Vec<Finding>,
}

/// Starts a writer, waits for the planned moment, and crashes it there.
fn write_and_crash(
    site: &mut Site,
    log: &Path,
    directory: &mut Directory,
    plan: Plan,
    durability: Durability,
) -> Result<Vec<Finding>, RigError> {
    let arguments = [
        "writer",
        "--data-dir",
        &path_text(&site.data()),
        "--seed",
        &directory.seed.to_string(),
        "--durability",
        &durability.to_string(),
    ];
    let switch = site.switch(plan.cut)?;
    let writer = Session::start(&arguments.map(str::to_owned), log)?;
    let mut findings = Vec::new();
    let mut silence = Instant::now() + SILENCE_MAX;
    let enough = directory.books.acknowledged() + plan.groups;
    let mut is_opening = false;
    // Filled once the writer has got as far as planned; until then it may take as long as it wants between two lines.
    let mut moment = None;
    loop {
        match writer.hear(moment.unwrap_or(silence))? {
            Heard::Line(Line::Failed(what)) => findings.push(Finding::Told(format!("the writer failed before the crash: {what}"))),
            Heard::Line(line) => {
                silence = Instant::now() + SILENCE_MAX;
                is_opening |= line == Line::Opening;
                findings.extend(directory.books.hear(&line).err());
                if moment.is_none() && is_opening && directory.books.acknowledged() >= enough {
                    moment = Some(Instant::now() + plan.delay);
                }
                // Lines come in faster than the moment is looked for.
                if moment.is_some_and(|moment| Instant::now() >= moment) {
                    break;
                }
            }
            Heard::Silence if moment.is_some() => break,
            Heard::Silence => {
                findings.push(Finding::Told(format!("the writer said nothing for {} s", SILENCE_MAX.as_secs())));
                break;
            }
            Heard::End => {
                findings.push(Finding::Told("the writer ended before the crash".to_owned()));
                break;
            }
        }
    }
    if let Some(switch) = switch {
        switch.cut()?;
    }
    for line in writer.kill()? {
        // An acknowledgement that was on its way is one. That the log fails without power is as it should be.
        findings.extend(directory.books.hear(&line).err());
    }
    Ok(findings)
}

/// Opens the directory in a process of its own and hears what it holds.
fn examine(data: &Path, log: &Path, directory: &mut Directory, findings: &mut Vec<Finding>) -> Result<Seen, RigError> {
    let arguments = ["examine", "--data-dir", &path_text(data), "--seed", &directory.seed.to_string()];
    let examination = Session::start(&arguments.map(str::to_owned), log)?;
    let mut seen = Seen::default();
    let mut has_failed = false;
    loop {
        match examination.hear(Instant::now() + SILENCE_MAX)? {
            Heard::Line(Line::Done) => return Ok(seen),
            Heard::Line(Line::Failed(what)) => {
                has_failed = true;
                findings.push(Finding::Told(what));
            }
            Heard::Line(line) => {
                findings.extend(directory.books.hear(&line).err());
                seen.hear(&line);
            }
            Heard::Silence => {
                findings.push(Finding::Told(format!("the examination said nothing for {} s", SILENCE_MAX.as_secs())));
                return Ok(seen);
            }
            Heard::End => {
                if !has_failed {
                    findings.push(Finding::Told("the examination ended by itself".to_owned()));
                }
                return Ok(seen);
            }
        }
    }
}

fn is_full(site: &Site) -> Result<bool, RigError> {
    let data = site.data();
    let place = data.parent().unwrap_or(&data);
    Ok(disk::free_bytes(place).map_err(RigError::io(place))? < FREE_BYTES_MIN)
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn remove(path: &Path) -> Result<(), RigError> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(RigError::io(path))
}

fn show_log(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().collect::<Vec<_>>();
    for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
        println!("      | {line}");
    }
}
