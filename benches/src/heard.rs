//! Listeners of the log that keep what they hear.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_engine::LocalCommits;
use tidegate_persistence::{GroupSequence, StreamId, SyncReport, WalError, WalListener};

use crate::error::BenchError;

/// Longest wait for a group.
const COMMIT_WAIT_MAX: Duration = Duration::from_mins(1);

enum Heard {
    Committed(GroupSequence, Instant),
    Synced(SyncReport),
    Failed(String),
}

/// Hands on what the log says to the thread that waits for it.
pub struct Messenger(Sender<Heard>);

/// The waiting end of a [`Messenger`].
pub struct Waiting(Receiver<Heard>);

/// A messenger, and who waits for it.
pub fn messenger() -> (Arc<Messenger>, Waiting) {
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Messenger(sender)), Waiting(receiver))
}

impl WalListener for Messenger {
    fn committed(&self, _: StreamId, sequence: GroupSequence) {
        drop(self.0.send(Heard::Committed(sequence, Instant::now())));
    }

    fn synced(&self, report: &SyncReport) {
        drop(self.0.send(Heard::Synced(*report)));
    }

    fn disk_low(&self, _: bool) {}

    fn failed(&self, error: &WalError) {
        drop(self.0.send(Heard::Failed(error.to_string())));
    }
}

impl Waiting {
    /// Waits until `sequence` is committed and its sync is reported. Gives the moment of the one and the sum of all reports since the
    /// last call.
    pub fn wait_committed(&self, sequence: GroupSequence) -> Result<(Instant, SyncReport), BenchError> {
        let (mut committed_at, mut sum) = (None, SyncReport::default());
        loop {
            match self.0.recv_timeout(COMMIT_WAIT_MAX) {
                Ok(Heard::Committed(committed, at)) if committed >= sequence => committed_at = Some(at),
                Ok(Heard::Committed(..)) => {}
                Ok(Heard::Synced(report)) => {
                    add(&mut sum, &report);
                    if let Some(at) = committed_at {
                        return Ok((at, sum));
                    }
                }
                Ok(Heard::Failed(error)) => return Err(BenchError::Wrong(format!("the log failed: {error}"))),
                Err(_) => {
                    return Err(BenchError::Wrong(format!(
                        "group {sequence} was not committed in {} s",
                        COMMIT_WAIT_MAX.as_secs()
                    )));
                }
            }
        }
    }
}

/// Hands everything on to the engine's own listener and adds up the reports.
pub struct Tally {
    commits: LocalCommits,
    sum: Mutex<(SyncReport, u64)>,
    longest: Mutex<Duration>,
}

impl Tally {
    /// A tally in front of `commits`.
    pub fn new(commits: LocalCommits) -> Self {
        Self { commits, sum: Mutex::default(), longest: Mutex::default() }
    }

    /// The sum of all reports so far, and how many syncs they are.
    pub fn sum(&self) -> (SyncReport, u64) {
        *self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest that the log took to hand over and sync a batch of groups, since the last call.
    pub fn take_longest(&self) -> Duration {
        std::mem::take(&mut *self.longest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WalListener for Tally {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        self.commits.committed(stream, sequence);
    }

    fn synced(&self, report: &SyncReport) {
        self.commits.synced(report);
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut sum.0, report);
        sum.1 += 1;
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = (report.append + report.sync).max(*longest);
    }

    fn disk_low(&self, is_low: bool) {
        self.commits.disk_low(is_low);
    }

    fn failed(&self, error: &WalError) {
        self.commits.failed(error);
    }
}

fn add(sum: &mut SyncReport, report: &SyncReport) {
    sum.groups += report.groups;
    sum.events += report.events;
    sum.values += report.values;
    sum.bytes += report.bytes;
    sum.append += report.append;
    sum.sync += report.sync;
}
