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

/// What the drive's image needs beside its file, and the file system of the first cuts, in MiB.
const OUTER_MEBIBYTES_MORE: u64 = 64;
const FIRST_MEBIBYTES: u64 = 16;

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
            Self::Disk(disk) => disk.inner.place.join("data"),
            Self::Folder(folder) => folder.path().join("data"),
        }
    }

    /// Whether its power can be cut.
    pub(crate) const fn has_power(&self) -> bool {
        matches!(self, Self::Disk(_))
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

    /// Takes the switch for `cut` into the hand, if it has one.
    pub(crate) fn switch(&self, cut: Cut) -> Result<Option<Switch>, RigError> {
        match self {
            Self::Disk(disk) => disk.switch(cut).map(Some),
            Self::Folder(_) => Ok(None),
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
                disk.outer.mount()?;
                copy_from(&disk.inner.image)?;
                disk.inner.mount()
            }
            Self::Folder(_) => copy_from(&self.data()),
        }
    }
}

fn temporary(work: &Path) -> Result<TempDir, RigError> {
    tempfile::Builder::new().prefix("tidegate-rig-").tempdir_in(work).map_err(RigError::io(work))
}

/// How far a loss of power reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// What the drive was given stays; the computer's memory is lost.
    Memory,
    /// What the drive was given and not told to flush is lost too.
    DriveCache,
}

impl Cut {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Memory, Self::DriveCache];

    /// Its name in a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::DriveCache => "drive cache",
        }
    }
}

/// A small ext4 file system on a drive with a volatile cache.
///
/// The drive is an image file on another file system, which is mounted from an image too. A write to the drive goes to that file's pages
/// in memory and a flush of the drive syncs them, so shutting the outer file system down loses just what a drive's cache would.
#[derive(Debug)]
pub(crate) struct CutDisk {
    outer: FileSystem,
    inner: FileSystem,
    // Last, so that the folder goes when nothing is mounted in it any more.
    _folder: TempDir,
}

/// An ext4 file system in an image file, mounted through a loop device or not.
#[derive(Debug)]
struct FileSystem {
    image: PathBuf,
    mebibytes: u64,
    place: PathBuf,
    is_mounted: bool,
}

/// Holds the switch of a file system, so that nothing has to be started at the moment of the cut.
#[derive(Debug)]
pub(crate) struct Switch {
    process: Child,
    place: PathBuf,
}

impl CutDisk {
    /// Makes and mounts a file system of `mebibytes` MiB in a folder of its own below `work`.
    pub(crate) fn new(work: &Path, mebibytes: u64) -> Result<Self, RigError> {
        let folder = temporary(work)?;
        let (drive, mount) = (folder.path().join("drive"), folder.path().join("mount"));
        for place in [&drive, &mount] {
            fs::create_dir(place).map_err(RigError::io(place))?;
        }
        let inner = FileSystem { image: drive.join("image"), mebibytes, place: mount, is_mounted: false };
        let outer_mebibytes = mebibytes + mebibytes / 4 + OUTER_MEBIBYTES_MORE;
        let outer = FileSystem { image: folder.path().join("image"), mebibytes: outer_mebibytes, place: drive, is_mounted: false };
        let mut disk = Self { outer, inner, _folder: folder };
        disk.renew()?;
        Ok(disk)
    }

    fn switch(&self, cut: Cut) -> Result<Switch, RigError> {
        let place = match cut {
            Cut::Memory => &self.inner.place,
            Cut::DriveCache => &self.outer.place,
        };
        let started = command("xfs_io").arg("-x").arg(place).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let process = started.map_err(|error| RigError::Command { command: "xfs_io".to_owned(), what: error.to_string() })?;
        Ok(Switch { process, place: place.clone() })
    }

    fn renew(&mut self) -> Result<(), RigError> {
        self.unmount()?;
        self.outer.format()?;
        self.outer.mount()?;
        self.inner.format()?;
        self.inner.mount()?;
        // The drive itself is older than the first cut.
        for place in [&self.inner.place, &self.inner.image, &self.outer.place] {
            File::open(place).and_then(|file| file.sync_all()).map_err(RigError::io(place))?;
        }
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), RigError> {
        self.inner.unmount()?;
        self.outer.unmount()
    }

    fn mount(&mut self) -> Result<(), RigError> {
        self.outer.mount()?;
        self.inner.mount()
    }
}

impl FileSystem {
    fn format(&self) -> Result<(), RigError> {
        let image = File::create(&self.image).map_err(RigError::io(&self.image))?;
        image.set_len(self.mebibytes * 1024 * 1024).map_err(RigError::io(&self.image))?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), self.image.as_os_str()])
    }

    fn mount(&mut self) -> Result<(), RigError> {
        run("mount", &["-o".as_ref(), MOUNT_OPTIONS.as_ref(), self.image.as_os_str(), self.place.as_os_str()])?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), RigError> {
        if self.is_mounted {
            // The loop device was made by the mount and goes with it.
            run("umount", &[self.place.as_os_str()])?;
            self.is_mounted = false;
        }
        Ok(())
    }
}

impl Switch {
    /// Cuts: from here on nothing more is kept, and what was not synced before is lost. The writer may still run.
    pub(crate) fn cut(mut self) -> Result<(), RigError> {
        let failed = |what: String| RigError::Command { command: "xfs_io".to_owned(), what };
        let mut hand = self.process.stdin.take().expect("the input is a pipe");
        // Without -f the journal is not flushed either.
        hand.write_all(b"shutdown\n").map_err(|error| failed(error.to_string()))?;
        drop(hand);
        let status = self.process.wait().map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(status.to_string()));
        }
        // Its name would be gone with the cut anyway.
        if File::create(self.place.join("after-the-cut")).is_ok() { Err(RigError::NotCut) } else { Ok(()) }
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.unmount().is_err()
            && let Err(error) = run("umount", &["--lazy".as_ref(), self.place.as_os_str()])
        {
            eprintln!("{} is still mounted: {error}", self.place.display());
        }
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        // Where this fails, each of the two still tries for itself, in any order.
        drop(self.unmount());
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Normally it has ended with the cut.
        drop(self.process.kill());
        drop(self.process.wait());
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
    let first = CutDisk::new(work, FIRST_MEBIBYTES).and_then(|mut disk| {
        for cut in Cut::ALL {
            disk.switch(cut)?.cut()?;
            disk.unmount()?;
            disk.mount()?;
        }
        Ok(())
    });
    first.err().map(|error| format!("first cuts on a loop device are not possible here: {error}"))
}
