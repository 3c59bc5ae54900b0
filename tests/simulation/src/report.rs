//! What many runs came to, and how it is shown.

use std::collections::BTreeMap;
use std::fmt;

use crate::evidence::Finding;
use crate::run::Run;

/// Seeds with findings that are shown; the others are counted.
const SEEDS_SHOWN: usize = 20;

/// Findings of one seed that are shown.
const FINDINGS_SHOWN: usize = 5;

/// The sums of many runs.
#[derive(Debug, Default)]
pub struct Tally {
    seeds: u64,
    counts: BTreeMap<&'static str, u64>,
    pauses_ms: Vec<u64>,
    findings: BTreeMap<u64, Vec<Finding>>,
}

impl Tally {
    /// Adds a run.
    pub fn take(&mut self, run: Run) {
        self.seeds += 1;
        for (what, count) in run.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.pauses_ms.push(run.pause_ms_max);
        if !run.findings.is_empty() {
            self.findings.insert(run.seed, run.findings);
        }
    }

    /// How many seeds were run.
    pub const fn seeds(&self) -> u64 {
        self.seeds
    }

    /// How many of them have findings.
    pub fn failed(&self) -> usize {
        self.findings.len()
    }

    /// The findings, by seed.
    pub const fn findings(&self) -> &BTreeMap<u64, Vec<Finding>> {
        &self.findings
    }

    /// How often `what` was counted.
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "  {:<38} {:>10}", "seeds", self.seeds)?;
        for (what, count) in &self.counts {
            writeln!(formatter, "  {what:<38} {count:>10}")?;
        }
        let mut pauses = self.pauses_ms.clone();
        pauses.sort_unstable();
        if let (Some(middle), Some(longest)) = (pauses.get(pauses.len() / 2), pauses.last()) {
            writeln!(formatter, "  {:<38} {middle:>10}", "longest pause of a run, median, ms")?;
            writeln!(formatter, "  {:<38} {longest:>10}", "longest pause of a run, longest, ms")?;
        }
        writeln!(formatter, "  {:<38} {:>10}", "seeds with findings", self.findings.len())?;
        for (seed, findings) in self.findings.iter().take(SEEDS_SHOWN) {
            for finding in findings.iter().take(FINDINGS_SHOWN) {
                writeln!(formatter, "finding of seed {seed}: {finding}")?;
            }
            if findings.len() > FINDINGS_SHOWN {
                writeln!(formatter, "  and {} findings more of seed {seed}", findings.len() - FINDINGS_SHOWN)?;
            }
            writeln!(formatter, "  again: tidegate-simulation --seed {seed}")?;
        }
        if self.findings.len() > SEEDS_SHOWN {
            writeln!(formatter, "and {} seeds more with findings", self.findings.len() - SEEDS_SHOWN)?;
        }
        Ok(())
    }
}
