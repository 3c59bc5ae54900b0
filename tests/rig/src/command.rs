//! Programs of the system that the rig calls.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::RigError;

/// Where programs for the administrator lie, which are not on everybody's path.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The place of `program`, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|place| place.is_file())
}

/// A call of `program` in a process group of its own, so that a signal from the terminal reaches only the rig.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)));
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Runs `program` to its end.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<(), RigError> {
    let output = command(program).args(arguments).output();
    let output = output.map_err(|error| RigError::Command { command: program.to_owned(), what: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let what = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(RigError::Command { command: program.to_owned(), what: format!("{} ({what})", output.status) })
}
