//! The whole server, crashed under load: `tidegate serve` over a data directory that is cut off or whose process is killed, again and
//! again, while clients use it over HTTP.
//!
//! Owns the lives of data directories and what is looked at after each crash. The moments come from `plan`, the load from the clients of
//! `tidegate-witness` and from `bulk`, what the feed said from `follower`; the judge is the witness.

mod bulk;
mod follower;
mod plan;
mod report;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_witness::clients::{Client, Plan as Wants, Recorded, Shared};
use tidegate_witness::node::{Node, NodeError, NodeOptions};
use tidegate_witness::record::{Answer, Call, Change, Op};
use tidegate_witness::witness;

use self::bulk::Bulk;
use self::follower::Follower;
use self::plan::{Moment, Plan, Planner};
use self::report::Tally;
pub(crate) use self::report::print;
use crate::error::RigError;
use crate::signals;
use crate::site::{Cut, Site, Switch};

/// Clients that each make one call after the other, beside the one that makes batches and the one that looks after each crash.
const CLIENTS: usize = 10;

/// Stocks that the clients quarrel about, and those of the batches. They lie on two shards.
const HOT_STOCKS: usize = 3;
const BULK_STOCKS: usize = 2;

/// Reservations of each stock that are looked up after each crash, drawn from all of its life.
const LOOKED_UP: usize = 60;

/// Longest wait for what a crash is to hit; then it comes all the same.
const AIM_WAIT_MAX: Duration = Duration::from_secs(20);

/// How often a wait looks at the folders of the data directory, and at signals.
const LOOK: Duration = Duration::from_micros(200);

/// Free bytes of the site below which a directory's life ends.
const FREE_BYTES_MIN: u64 = 300 * 1024 * 1024;

/// Everything small, so that snapshots, the history, new segments and their removal all happen within seconds.
const SETTINGS: [&str; 10] = [
    "node.shards=2",
    "engine.resolved_in_memory_max=50",
    "log.segment_bytes_max=1048576",
    "log.disk_free_bytes_min=33554432",
    "snapshots.log_bytes=1048576",
    "snapshots.interval_seconds=10",
    "snapshots.bytes_per_second_max=2097152",
    "feed.retention_seconds=60",
    "feed.retention_bytes=16777216",
    "output.filter=info",
];

/// What a campaign tries.
#[derive(Debug)]
pub(crate) struct Campaign {
    pub(crate) seed: u64,
    pub(crate) crashes: u32,
    /// The program that is crashed.
    pub(crate) program: PathBuf,
    /// Whether syncs are taken away, so that something must be lost: then every crash has a directory of its own.
    pub(crate) is_lossy: bool,
    /// Where what a finding was found in is copied to.
    pub(crate) evidence: Option<PathBuf>,
}

/// What a campaign saw.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    moments: BTreeMap<Moment, Tally>,
    /// Empty where no power was cut.
    cuts: BTreeMap<Cut, Tally>,
    directories: u64,
    verified: u64,
    pub(crate) findings: u64,
    pub(crate) lost: u64,
}

/// What one crash came to.
#[derive(Debug, Default)]
struct Crash {
    tally: Tally,
    findings: Vec<String>,
}

impl Campaign {
    /// Runs it on `site`; keys and logs of its nodes go below `work`.
    pub(crate) fn run(&self, mut site: Site, work: &Path) -> Result<Outcome, RigError> {
        let mut planner = Planner::new(self.seed);
        let mut outcome = Outcome::default();
        let mut made = 0;
        while made < self.crashes {
            let left = (self.crashes - made) as usize;
            let mut plans = if self.is_lossy { vec![planner.writing()] } else { planner.life() };
            plans.truncate(left);
            site.renew()?;
            outcome.directories += 1;
            let folder = tempfile::Builder::new().prefix("tidegate-rig-").tempdir_in(work).map_err(RigError::io(work))?;
            made += self.live(&mut site, &folder, &plans, made, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// One directory's life: as many crashes as `plans`, or until something is found. Gives the number of crashes.
    fn live(&self, site: &mut Site, folder: &TempDir, plans: &[Plan], made: u32, outcome: &mut Outcome) -> Result<u32, RigError> {
        let seed = self.seed.wrapping_add(outcome.directories << 32);
        let skus = (0..HOT_STOCKS).map(|number| format!("hot-{number}")).chain(bulk::skus(BULK_STOCKS)).collect();
        let wants = Wants {
            clients: CLIENTS,
            wants: usize::MAX,
            skus,
            users: 150,
            quantity: 400,
            per_user_limit: 6,
            hold_seconds_max: 3,
            lapses: true,
            batches: true,
            archives: false,
        };
        let hot = Wants { skus: wants.skus[..HOT_STOCKS].to_vec(), ..wants.clone() };
        let mut settings = SETTINGS.map(str::to_owned).to_vec();
        if self.is_lossy {
            settings.push("log.durability=none".to_owned());
        }
        let node = Node::new(NodeOptions {
            program: self.program.clone(),
            data: site.data(),
            folder: folder.path().to_owned(),
            clients: CLIENTS + 2,
            settings,
        })?;
        let shared: Vec<Mutex<Shared>> = wants.skus.iter().map(|_| Mutex::default()).collect();
        let (answered, answers) = mpsc::channel();
        let clients = (0..CLIENTS).map(|number| Client::new(number, seed, &node, &hot, &shared, answered.clone())).collect();
        let bulk = Bulk::new(CLIENTS, HOT_STOCKS, seed, &node, &wants.skus[HOT_STOCKS..], answered.clone());
        let auditor = Client::new(CLIENTS + 1, seed, &node, &wants, &shared, answered);
        let mut life = Life {
            node: &node,
            skus: &wants.skus,
            clients,
            bulk,
            auditor,
            follower: Follower::default(),
            answers,
            calls: vec![Vec::new(); wants.skus.len()],
            open: HashSet::new(),
            is_stocked: false,
            random: SmallRng::seed_from_u64(seed),
        };

        let mut crashes: Vec<(u32, Plan, Tally)> = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            let number = made + u32::try_from(index).expect("a life is short") + 1;
            let mut crash = Crash::default();
            if plan.moment != Moment::Starting {
                life.look(&mut crash)?;
                let is_over = self.conclude(site, &mut crashes, crash, &node, outcome)?;
                if is_over || (index > 0 && is_full(site)?) {
                    // One that shows something before its first crash counts as one, or there would be no end.
                    return Ok((number - 1 - made).max(1));
                }
            }
            let tally = life.load_and_crash(site, *plan)?;
            crashes.push((number, *plan, tally));
            site.restore(self.evidence_of(site, number).as_deref())?;
        }
        let mut crash = Crash::default();
        life.look(&mut crash)?;
        if crash.findings.is_empty() && !self.is_lossy {
            crash.findings.extend(life.verify()?);
            outcome.verified += 1;
        }
        self.conclude(site, &mut crashes, crash, &node, outcome)?;
        Ok(u32::try_from(plans.len()).expect("a life is short"))
    }

    /// Prints what came of the crashes since the last look, and adds it up. Says whether anything was found.
    fn conclude(
        &self,
        site: &Site,
        crashes: &mut Vec<(u32, Plan, Tally)>,
        mut seen: Crash,
        node: &Node,
        outcome: &mut Outcome,
    ) -> Result<bool, RigError> {
        let is_found = !seen.findings.is_empty();
        let crashes = std::mem::take(crashes);
        let last = crashes.len().saturating_sub(1);
        for (index, (number, plan, mut tally)) in crashes.into_iter().enumerate() {
            if index == last {
                tally.add(&std::mem::take(&mut seen.tally));
                tally.findings += u64::from(is_found);
            }
            let how = if site.has_power() { plan.cut.name() } else { "kill" };
            println!("{number:>4}  directory {:>2}  {:<12} {how:<11} {}", outcome.directories, plan.moment.name(), tally.line());
            outcome.lost += tally.lost;
            outcome.moments.entry(plan.moment).or_default().add(&tally);
            if site.has_power() {
                outcome.cuts.entry(plan.cut).or_default().add(&tally);
            }
            if let Some(evidence) = self.evidence_of(site, number).filter(|evidence| !is_found && evidence.exists()) {
                let removed = if evidence.is_dir() { std::fs::remove_dir_all(&evidence) } else { std::fs::remove_file(&evidence) };
                removed.map_err(RigError::io(&evidence))?;
            }
        }
        outcome.findings += seen.findings.len() as u64;
        // What must be lost is counted; one of it shows what it looks like.
        for finding in seen.findings.iter().take(if self.is_lossy { 1 } else { usize::MAX }) {
            println!("      FOUND: {}", finding.replace('\n', "\n      "));
        }
        if is_found && !self.is_lossy {
            println!("      {}", node.trouble("what the node says".to_owned()).to_string().replace('\n', "\n      | "));
        }
        Ok(is_found)
    }

    fn evidence_of(&self, site: &Site, number: u32) -> Option<PathBuf> {
        let name = format!("server-{}-{number}", if site.has_power() { "cut" } else { "kill" });
        self.evidence.as_ref().filter(|_| !self.is_lossy).map(|evidence| evidence.join(name))
    }
}

/// A data directory, the node over it, and everybody's books.
struct Life<'a> {
    node: &'a Node,
    skus: &'a [String],
    clients: Vec<Client<'a>>,
    bulk: Bulk<'a>,
    auditor: Client<'a>,
    follower: Follower,
    /// Hears of every answer.
    answers: Receiver<()>,
    /// All calls so far, by stock.
    calls: Vec<Vec<Call>>,
    /// Keys of calls whose outcome nobody knows yet.
    open: HashSet<String>,
    is_stocked: bool,
    random: SmallRng,
}

impl Life<'_> {
    /// Starts the node, reads, and judges everything up to now.
    fn look(&mut self, crash: &mut Crash) -> Result<(), RigError> {
        let began = Instant::now();
        match self.node.start() {
            Ok(()) => {}
            Err(error @ NodeError::Node { .. }) => {
                crash.findings.push(format!("it does not start: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        crash.tally.start_max = began.elapsed();
        if !self.is_stocked {
            for (index, sku) in self.skus.iter().enumerate() {
                let terms = json!({ "quantity": 400, "per_user_limit": 6, "hold_seconds_max": 3_600 });
                let bulk = json!({ "quantity": 1_000_000, "hold_seconds_max": 3_600 });
                self.node.put_stock(sku, &(if index < HOT_STOCKS { terms } else { bulk }).to_string())?;
            }
            self.is_stocked = true;
        }
        for sku in 0..self.skus.len() {
            let ids = self.follower.reservations(&self.skus[sku]);
            for id in ids.choose_multiple(&mut self.random, LOOKED_UP).cloned().collect::<Vec<_>>() {
                self.auditor.ask(sku, &Op::ReadReservation { id });
            }
            self.auditor.ask(sku, &Op::ReadStock);
        }
        self.take_calls(&mut crash.tally);
        let lost = self.follower.lost();
        crash.findings.extend(self.follower.look(self.node)?);
        crash.tally.lost += self.follower.lost() - lost;
        self.judge(crash);
        Ok(())
    }

    /// Takes over what the clients wrote down.
    fn take_calls(&mut self, tally: &mut Tally) {
        let ends = self.node.ends();
        let taken = self.clients.iter_mut().chain([&mut self.auditor]).map(Client::take);
        let taken = taken.collect::<Vec<_>>().into_iter().chain([self.bulk.take()]);
        for (calls, refused) in taken {
            tally.refused += refused;
            for Recorded { sku, start, mut call } in calls {
                if call.answer == Answer::Unknown {
                    call.ended = ends.get(start).copied().unwrap_or_else(|| self.node.now());
                }
                self.calls[sku].push(call);
            }
        }
    }

    fn judge(&self, crash: &mut Crash) {
        for (sku, calls) in self.skus.iter().zip(&self.calls) {
            let changes = self.follower.changes(sku);
            let tags = changes.iter().filter_map(Change::tag).collect::<HashSet<_>>();
            let is_lost = |call: &&Call| {
                matches!(call.answer, Answer::Reservation { .. } | Answer::Stock { .. })
                    && call.op.tag().is_some_and(|tag| !tags.contains(tag))
            };
            crash.tally.lost += calls.iter().filter(is_lost).count() as u64;
            let found = witness::check(sku, calls, changes.to_vec());
            crash.findings.extend(found.iter().map(ToString::to_string));
        }
        for sku in self.follower.skus().filter(|sku| !self.skus.contains(sku)) {
            crash.findings.push(format!("the feed tells of {sku}, which nobody has made"));
        }
    }

    /// Has everybody work, waits for the planned moment, and crashes the node there.
    fn load_and_crash(&mut self, site: &Site, plan: Plan) -> Result<Tally, RigError> {
        let switch = site.switch(plan.cut)?;
        let before = self.follower.len();
        let mut tally = Tally { crashes: 1, ..Tally::default() };
        let (node, answers) = (self.node, &self.answers);
        let crash = |tally: &mut Tally| -> Result<(), RigError> {
            // What lies there at a start was left by the crash before.
            if plan.moment != Moment::Starting {
                tally.note(&UnderWay::of(node.data()));
            }
            // The process goes when its disk is gone.
            let cut = switch.map_or(Ok(()), Switch::cut);
            node.kill()?;
            cut
        };
        if plan.moment == Moment::Starting {
            node.spawn()?;
            thread::park_timeout(plan.delay);
            crash(&mut tally)?;
            return Ok(tally);
        }
        // What was answered before this load began.
        while answers.try_recv().is_ok() {}
        let (clients, bulk, follower) = (&mut self.clients, &mut self.bulk, &mut self.follower);
        thread::scope(|scope| {
            for client in clients {
                scope.spawn(move || client.work());
            }
            scope.spawn(|| bulk.work());
            let following = scope.spawn(|| follower.follow(node));
            let waited = wait(node, answers, plan, &mut tally);
            // In any case: the others go on until the node is gone.
            let crashed = crash(&mut tally);
            let heard = following.join().expect("the follower does not panic");
            waited.and(crashed).and(heard)
        })?;
        tally.changes = (self.follower.len() - before) as u64;
        let counts = self.calls.iter().map(Vec::len).collect::<Vec<_>>();
        self.take_calls(&mut tally);
        for (calls, count) in self.calls.iter().zip(counts) {
            for call in &calls[count..] {
                let is_change = call.op.kind().is_some();
                match (&call.answer, &call.key) {
                    (Answer::Unknown, key) => {
                        tally.unknown += u64::from(is_change);
                        self.open.extend(key.clone());
                    }
                    (answer, Some(key)) if self.open.remove(key) => {
                        tally.resolved += 1;
                        tally.had_happened += u64::from(answer.is_replayed());
                    }
                    _ => {}
                }
                let is_yes = matches!(call.answer, Answer::Reservation { .. } | Answer::Stock { .. });
                tally.acknowledged += u64::from(is_change && is_yes && !call.answer.is_replayed());
            }
        }
        Ok(tally)
    }

    /// Stops the node in order and has the program verify the whole directory.
    fn verify(&self) -> Result<Option<String>, RigError> {
        let status = self.node.stop()?;
        if !status.is_some_and(|status| status.success()) {
            return Ok(Some(format!("told to stop, it ended with {status:?}")));
        }
        let output = self.node.verify()?;
        let said = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        let is_good = output.status.success() && said["good"] == true;
        let grants = self.skus.iter().map(|sku| self.follower.reservations(sku).len() as u64).sum::<u64>();
        if !is_good {
            return Ok(Some(format!("verify: {said} {}", String::from_utf8_lossy(&output.stderr))));
        }
        // What its oldest snapshot no longer holds it cannot count.
        let verified = said["report"]["grants"].as_u64().unwrap_or_default();
        Ok((verified > grants).then(|| format!("verify counts {verified} grants where the feed has told of {grants}")))
    }
}

/// What a node is doing on its disk, from the names in its data directory.
#[derive(Debug, Default)]
struct UnderWay {
    /// Snapshots that are being written.
    unfinished: u64,
    /// Segments that are being given back.
    removed: u64,
    /// The oldest segment.
    oldest: Option<String>,
}

impl UnderWay {
    fn of(data: &Path) -> Self {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(data.join(folder)).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
        };
        let (snapshots, segments) = (names("snapshots"), names("log"));
        let ending = |names: &[String], suffix: &str| names.iter().filter(|name| name.ends_with(suffix)).count() as u64;
        Self {
            unfinished: ending(&snapshots, ".unfinished"),
            removed: ending(&segments, ".removed"),
            oldest: segments.iter().filter(|name| !name.contains('.')).min().cloned(),
        }
    }
}

/// Waits for the planned moment; counts meanwhile what the node does on its disk.
fn wait(node: &Node, answers: &Receiver<()>, plan: Plan, tally: &mut Tally) -> Result<(), RigError> {
    let data = node.data();
    let began = Instant::now();
    let mut heard = 0;
    let mut before = UnderWay::of(data);
    // Filled once what the crash is to hit is there.
    let mut moment = None;
    loop {
        signals::check()?;
        if moment.is_some_and(|moment| Instant::now() >= moment) {
            return Ok(());
        }
        match answers.recv_timeout(LOOK) {
            Ok(()) => heard += 1,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        heard += answers.try_iter().count() as u64;
        let now = UnderWay::of(data);
        let begins = now.unfinished > before.unfinished;
        let gives_back = now.removed > before.removed || (before.oldest.is_some() && now.oldest > before.oldest);
        tally.snapshots += u64::from(begins);
        tally.given_back += u64::from(now.oldest > before.oldest && before.oldest.is_some());
        before = now;
        let is_there = heard >= plan.answers
            && match plan.moment {
                Moment::Snapshot => begins,
                Moment::Compaction => gives_back,
                Moment::Writing | Moment::Starting => true,
            };
        if moment.is_none() && (is_there || began.elapsed() >= AIM_WAIT_MAX) {
            tally.aimed += u64::from(is_there);
            moment = Some(Instant::now() + plan.delay);
        }
    }
}

fn is_full(site: &Site) -> Result<bool, RigError> {
    let data = site.data();
    let place = data.parent().unwrap_or(&data);
    Ok(tidegate_persistence::disk::free_bytes(place).map_err(RigError::io(place))? < FREE_BYTES_MIN)
}
