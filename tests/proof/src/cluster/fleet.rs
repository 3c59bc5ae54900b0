//! The nodes of a cluster: real processes, each with a directory and addresses that it keeps. Owns them and what is known of each; what is done
//! to them, and what their clients make of it, is others' business.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::seen::{Seen, is_whole};
use super::site::{Site, mount, unmount};
use tidegate_witness::node::{NodeError, Place, Target, make_keys};
use tidegate_witness::record::Moment;
use tidegate_witness::wire::{Request, Response, Wire};

/// Longest wait for anything that a node or the cluster should do.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(2);

/// How often it is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a client waits that was refused.
const REFUSED_WAIT: Duration = Duration::from_millis(10);

/// Free bytes of a disk below which a node refuses changes: all of these disks are small, or shared.
pub(crate) const DISK_FREE_MIN_MIB: u64 = 32;

/// The disk of the node that has one of its own, in MiB.
const SMALL_DISK_MIB: u64 = 512;
const SMALL_DISK: &str = "small-disk";

/// Lines of a node's log that are shown with a trouble.
const LOG_LINES_SHOWN: usize = 20;

/// Ports for clients and for other nodes.
const PORT: u16 = 8_700;
const PORT_NODES: u16 = 8_701;

/// One node's seat: what stays, whoever sits on it.
#[derive(Debug)]
struct Seat {
    /// Where clients reach it.
    address: SocketAddr,
    state: Mutex<Sitting>,
}

/// Who sits on a seat.
#[derive(Debug)]
struct Sitting {
    /// Its number in the cluster.
    number: u64,
    data: PathBuf,
    process: Option<Child>,
    /// Its start, from 0.
    start: usize,
    /// Whether clients are sent to it.
    is_shown: bool,
}

/// The cluster. Dropping it kills the processes.
#[derive(Debug)]
pub(crate) struct Fleet {
    program: PathBuf,
    seats: Vec<Seat>,
    site: Site,
    settings: Vec<String>,
    secrets: Vec<String>,
    began: Instant,
    highest: Mutex<u64>,
    /// Clients are to end.
    is_over: AtomicBool,
    changed: (Mutex<()>, Condvar),
    folder: TempDir,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn machine(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::Machine { what, source }
}

/// What a fleet is made of.
#[derive(Debug)]
pub(crate) struct FleetOptions<'a> {
    pub(crate) program: &'a Path,
    pub(crate) nodes: usize,
    pub(crate) shards: u16,
    pub(crate) clients: usize,
    /// Settings beyond the defaults, each `name=value`.
    pub(crate) settings: Vec<String>,
}

impl Fleet {
    /// Makes a cluster as an operator would, and returns once every node is counted and has everything.
    pub(crate) fn start(site: Site, options: FleetOptions<'_>) -> Result<Self, NodeError> {
        let folder = tempfile::Builder::new().prefix("tidegate-proof-").tempdir().map_err(machine("no temporary directory"))?;
        let secrets = make_keys(options.program, options.clients, &folder.path().join("keys.toml"))?;
        let secret = format!("{:032x}", rand::random::<u128>());
        std::fs::write(folder.path().join("secret"), secret).map_err(machine("the cluster's secret cannot be written"))?;
        let seat = |place: usize| {
            // The last one's disk is its own, where there can be such.
            let parent = if place + 1 == options.nodes { folder.path().join(SMALL_DISK) } else { folder.path().to_owned() };
            let number = place as u64 + 1;
            let data = parent.join(name(number));
            let state = Sitting { number, data, process: None, start: 0, is_shown: false };
            Seat { address: SocketAddr::new(site.address(place), PORT), state: Mutex::new(state) }
        };
        let seats = (0..options.nodes).map(seat).collect();
        let fleet = Self {
            program: options.program.to_owned(),
            seats,
            site,
            settings: options.settings,
            secrets,
            began: Instant::now(),
            highest: Mutex::new(options.nodes as u64),
            is_over: AtomicBool::new(false),
            changed: (Mutex::default(), Condvar::new()),
            folder,
        };
        std::fs::create_dir(fleet.small_disk()).map_err(machine("a folder cannot be made"))?;
        if fleet.has_networks() {
            mount(&fleet.small_disk(), SMALL_DISK_MIB)?;
        }
        let shards = options.shards.to_string();
        fleet.tell(0, &["cluster", "init"], &["--shards", &shards])?;
        fleet.start_node(0)?;
        for place in 1..fleet.len() {
            fleet.join(place, 0)?;
            fleet.start_node(place)?;
        }
        fleet.wait_whole(0)?;
        Ok(fleet)
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether nodes can be cut off, and disks be filled.
    pub(crate) fn has_networks(&self) -> bool {
        self.site.has_networks()
    }

    /// The networks.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The place of the node whose disk is its own and small, where there can be such.
    pub(crate) fn small(&self) -> usize {
        self.len() - 1
    }

    /// That disk.
    pub(crate) fn small_disk(&self) -> PathBuf {
        self.folder.path().join(SMALL_DISK)
    }

    /// The data directory of the node at `place`.
    pub(crate) fn data(&self, place: usize) -> PathBuf {
        lock(&self.seats[place].state).data.clone()
    }

    /// Its number in the cluster.
    pub(crate) fn number(&self, place: usize) -> u64 {
        lock(&self.seats[place].state).number
    }

    /// A number that no node ever had.
    pub(crate) fn new_number(&self) -> u64 {
        let mut highest = lock(&self.highest);
        *highest += 1;
        *highest
    }

    /// Where clients reach the node at `place`.
    pub(crate) fn address(&self, place: usize) -> SocketAddr {
        self.seats[place].address
    }

    fn log_path(&self, place: usize) -> PathBuf {
        self.folder.path().join(format!("node-{}.log", place + 1))
    }

    /// What the program is told about the node at `place`.
    fn node_settings(&self, place: usize) -> Vec<String> {
        let (folder, listen) = (self.folder.path(), SocketAddr::new(self.site.address(place), PORT_NODES));
        let mut settings = vec![
            format!("cluster.listen={listen}"),
            format!("cluster.secret_file={}", folder.join("secret").display()),
            format!("log.disk_free_bytes_min={}", DISK_FREE_MIN_MIB * 1_048_576),
            format!("auth.keys_file={}", folder.join("keys.toml").display()),
        ];
        settings.extend(self.settings.iter().cloned());
        settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect()
    }

    /// Runs a command on the directory of the node at `place`, in its network; it must succeed.
    fn tell(&self, place: usize, words: &[&str], more: &[&str]) -> Result<(), NodeError> {
        let mut command = self.site.command(place, &self.program);
        command.args(words).arg("--data-dir").arg(self.data(place)).args(self.node_settings(place)).args(more);
        self.must(place, words, command)
    }

    /// Runs a command of the administrator, who is told of the cluster by the node at `asked`; it must succeed.
    pub(crate) fn administer(&self, asked: usize, words: &[&str]) -> Result<(), NodeError> {
        let mut command = tidegate_witness::node::command(&self.program);
        command.args(words).args(["--target", &format!("http://{}", self.address(asked))]);
        self.must(asked, words, command)
    }

    fn must(&self, place: usize, words: &[&str], mut command: std::process::Command) -> Result<(), NodeError> {
        let output = command.env("TIDEGATE_KEY", self.secret(0)).output().map_err(machine("the program cannot be run"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(self.trouble(place, &format!("`tidegate {}` ends with {}: {said}", words.join(" "), output.status)))
    }

    /// Makes the directory of the node at `place` by asking the one at `asked` to take it in.
    pub(crate) fn join(&self, place: usize, asked: usize) -> Result<(), NodeError> {
        let (number, target) = (self.number(place).to_string(), format!("http://{}", self.address(asked)));
        self.tell(place, &["cluster", "join"], &["--node", &number, "--target", &target])
    }

    /// From now on another node sits at `place`, with a directory that does not exist yet.
    pub(crate) fn seat_another(&self, place: usize, number: u64) {
        let mut sitting = lock(&self.seats[place].state);
        sitting.number = number;
        sitting.data = sitting.data.with_file_name(name(number));
    }

    /// Starts the node at `place`, and returns at once. Only the main thread may: the node ends with the thread that started it.
    pub(crate) fn launch(&self, place: usize) -> Result<(), NodeError> {
        let log = File::options().create(true).append(true).open(self.log_path(place)).map_err(machine("no log"))?;
        let mut command = self.site.command(place, &self.program);
        let seat = &self.seats[place];
        command.arg("serve").arg("--data-dir").arg(self.data(place)).args(["--listen", &seat.address.to_string()]);
        command.args(self.node_settings(place)).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().map_err(machine("a node cannot be started"))?;
        let mut sitting = lock(&seat.state);
        (sitting.process, sitting.start) = (Some(process), sitting.start + 1);
        Ok(())
    }

    /// Starts the node at `place`; returns once it is ready, and clients are sent to it.
    pub(crate) fn start_node(&self, place: usize) -> Result<(), NodeError> {
        self.launch(place)?;
        self.wait_ready(place)
    }

    /// Returns once the node at `place` is ready, and clients are sent to it.
    pub(crate) fn wait_ready(&self, place: usize) -> Result<(), NodeError> {
        let mut wire = Wire::new(self.address(place));
        self.wait_until(place, "it is not ready", || {
            let is_ready = wire.ask(Request::get("/readyz")).is_ok_and(|response| response.status == 200);
            if !is_ready && self.has_ended(place) { Err(self.trouble(place, "it ended before it was ready")) } else { Ok(is_ready) }
        })?;
        self.show(place, true);
        Ok(())
    }

    /// Looks again and again until `is_so`.
    pub(crate) fn wait_until(
        &self,
        place: usize,
        what: &str,
        mut is_so: impl FnMut() -> Result<bool, NodeError>,
    ) -> Result<(), NodeError> {
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            if is_so()? {
                return Ok(());
            }
            thread::park_timeout(LOOK_EVERY);
        }
        Err(self.trouble(place, &format!("{what} after {} s", WAIT_MAX.as_secs())))
    }

    /// Whether clients are sent to the node at `place`.
    pub(crate) fn show(&self, place: usize, is_shown: bool) {
        lock(&self.seats[place].state).is_shown = is_shown;
        let _held = lock(&self.changed.0);
        self.changed.1.notify_all();
    }

    fn is_shown(&self, place: usize) -> bool {
        lock(&self.seats[place].state).is_shown
    }

    /// Whether the process of the node at `place` is gone.
    pub(crate) fn has_ended(&self, place: usize) -> bool {
        let mut sitting = lock(&self.seats[place].state);
        sitting.process.as_mut().is_none_or(|process| process.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// A signal to the node at `place`.
    pub(crate) fn signal(&self, place: usize, signal: Signal) -> Result<(), NodeError> {
        let sitting = lock(&self.seats[place].state);
        let pid = sitting.process.as_ref().and_then(|process| Pid::from_raw(i32::try_from(process.id()).ok()?));
        let told = pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        told.map_err(|error| machine("a node cannot be sent a signal")(error.into()))
    }

    /// SIGKILL; clients are not sent there any more. Gives the moment before.
    pub(crate) fn kill(&self, place: usize) -> Result<Moment, NodeError> {
        self.show(place, false);
        let before = Target::now(self);
        self.signal(place, Signal::KILL)?;
        self.wait_end(place)?;
        Ok(before)
    }

    /// Waits for the end of the node at `place`, which must not become ready before. Gives its status.
    pub(crate) fn wait_refusal(&self, place: usize) -> Result<ExitStatus, NodeError> {
        let mut wire = Wire::new(self.address(place));
        self.wait_until(place, "it has neither refused to start nor become ready", || {
            let is_ready = wire.ask(Request::get("/readyz")).is_ok_and(|response| response.status == 200);
            if is_ready {
                Err(self.trouble(place, "it is ready, and should have refused to start"))
            } else {
                Ok(self.has_ended(place))
            }
        })?;
        self.wait_end(place)
    }

    /// Waits for the end of the node at `place`, which was told or has a reason. Gives its status.
    pub(crate) fn wait_end(&self, place: usize) -> Result<ExitStatus, NodeError> {
        let mut status = None;
        self.wait_until(place, "it has not ended", || {
            let mut sitting = lock(&self.seats[place].state);
            let Some(process) = sitting.process.as_mut() else { return Ok(true) };
            status = process.try_wait().map_err(machine("a node cannot be waited for"))?;
            Ok(status.is_some())
        })?;
        lock(&self.seats[place].state).process = None;
        status.ok_or_else(|| self.trouble(place, "it did not run"))
    }

    /// Asks the node at `place` once, on a connection of its own.
    pub(crate) fn ask(&self, place: usize, request: Request<'_>) -> Option<Response> {
        Wire::new(self.address(place)).ask(Request { secret: self.secret(0), ..request }).ok()
    }

    /// What the node at `place` has at `path`, if it answers 200.
    pub(crate) fn read<T: DeserializeOwned>(&self, place: usize, path: &str) -> Option<T> {
        let response = self.ask(place, Request::get(path)).filter(|response| response.status == 200)?;
        serde_json::from_slice(&response.body).ok()
    }

    /// The cluster as the node at `place` sees it.
    pub(crate) fn seen(&self, place: usize) -> Option<Seen> {
        self.read(place, "/v1/cluster")
    }

    /// The same over a connection that is kept.
    pub(crate) fn seen_over(&self, wire: &mut Wire) -> Option<Seen> {
        let response = wire.ask(Request { secret: self.secret(0), ..Request::get("/v1/cluster") }).ok()?;
        serde_json::from_slice(&response.body).ok()
    }

    /// The places that clients are sent to.
    pub(crate) fn shown(&self) -> Vec<usize> {
        (0..self.len()).filter(|place| self.is_shown(*place)).collect()
    }

    /// The place of the node with this number.
    fn place_of(&self, number: u64) -> Option<usize> {
        (0..self.len()).find(|place| self.number(*place) == number)
    }

    /// The place of the node that decides for `shard`: as those see it that clients are sent to, whoever knows the newest term.
    pub(crate) fn leader(&self, shard: usize) -> Result<usize, NodeError> {
        let mut found = None;
        self.wait_until(0, "nobody leads", || {
            let told = self.shown().into_iter().filter_map(|place| self.seen(place)?.shards.get(shard).cloned());
            let newest = told.max_by_key(|told| (told.term, told.leader.is_some()));
            found = newest.and_then(|newest| self.place_of(newest.leader?)).filter(|place| self.is_shown(*place));
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| self.trouble(0, "nobody leads"))
    }

    /// Returns once every node sees that all are counted and none lacks more than `lag_max` groups.
    pub(crate) fn wait_whole(&self, lag_max: u64) -> Result<(), NodeError> {
        for place in 0..self.len() {
            let mut last = None;
            let waited = self.wait_until(place, "not every node is counted and has everything", || {
                last = self.seen(place);
                Ok(last.as_ref().is_some_and(|seen| is_whole(seen, self.len(), lag_max)))
            });
            waited.map_err(|_| self.trouble(place, &format!("not every node is counted and has everything; it sees {last:?}")))?;
        }
        Ok(())
    }

    /// Opens a stock, whoever decides about it; asks until it is known.
    pub(crate) fn put_stock(&self, sku: &str, body: &str) -> Result<(), NodeError> {
        let (path, mut turn, mut last) = (format!("/v1/stocks/{sku}"), 0, None);
        let waited = self.wait_until(0, "a stock cannot be opened", || {
            turn += 1;
            last = self.ask(turn % self.len(), Request { method: "PUT", body, ..Request::get(&path) });
            Ok(last.as_ref().is_some_and(|response| matches!(response.status, 200 | 201)))
        });
        waited.map_err(|_| self.trouble(0, &format!("a stock cannot be opened: {last:?}")))
    }

    /// What the program's own check says of the directory of the node at `place`, which must have stopped.
    pub(crate) fn verify(&self, place: usize) -> Result<Output, NodeError> {
        let mut command = tidegate_witness::node::command(&self.program);
        command.args(["verify", "--json"]).arg(self.data(place)).output().map_err(machine("the program cannot be run"))
    }

    /// Clients that are told of the fleet from now on are to end, or not any more.
    pub(crate) fn set_over(&self, is_over: bool) {
        self.is_over.store(is_over, Ordering::Release);
        let _held = lock(&self.changed.0);
        self.changed.1.notify_all();
    }

    /// An error that says `what` of the node at `place`, with the end of its log.
    pub(crate) fn trouble(&self, place: usize, what: &str) -> NodeError {
        let log = self.log(place);
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        NodeError::Node { what: format!("node {}: {what}", self.number(place)), log: shown }
    }

    /// All that the node at `place` has said.
    pub(crate) fn log(&self, place: usize) -> String {
        let log = std::fs::read(self.log_path(place)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Keeps the folder with all directories and logs when this is dropped; gives its place.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

/// The name of a node's directory.
fn name(number: u64) -> String {
    format!("node-{number}")
}

impl Target for Fleet {
    fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A client has a node that it asks first, so that one that hangs keeps only its own clients waiting.
    fn place(&self, client: usize, turn: usize) -> Option<Place> {
        let began = Instant::now();
        while !self.is_over.load(Ordering::Acquire) && began.elapsed() < WAIT_MAX {
            let shown = (0..self.len()).map(|step| (client + turn + step) % self.len()).find(|place| self.is_shown(*place));
            if let Some(place) = shown {
                return Some(Place { start: lock(&self.seats[place].state).start, address: self.address(place) });
            }
            let held = lock(&self.changed.0);
            // Looked at again whatever woke it, and now and then.
            drop(self.changed.1.wait_timeout(held, LOOK_EVERY));
        }
        None
    }

    fn secret(&self, client: usize) -> &str {
        self.secrets.get(client).map_or("", String::as_str)
    }

    fn lists_all(&self) -> bool {
        false
    }

    fn refused(&self) {
        thread::park_timeout(REFUSED_WAIT);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for seat in &self.seats {
            if let Some(mut process) = lock(&seat.state).process.take() {
                // It may have ended already; then there is nothing to kill.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if self.has_networks() {
            // Its folder could not be removed otherwise. A disk that was never mounted is none.
            let _ = unmount(&self.small_disk());
        }
    }
}
