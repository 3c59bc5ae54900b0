//! A file that is written once, from its front to its end, past the page cache. Knows nothing of what is written.
//!
//! What goes through the page cache gathers there, and whoever syncs any file of the same file system then waits for it: the log would, for
//! as long as a snapshot is written. So pieces go straight to the disk as they fill (`O_DIRECT`), each small enough for the log's writes to
//! pass between two of them. A file system that cannot do that gets them through the cache, with a sync after every few MiB.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes that are written at once.
const PIECE_BYTES: usize = 256 * 1024;

/// What addresses, offsets and lengths are multiples of where the page cache is passed by: at least a block of any usual disk.
const ALIGNMENT: usize = 4096;

/// Bytes between two syncs where the page cache is not passed by.
const CACHED_BYTES_MAX: u64 = 8 * 1024 * 1024;

const _: () = assert!(PIECE_BYTES.is_multiple_of(ALIGNMENT));

/// A file being written. Belongs to one thread, which waits for the disk.
#[derive(Debug)]
pub(crate) struct FrontToEnd {
    file: File,
    is_past_cache: bool,
    /// Room for a piece behind as many bytes as its address needs to be aligned.
    room: Vec<u8>,
    /// Where the piece begins in it, and how much of it is filled.
    begins: usize,
    filled: usize,
    /// Bytes of the pieces before.
    written: u64,
    /// How many of these were there at the last sync.
    synced: u64,
}

impl FrontToEnd {
    /// Begins a file at `path`, in place of one that is there, for this user only.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let open = |flags: OFlags| {
            let flags = flags.bits().cast_signed();
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(path)
        };
        let (file, is_past_cache) = match open(OFlags::DIRECT) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => (open(OFlags::empty())?, false),
            file => (file?, true),
        };
        let room = vec![0; PIECE_BYTES + ALIGNMENT];
        let begins = room.as_ptr().addr().next_multiple_of(ALIGNMENT) - room.as_ptr().addr();
        Ok(Self { file, is_past_cache, room, begins, filled: 0, written: 0, synced: 0 })
    }

    /// Adds `bytes` at the end. After an error the file is of no more use.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.filled));
            self.room[self.begins + self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == PIECE_BYTES {
                self.write_piece(PIECE_BYTES)?;
            }
        }
        Ok(())
    }

    /// Bytes that were added.
    pub(crate) const fn length(&self) -> u64 {
        self.written + self.filled as u64
    }

    /// Ends the file, to which nothing may be added afterwards. It is durable at return; its name is for the caller to make so.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let length = self.length();
        let filled = self.filled;
        if filled > 0 {
            let padded = filled.next_multiple_of(ALIGNMENT);
            self.room[self.begins + filled..self.begins + padded].fill(0);
            self.write_piece(padded)?;
            self.file.set_len(length)?;
        }
        if mutant!(SnapshotNotSynced) { Ok(()) } else { self.file.sync_all() }
    }

    fn write_piece(&mut self, bytes: usize) -> io::Result<()> {
        let piece = &self.room[self.begins..][..bytes];
        match self.file.write_all_at(piece, self.written) {
            // Some file systems say only here that they cannot.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.is_past_cache => {
                fcntl_setfl(&self.file, fcntl_getfl(&self.file)? - OFlags::DIRECT)?;
                self.is_past_cache = false;
                self.file.write_all_at(piece, self.written)?;
            }
            other => other?,
        }
        self.written += self.filled as u64;
        self.filled = 0;
        if !self.is_past_cache && self.written - self.synced >= CACHED_BYTES_MAX {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What byte `at` of a test's file is.
    fn byte(at: usize) -> u8 {
        u8::try_from(at * 7 % 251).unwrap()
    }

    fn write_and_read(length: usize, at_once: usize, is_past_cache: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = FrontToEnd::create(&path).unwrap();
        file.is_past_cache &= is_past_cache;
        if !is_past_cache {
            fcntl_setfl(&file.file, fcntl_getfl(&file.file).unwrap() - OFlags::DIRECT).unwrap();
        }
        let bytes: Vec<u8> = (0..length).map(byte).collect();
        for part in bytes.chunks(at_once) {
            file.write(part).unwrap();
        }
        assert_eq!(file.length(), length as u64);
        file.finish().unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes, "{length} bytes, {at_once} at once");
    }

    #[test]
    fn a_file_of_any_length_holds_what_was_written() {
        for is_past_cache in [true, false] {
            for length in [0, 1, ALIGNMENT - 1, ALIGNMENT, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 4_097] {
                write_and_read(length, 100_003, is_past_cache);
            }
            write_and_read(2 * PIECE_BYTES, PIECE_BYTES, is_past_cache);
            write_and_read(20_000, 1, is_past_cache);
            write_and_read(40 * PIECE_BYTES, 1_000_000, is_past_cache);
        }
    }
}
