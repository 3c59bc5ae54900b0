//! A process that the rig started, and what it says.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::RigError;
use crate::protocol::Line;
use crate::signals;

/// How often a wait looks whether the rig was told to stop.
const SIGNAL_LOOK: Duration = Duration::from_millis(100);

/// What a wait for a line ended with.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A line.
    Line(Line),
    /// The process closed its output: it has ended, or is about to.
    End,
    /// Nothing was said in time.
    Silence,
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    lines: Receiver<Line>,
    reader: Option<JoinHandle<()>>,
}

impl Session {
    /// Starts the rig itself with `arguments`; what it logs goes to the file `log`.
    pub(crate) fn start(arguments: &[String], log: &Path) -> Result<Self, RigError> {
        let program =
            std::env::current_exe().map_err(|source| RigError::Io { what: "the rig's own program".to_owned(), source })?;
        let errors = File::create(log).map_err(RigError::io(log))?;
        let mut command = Command::new(&program);
        command.args(arguments).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().map_err(RigError::io(&program))?;
        let output = child.stdout.take().expect("the output is a pipe");
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || read(output, &sender));
        Ok(Self { child, lines, reader: Some(reader) })
    }

    /// Waits for the next line, until `deadline`.
    pub(crate) fn hear(&self, deadline: Instant) -> Result<Heard, RigError> {
        loop {
            signals::check()?;
            let rest = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(rest.min(SIGNAL_LOOK)) {
                Ok(line) => return Ok(Heard::Line(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Heard::End),
                Err(RecvTimeoutError::Timeout) if rest.is_zero() => return Ok(Heard::Silence),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Kills the process with SIGKILL and gives everything that it still said.
    pub(crate) fn kill(mut self) -> Result<Vec<Line>, RigError> {
        self.end();
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .map_err(|_| RigError::Io { what: "reading a process".to_owned(), source: std::io::Error::other("panicked") })?;
        }
        Ok(self.lines.try_iter().collect())
    }

    fn end(&mut self) {
        // It may have ended by itself, which is no less dead.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

fn read(output: ChildStdout, lines: &mpsc::Sender<Line>) {
    let mut output = BufReader::new(output);
    let mut text = String::new();
    // A line that the end of the process has cut off was not said.
    while output.read_line(&mut text).is_ok_and(|bytes| bytes > 0) && text.ends_with('\n') {
        let line = text.trim_end().parse().unwrap_or_else(|error| Line::Finding(format!("{error}")));
        if lines.send(line).is_err() {
            return;
        }
        text.clear();
    }
}
