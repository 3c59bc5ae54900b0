//! The node under test: a real process, started, killed and started again over one temporary directory, with an API key for each
//! client. Owns the process and what its clients need to find it; knows nothing of their calls.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::record::{Change, Moment, actor};
use super::wire::{Request, Wire};

/// Longest wait for anything that the node should do.
const WAIT_MAX: Duration = Duration::from_mins(1);

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
    /// Makes keys for `clients` clients and starts the node with `settings` beyond the defaults.
    pub(crate) fn start(program: &Path, clients: usize, settings: &[String]) -> Result<Self, SiteError> {
        let directory = TempDir::new().map_err(machine("no temporary directory"))?;
        let mut keys = String::new();
        let mut secrets = Vec::new();
        for client in 0..clients {
            let output = command(program).args(["key", "new", "--role", "admin", "--name", &actor(client)]).output();
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

    pub(crate) fn secret(&self, client: usize) -> &str {
        &self.secrets[client]
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
        command.arg("serve").arg("--data-dir").arg(path.join("data")).args(["--listen", "127.0.0.1:0"]);
        command.arg("--set").arg(format!("auth.keys_file={}", path.join("keys.toml").display()));
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

    fn get(&self, wire: &mut Wire, path: &str) -> Option<Vec<u8>> {
        let secret = self.secret(0);
        wire.ask(Request { method: "GET", path, secret, ..Request::default() })
            .ok()
            .filter(|response| response.status == 200)
            .map(|response| response.body)
    }

    /// Opens a stock.
    pub(crate) fn put_stock(&self, sku: &str, body: &str) -> Result<(), SiteError> {
        let place = self.place().ok_or_else(|| self.trouble("it is gone".to_owned()))?;
        let path = format!("/v1/stocks/{sku}");
        let request = Request { method: "PUT", path: &path, secret: self.secret(0), body, ..Request::default() };
        match Wire::new(place.address).ask(request) {
            Ok(response) if response.status == 201 => Ok(()),
            other => Err(self.trouble(format!("the stock cannot be opened: {other:?}"))),
        }
    }

    /// All of the feed, in its order.
    pub(crate) fn feed(&self) -> Result<Vec<Change>, SiteError> {
        #[derive(serde::Deserialize)]
        struct Page {
            events: Vec<Change>,
            next_cursor: String,
        }
        let place = self.place().ok_or_else(|| self.trouble("it is gone".to_owned()))?;
        let mut wire = Wire::new(place.address);
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/events?limit={FEED_PAGE}{after}");
            let body = self.get(&mut wire, &path).ok_or_else(|| self.trouble("the feed cannot be read".to_owned()))?;
            let page: Page =
                serde_json::from_slice(&body).map_err(|error| self.trouble(format!("the feed is not as expected: {error}")))?;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
            after = format!("&after={}", page.next_cursor);
        }
    }

    fn trouble(&self, what: String) -> SiteError {
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

/// The program without the settings of whoever runs this.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command
}
