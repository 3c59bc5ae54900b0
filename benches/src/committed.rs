//! Committed instruction counts of the hot path: the file that keeps them, and how new counts stand to it. A count may grow by
//! [`MOVE_PERCENT_MAX`] over what is kept; more is an error until somebody takes the new one over and says why. How anything is counted it
//! does not know.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fmt, fs};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::figure::number;
use crate::hot_path::HotPath;
use crate::instructions::Counted;
use crate::report::amount;

/// By how many in a hundred a count may differ from the committed one. Growing further is an error, falling further is told.
pub const MOVE_PERCENT_MAX: u64 = 5;

/// The file of the committed figures, from the root of the repository.
pub const FILE: &str = "benches/instructions.json";

/// The toolchain file, which names the compiler that a figure belongs to.
const TOOLCHAIN: &str = include_str!("../../rust-toolchain.toml");

/// Committed counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// What machine language was counted.
    pub architecture: String,
    /// For each piece what its count was and why it changed, newest last; the newest counts.
    pub pieces: BTreeMap<String, Vec<Change>>,
}

/// A count that was taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Instructions of one operation.
    pub instructions: u64,
    /// The toolchain that built what was counted.
    pub toolchain: String,
    /// Why it is so many.
    pub reason: String,
}

/// How a count stands to the committed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within [`MOVE_PERCENT_MAX`].
    Kept,
    /// Grew further than that.
    Grew,
    /// Fell further than that: what is committed is no bound any more.
    Fell,
    /// There is none.
    New,
}

/// A count beside the committed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The piece's name.
    pub piece: &'static str,
    /// Instructions of one operation.
    pub instructions: u64,
    /// Most less fewest of all runs, as a share of the median.
    pub spread: f64,
    /// The committed count.
    pub committed: Option<u64>,
    /// How the one stands to the other.
    pub verdict: Verdict,
}

impl Committed {
    /// Reads `path`. Fails when it keeps figures of another architecture or of pieces that there are not.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let text = fs::read_to_string(path).map_err(BenchError::io(path.display().to_string()))?;
        let read: Self = serde_json::from_str(&text).map_err(BenchError::wrong)?;
        if read.architecture != env::consts::ARCH {
            let (kept, here) = (&read.architecture, env::consts::ARCH);
            return Err(BenchError::Wrong(format!("{} is of {kept}, and this is {here}", path.display())));
        }
        read.pieces.keys().try_for_each(|name| name.parse::<HotPath>().map(drop))?;
        Ok(read)
    }

    /// None yet, of this architecture.
    pub fn none() -> Self {
        Self { architecture: env::consts::ARCH.to_owned(), pieces: BTreeMap::new() }
    }

    /// Writes them to `path`.
    pub fn write(&self, path: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_string_pretty(self).map_err(BenchError::wrong)?;
        fs::write(path, text + "\n").map_err(BenchError::io(path.display().to_string()))
    }

    /// Holds `counted` against them.
    pub fn compare(&self, counted: &[Counted]) -> Vec<Comparison> {
        let comparison = |counted: &Counted| {
            let committed = self.newest(counted.piece).map(|change| change.instructions);
            Comparison {
                piece: counted.piece.name(),
                instructions: counted.instructions,
                spread: counted.spread,
                committed,
                verdict: committed.map_or(Verdict::New, |committed| verdict(counted.instructions, committed)),
            }
        };
        counted.iter().map(comparison).collect()
    }

    /// Takes over, for `reason`, what has moved and what was counted with another toolchain. Returns how many that were.
    pub fn accept(&mut self, counted: &[Counted], reason: &str) -> usize {
        let mut accepted = 0;
        for comparison in self.compare(counted) {
            let changes = self.pieces.entry(comparison.piece.to_owned()).or_default();
            if comparison.verdict == Verdict::Kept && changes.last().is_some_and(|newest| newest.toolchain == toolchain()) {
                continue;
            }
            let (instructions, toolchain, reason) = (comparison.instructions, toolchain().to_owned(), reason.to_owned());
            changes.push(Change { instructions, toolchain, reason });
            accepted += 1;
        }
        accepted
    }

    fn newest(&self, piece: HotPath) -> Option<&Change> {
        self.pieces.get(piece.name()).and_then(|changes| changes.last())
    }
}

const fn verdict(instructions: u64, committed: u64) -> Verdict {
    if instructions * 100 > committed * (100 + MOVE_PERCENT_MAX) {
        Verdict::Grew
    } else if instructions * 100 < committed * (100 - MOVE_PERCENT_MAX) {
        Verdict::Fell
    } else {
        Verdict::Kept
    }
}

/// The toolchain that the project is built with.
fn toolchain() -> &'static str {
    let named = TOOLCHAIN.lines().find_map(|line| line.strip_prefix("channel = \""));
    named.and_then(|rest| rest.strip_suffix('"')).expect("the toolchain file names a channel")
}

/// Fails when a count grew further than it may, or has nothing to be held against.
pub fn judge(comparisons: &[Comparison]) -> Result<(), BenchError> {
    let named = |verdict| {
        let found = comparisons.iter().filter(|comparison| comparison.verdict == verdict).map(|comparison| comparison.piece);
        found.collect::<Vec<_>>().join(", ")
    };
    let (grew, new) = (named(Verdict::Grew), named(Verdict::New));
    let mut wrong = Vec::new();
    if !grew.is_empty() {
        wrong.push(format!("more than {MOVE_PERCENT_MAX} % over the committed count: {grew}"));
    }
    if !new.is_empty() {
        wrong.push(format!("without a committed count: {new}"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(BenchError::Wrong(wrong.join("; ") + " (--accept takes counts over, with a reason)"))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { piece, instructions, spread, committed, verdict } = self;
        write!(formatter, "{piece:<22} {:>9}  spread {:.3} %", amount(number(*instructions)), spread * 100.0)?;
        let Some(committed) = committed else { return formatter.write_str("  no committed count") };
        let change = (number(*instructions) / number(*committed) - 1.0) * 100.0;
        write!(formatter, "  committed {:>9}  {change:+.1} %", amount(number(*committed)))?;
        formatter.write_str(match verdict {
            Verdict::Grew => "  GREW",
            Verdict::Fell => "  FELL: take it over with --accept, so that it cannot grow back unnoticed",
            Verdict::Kept | Verdict::New => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(instructions: u64) -> Counted {
        Counted { piece: HotPath::IdSeal, instructions, spread: 0.0 }
    }

    fn committed(instructions: u64) -> Committed {
        let mut committed = Committed::none();
        committed.accept(&[counted(instructions)], "first count");
        committed
    }

    #[test]
    fn a_count_may_move_by_five_in_a_hundred_and_not_grow_further() {
        for (instructions, verdict, is_right) in [
            (1_000, Verdict::Kept, true),
            (1_050, Verdict::Kept, true),
            (1_051, Verdict::Grew, false),
            (9_000, Verdict::Grew, false),
            (950, Verdict::Kept, true),
            (949, Verdict::Fell, true),
        ] {
            let comparisons = committed(1_000).compare(&[counted(instructions)]);
            assert_eq!(comparisons[0].verdict, verdict, "{instructions}");
            assert_eq!(judge(&comparisons).is_ok(), is_right, "{instructions}");
        }
    }

    #[test]
    fn a_piece_without_a_committed_count_is_an_error() {
        let comparisons = Committed::none().compare(&[counted(1)]);
        assert_eq!(comparisons[0].verdict, Verdict::New);
        assert!(judge(&comparisons).unwrap_err().to_string().starts_with("without a committed count: id_seal"));
    }

    #[test]
    fn what_is_taken_over_counts_from_then_on_and_keeps_its_reason() {
        let mut figures = committed(1_000);
        assert_eq!(figures.accept(&[counted(1_040)], "nothing moved"), 0);
        assert_eq!(figures.accept(&[counted(1_200)], "a longer tag"), 1);
        assert_eq!(figures.compare(&[counted(1_200)])[0].verdict, Verdict::Kept);
        let reasons: Vec<_> = figures.pieces["id_seal"].iter().map(|change| change.reason.as_str()).collect();
        assert_eq!(reasons, ["first count", "a longer tag"]);
        // With another toolchain everything is counted anew.
        figures.pieces.get_mut("id_seal").unwrap()[1].toolchain = "1.0.0".to_owned();
        assert_eq!(figures.accept(&[counted(1_200)], "another compiler"), 1);
    }

    #[test]
    fn figures_of_another_architecture_or_of_no_piece_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.json");
        let mut figures = committed(7);
        figures.write(&path).unwrap();
        assert_eq!(Committed::read(&path).unwrap(), figures);
        figures.pieces.insert("gone".to_owned(), Vec::new());
        figures.write(&path).unwrap();
        assert!(Committed::read(&path).unwrap_err().to_string().contains("gone is no piece"));
        figures = Committed { architecture: "z80".to_owned(), ..committed(7) };
        figures.write(&path).unwrap();
        assert!(Committed::read(&path).unwrap_err().to_string().contains("is of z80"));
    }

    #[test]
    fn every_piece_has_a_committed_count_of_the_pinned_toolchain() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")).unwrap();
        let figures: Committed = serde_json::from_str(&text).unwrap();
        for piece in HotPath::ALL {
            let newest = figures.newest(piece).unwrap_or_else(|| panic!("no count of {piece}"));
            assert_eq!(newest.toolchain, toolchain(), "{piece}: count with the new toolchain, and take it over with --accept");
            assert!(newest.instructions > 0 && !newest.reason.is_empty(), "{piece}");
        }
        assert_eq!(figures.pieces.len(), HotPath::ALL.len());
    }
}
