//! What the log needs of the file system beyond the standard library: durable names and free space.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// Free bytes that this process may use on the file system that holds `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(path)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Has every write to `file` survive a loss of power before it returns, or no longer. The file itself keeps this. Says `false`, and
/// changes nothing, where its file system cannot.
pub(crate) fn set_write_through(file: &File, is_on: bool) -> io::Result<bool> {
    let set = ioctl_getflags(file).and_then(|flags| {
        let wanted = if is_on && !mutant!(WriteThroughOff) { flags | IFlags::SYNC } else { flags - IFlags::SYNC };
        if wanted == flags { Ok(()) } else { ioctl_setflags(file, wanted) }
    });
    match set {
        Ok(()) => Ok(true),
        Err(Errno::NOTTY | Errno::NOTSUP | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes the names in folder `path` durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    if mutant!(FolderNotSynced) {
        return Ok(());
    }
    File::open(path)?.sync_all()
}

/// Creates folder `path` with its parents where they are missing, for this user only. At return what was created survives a loss of
/// power; a folder that is there already is taken to do so.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    sync_directory(parent)
}

/// Puts a file of `bytes` at `directory/name`, for this user only: whole and durable at return, or not there at all.
pub(crate) fn write_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}
