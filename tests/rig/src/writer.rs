//! The processes that the rig starts: the writer, which it crashes, and the examination, which looks at what is left.
//!
//! Both open a data directory as a node does, through the log's public face, on the real store. They say what happens and never judge a
//! crash; they know nothing of when or how it comes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use tidegate_persistence::{
    DataDirectory, DirectoryOptions, Durability, Entry, GroupBuilder, GroupSequence, IdentityExpectation, RecoveredStream,
    StreamId, SyncReport, Wal, WalError, WalListener, WalOptions,
};
use tidegate_stock::Timestamp;

use crate::checker::StreamChecker;
use crate::history::{Content, History, STREAMS};
use crate::protocol::{Line, say};

/// Groups of one stream that are handed to the log and not yet committed.
const IN_FLIGHT_MAX: u64 = 4;

/// Small, so that crashes also come while the log goes on in a new segment.
const SEGMENT_BYTES_MAX: u64 = 1024 * 1024;

/// When the directory says it was made. The rig never reads a clock.
const CREATED_AT: Timestamp = Timestamp::from_unix_ms(1_750_000_000_000);

/// Opens the directory at `path`, or creates it, and appends groups to it without an end. Returns only with what went wrong.
pub(crate) fn write(path: &Path, seed: u64, durability: Durability) -> Result<std::convert::Infallible, String> {
    let (directory, streams) = open(path, seed)?;
    let (sender, commits) = mpsc::channel();
    let options = WalOptions { durability, disk_free_bytes_min: Some(1), ..WalOptions::default() };
    let tails = streams.iter().map(|(tail, _)| *tail);
    let wal = Wal::start(directory, tails, options, Arc::new(Teller(sender)))
        .map_err(|error| format!("the log did not start: {error}"))?;
    let mut writers = Vec::new();
    for (tail, history) in streams {
        say(&Line::Standing { stream: tail.stream.0, sequence: tail.last_sequence.0 });
        writers.push(StreamWriter { stream: tail.stream, history, issued: tail.last_sequence.0, committed: tail.last_sequence.0 });
    }
    let log = wal.writer();
    loop {
        for writer in &mut writers {
            while writer.issued < writer.committed + IN_FLIGHT_MAX {
                let Content { sequence, time, entries } = writer.history.next_group();
                let mut group = GroupBuilder::new(sequence, time);
                for Entry { at, actor, event, image } in &entries {
                    group.push(event, actor, *at, image);
                }
                writer.issued = sequence.0;
                say(&Line::Issued { stream: writer.stream.0, sequence: sequence.0 });
                log.append(writer.stream, group.finish());
            }
        }
        let (stream, sequence) = commits.recv().map_err(|_| "the log is gone".to_owned())??;
        let writer = writers.iter_mut().find(|writer| writer.stream == stream);
        writer.ok_or_else(|| format!("{stream} was committed and never written"))?.committed = sequence.0;
    }
}

/// Opens the directory at `path`, or creates it, and says what it holds.
pub(crate) fn examine(path: &Path, seed: u64) -> Result<(), String> {
    let (directory, _) = open(path, seed)?;
    for segment in entries(&path.join("log"))? {
        for blob in entries(&segment.join("blobs"))? {
            say(&Line::Finding(format!("the store made a blob, {}", blob.display())));
        }
    }
    drop(directory);
    say(&Line::Done);
    Ok(())
}

/// What lies in `folder`.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// One stream and what is to be appended to it.
struct StreamWriter {
    stream: StreamId,
    history: History,
    issued: u64,
    committed: u64,
}

fn open(path: &Path, seed: u64) -> Result<(DataDirectory, Vec<(RecoveredStream, History)>), String> {
    say(&Line::Opening);
    let identity = IdentityExpectation { shards: Some(STREAMS), ..IdentityExpectation::default() };
    let options = DirectoryOptions { identity, segment_bytes_max: SEGMENT_BYTES_MAX, ..DirectoryOptions::new(CREATED_AT) };
    let directory = DataDirectory::open(path, &options).map_err(|error| format!("it does not open: {error}"))?;
    say(&Line::Opened { cluster: directory.identity().cluster.clone() });
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        streams.push(replay(&directory, seed, stream)?);
    }
    Ok((directory, streams))
}

fn replay(directory: &DataDirectory, seed: u64, stream: u16) -> Result<(RecoveredStream, History), String> {
    let mut checker = StreamChecker::new(seed, stream);
    let mut finding = None;
    let mut events = 0;
    let replayed = directory.replay(StreamId::log(stream), |group| {
        let entries = group.entries()?.collect::<Result<Vec<_>, _>>()?;
        events += entries.len() as u64;
        if finding.is_none() {
            finding = checker.group(group.sequence, &entries).err();
        }
        Ok(())
    });
    let tail_parts = replayed.as_ref().map_or(0, |tail| tail.discarded_tail_parts);
    // What was right before the damage tells how much is lost.
    say(&Line::Recovered { stream, sequence: checker.groups(), events, tail_parts });
    let tail = replayed.map_err(|error| error.to_string())?;
    if let Some(finding) = finding {
        return Err(finding.to_string());
    }
    if tail.last_sequence != GroupSequence(checker.groups()) {
        return Err(format!("{} ends with group {} after {} groups", tail.stream, tail.last_sequence, checker.groups()));
    }
    Ok((tail, checker.into_history()))
}

/// Passes on what the log says: to the rig at once, and to the loop that writes.
struct Teller(Sender<Result<(StreamId, GroupSequence), String>>);

impl WalListener for Teller {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        say(&Line::Committed { stream: stream.0, sequence: sequence.0 });
        // The loop ends only with the process.
        drop(self.0.send(Ok((stream, sequence))));
    }

    fn synced(&self, _report: &SyncReport) {}

    fn disk_low(&self, _is_low: bool) {}

    fn failed(&self, error: &WalError) {
        drop(self.0.send(Err(format!("the log failed: {error}"))));
    }
}
