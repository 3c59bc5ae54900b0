//! The whole data directory, crashed behind every operation on its files.
//!
//! A process of its own keeps a directory as a node does, on the real file system: the log with small segments that are sealed and given
//! back, snapshots, the sidecar. `strace` tells every operation on its files. Behind each of them a directory is built as a crash may leave
//! it: with everything, with nothing but what was synced, or with some of the rest, torn and out of order. The real code opens it, and
//! everything that the process had acknowledged by then must be there. So nothing of the product is made for this proof, and nothing that
//! it does to its files is left out.

mod judge;
mod model;
mod trace;
mod writer;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use self::judge::{Acknowledged, Judge};
use self::model::{Happened, Model, Survives, Syncs};
use self::trace::Reader;
pub(crate) use self::writer::write;

/// Findings that are shown; the others are counted.
const FINDINGS_SHOWN: usize = 10;

/// Seeds of the small part, and of the whole.
const SEEDS_SHORT: u64 = 4;
const SEEDS_LONG: u64 = 20;

/// Of the points of the small part, one in so many is tried.
const SHARE_SHORT: usize = 8;

/// Directories of a point that keep some of what was not synced.
const LOSSES: u64 = 2;

/// One in so many directories goes on after it was looked at.
const GOES_ON_SHARE: u64 = 8;

/// Of the points that are tried, one in so many is tried on a disk that lies too.
const LIES_SHARE: u64 = 4;

/// Bits of each snapshot that flip.
const FLIPS: usize = 200;

/// Bytes of a string that the trace tells at most: all of them.
const STRING_BYTES_MAX: &str = "16777216";

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// Where the randomness begins; a finding names its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// Fail where operations cannot be traced, instead of leaving all of it out
    #[arg(long)]
    require: bool,
    /// The folder for a copy of each directory with a finding, as it was before it was opened
    #[arg(long)]
    evidence: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    operations: u64,
    points: u64,
    behind_syncs: u64,
    directories: u64,
    went_on: u64,
    snapshots: u64,
    groups: u64,
    tail_parts: u64,
    flips: u64,
    /// Directories on disks whose syncs do nothing, and those of them where that was found.
    lies: u64,
    lies_found: u64,
    findings: Vec<String>,
}

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    if let Some(missing) = missing() {
        println!("SKIPPED: files: {missing}");
        return if options.require { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let seeds = options.seeds.unwrap_or(if options.short { SEEDS_SHORT } else { SEEDS_LONG });
    let began = Instant::now();
    let mut tally = Tally::default();
    for seed in options.seed..options.seed.saturating_add(seeds) {
        if let Err(error) = one_run(options, seed, &mut tally) {
            eprintln!("the proof itself failed at seed {seed}: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!(
        "files: a data directory crashed behind every operation on its files, seeds {} to {}, {} s",
        options.seed,
        options.seed + seeds - 1,
        began.elapsed().as_secs()
    );
    for (what, count) in [
        ("runs", tally.runs),
        ("operations that changed or synced a file", tally.operations),
        ("crash points tried", tally.points),
        ("  behind a sync", tally.behind_syncs),
        ("directories opened after a crash", tally.directories),
        ("  that went on and were opened again", tally.went_on),
        ("snapshots read in them", tally.snapshots),
        ("groups replayed in them", tally.groups),
        ("parts of unfinished groups set aside", tally.tail_parts),
        ("bits flipped in snapshots", tally.flips),
        ("directories on disks that lie", tally.lies),
        ("  that were found to have lost something", tally.lies_found),
        ("findings", tally.findings.len() as u64),
    ] {
        println!("  {what:<42} {count:>10}");
    }
    for finding in tally.findings.iter().take(FINDINGS_SHOWN) {
        println!("finding: {finding}");
    }
    if tally.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is missing here, and how to get it.
fn missing() -> Option<String> {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => None,
        Ok(_) => Some("strace may not trace here".to_owned()),
        Err(_) => Some("strace is missing: on Debian, apt-get install strace".to_owned()),
    }
}

/// Writes a directory, and crashes it at each point of what was traced.
fn one_run(options: &Options, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let folder = TempDir::new().map_err(failed("no temporary folder"))?;
    let folder_path = folder.path().canonicalize().map_err(failed("no temporary folder"))?;
    let (root, trace) = (folder_path.join("site"), folder_path.join("trace"));
    fs::create_dir(&root).map_err(failed("no folder"))?;
    record(&root, &trace, seed)?;
    // In memory where there is such a file system: nothing of what is built has to last.
    let memory = Path::new("/dev/shm");
    let built = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let built = built.map_err(failed("no temporary folder"))?;

    let judge = Judge::new(seed);
    let mut model = Model::new(&root, Syncs::All);
    let mut liars = [Syncs::Folders, Syncs::Files].map(|syncs| (syncs, Model::new(&root, syncs), 0));
    let mut reader = Reader::default();
    let mut acknowledged = Acknowledged::default();
    let mut random = StdRng::seed_from_u64(seed);
    let share = if options.short { SHARE_SHORT } else { 1 };
    let mut turn = random.random_range(0..share);
    tally.runs += 1;
    for line in BufReader::new(fs::File::open(&trace).map_err(failed("the trace"))?).lines() {
        let line = line.map_err(failed("the trace"))?;
        let Some(line) = reader.line(&line)? else { continue };
        let happened = model.follow(&line)?;
        for (_, liar, _) in &mut liars {
            liar.follow(&line)?;
        }
        acknowledged.hear(model.said())?;
        if happened == Happened::Nothing {
            continue;
        }
        tally.operations += 1;
        turn += 1;
        if !turn.is_multiple_of(share) {
            continue;
        }
        tally.points += 1;
        tally.behind_syncs += u64::from(happened == Happened::Synced);
        for loss in 0..2 + LOSSES {
            let survives = match loss {
                0 => Survives::All,
                1 => Survives::Synced,
                _ => Survives::Some,
            };
            let place = built.path().join("site");
            let mut again = random.clone();
            model.build(&place, survives, &mut random).map_err(failed("a directory cannot be built"))?;
            tally.directories += 1;
            let goes_on = tally.directories.is_multiple_of(GOES_ON_SHARE);
            tally.went_on += u64::from(goes_on);
            match judge.look(&place.join("data"), &acknowledged, goes_on) {
                Ok(shown) => {
                    tally.snapshots += shown.snapshots;
                    tally.groups += shown.groups;
                    tally.tail_parts += shown.tail_parts;
                }
                Err(what) => {
                    let (point, call) = (tally.operations, &line.call);
                    let name = format!("seed-{seed}-operation-{point}-{loss}");
                    if let Some(evidence) = &options.evidence {
                        fs::create_dir_all(evidence).map_err(failed("the evidence"))?;
                        model.build(&evidence.join(&name), survives, &mut again).map_err(failed("the evidence"))?;
                    }
                    tally.findings.push(format!(
                        "seed {seed}, operation {point}, behind {} of {:?}, {survives:?} survives: {what}",
                        call.name,
                        call.number(0)
                    ));
                }
            }
            fs::remove_dir_all(&place).map_err(failed("a directory cannot be removed"))?;
        }
        // With nothing acknowledged there is nothing to lose.
        if acknowledged.count() == 0 || !tally.points.is_multiple_of(LIES_SHARE) {
            continue;
        }
        for (_, liar, found) in &mut liars {
            let place = built.path().join("site");
            liar.build(&place, Survives::Synced, &mut random).map_err(failed("a directory cannot be built"))?;
            tally.lies += 1;
            *found += u64::from(judge.look(&place.join("data"), &acknowledged, false).is_err());
            fs::remove_dir_all(&place).map_err(failed("a directory cannot be removed"))?;
        }
    }
    for (syncs, _, found) in liars {
        tally.lies_found += found;
        if found == 0 {
            tally.findings.push(format!("seed {seed}: only the syncs of {syncs:?} did anything, and nobody has noticed"));
        }
    }
    if acknowledged.count() == 0 {
        return Err("nothing was acknowledged".to_owned());
    }
    let (flips, unnamed) = judge.flip(&root.join("data"), |bits| (0..FLIPS).map(|_| random.random_range(0..bits)).collect())?;
    tally.flips += flips;
    tally.findings.extend(unnamed.into_iter().map(|what| format!("seed {seed}: {what}")));
    Ok(())
}

/// Has a process write the directory `root/data`, and every operation on its files told to `trace`.
fn record(root: &Path, trace: &Path, seed: u64) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-xx", "-s", STRING_BYTES_MAX, "-e", "signal=none", "-e", trace::CALLS, "-o"]).arg(trace);
    strace.arg(own).arg("files-writer").arg("--data-dir").arg(root.join("data")).args(["--seed", &seed.to_string()]);
    let output = strace.stdin(Stdio::null()).output().map_err(|error| format!("strace cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("the process that writes failed: {}", String::from_utf8_lossy(&output.stderr)))
}
