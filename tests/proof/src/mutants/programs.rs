//! The test programs, built with the deliberate defects in them and found by what cargo says that it made. The normal build is left as it
//! is, but for the program `tidegate` of the same profile, which is built anew.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

/// What brings the defects into every room.
const FEATURES: &str = "tidegate/mutants,tidegate-proof/mutants";

/// The test of this package, with which cargo builds the package's program.
const PROOF_TEST: &str = "normal_build";

/// The packages with deliberate defects, by their folders; the last is the program's.
const ROOMS: [&str; 7] = ["stock", "persistence", "engine", "cluster", "api", "tests/simulation", ""];

/// A level of tests, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Tests of the rules: decision table, model, inverses, audit.
    Rules,
    /// Tests of the disk's room.
    Log,
    /// The log over a failing disk.
    Disk,
    /// Tests of the machine.
    Engine,
    /// Tests of consensus.
    Quorum,
    /// Tests of the door.
    Door,
    /// Whole clusters in simulation.
    Simulation,
    /// Histories of concurrent clients.
    History,
    /// Tests of the whole program.
    System,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Log => "log",
            Self::Disk => "disk proof",
            Self::Engine => "engine",
            Self::Quorum => "quorum",
            Self::Door => "door",
            Self::Simulation => "simulation",
            Self::History => "history proof",
            Self::System => "whole system",
        }
    }

    /// The level of a package's tests, by its folder; `None` where no deliberate defect is.
    fn of(folder: &Path) -> Option<Self> {
        match folder.to_str()? {
            "" => Some(Self::System),
            "stock" => Some(Self::Rules),
            "persistence" => Some(Self::Log),
            "engine" => Some(Self::Engine),
            "cluster" => Some(Self::Quorum),
            "api" => Some(Self::Door),
            "tests/simulation" => Some(Self::Simulation),
            _ => None,
        }
    }
}

/// Something that can be run and fails where a defect is seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Program {
    pub(super) level: Level,
    /// The test's name, `unit` for those inside a crate; of the proof, the level's.
    pub(super) target: String,
    pub(super) executable: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Where cargo would run it.
    pub(super) folder: PathBuf,
}

/// What is to be built.
pub(super) enum Targets {
    All,
    /// The tests of these names, and the programs of the packages that they belong to.
    Tests(BTreeSet<String>),
}

/// Why there are no test programs.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// Cargo did not start, or said something strange.
    #[error("cargo could not be run: {0}")]
    Cargo(#[from] io::Error),
    /// It failed, and has said why.
    #[error("the test programs could not be built: cargo ended with {0}")]
    Failed(ExitStatus),
    /// It built something else.
    #[error("cargo built no {0}")]
    Missing(&'static str),
}

/// What cargo says of something that it made.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds what is asked for from the tree at `source`, and returns it in the order in which it is to be run.
pub(super) fn build(source: &Path, targets: &Targets) -> Result<Vec<Program>, BuildError> {
    let source = source.canonicalize()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, so that what it depends on is built with the same features as ever, and need not be built again.
    cargo.args(["test", "--workspace", "--locked", "--no-run", "--message-format", "json-render-diagnostics"]);
    cargo.args(["--features", FEATURES]).current_dir(&source).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut names = match targets {
        Targets::All => {
            cargo.args(["--lib", "--bin", "tidegate"]);
            all_tests(&source)?
        }
        Targets::Tests(names) => names.clone(),
    };
    names.insert(PROOF_TEST.to_owned());
    for name in &names {
        cargo.args(["--test", name]);
    }
    let mut cargo = cargo.spawn()?;
    let mut artifacts = Vec::new();
    for line in BufReader::new(cargo.stdout.take().expect("the standard output is piped")).lines() {
        // Messages of other kinds have other fields.
        artifacts.extend(serde_json::from_str::<Artifact>(&line?).ok().filter(|artifact| artifact.executable.is_some()));
    }
    let ended = cargo.wait()?;
    if !ended.success() {
        return Err(BuildError::Failed(ended));
    }
    let mut programs: Vec<Program> = artifacts.iter().filter_map(|artifact| test_program(&source, artifact)).collect();
    programs.extend(proofs(&source, &artifacts)?);
    programs.sort();
    Ok(programs)
}

/// The names of the tests of every level.
fn all_tests(source: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for room in ROOMS {
        for entry in fs::read_dir(source.join(room).join("tests"))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|_| path.extension().is_some_and(|end| end == "rs"));
            names.extend(name.map(str::to_owned));
        }
    }
    Ok(names)
}

fn test_program(source: &Path, artifact: &Artifact) -> Option<Program> {
    let folder = artifact.manifest_path.parent()?;
    let level = Level::of(folder.strip_prefix(source).ok()?).filter(|_| artifact.profile.test)?;
    let is_test = artifact.target.kind.iter().any(|kind| kind == "test");
    Some(Program {
        level,
        target: if is_test { artifact.target.name.clone() } else { "unit".to_owned() },
        executable: artifact.executable.clone()?,
        arguments: Vec::new(),
        folder: folder.to_owned(),
    })
}

/// The other levels of this very program, as it was built with the defects.
fn proofs(source: &Path, artifacts: &[Artifact]) -> Result<[Program; 2], BuildError> {
    let program = |name: &'static str| {
        let found = artifacts.iter().find(|artifact| !artifact.profile.test && artifact.target.name == name);
        found.and_then(|artifact| artifact.executable.clone()).ok_or(BuildError::Missing(name))
    };
    let (proof, node) = (program("tidegate-proof")?, program("tidegate")?);
    let level = |level, target: &str, more: Vec<String>| Program {
        level,
        target: target.to_owned(),
        executable: proof.clone(),
        arguments: [vec![target.to_owned(), "--short".to_owned()], more].concat(),
        folder: source.to_owned(),
    };
    let node = node.to_string_lossy().into_owned();
    Ok([level(Level::Disk, "disk", Vec::new()), level(Level::History, "history", vec!["--tidegate".to_owned(), node])])
}
