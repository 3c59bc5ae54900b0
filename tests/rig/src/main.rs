//! The rig: does a data directory keep what was acknowledged, through kills and through losses of power?
//!
//! It drives the log through its public face, on the real store and a real file system, and judges from outside. What it tries and what
//! it does not stands in `tests/README.md`.

mod campaign;
mod checker;
mod command;
mod error;
mod history;
mod plan;
mod protocol;
mod report;
mod server;
mod session;
mod signals;
mod site;
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use tidegate_persistence::Durability;

use crate::campaign::Campaign;
use crate::error::RigError;
use crate::protocol::{Line, say};
use crate::site::{CutDisk, Site};

/// Cuts power and kills, and looks whether the log kept what it acknowledged. Exits with 0 only if every promise held.
#[derive(Debug, Parser)]
#[command(name = "tidegate-rig")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Cut the power of a small ext4 file system again and again while a log is written on it. Needs root, loop devices and the program that shuts them down
    PowerCuts {
        /// How many cuts
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        cuts: u32,
        /// What the log is told to survive
        #[arg(long, default_value_t = Durability::PowerLoss)]
        durability: Durability,
        /// Expect that acknowledged groups are lost: exits with 0 only if they are
        #[arg(long)]
        expect_loss: bool,
        #[command(flatten)]
        power: PowerOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Kill the writer of a log again and again with SIGKILL
    Kills {
        /// How many kills; their writers survive a loss of power and the end of the process in turn
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Kill the whole server, and cut its power, again and again while clients use it over HTTP
    Server {
        /// How many kills
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// How many power cuts
        #[arg(long, default_value_t = 200)]
        cuts: u32,
        /// How many power cuts of servers without syncs, which must lose something
        #[arg(long, default_value_t = 6)]
        lossy: u32,
        /// A small part of it, for every change
        #[arg(long, conflicts_with_all = ["kills", "cuts", "lossy"])]
        short: bool,
        /// The program to crash [default: the one beside this program]
        #[arg(long, value_name = "FILE")]
        tidegate: Option<PathBuf>,
        #[command(flatten)]
        power: PowerOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Power cuts, power cuts without the log's sync (which must lose something), and kills
    All {
        /// A small part of it, for every change
        #[arg(long)]
        short: bool,
        #[command(flatten)]
        power: PowerOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
    #[command(hide = true)]
    Writer {
        #[command(flatten)]
        content: ContentOptions,
        #[arg(long)]
        durability: Durability,
    },
    #[command(hide = true)]
    Examine {
        #[command(flatten)]
        content: ContentOptions,
    },
}

#[derive(Debug, Clone, Args)]
struct CommonOptions {
    /// Where the plan of crashes and the content of all groups come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder for everything temporary [default: the system's]
    #[arg(long)]
    work_dir: Option<PathBuf>,
    /// The folder that a copy of every directory with a finding is put in, as it was before it was opened again
    #[arg(long)]
    evidence: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct PowerOptions {
    /// Size of the file system in MiB
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(512..=65_536))]
    image_mib: u64,
    /// Fail where power cannot be cut, instead of leaving the cuts out
    #[arg(long)]
    require: bool,
}

#[derive(Debug, Args)]
struct ContentOptions {
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    seed: u64,
}

/// Cuts, cuts without the log's sync, and kills of `all`.
const ALL: [u32; 3] = [100, 10, 30];
const ALL_SHORT: [u32; 3] = [12, 4, 10];

/// Kills, cuts and cuts without syncs of a short `server`.
const SERVER_SHORT: [u32; 3] = [6, 6, 2];

const LEVEL: tracing_subscriber::filter::LevelFilter = tracing_subscriber::filter::LevelFilter::WARN;

/// A signal's exit code, as shells have it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    // What the log and sled say goes to a file beside a writer, and is shown with a finding.
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).with_max_level(LEVEL).without_time().init();
    let is_kept = match Cli::parse().what {
        What::Writer { content, durability } => {
            return end_of_process(writer::write(&content.data_dir, content.seed, durability).map(drop));
        }
        What::Examine { content } => return end_of_process(writer::examine(&content.data_dir, content.seed)),
        What::PowerCuts { cuts, durability, expect_loss, power, common } => {
            signals::watch().and_then(|()| power_cuts(cuts, durability, expect_loss, &power, &common))
        }
        What::Kills { rounds, common } => signals::watch().and_then(|()| kills(rounds, &common)),
        What::Server { kills, cuts, lossy, short, tidegate, power, common } => {
            let counts = if short { SERVER_SHORT } else { [kills, cuts, lossy] };
            signals::watch().and_then(|()| server(counts, tidegate.as_deref(), &power, &common))
        }
        What::All { short, power, common } => signals::watch().and_then(|()| all(short, &power, &common)),
    };
    match is_kept {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(RigError::Interrupted) => {
            eprintln!("{}", RigError::Interrupted);
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("the rig could not go on: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The end of a process that the rig started.
fn end_of_process(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&Line::Failed(what));
            ExitCode::FAILURE
        }
    }
}

fn all(short: bool, power: &PowerOptions, common: &CommonOptions) -> Result<bool, RigError> {
    let [cuts, lossy, rounds] = if short { ALL_SHORT } else { ALL };
    let kept = power_cuts(cuts, Durability::PowerLoss, false, power, common)?;
    let found = power_cuts(lossy, Durability::ProcessCrash, true, power, common)?;
    let survived = kills(rounds, common)?;
    println!("\n{}", if kept && found && survived { "every promise held" } else { "A PROMISE WAS NOT KEPT: see above" });
    Ok(kept && found && survived)
}

fn power_cuts(
    cuts: u32,
    durability: Durability,
    expect_loss: bool,
    power: &PowerOptions,
    common: &CommonOptions,
) -> Result<bool, RigError> {
    let work = work_folder(common);
    if let Some(missing) = site::missing(&work) {
        println!("SKIPPED: power cuts: {missing}");
        return Ok(!power.require);
    }
    let title = format!("{cuts} power cuts at {durability}{}", if expect_loss { ", which must lose something" } else { "" });
    println!("\n{title}, seed {}", common.seed);
    let site = Site::Disk(CutDisk::new(&work, power.image_mib)?);
    let campaign = Campaign {
        seed: common.seed,
        crashes: cuts,
        durabilities: vec![durability],
        is_lossy: expect_loss,
        evidence: common.evidence.clone(),
    };
    let outcome = run(&title, &campaign, site, &work)?;
    let lost = outcome.lost_groups();
    if expect_loss {
        println!(
            "{}",
            if lost > 0 { format!("found as expected: {lost} acknowledged groups lost") } else { "NOTHING WAS LOST".to_owned() }
        );
        return Ok(lost > 0);
    }
    Ok(outcome.findings == 0)
}

fn kills(rounds: u32, common: &CommonOptions) -> Result<bool, RigError> {
    let work = work_folder(common);
    let title = format!("{rounds} kills");
    println!("\n{title}, seed {}", common.seed);
    let campaign = Campaign {
        seed: common.seed,
        crashes: rounds,
        durabilities: vec![Durability::PowerLoss, Durability::ProcessCrash],
        is_lossy: false,
        evidence: common.evidence.clone(),
    };
    let outcome = run(&title, &campaign, Site::folder(&work)?, &work)?;
    Ok(outcome.findings == 0)
}

fn server(
    [kills, cuts, lossy]: [u32; 3],
    program: Option<&Path>,
    power: &PowerOptions,
    common: &CommonOptions,
) -> Result<bool, RigError> {
    let program = tidegate_witness::node::program(program)?;
    let work = work_folder(common);
    let mut is_kept = true;
    let campaign = |crashes, is_lossy| server::Campaign {
        seed: common.seed,
        crashes,
        program: program.clone(),
        is_lossy,
        evidence: common.evidence.clone(),
    };
    if kills > 0 {
        let outcome = run_server(&format!("{kills} kills of the server"), &campaign(kills, false), Site::folder(&work)?, &work)?;
        is_kept &= outcome.findings == 0;
    }
    if let Some(missing) = site::missing(&work).filter(|_| cuts + lossy > 0) {
        println!("SKIPPED: power cuts of the server: {missing}");
        return Ok(is_kept && !power.require);
    }
    if cuts > 0 {
        let site = Site::Disk(CutDisk::new(&work, power.image_mib)?);
        let outcome = run_server(&format!("{cuts} power cuts of the server"), &campaign(cuts, false), site, &work)?;
        is_kept &= outcome.findings == 0;
    }
    if lossy > 0 {
        let site = Site::Disk(CutDisk::new(&work, power.image_mib)?);
        let title = format!("{lossy} power cuts of the server without syncs, which must lose something");
        let lost = run_server(&title, &campaign(lossy, true), site, &work)?.lost;
        println!(
            "{}",
            if lost > 0 { format!("found as expected: {lost} acknowledged changes lost") } else { "NOTHING WAS LOST".to_owned() }
        );
        is_kept &= lost > 0;
    }
    println!("\n{}", if is_kept { "every promise held" } else { "A PROMISE WAS NOT KEPT: see above" });
    Ok(is_kept)
}

fn run_server(title: &str, campaign: &server::Campaign, site: Site, work: &Path) -> Result<server::Outcome, RigError> {
    if let Some(evidence) = &campaign.evidence {
        std::fs::create_dir_all(evidence).map_err(RigError::io(evidence))?;
    }
    println!("\n{title}, seed {}", campaign.seed);
    let began = Instant::now();
    let outcome = campaign.run(site, work)?;
    server::print(title, campaign.seed, &outcome, began.elapsed());
    Ok(outcome)
}

fn run(title: &str, campaign: &Campaign, site: Site, work: &Path) -> Result<campaign::Outcome, RigError> {
    if let Some(evidence) = &campaign.evidence {
        std::fs::create_dir_all(evidence).map_err(RigError::io(evidence))?;
    }
    let began = Instant::now();
    let outcome = campaign.run(site, work)?;
    report::print(title, campaign.seed, &outcome, began.elapsed());
    Ok(outcome)
}

fn work_folder(common: &CommonOptions) -> PathBuf {
    common.work_dir.clone().unwrap_or_else(std::env::temp_dir)
}
