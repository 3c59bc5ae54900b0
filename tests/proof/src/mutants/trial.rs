//! One run of a test program, with a defect or without, bounded in time. Nothing that it started is left behind.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tidegate_mutants::{Mutant, VARIABLE};

use super::programs::Program;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// What failed, as far as it can be told.
    Failed(String),
    /// It had not ended when its time was over.
    Hung,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => formatter.write_str("passed"),
            Self::Failed(what) => formatter.write_str(what),
            Self::Hung => formatter.write_str("hung"),
        }
    }
}

/// A run that is over.
pub(super) struct Ran {
    pub(super) verdict: Verdict,
    pub(super) took: Duration,
    pub(super) output: String,
}

/// Runs `program`, or of its tests only `test`, for no longer than `bound`.
pub(super) fn run(program: &Program, test: Option<&str>, mutant: Option<Mutant>, bound: Duration) -> io::Result<Ran> {
    let written = tempfile::NamedTempFile::new()?;
    let output = written.reopen()?;
    let mut command = Command::new(&program.executable);
    command.args(&program.arguments).args(test.map(|test| ["--exact", test]).into_iter().flatten());
    command.current_dir(&program.folder).env("RUST_BACKTRACE", "0").env_remove(VARIABLE);
    if let Some(mutant) = mutant {
        command.env(VARIABLE, mutant.to_string());
    }
    // A group of its own, so that the nodes of a test that is given up go with it.
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let id = Pid::from_child(&child);
    let (ended, waiting) = mpsc::channel();
    let waiter = thread::spawn(move || {
        // It is not taken away yet, so that its number stays its own until its group is gone.
        let ended_well = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        // Nobody may be waiting any more.
        let _ = ended.send(());
        ended_well.map(drop)
    });
    let is_hung = waiting.recv_timeout(bound).is_err();
    let took = began.elapsed();
    kill_process_group(id, Signal::KILL)?;
    // First whoever waits for its end: taken away, there would be nothing to wait for.
    waiter.join().expect("waiting does not panic")?;
    let status = child.wait()?;
    let output = String::from_utf8_lossy(&fs::read(written.path())?).into_owned();
    let verdict = match status.success() {
        _ if is_hung => Verdict::Hung,
        true => Verdict::Passed,
        false => Verdict::Failed(what_failed(&output, status)),
    };
    Ok(Ran { verdict, took, output })
}

/// The test that failed, or the finding; otherwise how the program ended.
fn what_failed(output: &str, status: ExitStatus) -> String {
    let mut failed: Vec<&str> =
        output.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... FAILED").map(|(name, _)| name)).collect();
    if failed.is_empty() {
        // A panic that ends the process keeps the test from being told as failed.
        failed = output.lines().filter_map(|line| line.strip_prefix("thread '")?.split_once('\'').map(|(name, _)| name)).collect();
    }
    failed.sort_unstable();
    failed.dedup();
    match (failed.as_slice(), output.lines().find_map(|line| line.strip_prefix("finding: "))) {
        ([], Some(finding)) => finding.chars().take(90).collect(),
        ([], None) => status.to_string(),
        ([test], _) => (*test).to_owned(),
        ([test, more @ ..], _) => format!("{test}, and {} more", more.len()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::path::PathBuf;

    use super::super::programs::Level;
    use super::*;

    #[track_caller]
    fn check(output: &str, expect: &str) {
        assert_eq!(what_failed(output, ExitStatus::from_raw(6)), expect);
    }

    #[test]
    fn what_failed_is_named() {
        check("test one ... ok\ntest two ... FAILED\n", "two");
        check("test b ... FAILED\ntest a ... FAILED\n", "a, and 1 more");
        check("thread 'the_limit' (77) panicked at stock/src/apply.rs:1:1:\n", "the_limit");
        check("finding: group 7 is lost\n  again: --seed 1\n", "group 7 is lost");
        check("", "signal: 6 (SIGABRT)");
    }

    fn shell(script: &str) -> Program {
        Program {
            level: Level::Rules,
            target: "shell".to_owned(),
            executable: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            folder: std::env::temp_dir(),
        }
    }

    #[test]
    fn a_run_is_bounded_and_leaves_nothing_behind() {
        let hung = run(&shell("sleep 600 & echo $!; wait"), None, None, Duration::from_millis(300)).unwrap();
        assert_eq!(hung.verdict, Verdict::Hung);
        let child = hung.output.trim().parse().ok().and_then(Pid::from_raw).expect("the script tells its child's number");
        // Killed, it is gone as soon as whoever inherits it has looked.
        let began = Instant::now();
        while rustix::process::test_kill_process(child).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(20), "the child of a run that was given up lives on");
            thread::yield_now();
        }
    }

    #[test]
    fn a_run_is_told_its_defect_and_no_other() {
        let script = format!("test \"${VARIABLE}\" = skip-sync");
        let run = |mutant| run(&shell(&script), None, mutant, Duration::from_mins(1)).unwrap().verdict;
        assert_eq!(run(Some(Mutant::SkipSync)), Verdict::Passed);
        assert_eq!(run(Some(Mutant::HoleInLog)), Verdict::Failed("exit status: 1".to_owned()));
        assert_eq!(run(None), Verdict::Failed("exit status: 1".to_owned()));
    }
}
