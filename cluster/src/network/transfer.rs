//! How a machine's snapshot becomes bytes and is made of bytes again. What they mean is for the machine.
//!
//! Around them go, in front, where the snapshot stands and who the members are, and behind, how many there were and their hash: a snapshot
//! is made of bytes only when all of them have come as they were sent.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_persistence::INCOMING_SUFFIX;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncRead, AsyncWriteExt};

/// A machine's snapshots, as they go from node to node.
pub trait SnapshotTransfer: Send + Sync + 'static {
    /// The machine's snapshot.
    type Snapshot: Clone + Send + Sync + 'static;
    /// The bytes of one, as they are read.
    type Reader: AsyncRead + Send + Unpin + 'static;
    /// One that is being received.
    type Incoming: IncomingSnapshot<Snapshot = Self::Snapshot>;

    /// The bytes of `snapshot`, from the first on.
    fn open(&self, snapshot: Self::Snapshot) -> impl Future<Output = io::Result<Self::Reader>> + Send;

    /// Begins to receive a snapshot of shard `shard`. Several may be received at once.
    fn receive(&self, shard: u16) -> impl Future<Output = io::Result<Self::Incoming>> + Send;
}

/// A snapshot that is being received. When it is dropped before it is finished, nothing is left of it.
pub trait IncomingSnapshot: Send + 'static {
    /// What becomes of it.
    type Snapshot;

    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes the snapshot of all the bytes, which came as they were sent.
    fn finish(self) -> impl Future<Output = io::Result<Self::Snapshot>> + Send;
}

/// A file that is being received under a name of its own, and is removed unless it is finished.
#[derive(Debug)]
pub struct IncomingFile {
    file: Option<File>,
    path: PathBuf,
}

impl IncomingFile {
    /// A new file in `folder`.
    pub async fn create(folder: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{number}{INCOMING_SUFFIX}"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).await?;
        Ok(Self { file: Some(file), path })
    }

    /// Removes what a crash has left unfinished in `folder`. Nothing may be received into it meanwhile.
    pub async fn remove_unfinished(folder: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_name().as_encoded_bytes().ends_with(INCOMING_SUFFIX.as_bytes()) {
                fs::remove_file(entry.path()).await?;
            }
        }
        Ok(())
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("a file that failed before"))?;
        let written = file.write_all(bytes).await;
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Where it is, until it is finished.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what was taken so far durable, and readable by others.
    pub async fn sync(&mut self) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("a file that failed before"))?;
        file.flush().await?;
        file.sync_all().await
    }

    /// Cuts off what is behind the first `bytes`. Nothing may be written after that.
    pub async fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("a file that failed before"))?;
        file.flush().await?;
        file.set_len(bytes).await
    }

    /// Names the file `name`, in its folder, in place of one that has that name. File and name are durable at return.
    pub async fn finish(mut self, name: &str) -> io::Result<PathBuf> {
        self.sync().await?;
        drop(self.file.take());
        let path = self.path.with_file_name(name);
        fs::rename(&self.path, &path).await?;
        if let Some(folder) = path.parent() {
            File::open(folder).await?.sync_all().await?;
        }
        Ok(path)
    }
}

impl Drop for IncomingFile {
    fn drop(&mut self) {
        // Finished, it has another name. What cannot be removed is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_that_is_finished_has_its_name_and_its_bytes() {
        let folder = tempdir().unwrap();
        let (mut one, two) =
            (IncomingFile::create(folder.path()).await.unwrap(), IncomingFile::create(folder.path()).await.unwrap());
        one.write(b"all ").await.unwrap();
        one.write(b"of it").await.unwrap();
        let path = one.finish("snapshot").await.unwrap();
        assert_eq!(path, folder.path().join("snapshot"));
        assert_eq!(std::fs::read(path).unwrap(), b"all of it");
        drop(two);
        assert_eq!(names(folder.path()), ["snapshot"]);
    }

    #[tokio::test]
    async fn of_a_file_that_is_not_finished_nothing_is_left() {
        let folder = tempdir().unwrap();
        let mut file = IncomingFile::create(folder.path()).await.unwrap();
        file.write(b"half of i").await.unwrap();
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);

        for name in ["0.incoming", "snapshot"] {
            std::fs::write(folder.path().join(name), b"before the crash").unwrap();
        }
        IncomingFile::remove_unfinished(folder.path()).await.unwrap();
        assert_eq!(names(folder.path()), ["snapshot"]);
    }
}
