//! What a member of a cluster leaves in its directory before it stops because its ledger differs from that of the node that decided: a small file
//! that no start passes over. It owns the file and its words; what is to be done about it is for whoever reads them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_stock::LedgerSum;

use crate::disk;

/// The file's name in the directory.
pub const DIVERGENCE_FILE: &str = "diverged.json";

/// A difference that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Of which shard.
    pub shard: u16,
    /// The entry of its log that says what the ledger of whoever decided came to.
    pub index: u64,
    /// The group that it is.
    pub group: u64,
    /// What it says.
    pub logged: LedgerSum,
    /// What this node's ledger came to.
    pub own: LedgerSum,
}

impl fmt::Display for Divergence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, index, group, logged, own } = self;
        write!(
            formatter,
            "at entry {index} (group {group}) of the log of shard {shard} the ledger of the node that decided came to {logged}, and this \
             node's to {own}"
        )
    }
}

/// Writes `divergence` to the data directory at `directory`. Durable at return.
pub fn note_divergence(directory: &Path, divergence: &Divergence) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(divergence).map_err(io::Error::other)?;
    text.push(b'\n');
    disk::write_file(directory, DIVERGENCE_FILE, &text)
}

/// What was noted in the data directory at `directory`, in words, and the file that says so. One that cannot be read counts all the same.
pub fn noted_divergence(directory: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let path = directory.join(DIVERGENCE_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let words = match serde_json::from_slice::<Divergence>(&text) {
        Ok(divergence) => divergence.to_string(),
        Err(error) => format!("the file cannot be read: {error}"),
    };
    Ok(Some((path, words)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

    use super::*;

    #[test]
    fn what_was_noted_is_found_and_a_broken_file_counts_too() {
        let folder = tempfile::TempDir::new().unwrap();
        assert_eq!(noted_divergence(folder.path()).unwrap(), None);
        let sum = |hash| LedgerSum { stocks: 2, open_holds: 3, hash };
        let divergence = Divergence { shard: 1, index: 70, group: 69, logged: sum(0xabc), own: sum(0xabd) };
        note_divergence(folder.path(), &divergence).unwrap();
        let (path, words) = noted_divergence(folder.path()).unwrap().unwrap();
        assert_eq!(path, folder.path().join("diverged.json"));
        for part in ["shard 1", "entry 70", "group 69", "0000000000000abc", "0000000000000abd"] {
            assert!(words.contains(part), "{words}");
        }
        fs::write(&path, "{").unwrap();
        assert!(noted_divergence(folder.path()).unwrap().unwrap().1.contains("cannot be read"));
    }
}
