//! Where a data directory lives while it is crashed: a file system of its own that can be cut off like by a loss of power, or a folder.
//!
//! A site takes down what it set up when it is dropped. It knows nothing of what is in the directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::command::{command, find, run};
use crate::error::RigError;

/// Journal commits only when something is synced, and no help of the file system for those who rename without a sync: both make a cut
/// lose as much as it may.
const MOUNT_OPTIONS: &str = "loop,commit=300,noauto_da_alloc,noatime";

/// A place for one data directory after the other.
#[derive(Debug)]
pub(crate) enum Site {
    /// An ext4 image on a loop device: its power can be cut.
    Disk(CutDisk),
    /// A folder: its writer can only be killed.
    Folder(TempDir),
}

impl Site {
    /// A folder of its own below `work`.
    pub(crate) fn folder(work: &Path) -> Result<Self, RigError> {
        Ok(Self::Folder(temporary(work)?))
    }

    /// Where the data directory lies.
    pub(crate) fn data(&self) -> PathBuf {
        match self {
            Self::Disk(disk) => disk.mount.join("data"),
            Self::Folder(folder) => folder.path().join("data"),
        }
    }

    /// Empties it.
    pub(crate) fn renew(&mut self) -> Result<(), RigError> {
        match self {
            Self::Disk(disk) => disk.renew(),
            Self::Folder(_) => {
                let data = self.data();
                if data.exists() { fs::remove_dir_all(&data).map_err(RigError::io(&data)) } else { Ok(()) }
            }
        }
    }

    /// Takes the switch of its power into the hand, if it has one.
    pub(crate) fn switch(&self) -> Result<Option<Switch>, RigError> {
        match self {
            Self::Disk(disk) => disk.switch().map(Some),
            Self::Folder(_) => Ok(None),
        }
    }

    /// Cuts the power, if it has a switch.
    pub(crate) fn cut(&self, switch: Option<Switch>) -> Result<(), RigError> {
        match (self, switch) {
            (Self::Disk(disk), Some(switch)) => disk.cut(switch),
            _ => Ok(()),
        }
    }

    /// Makes it usable again after a crash, and before that copies it as it is to `copy`. Nobody may have a file open.
    pub(crate) fn restore(&mut self, copy: Option<&Path>) -> Result<(), RigError> {
        let copy_from = |from: &Path| {
            let Some(copy) = copy.filter(|_| from.exists()) else { return Ok(()) };
            run("cp", &["-a".as_ref(), "--sparse=always".as_ref(), from.as_os_str(), copy.as_os_str()])
        };
        match self {
            Self::Disk(disk) => {
                disk.unmount()?;
                copy_from(&disk.image)?;
                disk.mount()
            }
            Self::Folder(_) => copy_from(&self.data()),
        }
    }
}

fn temporary(work: &Path) -> Result<TempDir, RigError> {
    tempfile::Builder::new().prefix("tidegate-rig-").tempdir_in(work).map_err(RigError::io(work))
}

/// A small ext4 file system in an image file, mounted through a loop device.
#[derive(Debug)]
pub(crate) struct CutDisk {
    image: PathBuf,
    mount: PathBuf,
    mebibytes: u64,
    is_mounted: bool,
    // Last, so that the folder goes when nothing is mounted in it any more.
    _folder: TempDir,
}

/// Holds the file system's switch, so that nothing has to be started at the moment of the cut.
#[derive(Debug)]
pub(crate) struct Switch(Child);

impl CutDisk {
    /// Makes and mounts a file system of `mebibytes` MiB in a folder of its own below `work`.
    pub(crate) fn new(work: &Path, mebibytes: u64) -> Result<Self, RigError> {
        let folder = temporary(work)?;
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        fs::create_dir(&mount).map_err(RigError::io(&mount))?;
        let mut disk = Self { image, mount, mebibytes, is_mounted: false, _folder: folder };
        disk.renew()?;
        Ok(disk)
    }

    /// Takes the switch into the hand.
    pub(crate) fn switch(&self) -> Result<Switch, RigError> {
        let started = command("xfs_io").arg("-x").arg(&self.mount).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Ok(Switch(started.map_err(|error| RigError::Command { command: "xfs_io".to_owned(), what: error.to_string() })?))
    }

    /// Cuts the power: from here on nothing reaches the image, and what was not synced before is lost. The writer may still run.
    pub(crate) fn cut(&self, mut switch: Switch) -> Result<(), RigError> {
        let failed = |what: String| RigError::Command { command: "xfs_io".to_owned(), what };
        let mut hand = switch.0.stdin.take().expect("the input is a pipe");
        // Without -f the journal is not flushed either.
        hand.write_all(b"shutdown\n").map_err(|error| failed(error.to_string()))?;
        drop(hand);
        let status = switch.0.wait().map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(status.to_string()));
        }
        // A file that is neither seen nor kept: the cut is undone by the next mount.
        if File::create(self.mount.join("after-the-cut")).is_ok() { Err(RigError::NotCut) } else { Ok(()) }
    }

    fn renew(&mut self) -> Result<(), RigError> {
        self.unmount()?;
        let image = File::create(&self.image).map_err(RigError::io(&self.image))?;
        image.set_len(self.mebibytes * 1024 * 1024).map_err(RigError::io(&self.image))?;
        drop(image);
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), self.image.as_os_str()])?;
        self.mount()
    }

    fn mount(&mut self) -> Result<(), RigError> {
        run("mount", &["-o".as_ref(), MOUNT_OPTIONS.as_ref(), self.image.as_os_str(), self.mount.as_os_str()])?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), RigError> {
        if self.is_mounted {
            // The loop device was made by the mount and goes with it.
            run("umount", &[self.mount.as_os_str()])?;
            self.is_mounted = false;
        }
        Ok(())
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        if self.unmount().is_err()
            && let Err(error) = run("umount", &["--lazy".as_ref(), self.mount.as_os_str()])
        {
            eprintln!("{} is still mounted: {error}", self.mount.display());
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Normally it has ended with the cut.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What is missing here for power cuts, and how to get it; `None` when a first small cut was made.
pub(crate) fn missing(work: &Path) -> Option<String> {
    if fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) != 0) {
        return Some("power cuts need root: they mount a file system".to_owned());
    }
    for (program, package) in [("xfs_io", "xfsprogs"), ("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("umount", "mount")] {
        if find(program).is_none() {
            return Some(format!("{program} is missing: on Debian, apt-get install {package}"));
        }
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some(
            "loop devices are missing: there is no /dev/loop-control (modprobe loop, or a container with its devices)".to_owned(),
        );
    }
    let first = CutDisk::new(work, 16).and_then(|mut disk| {
        let switch = disk.switch()?;
        disk.cut(switch)?;
        disk.unmount()?;
        disk.mount()
    });
    first.err().map(|error| format!("a first cut on a loop device is not possible here: {error}"))
}
