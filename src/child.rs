//! A node as a child process: started from this very program, watched, killed or stopped, and never left behind.
//!
//! It owns processes, signals and the file of their output. It must not know what the node is used for.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{Client, Readiness};

/// What a node says on its standard output once its socket is open; the address follows.
const LISTENING: &str = "listening on http://";

/// Longest wait for that line.
const LISTEN_WAIT_MAX: Duration = Duration::from_mins(1);

/// Pause between two looks at whether the node is ready.
const READY_POLL: Duration = Duration::from_millis(5);

/// Longest time that a node may say the same about its recovery before it counts as stuck.
const READY_STALL_MAX: Duration = Duration::from_mins(1);

/// Longest wait for a node to end after it was asked to.
const STOP_WAIT_MAX: Duration = Duration::from_mins(1);

/// Longest wait for a node to be gone that is dropped, and the pause between two looks.
const DROP_WAIT_MAX: Duration = Duration::from_secs(5);
const DROP_POLL: Duration = Duration::from_millis(1);

/// Ports to choose from: below those that Linux hands out to outgoing connections, so that no client's connection can take the
/// node's port while the node is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How to start a node.
#[derive(Debug, Clone)]
pub(crate) struct NodeOptions {
    /// The program: [`std::env::current_exe`] for this one.
    pub(crate) program: PathBuf,
    /// Its data directory.
    pub(crate) data_dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    /// Settings that differ from their defaults: `section.field` and the value.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// The file that its output is appended to.
    pub(crate) log: PathBuf,
}

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Node {
    process: Child,
    address: SocketAddr,
}

/// Why a node is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The program could not be started, or its output not be kept.
    #[error("the node could not be started with its output in {}: {source}", log.display())]
    Start {
        /// Where its output goes.
        log: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The node ended by itself.
    #[error("the node ended by itself ({0})")]
    Ended(ExitStatus),
    /// The node does not listen, or not where it should.
    #[error("the node said {said:?} where its address was due within {} s", LISTEN_WAIT_MAX.as_secs())]
    NotListening {
        /// Its last line.
        said: String,
    },
    /// The node makes no progress towards being ready.
    #[error("the node is not ready and has said {said:?} for {} s", READY_STALL_MAX.as_secs())]
    NotReady {
        /// What it says of itself.
        said: String,
    },
    /// The node does not end.
    #[error("the node has not ended within {} s after the signal", STOP_WAIT_MAX.as_secs())]
    NotEnding,
    /// A signal could not be sent, or the process not be waited for.
    #[error("the node cannot be controlled: {0}")]
    Control(#[from] io::Error),
    /// No port is free.
    #[error("no port of 127.0.0.1 from {} to {} is free", PORTS.start, PORTS.end - 1)]
    NoPort,
}

impl Node {
    /// Starts a node and returns once it listens. Its environment is this process's without `TIDEGATE_*`: its settings are the
    /// defaults and `options`.
    pub(crate) async fn start(options: &NodeOptions) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Start { log: options.log.clone(), source };
        let log = open_log(&options.log).map_err(failed)?;
        let mut command = Command::new(&options.program);
        command.arg("serve").arg("--data-dir").arg(&options.data_dir);
        command.arg("--listen").arg(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)).to_string());
        command.args(options.settings.iter().flat_map(|(name, value)| ["--set".to_owned(), format!("{name}={value}")]));
        without_settings(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone().map_err(failed)?).kill_on_drop(true);
        let mut process = command.spawn().map_err(failed)?;
        let stdout = process.stdout.take().expect("the standard output was piped");
        let mut lines = BufReader::new(stdout).lines();
        let address = match timeout(LISTEN_WAIT_MAX, listening_address(&mut lines, &log)).await {
            Ok(Ok(address)) => address,
            Ok(Err(said)) if said.is_empty() => return Err(NodeError::Ended(process.wait().await?)),
            Ok(Err(said)) => return Err(NodeError::NotListening { said }),
            Err(_) => return Err(NodeError::NotListening { said: String::new() }),
        };
        // Goes on until the node closes its output, which it does at its end: a full pipe would stop it.
        drop(tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if keep(&log, &line).is_err() {
                    return;
                }
            }
        }));
        Ok(Self { process, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns once `/readyz` is 200, with the moment. Waits as long as the node makes progress with its recovery.
    pub(crate) async fn wait_ready(&mut self, client: &Client) -> Result<Instant, NodeError> {
        let mut poll = interval(READY_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = String::new();
        let mut said_since = Instant::now();
        loop {
            poll.tick().await;
            if let Some(status) = self.process.try_wait()? {
                return Err(NodeError::Ended(status));
            }
            let says = match client.readyz().await {
                Readiness::Ready => return Ok(Instant::now()),
                Readiness::NotReady(body) => body,
                Readiness::Unreachable => "nothing".to_owned(),
            };
            if says != said {
                (said, said_since) = (says, Instant::now());
            } else if said_since.elapsed() > READY_STALL_MAX {
                return Err(NodeError::NotReady { said });
            }
        }
    }

    /// Fails if the process has ended.
    pub(crate) fn check_running(&mut self) -> Result<(), NodeError> {
        match self.process.try_wait()? {
            Some(status) => Err(NodeError::Ended(status)),
            None => Ok(()),
        }
    }

    /// SIGKILL: the process gets no chance to finish anything. Returns once it is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), NodeError> {
        self.process.start_kill()?;
        self.wait_end().await.map(drop)
    }

    /// SIGTERM: the process is asked to stop. Returns its exit status.
    pub(crate) async fn terminate(mut self) -> Result<ExitStatus, NodeError> {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        match id {
            Some(id) => kill_process(id, Signal::TERM).map_err(io::Error::from)?,
            None => self.check_running()?,
        }
        self.wait_end().await
    }

    async fn wait_end(&mut self) -> Result<ExitStatus, NodeError> {
        Ok(timeout(STOP_WAIT_MAX, self.process.wait()).await.map_err(|_| NodeError::NotEnding)??)
    }
}

impl Drop for Node {
    /// Returns once the process is gone, so that whoever comes next finds its directory and its port free.
    fn drop(&mut self) {
        if self.process.id().is_none() || self.process.start_kill().is_err() {
            return;
        }
        let killed_at = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && killed_at.elapsed() < DROP_WAIT_MAX {
            thread::park_timeout(DROP_POLL);
        }
    }
}

/// The address of the line that tells it; the last line when there is none such.
async fn listening_address(lines: &mut Lines<BufReader<ChildStdout>>, log: &File) -> Result<SocketAddr, String> {
    while let Ok(Some(line)) = lines.next_line().await {
        // What cannot be kept is at least looked at.
        let _ = keep(log, &line);
        if let Some((_, address)) = line.split_once(LISTENING) {
            return address.trim().trim_end_matches('/').parse().map_err(|_| line);
        }
    }
    Err(String::new())
}

fn keep(mut log: &File, line: &str) -> io::Result<()> {
    writeln!(log, "{line}")
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A port of 127.0.0.1 that nobody listens on at the moment. The search starts at a place that differs between processes.
pub(crate) fn free_port() -> Result<u16, NodeError> {
    free_ports(1).map(|ports| ports[0])
}

/// As many different ones as `count` says.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, NodeError> {
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let ports: Vec<u16> = free_from(std::process::id().wrapping_mul(7_919), is_free).take(count).collect();
    if ports.len() == count { Ok(ports) } else { Err(NodeError::NoPort) }
}

/// Those of [`PORTS`] that are free, from a place of `seed`'s choice on and around to it again.
fn free_from(seed: u32, is_free: impl Fn(u16) -> bool) -> impl Iterator<Item = u16> {
    let count = u32::from(PORTS.end - PORTS.start);
    (0..count)
        .filter_map(move |step| u16::try_from((seed % count + step) % count).ok())
        .map(|offset| PORTS.start + offset)
        .filter(move |port| is_free(*port))
}

/// Runs `program` with `arguments` to its end, in the same environment as a node. Returns its status, standard output and standard
/// error.
pub(crate) async fn run_to_end(program: &Path, arguments: &[&OsStr]) -> io::Result<(ExitStatus, String, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    without_settings(&mut command);
    let output = command.output().await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status, text(output.stdout), text(output.stderr)))
}

/// Takes the variables away that are settings of this program.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
}

/// The last `lines` lines of a log, to be shown when something failed.
pub(crate) fn log_tail(path: &Path, lines: usize) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("(the log {} cannot be read: {error})", path.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Returns when this process is asked to end (SIGINT or SIGTERM), so that its nodes can be dropped before it does.
pub(crate) async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use tempfile::TempDir;

    use super::*;

    /// A directory with a shell script in the place of the program.
    fn stand_in(script: &str) -> (TempDir, NodeOptions) {
        let directory = TempDir::new().unwrap();
        let program = directory.path().join("program");
        // Another process writes it: this one forks in other tests, and a fork that holds the file open for writing keeps it from
        // being executed.
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
        let written = std::process::Command::new("/bin/sh").arg("-c").arg(write).arg(&program).arg(script).status().unwrap();
        assert!(written.success());
        let options = NodeOptions {
            program,
            data_dir: directory.path().join("data"),
            port: 1,
            settings: Vec::new(),
            log: directory.path().join("node.log"),
        };
        (directory, options)
    }

    const WAITS: &str = r#"trap 'echo bye; exit 3' TERM
echo starting; echo trouble >&2
echo "listening on http://127.0.0.1:4711"
read_forever() { while :; do sleep 0.01; done; }
read_forever"#;

    #[tokio::test]
    async fn a_node_tells_its_address_keeps_its_output_and_ends_when_asked() {
        let (_directory, options) = stand_in(WAITS);
        let node = Node::start(&options).await.unwrap();
        assert_eq!(node.address(), "127.0.0.1:4711".parse().unwrap());
        assert_eq!(node.terminate().await.unwrap().code(), Some(3));
        let log = log_tail(&options.log, 100);
        assert!(log.contains("starting") && log.contains("trouble"), "{log}");
        assert_eq!(log_tail(&options.log, 0), "");
    }

    #[tokio::test]
    async fn a_killed_node_has_no_last_word() {
        let (_directory, options) = stand_in(WAITS);
        Node::start(&options).await.unwrap().kill().await.unwrap();
        assert!(!log_tail(&options.log, 100).contains("bye"));
    }

    #[tokio::test]
    async fn a_dropped_node_is_gone() {
        let (_directory, options) = stand_in(WAITS);
        let node = Node::start(&options).await.unwrap();
        let process = Pid::from_raw(i32::try_from(node.process.id().unwrap()).unwrap()).unwrap();
        drop(node);
        assert_eq!(rustix::process::test_kill_process(process), Err(rustix::io::Errno::SRCH));
        assert!(!log_tail(&options.log, 100).contains("bye"));
    }

    #[tokio::test]
    async fn a_node_that_ends_at_its_start_is_told_with_its_status() {
        let (_directory, options) = stand_in("echo no room >&2; exit 9");
        let error = Node::start(&options).await.unwrap_err();
        assert!(matches!(error, NodeError::Ended(status) if status.code() == Some(9)), "{error}");
        assert_eq!(log_tail(&options.log, 1), "no room");
    }

    #[tokio::test]
    async fn a_node_that_dies_while_it_recovers_is_told() {
        let (_directory, options) = stand_in("echo \"listening on http://127.0.0.1:1\"; kill -9 $$");
        let mut node = Node::start(&options).await.unwrap();
        let client = Client::new("127.0.0.1:1".parse().unwrap(), crate::client::ClientOptions::default());
        let error = node.wait_ready(&client).await.unwrap_err();
        assert!(matches!(error, NodeError::Ended(status) if status.signal() == Some(9)), "{error}");
    }

    // Without sockets: a port that was just let go can still be held for a moment by a process that another test is starting.
    #[test]
    fn every_port_is_tried_once_from_the_seed_on() {
        let first = |seed, is_free: fn(u16) -> bool| free_from(seed, is_free).next();
        assert_eq!(first(5, |_| true), Some(PORTS.start + 5));
        assert_eq!(first(5, |port| port != PORTS.start + 5), Some(PORTS.start + 6));
        assert_eq!(first(5, |port| port == PORTS.start + 4), Some(PORTS.start + 4));
        assert_eq!(first(u32::MAX, |port| port == PORTS.end - 1), Some(PORTS.end - 1));
        assert_eq!(first(5, |_| false), None);
        assert!(free_from(PORTS.end.into(), |_| true).count() == PORTS.len(), "each is tried once");
    }
}
