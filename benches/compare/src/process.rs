//! A peer's server as a child: started, watched, and ended with everything that it started itself, by process ids.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_benches::error::BenchError;
use tidegate_benches::signals;

/// Longest wait for a server to be ready, or to end after it was told to.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// The unit of processor time in `/proc/<pid>/stat`: fixed for programs, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// Who a server runs as, where it refuses to be root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

/// A running server. Dropping it ends its processes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: &'static str,
    end_by: Signal,
    output: PathBuf,
}

/// `program` with `arguments`, which dies with this program, and runs as `account` if there is one.
pub fn command(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(Account { user, group }) = account {
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
    }
    command.arg("--").arg(program);
    command
}

impl Process {
    /// Starts `command`, whose output goes to the file `output`. `end_by` is the signal at which the server ends at once.
    pub fn start(mut command: Command, name: &'static str, output: &Path, end_by: Signal) -> Result<Self, BenchError> {
        let file = File::create(output).and_then(|file| Ok((file.try_clone()?, file)));
        let (standard, errors) = file.map_err(BenchError::io(format!("output of {name}")))?;
        let child = command.stdin(Stdio::null()).stdout(standard).stderr(errors).spawn().map_err(BenchError::io(name))?;
        Ok(Self { child, name, end_by, output: output.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `look` finds the server ready. An error of `look` means not yet.
    pub fn wait_ready<T>(&mut self, mut look: impl FnMut() -> Result<T, BenchError>) -> Result<T, BenchError> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            signals::check()?;
            let error = match look() {
                Ok(ready) => return Ok(ready),
                Err(error) => error,
            };
            let ended = self.child.try_wait().map_err(BenchError::io(self.name))?;
            let ended = ended.map(|status| format!("ended with {status}"));
            let late = (Instant::now() >= deadline).then(|| format!("is not ready after {} s: {error}", WAIT_MAX.as_secs()));
            if let Some(what) = ended.or(late) {
                let said = fs::read_to_string(&self.output).unwrap_or_default();
                return Err(BenchError::Wrong(format!("{} {what}; it said:\n{said}", self.name)));
            }
            // Readiness is an answer, not an event to wait for.
            thread::park_timeout(LOOK);
        }
    }

    fn end(&mut self) {
        let family = family(self.id(), &processes());
        let left = || {
            let now = processes();
            let is_left = |id: &u32, then: &Found| now.get(id).is_some_and(|now| now.started == then.started && !now.is_zombie);
            family.iter().filter(|(id, then)| is_left(id, then)).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        signal(self.id(), self.end_by);
        wait_until(|| !matches!(self.child.try_wait(), Ok(None)));
        // What is left is taken by force, each process by its id, and only if it still is what it was.
        for id in left() {
            signal(id, Signal::KILL);
        }
        wait_until(|| left().is_empty());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Looks again and again until `is_so`, or for too long.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so() && Instant::now() < deadline {
        thread::park_timeout(LOOK);
    }
}

fn signal(id: u32, signal: Signal) {
    // A process that is gone already needs no signal.
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// Processor time that the processes `roots` and everything that they started have used so far, to a hundredth of a second each. Includes
/// children that have ended.
pub fn cpu(roots: &[u32]) -> Duration {
    let all = processes();
    let ticks: u32 = roots.iter().flat_map(|root| family(*root, &all)).map(|(_, found)| found.ticks).sum();
    TICK * ticks
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    parent: u32,
    /// It has ended, and nobody has looked yet.
    is_zombie: bool,
    /// User and system time, its own and that of ended children which it waited for.
    ticks: u32,
    /// When it started, in ticks of the machine: tells it from another with the same id.
    started: u64,
}

fn processes() -> BTreeMap<u32, Found> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: u32| Some((id, found(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect()
}

fn found(stat: &str) -> Option<Found> {
    // The name stands in parentheses and may hold anything; the fields behind it are counted from 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)? + field(16)? + field(17)?;
    Some(Found {
        parent: field(4)?.try_into().ok()?,
        is_zombie: fields.first() == Some(&"Z"),
        ticks: ticks.try_into().ok()?,
        started: field(22)?,
    })
}

/// `root` and everything that it started, directly or not.
fn family(root: u32, all: &BTreeMap<u32, Found>) -> Vec<(u32, Found)> {
    let mut members: Vec<(u32, Found)> = all.get(&root).map(|found| (root, *found)).into_iter().collect();
    let mut looked_at = 0;
    while let Some((parent, _)) = members.get(looked_at).copied() {
        members.extend(all.iter().filter(|(_, found)| found.parent == parent).map(|(id, found)| (*id, *found)));
        looked_at += 1;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_its_name() {
        let stat = "12 (a) b) S 7 1 1 0 -1 4194560 0 0 0 0 1 2 3 4 20 0 1 0 555 0 0\n";
        assert_eq!(found(stat), Some(Found { parent: 7, is_zombie: false, ticks: 10, started: 555 }));
        assert_eq!(found("12 (a) S"), None);
    }

    #[test]
    fn a_family_is_everything_that_descends() {
        let of = |parent| Found { parent, is_zombie: false, ticks: 1, started: 0 };
        let all = BTreeMap::from([(1, of(0)), (2, of(1)), (3, of(2)), (4, of(0)), (5, of(2))]);
        assert_eq!(family(2, &all).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3, 5]);
        assert!(family(9, &all).is_empty());
    }

    #[test]
    fn a_server_ends_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, output) = (directory.path().join("pipe"), directory.path().join("output"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Nobody ever writes into the pipe, and a signal to the shell alone would leave its child waiting for that.
        let mut shell = command(Path::new("sh"), None);
        shell.args(["-c", &format!("cat {} & echo started; wait", pipe.display())]);
        let mut server = Process::start(shell, "a shell", &output, Signal::TERM).unwrap();
        let id = server.id();
        let ids = server.wait_ready(|| {
            let ids: Vec<u32> = family(id, &processes()).iter().map(|(id, _)| *id).collect();
            let is_ready = ids.len() == 2 && fs::read_to_string(&output).is_ok_and(|said| said.contains("started"));
            if is_ready { Ok(ids) } else { Err(BenchError::wrong("not yet")) }
        });
        let ids = ids.unwrap();
        drop(server);
        let after = processes();
        assert!(ids.iter().all(|id| after.get(id).is_none_or(|found| found.is_zombie)), "{ids:?}");
    }
}
