//! Deliberate defects: each is switched on by itself in a test build, and the levels of tests are run until one fails.
//!
//! A level that catches a defect has shown that it can fail. Every test program is run once without a defect before it is run with one,
//! because what fails by itself shows nothing. The list of defects is the crate `tidegate-mutants`; which test is known to catch which is
//! `known`, and the short form runs no other. Where the code breaks is the business of the rooms.

mod known;
mod programs;
mod trial;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tidegate_mutants::{Mutant, Room};

use self::known::Known;
use self::programs::{BuildError, Level, Program, Targets};
use self::trial::Verdict;

/// Longest run of a test program without a defect.
const ALONE_MAX: Duration = Duration::from_mins(5);

/// A run with a defect may take so many times as long as the one without, and so much more: what fails often waits for something first.
const WITH_DEFECT_TIMES: u32 = 4;
const WITH_DEFECT_MORE: Duration = Duration::from_mins(1);

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the test that is known to catch each defect, for every change
    #[arg(long)]
    short: bool,
    /// Only these defects, by name
    #[arg(value_name = "DEFECT", value_parser = defect)]
    only: Vec<Mutant>,
    /// Only say which defects there are
    #[arg(long)]
    list: bool,
    /// The source tree
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."), hide_default_value = true)]
    source: PathBuf,
}

fn defect(name: &str) -> Result<Mutant, String> {
    Mutant::named(name).ok_or_else(|| "there is no deliberate defect of this name; --list says which there are".to_owned())
}

/// Why nothing can be said of the tests.
#[derive(Debug, thiserror::Error)]
enum MutantsError {
    /// The test programs could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A test program could not be run.
    #[error("a test program could not be run: {0}")]
    Run(#[from] io::Error),
    /// A test program fails without a defect.
    #[error("{program} fails without a defect, so it shows nothing: {verdict}\n{output}")]
    FailsAlone {
        /// Which.
        program: String,
        /// How.
        verdict: Verdict,
        /// What it wrote.
        output: String,
    },
    /// The test that is known to catch a defect is not there.
    #[error("{known}, which is known to catch {mutant}, is not there")]
    Unknown {
        /// The defect.
        mutant: Mutant,
        /// The test.
        known: Known,
    },
}

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    if options.list {
        for mutant in Mutant::ALL {
            println!("{mutant:<28}{:<13}{}", format!("{:?}", mutant.room()).to_lowercase(), mutant.breaks());
        }
        return ExitCode::SUCCESS;
    }
    match attempt(options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the proof itself failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many defects nothing caught.
fn attempt(options: &Options) -> Result<usize, MutantsError> {
    let mutants = if options.only.is_empty() { Mutant::ALL } else { options.only.as_slice() };
    let began = Instant::now();
    let targets = if options.short { Targets::Tests(known::targets(mutants)) } else { Targets::All };
    let mut levels = Levels { programs: programs::build(&options.source, &targets)?, alone: BTreeMap::new() };
    println!("built {} test programs in {:.0} s", levels.programs.len(), began.elapsed().as_secs_f64());
    println!("{:<28}{:<74}{:<18}{:<92}{:>7}", "defect", "what it breaks", "caught by", "", "seconds");
    let mut missed = Vec::new();
    for &mutant in mutants {
        let began = Instant::now();
        let caught = match if options.short { levels.try_known(mutant) } else { levels.try_all(mutant) } {
            // What is wrong with one test says nothing of the others.
            Err(error @ (MutantsError::FailsAlone { .. } | MutantsError::Unknown { .. })) => {
                println!("{mutant:<28}{error}");
                missed.push(mutant.to_string());
                continue;
            }
            caught => caught?,
        };
        let (level, test) = caught.as_ref().map_or(("NOT CAUGHT", ""), |caught| (caught.level.name(), caught.test.as_str()));
        println!("{mutant:<28}{:<74}{level:<18}{test:<92}{:>7.1}", mutant.breaks(), began.elapsed().as_secs_f64());
        io::stdout().flush()?;
        if caught.is_none() {
            missed.push(mutant.to_string());
        }
    }
    println!(
        "{} of {} defects were caught, in {:.0} s",
        mutants.len() - missed.len(),
        mutants.len(),
        began.elapsed().as_secs_f64()
    );
    if !missed.is_empty() {
        println!("not caught: {}", missed.join(", "));
    }
    Ok(missed.len())
}

/// What caught a defect.
struct Caught {
    level: Level,
    test: String,
}

/// The test programs, cheapest level first.
struct Levels {
    programs: Vec<Program>,
    /// How long each took without a defect, by place and test.
    alone: BTreeMap<(usize, Option<&'static str>), Duration>,
}

impl Levels {
    /// Runs every level that the defect can reach until one catches it.
    fn try_all(&mut self, mutant: Mutant) -> Result<Option<Caught>, MutantsError> {
        for place in 0..self.programs.len() {
            if reaches(mutant.room(), self.programs[place].level)
                && let Some(caught) = self.try_one(place, None, mutant)?
            {
                return Ok(Some(caught));
            }
        }
        Ok(None)
    }

    /// Runs the test that is known to catch the defect.
    fn try_known(&mut self, mutant: Mutant) -> Result<Option<Caught>, MutantsError> {
        let known = Known::of(mutant);
        let place = self.programs.iter().position(|program| program.level == known.level && program.target == known.target);
        let place = place.ok_or(MutantsError::Unknown { mutant, known })?;
        self.try_one(place, known.test, mutant)
    }

    fn try_one(&mut self, place: usize, test: Option<&'static str>, mutant: Mutant) -> Result<Option<Caught>, MutantsError> {
        let program = &self.programs[place];
        let alone = if let Some(alone) = self.alone.get(&(place, test)) {
            *alone
        } else {
            let alone = alone(program, test)?;
            self.alone.insert((place, test), alone);
            alone
        };
        let ran = trial::run(program, test, Some(mutant), alone * WITH_DEFECT_TIMES + WITH_DEFECT_MORE)?;
        let is_caught = match &ran.verdict {
            Verdict::Passed => false,
            Verdict::Failed(_) => true,
            Verdict::Hung => mutant.hangs(),
        };
        let test = format!("{}: {}", program.target, ran.verdict);
        Ok(is_caught.then_some(Caught { level: program.level, test }))
    }
}

/// Runs a program without a defect, which it must pass, and says how long that took.
fn alone(program: &Program, test: Option<&'static str>) -> Result<Duration, MutantsError> {
    let ran = trial::run(program, test, None, ALONE_MAX)?;
    match ran.verdict {
        // A name that no test has passes too.
        Verdict::Passed if test.is_none() || ran.output.contains("1 passed") => Ok(ran.took),
        verdict => {
            let program = format!("{} {}", program.target, test.unwrap_or_default());
            Err(MutantsError::FailsAlone { program, verdict, output: ran.output })
        }
    }
}

/// Whether a level's programs hold code of `room` at all.
fn reaches(room: Room, level: Level) -> bool {
    match room {
        Room::Stock => true,
        Room::Persistence => level != Level::Rules,
        Room::Engine => !matches!(level, Level::Rules | Level::Log | Level::Disk),
        Room::Cluster => matches!(level, Level::Quorum | Level::Simulation | Level::System),
        Room::Api => matches!(level, Level::Door | Level::History | Level::System),
        Room::Assembly => matches!(level, Level::History | Level::System),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_is_looked_for_only_where_its_code_is() {
        assert!(reaches(Room::Stock, Level::Rules) && !reaches(Room::Persistence, Level::Rules));
        assert!(reaches(Room::Persistence, Level::Disk) && !reaches(Room::Engine, Level::Disk));
        assert!(reaches(Room::Api, Level::Door) && !reaches(Room::Assembly, Level::Door));
        let rooms = [Room::Stock, Room::Persistence, Room::Engine, Room::Cluster, Room::Api, Room::Assembly];
        assert!(rooms.into_iter().all(|room| reaches(room, Level::System)));
    }

    #[test]
    fn the_test_that_is_known_to_catch_a_defect_can_reach_it() {
        for mutant in Mutant::ALL {
            assert!(reaches(mutant.room(), Known::of(*mutant).level), "{mutant}");
        }
    }
}
