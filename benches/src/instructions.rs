//! Instructions of the hot path, counted by callgrind. A count says nothing of caches and disks, but it hardly differs from run to run, so
//! it shows a change of a few in a hundred on any machine.
//!
//! Each piece is done in a process of its own, under callgrind, which counts on the thread and for as long as [`counted_by_callgrind`] is
//! running: neither the start nor what was made ready is in a figure, nor what other threads do. What a piece has done on the door's thread
//! is counted there instead, once with so many operations and once with twice as many: the difference has no start in it either. Knows
//! nothing of the figures that are kept.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::child::Part;
use crate::error::{BenchError, expect_equal};
use crate::figure::number;
use crate::hot_path::HotPath;
use crate::machine::temporary_directory;
use crate::piece::{Piece, timed};

/// The function within which is counted, as callgrind finds it. No other may be called so: a second one within it would end the counting.
const COUNTED: &str = "*counted_by_callgrind*";

/// What is in the names of functions on the door's thread and on no other.
const AT_DOOR: &str = "hyper::proto::h1::";

/// Operations of a piece that is only shown to work.
const OPERATIONS_TINY: u64 = 16;

/// What to count.
#[derive(Debug, Clone)]
pub struct InstructionsParameters {
    /// This program, which is its own child.
    pub program: PathBuf,
    /// Where callgrind's files are made.
    pub directory: Option<PathBuf>,
    /// The pieces.
    pub pieces: Vec<HotPath>,
    /// How often each is counted.
    pub runs: usize,
}

/// Instructions of one piece.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counted {
    /// The piece.
    pub piece: HotPath,
    /// Instructions of one operation: the mean over its operations, the median of the runs.
    pub instructions: u64,
    /// Most less fewest of all runs, as a share of the median; 0 with one run.
    pub spread: f64,
}

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    piece: HotPath,
    operations: u64,
}

/// Counts. Needs valgrind. Fails when a piece did not do what it should, or nothing was counted.
pub fn count(parameters: &InstructionsParameters) -> Result<Vec<Counted>, BenchError> {
    let folder = temporary_directory(parameters.directory.as_ref())?;
    let counted = |piece: HotPath| {
        let counts = (0..parameters.runs.max(1)).map(|_| count_once(&parameters.program, piece, folder.path()));
        let mut counts = counts.collect::<Result<Vec<_>, _>>()?;
        counts.sort_unstable();
        let (fewest, median, most) = (counts[0], counts[counts.len() / 2], counts[counts.len() - 1]);
        // Rounded to the nearest.
        let instructions = (median + piece.at_once() / 2) / piece.at_once();
        Ok(Counted { piece, instructions, spread: number(most - fewest) / number(median) })
    };
    parameters.pieces.iter().copied().map(counted).collect()
}

/// Has every piece done a few times, without callgrind. Fails when one did not do what it should.
pub fn try_out(pieces: &[HotPath]) -> Result<(), BenchError> {
    for piece in pieces {
        let mut work = piece.piece()?;
        timed(&mut *work, OPERATIONS_TINY, OPERATIONS_TINY)?;
        work.stop()?;
    }
    Ok(())
}

/// Instructions of all operations of `piece`.
fn count_once(program: &Path, piece: HotPath, folder: &Path) -> Result<u64, BenchError> {
    if piece.is_at_door() {
        let fewer = run(program, Counting { piece, operations: piece.at_once() }, folder)?;
        let more = run(program, Counting { piece, operations: 2 * piece.at_once() }, folder)?;
        return more.checked_sub(fewer).ok_or_else(|| BenchError::Wrong(format!("{piece}: twice the work took less")));
    }
    run(program, Counting { piece, operations: piece.at_once() }, folder)
}

/// What callgrind counts of a child that does the work.
fn run(program: &Path, counting: Counting, folder: &Path) -> Result<u64, BenchError> {
    let piece = counting.piece;
    let part = serde_json::to_string(&Part::Count(counting)).map_err(BenchError::wrong)?;
    let folder = tempfile::tempdir_in(folder).map_err(BenchError::io("temporary folder"))?;
    // A file for each thread, whose name begins so.
    let file = folder.path().join("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", "--separate-threads=yes"]);
    if !piece.is_at_door() {
        valgrind.arg(format!("--toggle-collect={COUNTED}"));
    }
    valgrind.arg(format!("--callgrind-out-file={}", file.display())).arg(program).args(["part", &part]);
    let output = valgrind.output().map_err(BenchError::io("valgrind, whose callgrind counts instructions"))?;
    if !output.status.success() {
        return Err(BenchError::Wrong(format!("{piece}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let (mut sum, read) = (0, BenchError::io(format!("callgrind's figures of {piece}")));
    for thread in threads(folder.path()).map_err(read)? {
        if !piece.is_at_door() || thread.contains(AT_DOOR) {
            // A thread that was never counted may have no total.
            sum += total(&thread).unwrap_or(0);
        }
    }
    if sum == 0 {
        return Err(BenchError::Wrong(format!("{piece}: callgrind found nothing to count")));
    }
    Ok(sum)
}

/// What callgrind wrote of each thread.
fn threads(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|file| fs::read_to_string(file?.path())).collect()
}

/// The sum in a file of callgrind's.
fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

/// Does the work that is counted, in this process.
pub fn measure(counting: &Counting) -> Result<u64, BenchError> {
    let mut work = counting.piece.piece()?;
    work.ready(counting.operations)?;
    let right = counted_by_callgrind(&mut *work)?;
    work.stop()?;
    expect_equal("operations that did what they should", right, counting.operations)?;
    Ok(right)
}

/// Is found by its name, so it stays a function of its own, and what it calls returns to it.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn Piece) -> Result<u64, BenchError> {
    let right = work.run();
    black_box(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_in_what_callgrind_writes() {
        let text = "version: 1\nevents: Ir\nsummary: 7\n\nfn=(1) f\n16 4711\n\ntotals: 4711\n";
        assert_eq!(total(text), Some(4_711));
        assert_eq!(total("totals: 0\n"), Some(0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn the_counted_work_is_the_piece() {
        for piece in [HotPath::ReserveSoldOut, HotPath::CursorRead] {
            assert_eq!(measure(&Counting { piece, operations: 5 }).unwrap(), 5);
        }
    }
}
