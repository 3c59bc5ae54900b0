//! One life of a log: the real thread over the model disk, from its start to its end, and what there is to see of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_persistence::{
    Durable, GroupSequence, LogStore, NodeId, RecoveredStream, Sidecar, StreamId, SyncReport, Wal, WalError, WalListener,
    WalOptions,
};

use super::store::{Call, Change, Disk, Fault, FaultKind, Step};
use super::workload::Plan;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// Free bytes that are enough.
const FREE_BYTES_MIN: u64 = 1_000;

/// What stands between the log and the disk: nothing, unless the proof is to be shown to find something.
pub(crate) type Wrap = fn(Disk) -> Box<dyn LogStore>;

/// What a sidecar says.
pub(crate) type Noted = BTreeMap<StreamId, Durable>;

/// What a sidecar held, one after the other: its bytes, and what they say.
pub(crate) type Contents = Vec<(Vec<u8>, Noted)>;

/// Where a log starts.
pub(crate) struct Start {
    pub(crate) disk: Disk,
    /// Changes that lie on it.
    pub(crate) held: usize,
    pub(crate) tails: Vec<RecoveredStream>,
    pub(crate) sidecar: Vec<u8>,
    /// Groups of each stream that were acknowledged before.
    pub(crate) acknowledged: BTreeMap<StreamId, usize>,
}

impl Start {
    /// Where a log of `streams` starts that never was.
    pub(crate) fn nothing(streams: impl IntoIterator<Item = StreamId>) -> Self {
        let tails: Vec<_> = streams.into_iter().map(RecoveredStream::empty).collect();
        let acknowledged = tails.iter().map(|tail| (tail.stream, 0)).collect();
        Self { disk: Disk::default(), held: 0, tails, sidecar: Vec::new(), acknowledged }
    }
}

/// A moment between two calls at which everything may end.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    /// The call that came back last.
    pub(crate) call: Option<Call>,
    /// Changes that were made.
    pub(crate) changes: usize,
    /// Changes that survive the end of the process.
    pub(crate) flushed: usize,
    /// Changes that survive a loss of power.
    pub(crate) synced: usize,
    /// Groups that were acknowledged, or shown, up to the next call.
    pub(crate) acknowledged: BTreeMap<StreamId, usize>,
    /// The content of the sidecar, by its number.
    pub(crate) sidecar: usize,
}

/// A life of a log.
pub(crate) struct Session {
    /// The first is before the first call.
    pub(crate) points: Vec<Point>,
    pub(crate) changes: Vec<Change>,
    /// Every content of the sidecar.
    pub(crate) sidecars: Contents,
    pub(crate) steps: Vec<Step>,
    /// How it ended; what it said when it was asked to stop.
    pub(crate) end: Result<(), String>,
    /// What is wrong with it, whatever a crash makes of it.
    pub(crate) wrong: Vec<String>,
}

/// Hears the log and writes down what it says among the disk's steps.
struct Ear {
    disk: Disk,
    sidecar: PathBuf,
    contents: Arc<Mutex<Contents>>,
    heard: Sender<()>,
}

impl Ear {
    fn look_at_sidecar(&self) {
        let (Ok(bytes), Ok(sidecar)) = (fs::read(&self.sidecar), Sidecar::open(&self.sidecar)) else { return };
        let mut contents = self.contents.lock();
        if contents.last().is_none_or(|(last, _)| *last != bytes) {
            contents.push((bytes, sidecar.streams().clone()));
            self.disk.note(Step::Sidecar(contents.len() - 1));
        }
    }

    fn tell(&self, step: Step) {
        self.disk.note(step);
        // Whoever waited may be gone.
        let _ = self.heard.send(());
    }
}

impl WalListener for Ear {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        self.look_at_sidecar();
        self.tell(Step::Committed(stream, sequence.0));
    }

    fn synced(&self, _: &SyncReport) {}

    fn disk_low(&self, is_low: bool) {
        self.tell(Step::Low(is_low));
    }

    fn failed(&self, error: &WalError) {
        self.tell(Step::Failed(error.to_string()));
    }
}

impl Session {
    /// Starts a log, hands `plan` over to it, waits for its end, and stops it. `folder` takes its sidecar.
    pub(crate) fn run(wrap: Wrap, start: &Start, plan: &Plan, fault: Option<Fault>, folder: &Path) -> io::Result<Self> {
        let path = folder.join("durable");
        fs::write(&path, &start.sidecar)?;
        let (heard, hear) = channel();
        let contents = Arc::new(Mutex::new(vec![(start.sidecar.clone(), Sidecar::open(&path)?.streams().clone())]));
        let ear = Arc::new(Ear { disk: start.disk.clone(), sidecar: path.clone(), contents: Arc::clone(&contents), heard });
        if let Some(fault) = fault {
            start.disk.fail(fault);
        }
        let is_full = fault.is_some_and(|fault| fault.kind == FaultKind::Full);
        let free_bytes = if is_full { FREE_BYTES_MIN - 1 } else { FREE_BYTES_MIN };
        let options = WalOptions {
            durability: plan.durability,
            disk_free_bytes_min: Some(FREE_BYTES_MIN),
            value_bytes_max: Some(plan.value_bytes_max),
            free_space: Some(Arc::new(move || Ok(free_bytes))),
        };
        let listener = Arc::clone(&ear) as Arc<dyn WalListener>;
        let (store, sidecar) = (wrap(start.disk.clone()), Sidecar::open(&path)?);
        let started = Wal::start_on_with_sidecar(store, sidecar, NodeId(1), start.tails.iter().copied(), options, listener);
        let end = match started {
            Ok(wal) => {
                ear.look_at_sidecar();
                start.disk.note(Step::Started);
                drive(wal, start, plan, &hear)
            }
            Err(error) => Err(error.to_string()),
        };
        start.disk.unfeed();
        let sidecars = contents.lock().clone();
        let mut session =
            Self { points: Vec::new(), changes: start.disk.changes(), sidecars, steps: start.disk.steps(), end, wrong: Vec::new() };
        session.find_points(start);
        session.find_wrong(plan, is_full);
        Ok(session)
    }

    /// The point behind the last call.
    pub(crate) fn last(&self) -> &Point {
        self.points.last().expect("the first point is before the first call")
    }

    fn find_points(&mut self, start: &Start) {
        let mut point = Point {
            call: None,
            changes: start.held,
            flushed: start.held,
            synced: start.held,
            acknowledged: start.acknowledged.clone(),
            sidecar: 0,
        };
        for step in &self.steps {
            match step {
                Step::Called { call, changes, flushed, synced, .. } => {
                    self.points.push(point.clone());
                    (point.call, point.changes, point.flushed, point.synced) = (Some(*call), *changes, *flushed, *synced);
                }
                // What was recovered is shown from here on.
                Step::Started => {
                    for tail in &start.tails {
                        point.acknowledged.insert(tail.stream, count(tail.last_sequence.0));
                    }
                }
                Step::Committed(stream, sequence) => {
                    point.acknowledged.insert(*stream, count(*sequence));
                }
                Step::Sidecar(number) => point.sidecar = *number,
                Step::Low(_) | Step::Failed(_) => {}
            }
        }
        self.points.push(point);
    }

    /// Looks for what no log may do, whatever the disk does.
    fn find_wrong(&mut self, plan: &Plan, is_full: bool) {
        let failed_call = self.steps.iter().position(|step| matches!(step, Step::Called { is_ok: false, .. }));
        let mut wrong = Vec::new();
        if let Some(place) = failed_call {
            let after = &self.steps[place + 1..];
            let calls = after.iter().filter(|step| matches!(step, Step::Called { .. })).count();
            let told = after.iter().filter(|step| matches!(step, Step::Committed(..))).count();
            let failed = after.iter().filter(|step| matches!(step, Step::Failed(_))).count();
            let is_started = self.steps[..place].contains(&Step::Started);
            if calls > 0 {
                wrong.push(format!("the store was called {calls} times after a call had failed"));
            }
            if told > 0 {
                wrong.push(format!("{told} commits were told after a call had failed"));
            }
            if failed != usize::from(is_started) {
                wrong.push(format!("the failure was told {failed} times"));
            }
            if self.end.is_ok() {
                wrong.push("the log stopped as if no call had failed".to_owned());
            }
        } else {
            if let Err(error) = &self.end {
                wrong.push(format!("the log failed although no call did: {error}"));
            }
            let last = &self.last().acknowledged;
            for (stream, made) in plan.history.0.iter().filter(|(stream, made)| last[*stream] != made.len()) {
                wrong.push(format!(
                    "{stream}: {} of {} groups were acknowledged although no call failed",
                    last[stream],
                    made.len()
                ));
            }
        }
        // The thread may tell it before whoever started it is back.
        let first_write = self.steps.iter().position(|step| matches!(step, Step::Called { call: Call::Append, .. }));
        let low = self.steps.iter().position(|step| *step == Step::Low(true));
        match (is_full, low, first_write) {
            (true, Some(low), Some(write)) if low > write => wrong.push("low space was told after the first write only".to_owned()),
            (true, None, Some(_)) => wrong.push("low space was not told".to_owned()),
            (false, Some(_), _) => wrong.push("low space was told of a disk with room".to_owned()),
            _ => {}
        }
        self.wrong = wrong;
    }
}

/// Hands the plan over, waits until it is committed or the log has failed, tries to append more after a failure, and stops.
fn drive(wal: Wal, start: &Start, plan: &Plan, hear: &Receiver<()>) -> Result<(), String> {
    let mut script = plan.script.clone();
    let Some(first) = script.pop_front() else { return wal.stop().map_err(|error| error.to_string()) };
    let writer = wal.writer();
    start.disk.feed(wal.writer(), script);
    let is_last = |steps: &[Step]| {
        plan.history.0.iter().all(|(stream, made)| {
            let tail = start.tails.iter().find(|tail| tail.stream == *stream).map_or(0, |tail| tail.last_sequence.0);
            let told = steps.iter().rev().find_map(|step| match step {
                Step::Committed(told, sequence) if told == stream => Some(*sequence),
                _ => None,
            });
            count(told.unwrap_or(tail)) == made.len()
        })
    };
    for (stream, group) in first.groups {
        writer.append(stream, group);
    }
    loop {
        if hear.recv_timeout(PATIENCE).is_err() {
            drop(wal);
            return Err(format!("the log said nothing for {} s", PATIENCE.as_secs()));
        }
        let steps = start.disk.steps();
        if steps.iter().any(|step| matches!(step, Step::Failed(_))) {
            // Goes nowhere: the store is not called again.
            for (stream, made) in &plan.history.0 {
                for made in made {
                    writer.append(*stream, made.group.clone());
                }
            }
            if writer.sync().is_ok() {
                return Err("a log that has failed says that it has synced".to_owned());
            }
            break;
        }
        if start.disk.is_fed() && is_last(&steps) {
            break;
        }
    }
    wal.stop().map_err(|error| error.to_string())
}

pub(crate) fn count(sequence: u64) -> usize {
    usize::try_from(sequence).expect("there are few groups")
}
