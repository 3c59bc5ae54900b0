//! Parts of benches that need a process of their own, because they measure its memory or its instructions: this program again, told what
//! to do by JSON.

use std::path::Path;
use std::process::Command;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::instructions::{self, Counting};
use crate::memory::{self, Filling};
use crate::snapshot::{self, Loading};

/// What a child can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Fill a ledger, and say how much memory that took.
    Fill(Filling),
    /// Serve again from a data directory, and say how long that took.
    Load(Loading),
    /// Do a piece of the hot path where its instructions are counted.
    Count(Counting),
}

/// Has a child of `program` do `part`.
pub fn run<T: DeserializeOwned>(program: &Path, part: &Part) -> Result<T, BenchError> {
    let part = serde_json::to_string(part).map_err(BenchError::wrong)?;
    let output = Command::new(program).args(["part", &part]).output();
    let output = output.map_err(BenchError::io(format!("{} as a child", program.display())))?;
    if !output.status.success() {
        return Err(BenchError::Wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(BenchError::wrong)
}

/// Does the part of which `part` is the JSON, and gives what came of it as JSON.
pub fn serve(part: &str) -> Result<String, BenchError> {
    match serde_json::from_str(part).map_err(BenchError::wrong)? {
        Part::Fill(filling) => serde_json::to_string(&memory::measure(&filling)?),
        Part::Load(loading) => serde_json::to_string(&snapshot::measure_load(&loading)?),
        Part::Count(counting) => serde_json::to_string(&instructions::measure(&counting)?),
    }
    .map_err(BenchError::wrong)
}
