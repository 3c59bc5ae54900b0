//! The node under test: a real process, started, killed and started again over one temporary directory, with an API key for each
//! client where there are any. Owns the process and what its clients need to find it; knows nothing of their calls.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::wire::{Request, Response, Wire};

/// Nanoseconds since a run began, by one clock for all clients.
pub(crate) type Moment = u64;

/// Longest wait for anything that the node should do.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// How often it is looked whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Changes of one page of the feed.
const FEED_PAGE: usize = 1_000;

/// Why a run cannot be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    /// A file or a process cannot be had.
    #[error("{what}: {source}")]
    Machine { what: &'static str, source: io::Error },
    /// The node does not do what it must for there to be a history.
    #[error("{what}; the end of its log:\n{log}")]
    Node { what: String, log: String },
}

/// Where the node is at the moment, and which start of it that is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: usize,
    pub(crate) address: SocketAddr,
}

#[derive(Debug, Default)]
struct State {
    place: Option<Place>,
    /// When each start's process was gone.
    ends: Vec<Moment>,
    is_over: bool,
}

/// A node and its clients' keys.
pub(crate) struct Site {
    program: PathBuf,
    settings: Vec<String>,
    directory: TempDir,
    secrets: Vec<String>,
    began: Instant,
    process: Mutex<Option<Child>>,
    state: Mutex<State>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn machine(what: &'static str) -> impl Fn(io::Error) -> SiteError {
    move |source| SiteError::Machine { what, source }
}

impl Site {
    /// Makes a key for each client of `names` and starts the node with `settings` beyond the defaults. Without names it has no keys.
    pub(crate) fn start(program: &Path, names: &[String], settings: &[String]) -> Result<Self, SiteError> {
        let directory = TempDir::new().map_err(machine("no temporary directory"))?;
        let mut keys = String::new();
        let mut secrets = Vec::new();
        for name in names {
            let output = command(program).args(["key", "new", "--role", "admin", "--name", name]).output();
            let output = output.map_err(machine("the program cannot be run"))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let Some((secret, entry)) = text.split_once('\n') else {
                let log = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(SiteError::Node { what: "it makes no key".to_owned(), log });
            };
            secrets.push(secret.to_owned());
            keys.push_str(entry);
        }
        std::fs::write(directory.path().join("keys.toml"), keys).map_err(machine("the keys cannot be written"))?;
        let site = Self {
            program: program.to_owned(),
            settings: settings.to_vec(),
            directory,
            secrets,
            began: Instant::now(),
            process: Mutex::new(None),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        site.open()?;
        Ok(site)
    }

    /// Nanoseconds since the site was made.
    pub(crate) fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The key of a client; empty where there are none.
    pub(crate) fn secret(&self, client: usize) -> &str {
        self.secrets.get(client).map_or("", String::as_str)
    }

    /// The folder that the node keeps everything in.
    pub(crate) fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The number of its process, while there is one.
    pub(crate) fn process(&self) -> Result<u32, SiteError> {
        let process = lock(&self.process).as_ref().map(Child::id);
        process.ok_or_else(|| self.trouble("it is gone".to_owned()))
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&self) -> Result<ExitStatus, SiteError> {
        let Some(mut process) = lock(&self.process).take() else { return Err(self.trouble("it is gone".to_owned())) };
        lock(&self.state).is_over = true;
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let asked = pid.map_or(Ok(()), |pid| kill_process(pid, Signal::TERM));
        asked.map_err(|error| machine("the node cannot be asked to stop")(error.into()))?;
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            if let Some(status) = process.try_wait().map_err(machine("the node cannot be waited for"))? {
                return Ok(status);
            }
            thread::park_timeout(LOOK_EVERY);
        }
        *lock(&self.process) = Some(process);
        Err(self.trouble(format!("it has not stopped after {} s", WAIT_MAX.as_secs())))
    }

    /// What the program's own check says of the directory of a node that has stopped.
    pub(crate) fn verify(&self) -> Result<Output, SiteError> {
        command(&self.program).arg("verify").arg(self.data_directory()).output().map_err(machine("the program cannot be run"))
    }

    /// Where the node is; waits while it is being killed and started. `None` when it will not be there again.
    pub(crate) fn place(&self) -> Option<Place> {
        let is_down = |state: &mut State| state.place.is_none() && !state.is_over;
        let (state, waited) =
            self.changed.wait_timeout_while(lock(&self.state), 2 * WAIT_MAX, is_down).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() { None } else { state.place }
    }

    /// When the process of each start was gone; of the one that runs it is missing.
    pub(crate) fn ends(&self) -> Vec<Moment> {
        lock(&self.state).ends.clone()
    }

    /// SIGKILL, and a new start over what is left.
    pub(crate) fn kill_and_restart(&self) -> Result<(), SiteError> {
        lock(&self.state).place = None;
        let process = lock(&self.process).take();
        if let Some(mut process) = process {
            process.kill().map_err(machine("the node cannot be killed"))?;
            process.wait().map_err(machine("the node cannot be waited for"))?;
        }
        let now = self.now();
        lock(&self.state).ends.push(now);
        self.open().inspect_err(|_| {
            lock(&self.state).is_over = true;
            self.changed.notify_all();
        })
    }

    fn open(&self) -> Result<(), SiteError> {
        let path = self.directory.path();
        let log = File::options().create(true).append(true).open(path.join("node.log")).map_err(machine("no log"))?;
        let mut command = command(&self.program);
        command.arg("serve").arg("--data-dir").arg(self.data_directory()).args(["--listen", "127.0.0.1:0"]);
        if !self.secrets.is_empty() {
            command.arg("--set").arg(format!("auth.keys_file={}", path.join("keys.toml").display()));
        }
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().map_err(machine("the node cannot be started"))?;
        let mut stdout = BufReader::new(process.stdout.take().expect("the standard output is piped"));
        *lock(&self.process) = Some(process);
        let mut line = String::new();
        stdout.read_line(&mut line).map_err(machine("the node's output cannot be read"))?;
        let address = line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let Some(address) = address else { return Err(self.trouble(format!("it said {line:?} where its address was due"))) };
        // Ends with the process: a full pipe would stop it.
        drop(thread::spawn(move || io::copy(&mut stdout, &mut io::sink())));
        self.wait_ready(address)?;
        let mut state = lock(&self.state);
        let start = state.ends.len();
        state.place = Some(Place { start, address });
        self.changed.notify_all();
        Ok(())
    }

    fn wait_ready(&self, address: SocketAddr) -> Result<(), SiteError> {
        let began = Instant::now();
        let mut wire = Wire::new(address);
        while began.elapsed() < WAIT_MAX {
            if self.get(&mut wire, "/readyz").is_some() {
                return Ok(());
            }
            thread::yield_now();
        }
        Err(self.trouble(format!("it is not ready after {} s", WAIT_MAX.as_secs())))
    }

    /// The body of what is at `path`, where the answer is 200.
    fn get(&self, wire: &mut Wire, path: &str) -> Option<Vec<u8>> {
        let request = Request { secret: self.secret(0), ..Request::get(path) };
        wire.ask(request).ok().filter(|response| response.status == 200).map(|response| response.body)
    }

    /// Asks once, on a connection of its own, with the first client's key.
    pub(crate) fn ask(&self, request: Request<'_>) -> Result<Response, SiteError> {
        let place = self.place().ok_or_else(|| self.trouble("it is gone".to_owned()))?;
        let (method, path) = (request.method, request.path);
        let asked = Wire::new(place.address).ask(Request { secret: self.secret(0), ..request });
        asked.map_err(|lost| self.trouble(format!("{method} {path} is not answered: {lost:?}")))
    }

    /// What is at `path`.
    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, SiteError> {
        let response = self.ask(Request::get(path))?;
        serde_json::from_slice(&response.body)
            .map_err(|error| self.trouble(format!("GET {path} is answered {} and not as expected: {error}", response.status)))
    }

    /// The metrics as text.
    pub(crate) fn metrics(&self) -> Result<String, SiteError> {
        let response = self.ask(Request::get("/metrics"))?;
        String::from_utf8(response.body).map_err(|error| self.trouble(format!("the metrics are no text: {error}")))
    }

    /// Opens a stock.
    pub(crate) fn put_stock(&self, sku: &str, body: &str) -> Result<(), SiteError> {
        let response = self.ask(Request { method: "PUT", body, ..Request::get(&format!("/v1/stocks/{sku}")) })?;
        if response.status == 201 { Ok(()) } else { Err(self.trouble(format!("the stock cannot be opened: {response:?}"))) }
    }

    /// All of the feed, in its order.
    pub(crate) fn feed<T: DeserializeOwned>(&self) -> Result<Vec<T>, SiteError> {
        #[derive(serde::Deserialize)]
        struct Page<T> {
            events: Vec<T>,
            next_cursor: String,
        }
        let place = self.place().ok_or_else(|| self.trouble("it is gone".to_owned()))?;
        let mut wire = Wire::new(place.address);
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/events?limit={FEED_PAGE}{after}");
            let body = self.get(&mut wire, &path).ok_or_else(|| self.trouble("the feed cannot be read".to_owned()))?;
            let page: Page<T> =
                serde_json::from_slice(&body).map_err(|error| self.trouble(format!("the feed is not as expected: {error}")))?;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
            after = format!("&after={}", page.next_cursor);
        }
    }

    /// What the node did not do, with the end of its log.
    pub(crate) fn trouble(&self, what: String) -> SiteError {
        let log = std::fs::read(self.directory.path().join("node.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        SiteError::Node { what, log: lines[lines.len().saturating_sub(20)..].join("\n") }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut process) = lock(&self.process).take() {
            // It may have ended already; then there is nothing to kill.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The program to try: the one that was named, or the one beside this program.
pub(crate) fn program(named: Option<&Path>) -> Result<PathBuf, SiteError> {
    match named {
        Some(program) => Ok(program.to_owned()),
        None => Ok(std::env::current_exe().map_err(machine("this program cannot be found"))?.with_file_name("tidegate")),
    }
}

/// The program without the settings of whoever runs this.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command
}
