//! What a process takes of the machine: memory, files, disk. Read from `/proc` and the file system; knows nothing of what runs there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use tidegate_witness::node::NodeError;

/// What the blocks of a file are counted in, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// Memory that process `pid` holds, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64, NodeError> {
    let told = |source| NodeError::Machine { what: "the node's memory cannot be read", source };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(told)?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = size.and_then(|size| size.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| told(io::ErrorKind::InvalidData.into()))
}

/// Files and connections that process `pid` has open.
pub(crate) fn open_files(pid: u32) -> Result<u64, NodeError> {
    let told = |source| NodeError::Machine { what: "the node's open files cannot be counted", source };
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).map_err(told)?.count() as u64)
}

/// Bytes that the files in `folder` take on the disk; what is deleted meanwhile counts or not.
pub(crate) fn allocated_bytes(folder: &Path) -> io::Result<u64> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
            Err(error) if gone(&error) => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

/// Sees to it that this process, and those that it starts, may have `count` files and connections open.
pub(crate) fn allow_open_files(count: u64) -> Result<(), NodeError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    // More than the hard limit only a privileged process may ask for.
    let maximum = limit.maximum.map(|maximum| maximum.max(count));
    let wanted = Rlimit { current: Some(count), maximum };
    setrlimit(Resource::Nofile, wanted).map_err(|error| NodeError::Machine {
        what: "the operating system does not allow so many open files",
        source: error.into(),
    })
}

/// Waits until `moment`. What is measured by the clock is paced by the clock; nothing is synchronised with it.
pub(crate) fn wait_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Waits for `duration`.
pub(crate) fn wait(duration: Duration) {
    wait_until(Instant::now() + duration);
}
