//! What figures were measured on, read from `/proc`; where that says nothing, so does this.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::error::BenchError;

/// Ticks of `/proc/<pid>/stat` in a second: fixed for programs, whatever the kernel's own tick is.
const TICKS_PER_SECOND: u64 = 100;

/// What the blocks of a file are counted in, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor, as it names itself.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Kind of the file system that holds the data directories.
    pub file_system: String,
    /// Processes that ran or wanted to in the minute before the benches: others' work takes turns with what is measured.
    pub load_before: f64,
}

impl Machine {
    /// Looks around; `directory` is where data directories will be.
    pub fn look(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system_kind(&read("/proc/self/mounts"), directory),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }

    /// Whether what is "synced" here is only memory.
    pub fn syncs_to_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

/// The kind of the mount that `directory` is on: the longest mount point that leads to it, the last of equals.
fn file_system_kind(mounts: &str, directory: &Path) -> String {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mut found = (0, "unknown");
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(point), Some(kind)) = (fields.next(), fields.next()) else { continue };
        let depth = Path::new(point).components().count();
        if directory.starts_with(point) && depth >= found.0 {
            found = (depth, kind);
        }
    }
    found.1.to_owned()
}

/// Memory of a process that is in use, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Resident {
    /// Now (`VmRSS`), in bytes.
    pub bytes: u64,
    /// The most that it ever was (`VmHWM`), in bytes.
    pub peak_bytes: u64,
}

impl Resident {
    /// This process's own.
    pub fn look() -> Self {
        Self::of(std::process::id())
    }

    /// That of process `id`.
    pub fn of(id: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        Self { bytes: status_bytes(&status, "VmRSS:"), peak_bytes: status_bytes(&status, "VmHWM:") }
    }
}

/// A size that `/proc/<pid>/status` gives in KiB.
fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// Bytes that the files in `folder` take on the disk; what is deleted meanwhile counts or not.
pub fn allocated_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

/// A new temporary folder in `parent`, or where the system keeps them. Removed when dropped.
pub fn temporary_directory(parent: Option<&PathBuf>) -> Result<TempDir, BenchError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("tidegate-bench-");
    parent.map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent)).map_err(BenchError::io("temporary folder"))
}

/// Processor time that the calling thread has used so far.
pub fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0))
}

/// Processor time that process `id` has used so far, to a hundredth of a second.
pub fn process_cpu(id: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name stands in parentheses and may hold anything; user and system time are the 12th and 13th field after it.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_names_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /no-such-folder/sub tmpfs rw 0 0\n/dev/b /no-such-folder xfs rw 0 0\n";
        assert_eq!(file_system_kind(mounts, Path::new("/no-such-folder/sub/x")), "tmpfs");
        assert_eq!(file_system_kind(mounts, Path::new("/no-such-folder/other")), "xfs");
        assert_eq!(file_system_kind(mounts, Path::new("/no-such-folder-2")), "ext4");
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t     512 kB\n";
        assert_eq!((status_bytes(status, "VmRSS:"), status_bytes(status, "VmHWM:")), (524_288, 2_097_152));
        let memory = Resident::look();
        assert!(0 < memory.bytes && memory.bytes <= memory.peak_bytes, "{memory:?}");
    }

    #[test]
    fn a_folder_takes_what_its_files_take() {
        let folder = temporary_directory(None).unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), vec![7; 100_000]).unwrap();
        assert!(allocated_bytes(folder.path()).unwrap() >= 100_000);
        assert_eq!(allocated_bytes(&folder.path().join("none")).unwrap(), 0);
    }

    #[test]
    fn a_busy_process_has_used_its_processor() {
        let before = process_cpu(std::process::id());
        let (start, mut sum) = (std::time::Instant::now(), 0_u64);
        while process_cpu(std::process::id()) == before && start.elapsed() < Duration::from_secs(20) {
            sum = (0..100_000_u64).fold(sum, u64::wrapping_add);
        }
        assert!(process_cpu(std::process::id()) > before, "{sum}");
        assert!(thread_cpu() > Duration::ZERO);
    }
}
