//! The seal of a segment: a small file in its folder that says what it holds, so that nobody has to open it to know.
//!
//! It is written once the segment was left and everything in it survives a loss of power, and removed before the segment is changed again.
//! A seal that is missing, torn, or of another segment says nothing; the segment is then opened and looked at, and sealed anew.
//!
//! ```text
//!  0  4  "tgl1"
//!  4  8  number of the segment, big-endian like everything here
//! 12  8  bytes that it takes on the disk
//! 20  8  bytes that count against the segment's bound
//! 28 16  times of its oldest and of its newest entry, in milliseconds; 0 while it is empty
//! 44 12  what sled will read when it opens it: 8 place of the newest part of its file, 4 crc32c
//! 56  2  number of streams
//! 58     per stream, in order: 2 stream, 8 first index, 8 its sequence, 8 last index, 8 its sequence
//!  n  4  crc32c of everything before
//! ```

use std::fs;
use std::io;
use std::path::Path;

use tidegate_stock::Timestamp;

use crate::contents::{Contents, Place};
use crate::disk;
use crate::record::{GroupSequence, LogIndex, Reader, StreamId};
use crate::sled_files::Fingerprint;

const FILE_NAME: &str = "sealed";
const MAGIC: [u8; 4] = *b"tgl1";
const HEAD_BYTES: usize = 58;
const ENTRY_BYTES: usize = 34;
const CHECKSUM_BYTES: usize = 4;

/// What the seal of a segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes_on_disk: u64,
    pub(crate) contents: Contents,
    pub(crate) fingerprint: Fingerprint,
}

impl Sealed {
    /// The seal of segment `number` in folder `path`; `None` where there is none that says anything.
    pub(crate) fn read(path: &Path, number: u64) -> io::Result<Option<Self>> {
        match fs::read(path.join(FILE_NAME)) {
            Ok(bytes) => Ok(decode(&bytes, number)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts the seal of segment `number` into folder `path`. Durable at return.
    pub(crate) fn write(&self, path: &Path, number: u64) -> io::Result<()> {
        disk::write_file(path, FILE_NAME, &self.encode(number)?)
    }

    /// Takes the seal away from folder `path`, if there is one. Durable at return.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(path.join(FILE_NAME)) {
            Ok(()) => disk::sync_directory(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn encode(&self, number: u64) -> io::Result<Vec<u8>> {
        let contents = &self.contents;
        let mut bytes = MAGIC.to_vec();
        let oldest_time = contents.oldest_time.unwrap_or(Timestamp::from_unix_ms(0));
        for value in [
            number,
            self.bytes_on_disk,
            contents.taken_bytes,
            oldest_time.unix_ms(),
            contents.newest_time.unix_ms(),
            self.fingerprint.newest_part_at,
        ] {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.extend_from_slice(&self.fingerprint.crc.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(contents.last.len()).map_err(io::Error::other)?.to_be_bytes());
        for ((stream, first), last) in contents.first.iter().zip(contents.last.values()) {
            bytes.extend_from_slice(&stream.0.to_be_bytes());
            for (index, sequence) in [first, last] {
                bytes.extend_from_slice(&index.0.to_be_bytes());
                bytes.extend_from_slice(&sequence.0.to_be_bytes());
            }
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        Ok(bytes)
    }
}

/// What `bytes` say of segment `number`; `None` when they are not its whole seal.
fn decode(bytes: &[u8], number: u64) -> Option<Sealed> {
    let (covered, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if covered.len() < HEAD_BYTES || u32::from_be_bytes(*checksum) != crc32c::crc32c(covered) {
        return None;
    }
    let mut reader = Reader(covered);
    if reader.array() != MAGIC || reader.u64() != number {
        return None;
    }
    let (bytes_on_disk, taken_bytes) = (reader.u64(), reader.u64());
    let (oldest_time, newest_time) = (Timestamp::from_unix_ms(reader.u64()), Timestamp::from_unix_ms(reader.u64()));
    let fingerprint = Fingerprint { newest_part_at: reader.u64(), crc: reader.u32() };
    let streams = usize::from(reader.u16());
    if covered.len() != HEAD_BYTES + streams * ENTRY_BYTES {
        return None;
    }
    let mut contents =
        Contents { taken_bytes, oldest_time: (streams > 0).then_some(oldest_time), newest_time, ..Contents::default() };
    for _ in 0..streams {
        let stream = StreamId(reader.u16());
        let mut place = || -> Place { (LogIndex(reader.u64()), GroupSequence(reader.u64())) };
        contents.first.insert(stream, place());
        contents.last.insert(stream, place());
    }
    Some(Sealed { bytes_on_disk, contents, fingerprint })
}
