//! The node under test: a real process, started, crashed and started again over one data directory, with an API key for each client.
//! Owns the process and what its clients need to find it; knows nothing of their calls.

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

use crate::record::{Change, Moment, actor};
use crate::wire::{Request, Response, Wire};

/// Longest wait for anything that the node should do.
pub const WAIT_MAX: Duration = Duration::from_mins(1);

/// How often it is looked whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Changes of one page of the feed.
pub const FEED_PAGE: usize = 1_000;

/// Lines of the node's log that are shown with a trouble.
const LOG_LINES_SHOWN: usize = 20;

/// Why a run cannot be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file or a process cannot be had.
    #[error("{what}: {source}")]
    Machine {
        /// What cannot be had.
        what: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
    /// The node does not do what it must for there to be a history.
    #[error("{what}; the end of its log:\n{log}")]
    Node {
        /// What it does not do.
        what: String,
        /// The last lines of its log.
        log: String,
    },
}

/// Where the node is at the moment, and which start of it that is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its start, from 0.
    pub start: usize,
    /// Its address.
    pub address: SocketAddr,
}

/// A page of the change feed.
#[derive(Debug, serde::Deserialize)]
pub struct FeedPage {
    /// The changes, in order.
    pub events: Vec<Change>,
    /// From where the feed goes on.
    pub next_cursor: String,
}

/// What clients ask: one node, or several that answer for each other.
pub trait Target: Sync {
    /// Nanoseconds since the run began.
    fn now(&self) -> Moment;

    /// Where `client` is to ask, who has asked `turn` others in vain about the same. `None` when it is to end.
    fn place(&self, client: usize, turn: usize) -> Option<Place>;

    /// The secret of the key of `client`; empty where there are none.
    fn secret(&self, client: usize) -> &str;

    /// Whether its list of all stocks shows whatever was answered before. A member of a cluster lists what it has itself.
    fn lists_all(&self) -> bool {
        true
    }

    /// A call was refused, or could not be sent: waits for as long as a client should before it asks again.
    fn refused(&self) {}
}

impl Target for Node {
    fn now(&self) -> Moment {
        Self::now(self)
    }

    fn place(&self, _: usize, _: usize) -> Option<Place> {
        Self::place(self)
    }

    fn secret(&self, client: usize) -> &str {
        Self::secret(self, client)
    }
}

#[derive(Debug, Default)]
struct State {
    place: Option<Place>,
    /// When each start's process was gone.
    ends: Vec<Moment>,
    is_over: bool,
}

/// What the node's program is, and where it keeps what.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The program.
    pub program: PathBuf,
    /// The data directory; the node makes it.
    pub data: PathBuf,
    /// The folder for keys and the node's log, which must be there.
    pub folder: PathBuf,
    /// Clients, each of which has a key of its own; a node without any asks nobody for a key.
    pub clients: usize,
    /// Settings beyond the defaults, each `name=value`.
    pub settings: Vec<String>,
}

/// A node and its clients' keys. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    /// What it is in, where that goes with it.
    _temporary: Option<TempDir>,
    secrets: Vec<String>,
    began: Instant,
    process: Mutex<Option<Child>>,
    state: Mutex<State>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn machine(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::Machine { what, source }
}

impl Node {
    /// Makes the keys. The node is not started.
    pub fn new(options: NodeOptions) -> Result<Self, NodeError> {
        Self::make(options, None)
    }

    /// Makes a node in a temporary folder of its own and starts it.
    pub fn start_temporary(program: &Path, clients: usize, settings: Vec<String>) -> Result<Self, NodeError> {
        let temporary = TempDir::new().map_err(machine("no temporary directory"))?;
        let (data, folder) = (temporary.path().join("data"), temporary.path().to_owned());
        let node = Self::make(NodeOptions { program: program.to_owned(), data, folder, clients, settings }, Some(temporary))?;
        node.start()?;
        Ok(node)
    }

    fn make(options: NodeOptions, temporary: Option<TempDir>) -> Result<Self, NodeError> {
        let secrets = make_keys(&options.program, options.clients, &options.folder.join("keys.toml"))?;
        let (process, state, changed) = (Mutex::new(None), Mutex::default(), Condvar::new());
        Ok(Self { options, _temporary: temporary, secrets, began: Instant::now(), process, state, changed })
    }

    /// Nanoseconds since this was made.
    pub fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The secret of the key of `client`; empty where there are none.
    pub fn secret(&self, client: usize) -> &str {
        self.secrets.get(client).map_or("", String::as_str)
    }

    /// The number of its process, while there is one.
    pub fn process(&self) -> Result<u32, NodeError> {
        let process = lock(&self.process).as_ref().map(Child::id);
        process.ok_or_else(|| self.trouble("it is gone".to_owned()))
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.options.data
    }

    /// Where the node is; waits while it is being killed and started. `None` when it will not be there again, or not soon.
    pub fn place(&self) -> Option<Place> {
        let is_down = |state: &mut State| state.place.is_none() && !state.is_over;
        let (state, waited) =
            self.changed.wait_timeout_while(lock(&self.state), 2 * WAIT_MAX, is_down).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() { None } else { state.place }
    }

    /// When the process of each start was gone; of the one that runs it is missing.
    pub fn ends(&self) -> Vec<Moment> {
        lock(&self.state).ends.clone()
    }

    /// SIGKILL, and a new start over what is left.
    pub fn kill_and_restart(&self) -> Result<(), NodeError> {
        lock(&self.state).place = None;
        self.end_process()?;
        self.start().inspect_err(|_| self.set_over())
    }

    /// SIGKILL. Clients that ask where it is are told that it will not be there again, until it is started.
    pub fn kill(&self) -> Result<(), NodeError> {
        self.set_over();
        self.end_process()
    }

    fn set_over(&self) {
        let mut state = lock(&self.state);
        (state.place, state.is_over) = (None, true);
        self.changed.notify_all();
    }

    fn end_process(&self) -> Result<(), NodeError> {
        if let Some(mut process) = lock(&self.process).take() {
            process.kill().map_err(machine("the node cannot be killed"))?;
            process.wait().map_err(machine("the node cannot be waited for"))?;
        }
        self.note_end();
        Ok(())
    }

    fn note_end(&self) {
        let now = self.now();
        lock(&self.state).ends.push(now);
    }

    /// SIGTERM, and the exit status; `None` of one that does not stop, and is killed.
    pub fn stop(&self) -> Result<Option<ExitStatus>, NodeError> {
        self.set_over();
        let Some(mut process) = lock(&self.process).take() else { return Ok(None) };
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let told = pid.map_or(Ok(()), |pid| kill_process(pid, Signal::TERM));
        told.map_err(|error| machine("the node cannot be told to stop")(error.into()))?;
        let began = Instant::now();
        let status = loop {
            match process.try_wait().map_err(machine("the node cannot be waited for"))? {
                Some(status) => break Some(status),
                None if began.elapsed() > WAIT_MAX => break None,
                None => thread::park_timeout(LOOK_EVERY),
            }
        };
        if status.is_none() {
            process.kill().and_then(|()| process.wait()).map_err(machine("the node cannot be killed"))?;
        }
        self.note_end();
        Ok(status)
    }

    /// What the program's own check says of the directory of a node that has stopped, as JSON.
    pub fn verify(&self) -> Result<Output, NodeError> {
        let output = command(&self.options.program).args(["verify", "--json"]).arg(&self.options.data).output();
        output.map_err(machine("the program cannot be run"))
    }

    /// Starts the process, and does not wait for it.
    pub fn spawn(&self) -> Result<(), NodeError> {
        self.launch().map(drop)
    }

    /// Starts the node and waits until it is ready.
    pub fn start(&self) -> Result<(), NodeError> {
        let mut stdout = self.launch()?;
        let mut line = String::new();
        stdout.read_line(&mut line).map_err(machine("the node's output cannot be read"))?;
        let address = line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let Some(address) = address else { return Err(self.trouble(format!("it said {line:?} where its address was due"))) };
        // Ends with the process: a full pipe would stop it.
        drop(thread::spawn(move || io::copy(&mut stdout, &mut io::sink())));
        self.wait_ready(address)?;
        let mut state = lock(&self.state);
        let start = state.ends.len();
        (state.place, state.is_over) = (Some(Place { start, address }), false);
        self.changed.notify_all();
        Ok(())
    }

    fn launch(&self) -> Result<BufReader<std::process::ChildStdout>, NodeError> {
        let NodeOptions { program, data, folder, settings, .. } = &self.options;
        let log = File::options().create(true).append(true).open(self.log_path()).map_err(machine("no log"))?;
        let mut command = command(program);
        command.arg("serve").arg("--data-dir").arg(data).args(["--listen", "127.0.0.1:0"]);
        if !self.secrets.is_empty() {
            command.arg("--set").arg(format!("auth.keys_file={}", folder.join("keys.toml").display()));
        }
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().map_err(machine("the node cannot be started"))?;
        let stdout = BufReader::new(process.stdout.take().expect("the standard output is piped"));
        *lock(&self.process) = Some(process);
        Ok(stdout)
    }

    fn wait_ready(&self, address: SocketAddr) -> Result<(), NodeError> {
        let began = Instant::now();
        let mut wire = Wire::new(address);
        while began.elapsed() < WAIT_MAX {
            if self.get(&mut wire, "/readyz").is_some() {
                return Ok(());
            }
            if self.has_ended() {
                return Err(self.trouble("it ended before it was ready".to_owned()));
            }
            thread::yield_now();
        }
        Err(self.trouble(format!("it is not ready after {} s", WAIT_MAX.as_secs())))
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&self) -> bool {
        lock(&self.process).as_mut().is_none_or(|process| process.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// The body of a page that is there.
    pub fn get(&self, wire: &mut Wire, path: &str) -> Option<Vec<u8>> {
        wire.ask(Request { secret: self.secret(0), ..Request::get(path) })
            .ok()
            .filter(|response| response.status == 200)
            .map(|response| response.body)
    }

    /// Asks once, on a connection of its own, with the first client's key.
    pub fn ask(&self, request: Request<'_>) -> Result<Response, NodeError> {
        let place = self.place().ok_or_else(|| self.trouble("it is gone".to_owned()))?;
        let (method, path) = (request.method, request.path);
        let asked = Wire::new(place.address).ask(Request { secret: self.secret(0), ..request });
        asked.map_err(|lost| self.trouble(format!("{method} {path} is not answered: {lost:?}")))
    }

    /// What is at `path`.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, NodeError> {
        let response = self.ask(Request::get(path))?;
        serde_json::from_slice(&response.body)
            .map_err(|error| self.trouble(format!("GET {path} is answered {} and not as expected: {error}", response.status)))
    }

    /// The metrics as text.
    pub fn metrics(&self) -> Result<String, NodeError> {
        let response = self.ask(Request::get("/metrics"))?;
        String::from_utf8(response.body).map_err(|error| self.trouble(format!("the metrics are no text: {error}")))
    }

    /// Opens a stock.
    pub fn put_stock(&self, sku: &str, body: &str) -> Result<(), NodeError> {
        let response = self.ask(Request { method: "PUT", body, ..Request::get(&format!("/v1/stocks/{sku}")) })?;
        if response.status == 201 { Ok(()) } else { Err(self.trouble(format!("the stock cannot be opened: {response:?}"))) }
    }

    /// The page of the feed behind `after`, or the oldest one; `None` when there is no answer, or another than the page.
    pub fn feed_page(&self, wire: &mut Wire, after: Option<&str>) -> Result<Option<FeedPage>, NodeError> {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let Some(body) = self.get(wire, &format!("/v1/events?limit={FEED_PAGE}{after}")) else { return Ok(None) };
        let page = serde_json::from_slice(&body);
        page.map(Some).map_err(|error| self.trouble(format!("the feed is not as expected: {error}")))
    }

    /// All of the feed, in its order.
    pub fn feed(&self) -> Result<Vec<Change>, NodeError> {
        let place = self.place().ok_or_else(|| self.trouble("it is gone".to_owned()))?;
        let mut wire = Wire::new(place.address);
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.feed_page(&mut wire, after.as_deref())?;
            let page = page.ok_or_else(|| self.trouble("the feed cannot be read".to_owned()))?;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
            after = Some(page.next_cursor);
        }
    }

    /// The file that the node's log is in.
    pub fn log_path(&self) -> PathBuf {
        self.options.folder.join("node.log")
    }

    /// An error that says `what`, with the end of the node's log.
    pub fn trouble(&self, what: String) -> NodeError {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        NodeError::Node { what, log: lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n") }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = lock(&self.process).take() {
            // It may have ended already; then there is nothing to kill.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The program to try: the one that was named, or the one beside this program.
pub fn program(named: Option<&Path>) -> Result<PathBuf, NodeError> {
    match named {
        Some(program) => Ok(program.to_owned()),
        None => Ok(std::env::current_exe().map_err(machine("this program cannot be found"))?.with_file_name("tidegate")),
    }
}

/// Makes a key for each of so many clients, and the file by which a node knows them. Gives their secrets.
pub fn make_keys(program: &Path, clients: usize, file: &Path) -> Result<Vec<String>, NodeError> {
    let mut keys = String::new();
    let mut secrets = Vec::new();
    for client in 0..clients {
        let output = command(program).args(["key", "new", "--role", "admin", "--name", &actor(client)]).output();
        let output = output.map_err(machine("the program cannot be run"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((secret, entry)) = text.split_once('\n') else {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(NodeError::Node { what: "it makes no key".to_owned(), log });
        };
        secrets.push(secret.to_owned());
        keys.push_str(entry);
    }
    std::fs::write(file, keys).map_err(machine("the keys cannot be written"))?;
    Ok(secrets)
}

/// The program without the settings of whoever runs this.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command
}
