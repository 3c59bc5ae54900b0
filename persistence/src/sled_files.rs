//! sled's files as they lie on the disk while nobody has them open: what a store would read of them when it opens.
//!
//! sled keeps a picture of its page table (`snap.<position>`) and reads its log from there on: the part of `db` that was written last. If
//! that part is not what it was, sled takes the log to end where the difference is and writes zeros over the rest of it, before it says
//! anything. So whoever has noted these bytes compares them first. Everything else in `db` that matters is only ever read, and checked page
//! by page. Parts that nothing is in any more sled fills with zeros as it opens; such ones at the end it cuts off and puts back as it comes,
//! so the length of the file says nothing.
//!
//! A part of `db` begins with a checksum (4 bytes), its position in the log (8, little-endian, all bits but the sign inverted) and 8 more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a part of sled's file, which sled calls a segment.
pub(crate) const PART_BYTES: usize = 512 * 1024;

const HEADER_BYTES: usize = 20;
const POSITION_AT: usize = 4;

/// Names of the files, and of what they begin with, that sled reads whole.
const CONFIGURATION: &str = "conf";
const PAGE_TABLE: &str = "snap.";

/// What the name of a picture of the page table ends with while sled writes it.
const UNFINISHED: &str = ".generating";

/// Removes the picture of the page table that sled was writing when its process ended, from the store in folder `path`: it would take it
/// for the newest one, and find it damaged. What it is made from is still there.
pub(crate) fn remove_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PAGE_TABLE) && name.ends_with(UNFINISHED) {
            fs::remove_file(path.join(&*name))?;
        }
    }
    Ok(())
}

/// What sled reads of a store when it opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Where the part of `db` begins that was written last.
    pub(crate) newest_part_at: u64,
    /// crc32c of the other files and of that part, without the zeros at its end.
    pub(crate) crc: u32,
}

impl Fingerprint {
    /// That of the store in folder `path`. Its bytes must not be changing.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let db = File::open(path.join("db"))?;
        let bytes = db.metadata()?.len();
        let mut newest = (0, 0);
        let mut header = [0; HEADER_BYTES];
        let mut at = 0;
        while at + HEADER_BYTES as u64 <= bytes {
            db.read_exact_at(&mut header, at)?;
            // A part that is free is all zeros.
            if header != [0; HEADER_BYTES] {
                let position = header[POSITION_AT..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) ^ (u64::MAX >> 1));
                newest = newest.max((position, at));
            }
            at += PART_BYTES as u64;
        }
        Self::with_newest_part(path, newest.1)
    }

    /// Whether the store in folder `path` still has this one.
    pub(crate) fn is_of(&self, path: &Path) -> io::Result<bool> {
        Ok(Self::with_newest_part(path, self.newest_part_at)? == *self)
    }

    fn with_newest_part(path: &Path, newest_part_at: u64) -> io::Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            if name == CONFIGURATION || name.to_string_lossy().starts_with(PAGE_TABLE) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut crc = 0;
        for name in names {
            crc = crc32c::crc32c_append(crc, name.as_encoded_bytes());
            crc = crc32c::crc32c_append(crc, &fs::read(path.join(name))?);
        }
        let db = File::open(path.join("db"))?;
        let length = db.metadata()?.len().saturating_sub(newest_part_at).min(PART_BYTES as u64);
        let mut newest_part = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        db.read_exact_at(&mut newest_part, newest_part_at)?;
        let used = newest_part.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Ok(Self { newest_part_at, crc: crc32c::crc32c_append(crc, &newest_part[..used]) })
    }
}
